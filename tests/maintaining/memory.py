"""What one maintenance takes beside what its process has: `python -m tests.maintaining.memory make FOLDER ROWS` makes a
table that needs it; `... measure FOLDER` maintains it and prints by how many bytes the process grew at its peak.

A process each, so that neither counts what the other had. The peak is the kernel's (`VmHWM`), set back when everything
is imported and the table was opened; `ru_maxrss` would begin with what the parent had.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from benchmarks import query_data
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.maintaining.maintain import maintain_table
from clipmill.jobs.table import memory
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.config import Storage

DIM, FRAGMENT_ROWS = 512, 1_000


def make(tables: Tables, rows: int) -> None:
    """With scalar indices over nine tenths of its rows."""
    import lance

    old = rows * 9 // 10
    for mode, first, count in (("create", 0, old), ("append", old, rows - old)):
        reader = pa.RecordBatchReader.from_batches(query_data.schema(DIM), _batches(first, count))
        lance.write_dataset(reader, tables.rows, mode=mode, enable_stable_row_ids=True, max_rows_per_file=FRAGMENT_ROWS)
        if mode == "create":
            tables.ensure_side_tables()
            options = IndexOptions(kind="none", measure_recall=False)
            build_index(f"{tables.database}/{tables.name}", options, tell=lambda _: None)


def _batches(first: int, rows: int) -> Iterator[pa.RecordBatch]:
    for batch in query_data.chunks(first + rows, DIM):
        start = int(batch.column("id")[0].as_py())
        yield batch.slice(max(0, first - start), batch.num_rows)


def measure(tables: Tables) -> int:
    memory.use_little()
    rows = tables.open().count_rows()
    memory.give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes()
    done = maintain_table(f"{tables.database}/{tables.name}", Storage(), say=lambda _: None)
    assert (done.rows, "extended" in done.indices.values()) == (rows, True), done
    assert done.fragments < done.fragments_before / 4, done
    return _peak_bytes() - before


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    table = Tables.at(f"{sys.argv[2]}/db/images")
    if sys.argv[1] == "make":
        make(table, int(sys.argv[3]))
    else:
        print(measure(table))
