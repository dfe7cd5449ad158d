"""How much memory one maintenance takes over what the process has already, at two sizes.

    python -m benchmarks.maintain_memory [--rows 20000 200000] [--out benchmarks/results]

Tables of generated rows (D = 512) in fragments of 1,000 rows, with all indices, and a tenth of the rows added since:
maintenance extends the indices and merges the fragments. Each size is measured in a process of its own. Anonymous
memory, looked at every 20 ms, from the moment when everything is imported and the table was opened once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from benchmarks import machine, query_data
from benchmarks.scale import Peak, memory_bytes

if TYPE_CHECKING:
    from clipmill.jobs.indexing.build import IndexOptions
    from clipmill.jobs.table.tables import Tables

DIM, FRAGMENT_ROWS = 512, 1_000


def make(tables: "Tables", rows: int, options: "IndexOptions") -> None:
    """A table that needs maintenance, with indices over nine tenths of its rows."""
    import lance

    from clipmill.jobs.indexing.build import build_index

    old = rows * 9 // 10
    for mode, first, count in (("create", 0, old), ("append", old, rows - old)):
        reader = pa.RecordBatchReader.from_batches(query_data.schema(DIM), _batches(first, count))
        lance.write_dataset(reader, tables.rows, mode=mode, enable_stable_row_ids=True, max_rows_per_file=FRAGMENT_ROWS)
        if mode == "create":
            tables.ensure_side_tables()
            build_index(f"{tables.database}/{tables.name}", options, tell=lambda _: None)


def _batches(first: int, rows: int) -> Iterator[pa.RecordBatch]:
    for batch in query_data.chunks(first + rows, DIM, query_data.KINDS[0]):
        start = int(batch.column("id")[0].as_py())
        yield batch.slice(max(0, first - start), batch.num_rows)


def measure(folder: Path, rows: int) -> dict[str, Any]:
    from clipmill.jobs.indexing.build import IndexOptions
    from clipmill.jobs.maintaining.maintain import maintain_table
    from clipmill.jobs.table import memory
    from clipmill.jobs.table.tables import Tables
    from clipmill.schemas.job.config import Storage

    tables = Tables.at(f"{folder}/db/images")
    make(tables, rows, IndexOptions())
    memory.use_little()
    memory.give_back()
    before = memory_bytes("RssAnon")
    began = time.monotonic()
    peak = Peak()
    with peak:
        done = maintain_table(f"{folder}/db/images", Storage(), say=lambda text: None)
    assert (done.rows, "extended" in done.indices.values()) == (rows, True), done
    return {
        "rows": rows,
        "vectors_mb": round(rows * DIM * 2 / 1e6, 1),
        "fragments_before": done.fragments_before,
        "fragments": done.fragments,
        "indices": done.indices,
        "seconds": round(time.monotonic() - began, 1),
        "growth_mb": round((peak.bytes - before) / 1e6, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    given = parser.parse_args()
    if len(given.rows) == 1:
        with tempfile.TemporaryDirectory(prefix="clipmill-maintain-") as folder:
            print(json.dumps(measure(Path(folder), given.rows[0])))
        return 0
    results = []
    for rows in given.rows:
        side = [sys.executable, "-m", "benchmarks.maintain_memory", "--rows", str(rows)]
        out = subprocess.run(side, stdout=subprocess.PIPE, text=True, check=True).stdout
        results.append({"at": machine.now(), **json.loads(out.splitlines()[-1])})
        print(json.dumps(results[-1]), file=sys.stderr)
    if given.out is not None:
        machine.save(machine.dated(given.out, "maintain-memory"), [*results, {"machine": machine.machine()}])
    return 0


if __name__ == "__main__":
    sys.exit(main())
