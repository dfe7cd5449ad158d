"""What a server keeps of each version of its table: vectors, tags, rows and the index that searches still ask."""

from dataclasses import dataclass

from clipmill.jobs.querying.at_hand import rows, warm
from clipmill.jobs.querying.at_hand.shared import Shared
from clipmill.jobs.querying.damaged import reading_index
from clipmill.jobs.querying.nearest import asks_index, will_ask_index
from clipmill.jobs.querying.snapshot import Snapshot
from clipmill.schemas.errors import DamagedIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """`columns`: of vectors. `memory_bytes`: for those and rows. `rows`: what a person reads of each row too, in a
    file, where the vectors leave room for it. `shared`: with other processes of the server."""

    columns: tuple[str, ...] = ()
    memory_bytes: int = 0
    rows: bool = False
    shared: Shared | None = None

    def fill(self, snapshot: Snapshot) -> tuple[bool, str]:
        """Whether the machine has room for it at all, and in a sentence why not all of it is at hand."""
        still = [column for column in self.columns if not warm.is_shared(snapshot, column, self.shared)]
        asked = [column for column in self.columns if will_ask_index(snapshot, column)]  # each process has its own
        if lacking := warm.no_room(snapshot, still, asked):
            return False, lacking
        cold = ""
        snapshot.expect_rows()
        for column in self.columns:
            if lacking := warm.too_large(snapshot, column, self.memory_bytes // len(self.columns)):
                cold = lacking
            else:
                snapshot.warm[column] = warm.load(snapshot, column, self.shared)
            index = snapshot.vector_index(column)
            if index is not None and asks_index(snapshot, column):
                try:
                    with reading_index(snapshot.dataset, index.name):
                        snapshot.dataset.prewarm_index(index.name)
                except DamagedIndex as error:
                    snapshot.without_index(column, error)
        left = self.memory_bytes - sum(vectors.nbytes for vectors in snapshot.warm.values())
        left -= warm.load_tags(snapshot, left)
        if self.rows and not cold:
            snapshot.rows = rows.load(
                snapshot.dataset, snapshot.default_columns(), left, self.shared, snapshot.identity
            )
        return True, cold
