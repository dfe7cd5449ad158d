"""A table of imported vectors, as those meet it who serve it, check it, and fill another model's set beside it."""

from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.importing.request import ImportOptions
from clipmill.jobs.importing.run import import_vectors
from clipmill.jobs.migrating.fill_plan import plan_fill
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table.originals import Originals
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.report import Report
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.job.config import Limits, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read.again import Row, read_again
from clipmill.workers.stub import StubEngine
from tests.importing.files import DIM, MODEL, Pictures
from tests.served import running

ROWS = 24


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "pictures", ROWS)


@pytest.fixture
def vectors(tmp_path: Path, pictures: Pictures) -> Path:
    pictures.clip_retrieval(tmp_path / "out", "0", slice(0, 10))
    return pictures.clip_retrieval(tmp_path / "out", "1", slice(10, ROWS), texts=True)


def imported(folder: Path, vectors: Path, pictures: Pictures | None, *, prove: int = 4) -> str:
    table = str(folder / "db" / "images")
    place = str(pictures.folder) if pictures else None
    import_vectors(table, ImportOptions(vectors=str(vectors), model=MODEL, pictures=place, prove=prove), Storage())
    return table


def checked(table: str) -> Report:
    return verify(table, Storage())


def test_the_server_says_that_nobody_proved_the_vectors_and_not_where_anything_lies(
    tmp_path: Path, vectors: Path, pictures: Pictures
) -> None:
    unproven = imported(tmp_path, vectors, None)
    with running(open_table(unproven, engine=StubEngine(DIM))) as base, httpx.Client(base_url=base) as client:
        told = client.get("/api/table").json()["unproven"]
        assert told.startswith("unproven: these vectors were imported")
        assert str(tmp_path) not in told
        assert client.post("/api/search", json={"text": "x", "k": 2}).json()["unproven"] == told
        assert 'id="unproven"' in client.get("/").text
    proven = imported(tmp_path / "proven", vectors, pictures)
    with running(open_table(proven, engine=StubEngine(DIM))) as base, httpx.Client(base_url=base) as client:
        assert client.get("/api/table").json()["unproven"] is None
        assert client.post("/api/search", json={"text": "x", "k": 2}).json()["unproven"] is None


def test_verify_counts_the_rows_of_the_files_again(tmp_path: Path, vectors: Path, pictures: Pictures) -> None:
    table = imported(tmp_path, vectors, pictures)
    report = checked(table)
    assert (report.problems, report.source_units, report.not_checked) == ([], 2, [])
    # A ledger that lost three samples of a file, and whose sums agree with what is left.
    Tables.at(table).open("units").update({"seen": "seen - 3", "written": "written - 3"}, where="seen = 14")
    assert f"{vectors}/img_emb/img_emb_1.npy holds 14 rows, the ledger accounts for 11" in checked(table).problems
    pq.write_table(pq.read_table(vectors / "metadata" / "metadata_1.parquet").slice(1), vectors / "metadata" / "x")
    (vectors / "metadata" / "x").rename(vectors / "metadata" / "metadata_1.parquet")
    (vectors / "img_emb" / "img_emb_0.npy").unlink()
    report = checked(table)
    assert report.source_units == 0
    assert report.not_checked == [
        f"the rows of imported files: {vectors}/img_emb/img_emb_0.npy is gone or cannot be read",
        f"the rows of imported files: {vectors}/img_emb/img_emb_1.npy is another file by now",
    ]


@pytest.mark.parametrize("form", ["parquet", "lance"])
def test_verify_counts_rows_of_parquet_and_of_a_tables_version(tmp_path: Path, pictures: Pictures, form: str) -> None:
    import lance
    import pyarrow as pa

    made = pa.table({"uri": pictures.names, "vector": list(pictures.vectors_ND)})
    source = tmp_path / f"v.{form}"
    if form == "parquet":
        pq.write_table(made, source)
    else:
        lance.write_dataset(made, source, max_rows_per_file=10)
    table = imported(tmp_path, source, pictures)
    report = checked(table)
    assert (report.problems, report.source_units) == ([], 1 if form == "parquet" else 3)
    Tables.at(table).open("units").update({"seen": "seen - 1", "written": "written - 1"})
    held = [one for one in checked(table).problems if "holds" in one]
    assert len(held) == report.source_units
    assert "holds 24 rows, the ledger accounts for 23" in held[0] or "fragment 0 holds 10 rows" in held[0]


def test_a_fill_reads_imported_rows_where_somebody_vouches_for_their_pictures(
    tmp_path: Path, vectors: Path, pictures: Pictures
) -> None:
    tables = Tables.at(imported(tmp_path, vectors, pictures))
    rows = tables.open()
    refused = plan_fill(rows, "other", Originals(tables), {})
    assert (refused.rows, len(refused.refused)) == (0, ROWS)
    assert "nothing tells which bytes its picture was" in refused.refused[0][1].detail
    allowed = plan_fill(rows, "other", Originals(tables, [str(pictures.folder)]), {})
    assert (allowed.rows, allowed.refused) == (ROWS, [])
    asked = [
        Row(place=n, id=row["id"], uri=row["uri"], offset=None, size=None, image_hash=row["image_hash"])
        for n, row in enumerate(rows.to_table().to_pylist())
    ]
    read = list(read_again(asked, Storage(), Limits()))
    assert {one.uri: one.image for one in read if isinstance(one, Sample)} == {
        str(path): path.read_bytes() for path in pictures.folder.iterdir()
    }
    member = Row(place=0, id="a", uri=f"{vectors}/x.tar#a.jpg", offset=None, size=None, image_hash=asked[0].image_hash)
    assert isinstance(next(iter(read_again([member], Storage(), Limits()))), Reject)
