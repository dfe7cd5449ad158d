"""Pictures of rows, read again where there are no byte ranges: what lies beside one, or ails it, spares the others."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from clipmill.schemas.job.config import Limits, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.workers.read.again import Row, read_again
from clipmill.workers.read.original import Place, fetch_image
from tests.build import noise, tar

IMAGES = [noise(n, 6000) for n in range(4)]
LIMITS = Limits(max_image_bytes=10_000)


def outcomes(path: Path, parts: list[str]) -> list[str]:
    """`read`, or the reason why not, of rows that were made from IMAGES."""
    rows = [
        Row(place=n, id=part, uri=f"file://{path}#{part}", offset=None, size=None, image_hash=hash_of(n))
        for n, part in enumerate(parts)
    ]
    found = {one.id: one for one in read_again(rows, Storage(), LIMITS)}
    assert len(found) == len(rows)
    return [one.reason if isinstance(one := found[part], Reject) else "read" for part in parts]


def hash_of(number: int) -> str:
    return xxhash.xxh3_128_hexdigest(IMAGES[number])


@pytest.mark.parametrize("names", [("jpg", "raw"), ("raw", "photo")])
def test_a_column_that_is_too_large_to_be_the_image_is_passed_over(names: tuple[str, str], tmp_path: Path) -> None:
    """Before the image or after it, in every row group."""
    columns = {name: [bytes(90_000)] * 4 if name == "raw" else IMAGES for name in names}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
    assert outcomes(tmp_path / "a.parquet", [f"row={n}" for n in range(4)]) == ["read"] * 4
    place = Place(uri=f"{tmp_path}/a.parquet#row=3", offset=None, size=None, image_hash=hash_of(3))
    assert fetch_image(place, Storage(), max_bytes=10_000) == IMAGES[3]


def test_a_member_that_is_too_large_costs_itself_alone(tmp_path: Path) -> None:
    members = [("0.jpg", bytes(90_000)), *((f"{n}.jpg", IMAGES[n]) for n in (1, 2, 3))]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar(members), 1))
    assert outcomes(tmp_path / "a.tar.gz", [f"{n}.jpg" for n in range(4)]) == ["too_many_bytes", *["read"] * 3]


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_a_parquet_file_that_is_damaged_is_no_failure_of_the_store(codec: str, tmp_path: Path) -> None:
    """Arrow says OSError for a page's header, and for what does not unpack."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": IMAGES}), path, row_group_size=2, compression=codec, use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = 4 if codec == "none" else len(data) // 5  # of the first page; or inside it
    data[start : start + 1000] = bytes(byte ^ 0x5A for byte in data[start : start + 1000])
    path.write_bytes(data)
    assert outcomes(path, [f"row={n}" for n in range(4)]) == ["source_changed"] * 4
