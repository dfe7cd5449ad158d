"""Pictures to measure with, drawn here: noise of many sizes, as photographs have it, under a few plain shapes.

Tars as `benchmarks.pictures` makes them of real photographs, with a caption beside each; no two samples are equal.
Everything follows from the numbers, so the tars are drawn by as many processes as there are cores.
"""

import io
import json
import tarfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.pictures import Kind, add, caption

_QUALITIES = (80, 88, 94)


def draw(seed: int, kind: Kind) -> bytes:
    """A JPEG, half as wide again as it is high or the other way round, of about the size in bytes that is asked for."""
    from PIL import Image

    random = np.random.default_rng([kind.seed, seed])
    shape_HW = (kind.shortest_px, kind.shortest_px * 4 // 3)
    pixels_HWC = _noise(shape_HW if seed % 2 else shape_HW[::-1], random)
    for _ in range(4):
        top, left = (int(random.integers(0, size)) for size in pixels_HWC.shape[:2])
        height, width = random.integers(8, kind.shortest_px // 2 + 9, 2)
        pixels_HWC[top : top + height, left : left + width] += random.normal(0, 60, 3).astype(np.int16)
    picture = Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8))
    best = b""
    for quality in _QUALITIES:
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality)
        if not best or abs(out.tell() - kind.target_bytes) < abs(len(best) - kind.target_bytes):
            best = out.getvalue()
        if out.tell() > kind.target_bytes:
            break
    return best


def _noise(shape_HW: tuple[int, int], random: np.random.Generator) -> npt.NDArray[np.int16]:
    """(H, W, 3): each octave is the one before at twice its size, and weaker noise on it."""
    from PIL import Image

    octaves = int(np.log2(min(shape_HW))) - 1
    pixels_HWC = random.integers(0, 256, (2, 2, 3), dtype=np.int16)
    for octave in range(octaves, -1, -1):
        height, width = (max(2, size >> octave) for size in shape_HW)
        small = Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8))
        large_HWC = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR), np.int16)
        strength = 6 + 6 * octave
        pixels_HWC = large_HWC + random.integers(-strength, strength + 1, large_HWC.shape, dtype=np.int8)
    return pixels_HWC


def make_tars(folder: Path, shards: int, kind: Kind, processes: int) -> dict[str, Any]:
    """`shards` tars of `kind.samples_per_shard` samples, with the facts of them; done once."""
    facts_path = folder / "facts.json"
    wanted = {"shards": shards, "shortest_px": kind.shortest_px, "per_shard": kind.samples_per_shard}
    if facts_path.exists():
        facts: dict[str, Any] = json.loads(facts_path.read_text())
        if facts.items() >= wanted.items():
            return facts
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.tar"):
        old.unlink()
    draw_one = partial(_draw_tar, folder, kind)
    with ProcessPoolExecutor(max(1, min(processes, shards)), mp_context=get_context("forkserver")) as pool:
        sizes = list(pool.map(draw_one, range(shards)))
    facts = {**wanted, "mean_jpeg_bytes": sum(sizes) // (shards * kind.samples_per_shard), "drawn": True}
    facts_path.write_text(json.dumps(facts))
    return facts


def _draw_tar(folder: Path, kind: Kind, shard: int) -> int:
    """The bytes of its JPEGs."""
    random, total = np.random.default_rng([kind.seed, shard]), 0
    with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
        for number in range(shard * kind.samples_per_shard, (shard + 1) * kind.samples_per_shard):
            jpeg = draw(number, kind)
            total += len(jpeg)
            add(archive, f"{number:06d}.jpg", jpeg)
            add(archive, f"{number:06d}.txt", caption(number, random).encode())
    return total


def joined(tars: list[Path], path: Path) -> Path:
    """One tar of all their samples."""
    with tarfile.open(path, "w") as archive:
        for one in tars:
            with tarfile.open(one) as source:
                for member in source:
                    archive.addfile(member, source.extractfile(member))
    return path
