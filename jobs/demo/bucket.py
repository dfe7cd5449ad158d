"""The demo's bucket as a folder: scenes drawn into webdataset tars, with a few broken samples on purpose.

Every byte is a function of (number, seed) and of the code that draws, so that a second run finds the same etags.
A tar gets its name only when it is whole: drawing may be stopped anywhere and goes on from there.
"""

import hashlib
import io
import json
import multiprocessing
import os
import signal
import struct
import tarfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipmill.jobs.demo.captions import caption
from clipmill.jobs.demo.scene_types import Scene
from clipmill.jobs.demo.scenes import render, sample_scene
from clipmill.jobs.demo.searches import HITS, SEARCHES
from clipmill.workers.store.whole import written_whole

SIDE_PX = 256
MIN_TRUE = HITS + 2  # scenes in the bucket that answer a search
PER_TAR = 100
NUM_BROKEN = 8  # see broken_samples
_CODE = ("scenes.py", "scene_paint.py", "scene_shapes.py", "scene_backdrop.py", "scene_types.py", "captions.py")

Member = tuple[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSpec:
    """Which bucket: how many scenes, and the seed."""

    number: int = 2000
    seed: int = 5

    @property
    def tars(self) -> list[str]:
        return [f"{n:03d}.tar" for n in range(-(-self.number // PER_TAR))]

    def digest(self) -> str:
        """16 hex digits over everything that decides the bytes."""
        here = Path(__file__).parent
        code = b"".join((here / name).read_bytes() for name in (*_CODE, "searches.py", "bucket.py"))
        return hashlib.sha256(f"{self.number} {self.seed} ".encode() + code).hexdigest()[:16]


def choose_scenes(spec: BucketSpec) -> list[Scene]:
    """The scenes by number. Where chance gave a search too few right answers, later scenes of the same stream that
    are right for it take the place of ones that serve no search."""
    scenes = [_scene(spec, i) for i in range(spec.number)]
    rng = np.random.default_rng([spec.seed, spec.number])
    free = [i for i in rng.permutation(spec.number) if not any(s.is_true(scenes[i]) for s in SEARCHES)]
    missing = {i: MIN_TRUE - sum(map(search.is_true, scenes)) for i, search in enumerate(SEARCHES) if not search.like}
    row = spec.number
    while any(count > 0 for count in missing.values()):
        scene = _scene(spec, row)
        row += 1
        useful = [i for i, count in missing.items() if count > 0 and SEARCHES[i].is_true(scene)]
        if useful:
            scenes[free.pop()] = scene
            for i in useful:
                missing[i] -= 1
    return scenes


def _scene(spec: BucketSpec, row: int) -> Scene:
    return sample_scene(np.random.default_rng([spec.seed, row]))


def key_of(number: int) -> str:
    return f"{number:06d}"


def number_of(row_id: str) -> int:
    """Which scene a row's id, `s3://…/003.tar#000321.jpg`, stands for."""
    return int(row_id.rpartition("#")[2].partition(".")[0])


def scene_members(scene: Scene, number: int) -> list[Member]:
    """jpg, txt and json of one sample."""
    rng = np.random.default_rng([number])
    facts = {"objects": scene.count, "background": scene.background, "style": scene.style}
    key = key_of(number)
    return [
        (f"{key}.jpg", _jpeg(_framed(render(scene, SIDE_PX), number))),
        (f"{key}.txt", caption(scene, rng, complete=True).encode()),
        (f"{key}.json", json.dumps(facts).encode()),
    ]


def _framed(pixels_HWC: npt.NDArray[np.uint8], number: int) -> npt.NDArray[np.uint8]:
    """Two of five pictures get bars left and right, or above and below, as photographs are rarely square.

    The model's centre crop is the scene again; a crop that is off shows in every figure.
    """
    bar = SIDE_PX // 4
    top, left = {0: (0, bar), 1: (bar, 0)}.get(number % 5, (0, 0))
    border_C = np.concatenate([pixels_HWC[0], pixels_HWC[-1], pixels_HWC[:, 0], pixels_HWC[:, -1]]).mean(axis=0)
    framed_HWC = np.empty((SIDE_PX + 2 * top, SIDE_PX + 2 * left, 3), np.uint8)
    framed_HWC[:] = border_C.astype(np.uint8)
    framed_HWC[top : top + SIDE_PX, left : left + SIDE_PX] = pixels_HWC
    return framed_HWC


def _jpeg(pixels_HWC: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, "JPEG", quality=90)
    return out.getvalue()


def _bomb() -> bytes:
    """A PNG of 60,000 by 60,000 pixels, 11 GB when decoded, as its header says; there is one byte behind it."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def broken_samples(scene: Scene) -> list[list[Member]]:
    """What buckets really hold: uploads cut off, error pages saved as pictures, bombs, orphans, wrong metadata."""
    good = _jpeg(render(scene, SIDE_PX))
    facts = b'{"objects": 2, "background": "meadow" "style": "photo"}'  # a comma is missing
    return [
        [("broken-upload-cut-off.jpg", good[: len(good) // 2]), ("broken-upload-cut-off.txt", b"half a picture")],
        [("broken-empty.jpg", b""), ("broken-empty.txt", b"nothing at all")],
        [("broken-error-page.jpg", b"<html><body>503 Service Unavailable</body></html>")],
        [("broken-noise.jpg", good[:400] + bytes(range(256)) * 20 + b"\xff\xd9")],
        [("broken-bomb.png", _bomb()), ("broken-bomb.txt", b"sixty thousand pixels wide")],
        [("broken-orphan.txt", b"a caption whose picture was lost")],
        [("broken-metadata.jpg", good), ("broken-metadata.json", facts)],
        [("broken-caption.jpg", good), ("broken-caption.txt", b"caf\xe9 in Latin-1")],
    ]


def tar_bytes(spec: BucketSpec, scenes: Sequence[Scene], index: int) -> bytes:
    """Tar number `index`: its scenes, and of the broken samples those that fall to it."""
    first = index * PER_TAR
    samples = [scene_members(scenes[n], n) for n in range(first, min(first + PER_TAR, spec.number))]
    broken = broken_samples(scenes[0])
    for n in range(index, len(broken), len(spec.tars)):
        samples.insert(min(len(samples), 7 * (n + 1)), broken[n])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (member for sample in samples for member in sample):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def draw(spec: BucketSpec, folder: Path, *, processes: int) -> Iterator[tuple[int, int]]:
    """Make the tars that are not there yet; yields (tars done, tars in all), first as it stands."""
    folder.mkdir(parents=True, exist_ok=True)
    for half in folder.glob("*.part"):  # of a run that was killed
        half.unlink()
    total = len(spec.tars)
    todo = [index for index, name in enumerate(spec.tars) if not (folder / name).exists()]
    done = total - len(todo)
    yield done, total
    if not todo:
        return
    # Spawned, not forked: this process may have threads of Arrow and torch by now.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(processes, len(todo)), mp_context=context, initializer=_start, initargs=(spec,)
    ) as pool:
        try:
            for finished in as_completed([pool.submit(_make, spec, folder, index) for index in todo]):
                finished.result()
                done += 1
                yield done, total
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_scenes: list[Scene] = []


def _start(spec: BucketSpec) -> None:
    """In a drawing process: Ctrl-C is the parent's to answer, and without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _scenes[:] = choose_scenes(spec)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(spec: BucketSpec, folder: Path, index: int) -> None:
    target = folder / spec.tars[index]
    content = tar_bytes(spec, _scenes, index)
    with written_whole(target) as half:
        half.write_bytes(content)
