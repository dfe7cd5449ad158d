"""What a table that is already large costs the next run, and what a large source costs the plan.

    python -m benchmarks.resume [--rows 10000 100000 1000000] [--units 100000] [--out benchmarks/results]

Rows: a table of so many rows in units of a thousand, written straight into Lance and entered in the ledger; then
`embed` with nothing to do, and with one more tar to do. Units: `clipmill plan` over so many tars of 250 MB (sparse
files, so that only their names and sizes exist), in a process of its own whose memory is watched. The stub model.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.process import watch
from tests.build import picture, tar

ROWS_PER_UNIT = 1000
TAR_BYTES = 250_000_000  # ten thousand pictures of 25 kB
FOLDERS_OF = 1000


def make_job(folder: Path) -> Any:
    from clipmill.schemas.job.config import JobFile

    return JobFile.model_validate(
        {
            "table": f"{folder}/db/images",
            "source": {"format": "webdataset", "uri": f"{folder}/source/*.tar"},
            "model": {"name": "stub"},
            "workers": {"num": 1, "cpus": 1},
        }
    )


def add_tar(folder: Path, number: int) -> None:
    (folder / "source").mkdir(exist_ok=True)
    name = f"{number:06d}"
    (folder / "source" / f"{name}.tar").write_bytes(tar([(f"{name}.jpg", picture(1, size_HW=(16, 16)))]))


def fill(job: Any, rows: int) -> None:
    """Every unit that the ledger lacks gets a thousand rows, in one commit."""
    import pyarrow as pa

    from clipmill.jobs.committing.commit import Committer
    from clipmill.jobs.committing.lease import Lease
    from clipmill.jobs.planning.surveying.survey import survey
    from clipmill.jobs.table.ledger import read_ledger
    from clipmill.jobs.table.tables import Tables
    from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState
    from clipmill.workers.write import fragment_json, write_row_fragments

    tables = Tables.at(job.table, job.storage)
    done = read_ledger(tables)
    todo = [unit for unit in survey(job.source, job.storage, job.limits) if unit.unit_id not in done]
    dataset = tables.open()
    template = dataset.to_table().slice(0, 1)
    one = {name: template[name].combine_chunks() for name in template.schema.names}
    columns = {name: pa.concat_arrays([value] * ROWS_PER_UNIT) for name, value in one.items()}

    def batches(unit: Any) -> Iterator[pa.RecordBatch]:
        own = {
            **columns,
            "id": pa.array([f"{unit.uri}#{n}" for n in range(ROWS_PER_UNIT)]),
            "unit_id": pa.array([unit.unit_id] * ROWS_PER_UNIT),
        }
        yield pa.record_batch([own[name] for name in dataset.schema.names], schema=dataset.schema)

    lease = Lease(tables, "fill", "embed", ttl_s=600.0)
    lease.take()
    lease.fence()
    fragments, entries = [], []
    for unit in todo:
        fragments += [fragment_json(f) for f in write_row_fragments(batches(unit), dataset, tables.options)]
        entries.append(
            LedgerEntry(
                unit_id=unit.unit_id,
                state=LedgerState.COMMITTED,
                uri=unit.uri,
                etag=unit.etag,
                start=unit.start,
                end=unit.end,
                format=unit.format,
                run="fill",
                attempt=1,
                seen=ROWS_PER_UNIT,
                written=ROWS_PER_UNIT,
                rejected=0,
                table_version=0,
            )
        )
    Committer(tables, lease).commit(entries, fragments)
    lease.release()
    assert tables.open().count_rows() >= rows


def resume(folder: Path, rows: int) -> dict[str, Any]:
    """Seconds of `embed` on a table of `rows` rows; Ray is running already, as it is on a cluster."""
    from clipmill.jobs.cluster import connect as cluster
    from clipmill.jobs.running import embed
    from clipmill.jobs.running.options import Options

    job = make_job(folder)
    with cluster.connected(None, num_cpus=1):
        add_tar(folder, 0)
        embed.run(job, Options(num_cpus=1))
        for number in range(1, rows // ROWS_PER_UNIT + 1):
            add_tar(folder, number)
        fill(job, rows)
        start = time.monotonic()
        idle = embed.run(job, Options(num_cpus=1))
        idle_s = time.monotonic() - start
        assert idle.note.startswith("nothing to do"), idle
        add_tar(folder, rows // ROWS_PER_UNIT + 1)
        one = embed.run(job, Options(num_cpus=1))
        assert one.rows == 1, one
    return {
        "rows": rows,
        "units": rows // ROWS_PER_UNIT + 1,
        "nothing_to_do_s": round(idle_s, 2),
        "until_first_unit_is_handed_out_s": one.startup_s,
        "first_rows_s": one.first_rows_s,
        "with_indices_s": one.seconds,
    }


def plan(folder: Path, units: int) -> dict[str, Any]:
    """Wall time and peak memory of `clipmill plan`, the process's start included."""
    for number in range(units):
        path = folder / f"{number // FOLDERS_OF:04d}" / f"{number:06d}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar([("0.jpg", picture(1, size_HW=(16, 16)))]) if not number else b"")
        os.truncate(path, TAR_BYTES)
    job = folder / "job.yaml"
    source = f"{{format: webdataset, uri: '{folder}/*/*.tar'}}"
    job.write_text(f"table: {folder}/db/images\nsource: {source}\nmodel: {{name: ViT-B-32}}\n")
    command = [str(Path(sys.executable).with_name("clipmill")), "plan", str(job), "--json"]
    done = watch(command, env=dict(os.environ), cwd=folder, timeout_s=900)
    assert not done.returncode, done.stderr
    said = json.loads(done.stdout)
    assert said["units"] == units, said
    return {
        "units": units,
        "samples": units * TAR_BYTES // 25_000,
        "seconds": round(done.seconds, 1),
        "peak_rss_mb": round(done.peak_rss_bytes / 1e6),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--units", type=int, default=100_000, help="0: leave planning out")
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    given = parser.parse_args()
    out = given.out.resolve() if given.out else None  # the run changes the folder
    result: dict[str, Any] = {"at": machine.now(), "machine": machine.machine()}
    with tempfile.TemporaryDirectory(prefix="clipmill-resume-") as folder:
        if given.units:
            result["plan"] = plan(Path(folder) / "many", given.units)
            print(result["plan"], file=sys.stderr)
        result["resume"] = []
        for rows in given.rows:
            home = Path(folder) / f"{rows}"
            home.mkdir()
            result["resume"].append(resume(home, rows))
            print(result["resume"][-1], file=sys.stderr)
    print(json.dumps(result, indent=1))
    if out is not None:
        machine.save(machine.dated(out, "resume"), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
