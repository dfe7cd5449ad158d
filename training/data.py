"""The training pictures, drawn once into arrays in a folder of the caller's choice (never the repository).

Rows 2i and 2i + 1 are twins: scenes that differ in one respect, so that a batch of pairs holds hard negatives.
Row r depends on (seed, r) alone, not on the number of processes.

    images_NHWC   uint8  (N, 64, 64, 3)   as a 112 to 288 px JPEG looks after open_clip's bicubic resize
    full_NKL      uint16 (N, 4, 32)       tokens of four sentences about the whole scene
    partial_NKL   uint16 (N, 4, 32)       tokens of four short texts about one facet
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.demo.captions import caption, partial_caption
from jobs.demo.scene_types import STYLES, Scene
from jobs.demo.scenes import TRAIN, render, sample_scene, twin

IMAGE_PX = 64
CONTEXT_LENGTH = 32
TEXTS = 4
CHUNK = 2000


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which pictures: number (even), seed, and the styles that may occur."""

    number: int
    seed: int
    styles: tuple[str, ...] = STYLES


def as_seen(scene: Scene, rng: np.random.Generator, size_px: int | None = None) -> NDArray[np.uint8]:
    """The scene as the model meets it: drawn, JPEG-compressed, resized as open_clip does. (64, 64, 3) RGB."""
    if size_px is None:
        size_px = int(rng.integers(224, 289)) if rng.random() < 0.12 else int(rng.integers(112, 161))
    coded = io.BytesIO()
    Image.fromarray(render(scene, size_px)).save(coded, "JPEG", quality=int(rng.integers(70, 96)))
    picture = Image.open(coded).convert("RGB").resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _draw_chunk(spec: DataSpec, folder: Path, start: int) -> int:
    """Rows [start, start + CHUNK) as one file; a file that is there is complete."""
    target = folder / f"chunk-{start:07d}.npz"
    if target.exists():
        return start
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    images, full, partial = [], [], []
    for row in range(start, min(start + CHUNK, spec.number), 2):
        rng = np.random.default_rng([spec.seed, row])
        scene = sample_scene(rng, pairs=TRAIN, styles=spec.styles)
        for one in (scene, twin(scene, rng)):
            images.append(as_seen(one, rng))
            full.append(tokenizer([caption(one, rng) for _ in range(TEXTS)]).numpy())
            partial.append(tokenizer([partial_caption(one, rng) for _ in range(TEXTS)]).numpy())
    half_done = target.with_suffix(".tmp.npz")
    np.savez(
        half_done,
        images=np.stack(images),
        full=np.stack(full).astype(np.uint16),
        partial=np.stack(partial).astype(np.uint16),
    )
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
    starts = range(0, spec.number, CHUNK)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(_draw_chunk, spec, folder, start) for start in starts]:
            done = future.result() + CHUNK
            print(f"drawn {min(done, spec.number)} of {spec.number}, {time.time() - began:.0f} s", flush=True)


def load(folder: Path) -> dict[str, NDArray[np.generic]]:
    """All rows of a folder that ``build`` filled: images, full, partial."""
    chunks = [np.load(path) for path in sorted(folder.glob("chunk-*[0-9].npz"))]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in ("images", "full", "partial")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--number", type=int, default=96_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--hold-out", nargs="*", default=[], choices=STYLES)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    kept = tuple(style for style in STYLES if style not in args.hold_out)
    build(DataSpec(number=args.number, seed=args.seed, styles=kept), args.folder, args.processes)
