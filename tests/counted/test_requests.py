"""How often the store is asked, and for how many bytes: by a unit of each kind of source, a commit and verify. `most`:
bytes that came over those of the pictures."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.road import Road
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.job.config import Storage
from tests.build import noise, parquet, picture, tar
from tests.committed import entry, fragments, make_tables, take_lease
from tests.fake_s3 import FakeS3
from tests.integration.help import job

pytestmark = [pytest.mark.counted, pytest.mark.slow]

SAMPLES = 100
IMAGE_BYTES = 20_000
GROUPS = 4  # of the parquet file
COMMIT = {"GET": 10, "PUT": 5}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    with FakeS3().running() as running:
        yield running


def image(seed: int) -> bytes:
    """A JPEG may carry bytes behind its end."""
    small = picture(seed)
    return small + noise(seed, IMAGE_BYTES - len(small))


def as_tar(store: FakeS3) -> dict[str, Any]:
    members = [(f"{seed:05d}.jpg", image(seed)) for seed in range(SAMPLES)]
    members += [(f"{seed:05d}.txt", b"a picture") for seed in range(SAMPLES)]
    store.objects["tars/0.tar"] = tar(sorted(members))
    return {"format": "webdataset", "uri": "s3://b/tars/*.tar", "caption": "txt"}


def as_files(store: FakeS3) -> dict[str, Any]:
    for seed in range(SAMPLES):
        store.objects[f"files/{seed:05d}.jpg"] = image(seed)
        store.objects[f"files/{seed:05d}.txt"] = b"a picture"
    return {"format": "files", "uri": "s3://b/files/", "caption": "txt"}


def as_parquet(store: FakeS3) -> dict[str, Any]:
    """With a column as large as the pictures that nobody asked for."""
    columns = {
        "image": [image(seed) for seed in range(SAMPLES)],
        "text": ["a picture"] * SAMPLES,
        "other": [noise(seed, IMAGE_BYTES) for seed in range(SAMPLES)],
    }
    store.objects["tables/0.parquet"] = parquet(columns, rows_per_group=SAMPLES // GROUPS)
    return {"format": "parquet", "uri": "s3://b/tables/*.parquet", "image": "image", "caption": "text"}


@pytest.mark.parametrize(
    ("lay_out", "plan", "unit", "most"),
    [
        # Two of a block each, and who it is.
        (as_tar, {"GET": 1}, {"HEAD": 1, "GET": 2}, 1.15),
        # A picture and its caption each, and the listing.
        (as_files, {"GET": 1}, {"GET": 2 * SAMPLES + 1}, 1.02),
        # The end of the file, and two columns of each group; in blocks of a megabyte and more, so that in a file as
        # small as this one the column beside them comes along.
        (as_parquet, {"GET": 2, "HEAD": 1}, {"HEAD": 1, "GET": 1 + 2 * GROUPS}, 2.1),
    ],
)
def test_a_unit_asks_the_store_no_more_often_than_it_did_and_reads_little_beside_its_pictures(
    tmp_path: Path,
    store: FakeS3,
    lay_out: Callable[[FakeS3], Any],
    plan: dict[str, int],
    unit: dict[str, int],
    most: float,
) -> None:
    made = job(tmp_path, lay_out(store), storage={"endpoint_url": store.endpoint, "region": "us-east-1"})
    road = Road.build(made, device="cpu", threads=2)
    assert counted(store) <= Counter(plan)
    store.requests.clear()
    store.sent_bytes = 0
    (receipt,) = road.run(road.units)
    assert receipt.written == SAMPLES
    assert counted(store) <= Counter(unit)
    assert SAMPLES * IMAGE_BYTES < store.sent_bytes < most * SAMPLES * IMAGE_BYTES


def test_a_commit_of_ten_units_asks_the_store_as_often_as_one_of_one(store: FakeS3) -> None:
    tables = make_tables("s3://b", storage=Storage(endpoint_url=store.endpoint, region="us-east-1"))
    committer = Committer(tables, take_lease(tables, "a"))
    written_bytes = []
    for first, count in ((0, 1), (1, 10), (11, 1), (12, 10)):
        names = [f"u{number}" for number in range(first, first + count)]
        entries = [entry(name, "a", 2) for name in names]
        new = [one for name in names for one in fragments(tables, name, [f"{name}-1", f"{name}-2"])]
        there = set(store.objects)
        store.requests.clear()
        committer.commit(entries, tuple(new))
        assert counted(store) <= Counter(COMMIT)
        written_bytes.append(sum(len(data) for key, data in store.objects.items() if key not in there))
    committer.lease.release()
    assert written_bytes[2] < 1.5 * written_bytes[0] + 1000, "a commit writes more the more were before it"
    assert written_bytes[1] / 10 < 2_500, "bytes of manifest and ledger a unit"


def counted(store: FakeS3) -> Counter[str]:
    return Counter(method for method, _ in store.requests)


def test_verify_reads_the_ledger_once(store: FakeS3) -> None:
    storage = Storage(endpoint_url=store.endpoint, region="us-east-1")
    tables = make_tables("s3://b", storage=storage)
    lease = take_lease(tables, "a")
    Committer(tables, lease).commit([entry("u1", "a", 2)], tuple(fragments(tables, "u1", ["u1-1", "u1-2"])))
    lease.release()
    store.requests.clear()
    report = verify(f"{tables.database}/{tables.name}", storage)
    assert (report.units, report.problems) == (1, [])
    of_ledger = [key for _, key in store.requests if "__units.lance/data/" in key]
    assert len(of_ledger) == 3, "the end of a file, and two stretches of it"
    assert len(store.requests) <= 45
