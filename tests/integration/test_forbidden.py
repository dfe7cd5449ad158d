"""An object that may not be read costs its own unit: it is named, the others land, and it comes again later."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clipmill.jobs.planning.dry_run import dry_run
from tests.build import parquet, picture, tar
from tests.fake_s3 import FakeS3
from tests.integration.help import job, problems, rows, run

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def store() -> Iterator[FakeS3]:
    with FakeS3().running() as fake:
        yield fake


def shard(format: str, seeds: range) -> bytes:
    if format == "webdataset":
        return tar([(f"{seed}.jpg", picture(seed)) for seed in seeds])
    return parquet({"image": [picture(seed) for seed in seeds]})


@pytest.mark.parametrize("format", ["webdataset", pytest.param("parquet", marks=pytest.mark.slow)])
def test_one_object_that_may_not_be_read_costs_its_unit_only(
    format: str, here: Path, store: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    store.reset()
    ending = {"webdataset": "tar", "parquet": "parquet"}[format]
    for number, name in enumerate("abc"):
        store.objects[f"raw/{name}.{ending}"] = shard(format, range(10 * number, 10 * number + 3))
    store.listing = None
    shut = f"raw/a.{ending}"
    store.before = lambda method, key: (403, "AccessDenied") if key == shut else None
    storage = {"endpoint_url": store.endpoint, "region": "us-east-1"}
    made = job(here, {"format": format, "uri": f"s3://b/raw/*.{ending}"}, storage=storage)

    assert dry_run(made).units == 3
    summary = run(made)
    (failed,) = summary.failed_units
    assert failed["uri"].startswith(f"s3://b/{shut}")
    assert failed["reason"].startswith(f"no permission to read s3://b/{shut}")
    assert (summary.rows, len(rows(made, "id"))) == (6, 6)
    assert problems(made) == []

    store.before = lambda method, key: None
    assert run(made).rows == 3
    assert len(rows(made, "id")) == 9
    assert problems(made) == []
