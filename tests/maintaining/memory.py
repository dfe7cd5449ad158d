"""What one maintenance takes beside what its process has: `python -m tests.maintaining.memory make FOLDER ROWS` makes a
table that needs it; `... measure FOLDER` maintains it and prints by how many bytes the process grew at its peak.

A process each, so that neither counts what the other had. The peak is the kernel's (`VmHWM`), set back when everything
is imported and the table was opened; `ru_maxrss` would begin with what the parent had.
"""

import sys
from pathlib import Path

from benchmarks.maintain_memory import make
from clipmill.jobs.indexing.build import IndexOptions
from clipmill.jobs.maintaining.maintain import maintain_table
from clipmill.jobs.table import memory
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import Storage

SCALAR = IndexOptions(kind="none", measure_recall=False)


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
        make(table, int(sys.argv[3]), SCALAR)
    else:
        print(measure(table))
