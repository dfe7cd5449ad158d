"""A table on disk with pictures, runs and rejects, as embed leaves them; no Ray, no model."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import xxhash

from clipmill.jobs.publishing.night import Gate, Night, remember
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.workers.write import reject_table
from tests.tables import TableOptions, batch, ledger_entry, make_table, picture

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


ROWS = 120
WATCH = {"red": {"text": "red", "min_score": 0.35, "k": 3}, "shoes": {"text": "shoe", "where": "license = 'cc0'"}}
SETS = [
    {
        "set": "vit_l_14",
        "model": EVIL,
        "rows": 240,
        "filled": 231,
        "failed": 7,
        "rejects": {"source_changed": 7},
        "left": 2,
        "new": 119,
        "note": f"the weights are gone: {EVIL}",
    }
]
STORY = ("published",) * 28 + ("refused", "published")


def drawn(number: int) -> bytes:
    """A PNG like no other."""
    from PIL import Image

    out = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).rotate(number * 37 % 360, fillcolor=90 + number % 90).save(out, "PNG")
    return out.getvalue() + b"%d" % number


def make_nights(folder: Path) -> tuple[str, int]:
    import lance

    pictures = folder / "pictures"
    pictures.mkdir()
    uri = make_table(folder, TableOptions(rows=ROWS))
    tables = Tables.at(uri)
    tables.ensure_side_tables()
    first = int(tables.open().version)
    second = batch(TableOptions(rows=ROWS, start=ROWS))
    before = batch(TableOptions(rows=ROWS))["image_hash"].to_pylist()
    images = [pictures / f"{n:03d}.png" for n in range(ROWS)]
    for n, path in enumerate(images):
        path.write_bytes(drawn(n))
    hashes = [before[n] if n < 10 else xxhash.xxh3_128_hexdigest(drawn(n)) for n in range(ROWS)]
    changed = {
        "image_hash": hashes,
        "unit_id": [f"new{n % 2}" for n in range(ROWS)],
        "uri": [str(path) for path in images],
    }
    for name, values in changed.items():
        place = second.schema.get_field_index(name)
        second = second.set_column(place, second.schema.field(name), pa.array(values))
    lance.write_dataset(second, f"{uri}.lance", mode="append")
    entries = [replace(ledger_entry(f"unit{n}", "x", rows=30), run="one", table_version=first) for n in range(4)]
    entries += [
        replace(ledger_entry(f"new{n}", f"{pictures}/", rows=60), run="two", table_version=first + 1) for n in range(2)
    ]
    ledger.append(tables, entries)
    bad = [Reject(id="broken", uri=str(pictures / "gone.png"), reason=Reason.CORRUPT, detail=EVIL)]
    bad += [Reject(id="twice", uri=str(images[3]), reason=Reason.DUPLICATE_ID, detail="row-000003 has it")]
    tables.append("rejects", reject_table(bad, unit_id="new0", run="two", attempt=1, fingerprint="0" * 16))
    job = json.dumps({**JOB, "nightly": {"watch": WATCH}})
    for run in ("one", "two"):
        tables.log_run(run, "nightly", "started", job, table_id=tables.id())
        tables.log_run(run, "nightly", "finished", json.dumps(SUMMARY), table_id=tables.id())
    for n, status in enumerate(STORY):
        remember(tables, story_night(uri, n, status, first))
    return uri, first


def story_night(uri: str, n: int, status: str, first: int) -> Night:
    """The nth of thirty nights; the first is run `one`, the last `two`, one before it was refused."""
    reached = 0.93 if status == "refused" else 0.9991 + 0.00002 * (n % 7)
    return Night(
        run={0: "one", len(STORY) - 1: "two"}.get(n, f"night{n}"),
        table=uri,
        at=f"2026-10-{n + 1:02d}T04:00:00+00:00",
        status=status,
        seconds=1700.0 + n,
        seen=122,
        rows=120,
        rejects={"corrupt": 1, "duplicate_id": 1},
        rows_before=120,
        rows_after=240,
        version_before=first,
        samples_per_s=110.0 + n,
        limited_by="decode",
        worker_hours=1.9,
        dollars=1.23,
        versions={"rows": first + 1},
        live_before=first,
        live_after=first + 1 if status == "published" else first,
        sets=SETS if status == "refused" else [],
        columns=[{"column": "tags__side", "new": 12, "left": 0, "note": ""}] if status == "refused" else [],
        gates=(
            Gate(
                name="coverage",
                passed=status != "refused",
                value=reached,
                threshold=0.999,
                before=0.9992,
                sentence=f"{reached:.4f} of the samples have a row",
            ),
            Gate(name="tag_drift", passed=True, value=0.03 + 0.001 * n, threshold=0.2, sentence="0.03 of all tags"),
            Gate(name="recall", passed=True, value=None, threshold=0.95, sentence="no index, so nothing to measure"),
        ),
    )


@pytest.fixture(scope="session")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """Two nights: 120 rows, then 120 of which ten have the bytes of rows that were there; and thirty records of nights.
    The uri, and the version of the first."""
    return make_nights(tmp_path_factory.mktemp("nights"))
