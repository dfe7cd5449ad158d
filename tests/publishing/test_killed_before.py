"""After a night killed once its rows were there, the next has nothing to embed, and still what that one left to do."""

from pathlib import Path

from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.indexing.vector import existing_plan
from clipmill.jobs.publishing.night import Night
from clipmill.jobs.publishing.nightly import _judged
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import JobFile
from tests.publishing.test_gates import add, tables

__all__ = ["tables"]


def test_rows_of_a_killed_night_enter_the_index_before_readers_see_them(tables: Tables, tmp_path: Path) -> None:
    uri = tables.rows.removesuffix(".lance")
    build_index(uri, IndexOptions(kind="hnsw_sq", columns=("vector",), measure_recall=False))
    add(tables, count=50)
    job = JobFile.model_validate({"table": uri, "source": {"format": "files", "uri": f"{tmp_path}/"}})

    def judged() -> Night:
        return _judged(Night(run="", table=uri, at=""), job, tables, Summary(run="", table=uri), False, lambda _: None)

    def unindexed() -> int:
        found = existing_plan(tables.open(), "vector")
        assert found is not None
        return found[2]

    assert unindexed() == 50
    found = judged()
    assert (found.status, unindexed()) == ("published", 0), found
    assert "recall" in {gate.name for gate in found.gates}
    assert judged().status == "nothing"
