"""Perceptual hashes: how far copies and other pictures are apart, what one costs, and a million of them searched.

    python -m benchmarks.phash --pictures DIR [--rows 1000000] [--out benchmarks/results]

DIR holds photographs (`*.jpg`, folders within too). Each is changed in ways that copies are, and hashed as a worker
with a model of 224 pixels does. `scaled`: enlarged to shortest sides of 1,700 pixels and more, so that the decoder
scales it down, beside the hash of all its pixels. Costs are CPU time of decoding, resizing and hashing, in turns, the
median of three.
"""

import argparse
import io
import json
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from benchmarks import machine
from clipmill.jobs.exploring.dedup import hash_copies
from clipmill.jobs.querying.open import Table, open_table
from clipmill.schemas.columns import PHASH
from clipmill.schemas.job.config import Limits
from clipmill.workers.decode.phash import phash
from clipmill.workers.decode.picture import decode
from clipmill.workers.stub import StubEngine

LIMITS = Limits()
TARGET_PX = 224


def hashed(image: bytes, target_px: int | None = TARGET_PX) -> int:
    return phash(decode(image, LIMITS, target_px=target_px)) & (2**64 - 1)


def encoded(picture: Any, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def changed(picture: Any) -> dict[str, bytes]:
    width, height = picture.size

    def cropped(share: float) -> Any:
        left, top = round(width * share), round(height * share)
        return picture.crop((left, top, width - left, height - top))

    return {
        "JPEG, quality 30": encoded(picture, quality=30),
        "half the size, JPEG 85": encoded(picture.resize((width // 2, height // 2)), quality=85),
        "0.3 of the size, PNG": encoded(picture.resize((width * 3 // 10, height * 3 // 10)), "PNG"),
        "twice the size, WebP 70": encoded(picture.resize((width * 2, height * 2)), "WEBP", quality=70),
        "brighter by a fifth": encoded(picture.point(lambda level: min(255, int(level * 1.2))), quality=85),
        "1 % cropped on each side": encoded(cropped(0.01), quality=85),
        "5 % cropped on each side": encoded(cropped(0.05), quality=85),
        "turned by 90 degrees": encoded(picture.rotate(90, expand=True), quality=85),
        "mirrored": encoded(ImageOps.mirror(picture), quality=85),
    }


def closeness(images: list[bytes]) -> dict[str, Any]:
    """Bits by which copies differ; `others`: pairs of different pictures at most so near."""
    far: dict[str, list[int]] = defaultdict(list)
    hashes = [hashed(image) for image in images]
    for number, (image, mine) in enumerate(zip(images, hashes, strict=True)):
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(image))).convert("RGB")
        for how, copy in changed(picture).items():
            far[how].append((mine ^ hashed(copy)).bit_count())
        if number < 150:
            scale = (1700 + number) / min(picture.size)
            large = encoded(picture.resize((round(picture.width * scale), round(picture.height * scale))), quality=90)
            far["scaled while decoding"].append((hashed(large, None) ^ hashed(large)).bit_count())
    hashes_N = np.array(hashes, np.uint64)
    pairs = np.bitwise_count(hashes_N[:, None] ^ hashes_N)[np.triu_indices(len(hashes_N), 1)]
    copies = {
        how: {"median": median(bits), "most": max(bits), "at most 4": round(float(np.mean(np.array(bits) <= 4)), 3)}
        for how, bits in far.items()
    }
    at_most = {str(bits): int((pairs <= bits).sum()) for bits in (4, 6, 8, 10, 12, 14)}
    return {"pictures": len(images), "copies": copies, "pairs": len(pairs), "others": at_most}


def cost(images: list[bytes]) -> dict[str, float]:
    """CPU milliseconds a picture."""
    found: dict[str, list[float]] = defaultdict(list)
    engine = StubEngine.from_name("stub")
    for _ in range(3):
        for name, options in (("without", {}), ("with", {"phash": True})):
            begun = time.process_time()
            for image in images:
                engine.prepare(image, LIMITS, **options)
            found[name].append(1000 * (time.process_time() - begun) / len(images))
        decoded = [decode(image, LIMITS, target_px=TARGET_PX) for image in images[:100]]
        begun = time.process_time()
        for one in decoded:
            phash(one)
        found["hash alone"].append(1000 * (time.process_time() - begun) / len(decoded))
    return {name: round(median(values), 3) for name, values in found.items()}


def of_many(folder: Path, rows: int) -> tuple[Table, pa.Table]:
    """Hashes with 32 bits each, as pictures have them; a hundredth are copies of others, up to four bits away."""
    import lance

    rng = np.random.default_rng(0)
    hashes_N = np.packbits(rng.random((rows, 64)).argsort(axis=1) < 32, axis=1).view(">u8").ravel().astype(np.uint64)
    for row in range(rows - rows // 100, rows):
        bits = rng.choice(64, int(rng.integers(0, 5)), replace=False)
        hashes_N[row] = hashes_N[row - rows // 2] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    made = pa.table(
        {"id": [f"row-{n:07d}" for n in range(rows)], "phash": pa.array(hashes_N.view(np.int64), PHASH.type)}
    )
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 4, np.float16)), 4)
    whole = (
        made.append_column("vector", vector)
        .append_column("unit_id", made["id"])
        .append_column("image_hash", made["id"])
    )
    lance.write_dataset(whole, folder / "images.lance", enable_stable_row_ids=True, max_rows_per_file=100_000)
    return open_table(str(folder / "images")), whole


def many(rows: int) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        table, whole = of_many(Path(folder), rows)
        times = []
        for n in range(6):
            begun = time.perf_counter()
            table.search_phash(f"row-{n:07d}", columns="id")
            times.append(time.perf_counter() - begun)
        found["search, ms"] = round(1000 * median(times[1:]), 1)
        for bits in (2, 4, 6):
            begun = time.process_time()
            copies = hash_copies(whole, bits)
            found[f"dedup --phash {bits}, CPU s"] = round(time.process_time() - begun, 1)
            found[f"dedup --phash {bits}, near"] = copies.near
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    images = [path.read_bytes() for path in sorted(asked.pictures.rglob("*.jpg"))]
    sizes = Counter(Image.open(io.BytesIO(image)).size for image in images)
    result = {
        "begun": machine.now(),
        "machine": machine.machine(("pillow", "simplejpeg", "numpy", "pylance")),
        "most frequent size": list(sizes.most_common(1)[0][0]),
        "many": many(asked.rows),
        "cost, CPU ms a picture": cost(images),
        "closeness": closeness(images),
    }
    print(json.dumps(result, indent=1))
    if asked.out:
        machine.save(machine.dated(asked.out, "phash"), result)


if __name__ == "__main__":
    main()
