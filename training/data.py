"""The training pictures, drawn once into arrays in a folder of the caller's choice (never the repository).

Rows 2i and 2i + 1 are twins: scenes that differ in one respect, so that a batch of pairs holds hard negatives.
Row r depends on (seed, r) alone, not on the number of processes.

    images_NHWC   uint8  (N, 64, 64, 3)   as a 112 to 288 px JPEG looks after open_clip's bicubic resize
    full_NKL      uint16 (N, 4, 32)       tokens of four sentences about the whole scene
    partial_NKL   uint16 (N, 4, 32)       tokens of four short texts about one facet
    shape_NKL     uint16 (N, 2, 32)       tokens of two texts about kinds, counts, places and order, without colours
    style_N       uint8  (N,)             index in STYLES, equal for twins
"""

from __future__ import annotations

import io
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from open_clip import SimpleTokenizer
from PIL import Image

from clipmill.jobs.demo.captions import caption, partial_caption, shape_caption
from clipmill.jobs.demo.scene_types import STYLES, Scene
from clipmill.jobs.demo.scenes import TRAIN, render, sample_scene, twin

IMAGE_PX = 64
CONTEXT_LENGTH = 32
TEXTS = 4
CHUNK = 2000


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which pictures: how many (even), and the seed."""

    number: int
    seed: int


def as_seen(scene: Scene, rng: np.random.Generator, size_px: int | None = None) -> NDArray[np.uint8]:
    """The scene as the model meets it: drawn, JPEG-compressed, resized as open_clip does. (64, 64, 3) RGB."""
    if size_px is None:
        size_px = int(rng.integers(224, 289)) if rng.random() < 0.12 else int(rng.integers(112, 161))
    coded = io.BytesIO()
    Image.fromarray(render(scene, size_px)).save(coded, "JPEG", quality=int(rng.integers(70, 96)))
    picture = Image.open(coded).convert("RGB").resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _draw_pair(spec: DataSpec, row: int, tokenizer: SimpleTokenizer) -> dict[str, NDArray[np.generic]]:
    """Rows ``row`` and ``row + 1``, with their texts."""
    rng = np.random.default_rng([spec.seed, row])
    scene = sample_scene(rng, pairs=TRAIN)
    images, full, partial = [], [], []
    for one in (scene, twin(scene, rng)):
        images.append(as_seen(one, rng))
        full.append(tokenizer([caption(one, rng) for _ in range(TEXTS)]).numpy())
        partial.append(tokenizer([partial_caption(one, rng) for _ in range(TEXTS)]).numpy())
    return {
        "style": np.full(2, STYLES.index(scene.style), np.uint8),
        "images": np.stack(images),
        "full": np.stack(full).astype(np.uint16),
        "partial": np.stack(partial).astype(np.uint16),
    }


def _chunk(folder: Path, start: int) -> Path:
    return folder / f"chunk-{start:07d}.npz"


def _draw_chunk(spec: DataSpec, folder: Path, start: int) -> int:
    """Rows [start, start + CHUNK) as one file, which has its name only when it is complete."""
    target = _chunk(folder, start)
    tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    pairs = [_draw_pair(spec, row, tokenizer) for row in range(start, min(start + CHUNK, spec.number), 2)]
    half_done = target.with_suffix(".tmp.npz")
    np.savez(half_done, **{name: np.concatenate([pair[name] for pair in pairs]) for name in pairs[0]})
    half_done.rename(target)
    return start


def build(spec: DataSpec, folder: Path, processes: int) -> None:
    """Draw what is missing. Safe to stop and start again."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "spec.json"
    said = json.dumps(asdict(spec), sort_keys=True)
    if note.exists():
        assert note.read_text() == said, f"{folder} holds other pictures: {note.read_text()}"
    note.write_text(said)
    began = time.time()
    starts = [start for start in range(0, spec.number, CHUNK) if not _chunk(folder, start).exists()]
    if not (folder / "seeds.npz").exists():
        _add_texts(spec, folder)
    if not starts:
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(_draw_chunk, spec, folder, start) for start in starts]:
            done = future.result() + CHUNK
            print(f"drawn {min(done, spec.number)} of {spec.number}, {time.time() - began:.0f} s", flush=True)


def _add_texts(spec: DataSpec, folder: Path) -> None:
    """What is known from the seeds alone, into ``seeds.npz``: texts about shapes only, and the cell of every pair.

    Pairs of a cell share background, style, layout and first colour.
    """
    tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    texts, found, lined = [], [], []
    for row in range(0, spec.number, 2):
        rng = np.random.default_rng([spec.seed, row])
        scene = sample_scene(rng, pairs=TRAIN)
        other = twin(scene, rng)
        words = np.random.default_rng([spec.seed, row, 1])
        texts += [shape_caption(one, words) for one in (scene, scene, other, other)]
        found.append((scene.background, scene.style, scene.layout, scene.objects[0].colour))
        lined.append(scene.layout in ("row", "column"))
    order = {cell: i for i, cell in enumerate(sorted(set(found)))}
    known = {text: tokenizer(text).numpy()[0].astype(np.uint16) for text in set(texts)}
    shape = np.stack([known[text] for text in texts]).reshape(spec.number, 2, CONTEXT_LENGTH)
    half_done = folder / "seeds.tmp.npz"
    np.savez(half_done, shape=shape, cell=np.array([order[cell] for cell in found]), lined=np.array(lined))
    half_done.rename(folder / "seeds.npz")


def load(folder: Path, styles: tuple[str, ...] = STYLES) -> dict[str, NDArray[np.generic]]:
    """The rows of a folder that ``build`` filled whose style is among ``styles``: images, full, partial,
    shape; and cell and lined (a row or column of different things) for every second row."""
    chunks = [np.load(path) for path in sorted(folder.glob("chunk-*[0-9].npz"))]
    wanted = [np.isin(chunk["style"], [STYLES.index(style) for style in styles]) for chunk in chunks]
    data = {
        name: np.concatenate([chunk[name][rows] for chunk, rows in zip(chunks, wanted, strict=True)])
        for name in ("images", "full", "partial")
    }
    rows = np.concatenate(wanted)
    seeds = np.load(folder / "seeds.npz")
    return data | {"shape": seeds["shape"][rows], "cell": seeds["cell"][rows[::2]], "lined": seeds["lined"][rows[::2]]}
