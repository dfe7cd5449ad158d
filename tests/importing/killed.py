"""An import that is killed with SIGKILL inside a named step, by itself: nothing of Python runs after that.

python -m tests.importing.killed VECTORS TABLE STEP TIMES
"""

import sys

from clipmill.jobs.importing.request import ImportOptions
from clipmill.jobs.importing.run import import_vectors
from clipmill.schemas.job.config import Commit, Model, Storage
from tests.migrating.killed import killer


def main(vectors: str, table: str, step: str, times: str) -> None:
    every = Commit.model_validate({"every_rows": 1, "every_s": 3600})
    options = ImportOptions(
        vectors=vectors, model=Model(name="stub"), prove=0, commit=every, hook=killer(step, int(times))
    )
    import_vectors(table, options, Storage())


if __name__ == "__main__":
    main(*sys.argv[1:])
