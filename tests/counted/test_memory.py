"""What a worker holds while a unit passes through it, as Python and numpy allocate it: no more for a long one."""

import tracemalloc
from pathlib import Path

import pytest

from benchmarks.road import Road
from tests.build import picture, tar
from tests.integration.help import job

pytestmark = [pytest.mark.counted, pytest.mark.slow]

SAMPLES = 1500
IMAGE_BYTES = 100_000
# Of 150 MB: blocks of the file on their way, pictures of a window of decoding, rows of batches that wait. 34 to 43 MB
# were seen, by whose turn it was.
MOST_BYTES = 60_000_000


def test_a_long_unit_passes_through_little_memory(tmp_path: Path) -> None:
    padded = (picture(seed).ljust(IMAGE_BYTES, bytes([seed % 251])) for seed in range(SAMPLES))
    (tmp_path / "a.tar").write_bytes(tar((f"{seed:05d}.jpg", image) for seed, image in enumerate(padded)))
    road = Road.build(job(tmp_path, {"format": "webdataset", "uri": f"{tmp_path}/*.tar"}), device="cpu", threads=2)
    (few,) = road.run(road.units)  # what is imported and kept for later units
    tracemalloc.start()
    try:
        (receipt,) = road.run(road.units)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert few.written == receipt.written == SAMPLES
    assert peak < MOST_BYTES, f"{peak:,} bytes"
