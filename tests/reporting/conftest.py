"""A table on disk with pictures, runs and rejects, as embed leaves them; no Ray, no model."""

import json
from pathlib import Path

import pytest

from clipmill.jobs.table.tables import Tables
from clipmill.schemas.rejects import Reason, Reject
from clipmill.workers.write import reject_table
from tests.tables import TableOptions, make_table, picture

EVIL = "<script>alert('x')</script>"
JOB = {"table": "t", "plan": {"price_per_gpu_hour": 2.0}, "workers": {"gpus": 0.5}}
SUMMARY = {
    "seen": 600,
    "rows": 596,
    "rejects": {"corrupt": 4},
    "seconds": 1800.0,
    "samples_per_s": 120.0,
    "limited_by": "decode",
    "loads": {"read": 0.1, "decode": 0.95, "embed": 0.4},
    "workers": 4,
    "device": "cuda",
    "table_version": 1,
    "failed_units": [],
}


def make(folder: Path) -> str:
    pictures = folder / "pictures"
    pictures.mkdir()
    uri = make_table(folder, TableOptions(rows=300, images=pictures))
    tables = Tables.at(uri)
    (pictures / "twice.png").write_bytes(picture("green"))
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "elsewhere.png").write_bytes(picture("red"))
    named = [
        Reject(id="twice", uri=str(pictures / "twice.png"), reason=Reason.DUPLICATE_ID, detail="row-000001 has it"),
        Reject(id="broken", uri=str(pictures / "broken.png"), reason=Reason.CORRUPT, detail=EVIL),
        Reject(id="away", uri=str(folder / "elsewhere.png"), reason=Reason.CORRUPT, detail="of another place"),
        Reject(id=EVIL, uri=str(pictures / f"{EVIL.replace('/', '')}.png"), reason=Reason.CORRUPT),
    ]
    tables.append("rejects", reject_table(named, unit_id="unit0", run="test", attempt=1, fingerprint="0" * 16))
    mine = tables.id()
    tables.log_run("one", "embed", "started", json.dumps(JOB), table_id=mine)
    tables.log_run("one", "embed", "finished", json.dumps(SUMMARY), table_id=mine)
    tables.log_run("two", "embed", "started", json.dumps(JOB), table_id=mine)
    tables.log_run("two", "embed", "failed", f"RuntimeError: {EVIL}", table_id=mine)
    tables.log_run("old", "embed", "finished", json.dumps(SUMMARY), table_id="f" * 16)  # of a table that was dropped
    return uri


@pytest.fixture(scope="session")
def reported_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("reported"))
