"""Shards to measure with: JPEGs cut from real photographs, a caption beside each, in tars as webdataset has them.

The photographs are those of the folder that CLIPMILL_TEST_DATA names; crops, flips and sizes vary, so that no two
samples are equal, and no caption repeats (clipmill embeds a repeated one once, which would flatter it). Everything
follows from the seed.
"""

import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHARD_SAMPLES = 64
_WORDS = """
red blue green black white grey striped plain new old worn cotton wool denim leather long short small large wide
front side back view on a table under lamp light near the window with buttons pocket zip belt label folded
hanging from hook in daylight photographed for sale by owner size medium good condition summer winter casual
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of picture. `shortest_px` of the JPEG, the size in bytes that is aimed at, samples in a tar."""

    shortest_px: int = 256
    target_bytes: int = 25_000
    samples_per_shard: int = SHARD_SAMPLES
    seed: int = 1


def photographs(folder: Path | None = None) -> list[Path]:
    """Real photographs to cut from. Raises SystemExit where there are none."""
    root = folder or Path(os.environ.get("CLIPMILL_TEST_DATA", ""))
    found = sorted((root / "clothing").rglob("*.jpg"))
    if not found:
        raise SystemExit("error: no photographs; set CLIPMILL_TEST_DATA to the folder of test pictures")
    return found


def make_shards(folder: Path, count: int, kind: Kind = Kind(), photos: list[Path] | None = None) -> dict[str, Any]:
    """`count` samples in `folder`/00000.tar and on, with the facts of them; done once, and found there afterwards."""
    facts_path = folder / "facts.json"
    wanted = {"count": count, "shortest_px": kind.shortest_px, "seed": kind.seed, "per_shard": kind.samples_per_shard}
    if facts_path.exists():
        facts: dict[str, Any] = json.loads(facts_path.read_text())
        if all(facts[name] == value for name, value in wanted.items()):
            return facts
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.tar"):
        old.unlink()
    photos = photos or photographs()
    random = np.random.default_rng(kind.seed)
    sizes = []
    for first in range(0, count, kind.samples_per_shard):
        path = folder / f"{first // kind.samples_per_shard:05d}.tar"
        with tarfile.open(path, "w") as archive:
            for number in range(first, min(first + kind.samples_per_shard, count)):
                jpeg = cut(photos[int(random.integers(len(photos)))], kind, random)
                sizes.append(len(jpeg))
                add(archive, f"{number:06d}.jpg", jpeg)
                add(archive, f"{number:06d}.txt", caption(number, random).encode())
    facts = {**wanted, "mean_jpeg_bytes": round(float(np.mean(sizes))), "photographs": len(photos)}
    facts_path.write_text(json.dumps(facts))
    return facts


def shards(folder: Path, samples: int, kind: Kind = Kind()) -> list[Path]:
    """The tars that hold the first `samples` samples."""
    return sorted(folder.glob("*.tar"))[: -(-samples // kind.samples_per_shard)]


def caption(number: int, random: np.random.Generator) -> str:
    """5 to 24 words, which is 7 to about 30 tokens: the lengths that alt texts have; the number keeps it unique."""
    length = int(np.clip(random.lognormal(2.3, 0.4), 5, 24))
    return f"photo {number} " + " ".join(random.choice(_WORDS.split(), length - 2))


def cut(photo: Path, kind: Kind, random: np.random.Generator) -> bytes:
    """A JPEG of a part of the photograph."""
    from PIL import Image, ImageOps

    with Image.open(photo) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    share = random.uniform(0.6, 1.0, 2)
    width, height = (max(8, int(s * n)) for s, n in zip(share, picture.size, strict=True))
    left, top = (int(random.integers(n - m + 1)) for n, m in zip(picture.size, (width, height), strict=True))
    picture = picture.crop((left, top, left + width, top + height))
    scale = kind.shortest_px / min(width, height)
    picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    if random.random() < 0.5:
        picture = ImageOps.mirror(picture)
    best = b""
    for quality in (75, 85, 90, 95):
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality)
        if not best or abs(out.tell() - kind.target_bytes) < abs(len(best) - kind.target_bytes):
            best = out.getvalue()
    return best


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
