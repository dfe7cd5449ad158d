"""Members of a tar that wait for the rest of their sample: in memory within a budget, else where they can be read
again."""

import tempfile
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from clipmill.schemas.errors import SourceChanged, UserError
from clipmill.schemas.job.config import Limits, Storage
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.store.storage import get_bytes


@dataclass(slots=True)
class Part:
    """One member. `data` is None while it waits outside memory, and for good where it has a `problem`.

    `offset` is the byte in the (uncompressed) tar; `spooled_at` the byte in the temporary file.
    """

    name: str
    extension: str
    offset: int
    size: int
    data: bytes | None = None
    spooled_at: int | None = None
    problem: Reason | None = None
    detail: str = ""


class Held:
    """Keeps at most `budget_bytes` of waiting members in memory."""

    def __init__(self, unit: WorkUnit, storage: Storage, limits: Limits, *, ranged: bool, budget_bytes: int) -> None:
        self._unit, self._storage, self._limits = unit, storage, limits
        self.ranged = ranged  # the object can be read at `Part.offset`
        self._budget = budget_bytes
        self._in_memory = 0
        self._spool: IO[bytes] | None = None
        self._spool_bytes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Held":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._spool is not None:
            self._spool.close()

    def keep(self, part: Part) -> None:
        """The part waits from now on. Raises UserError where a gzipped tar needs more room than a worker has."""
        if part.data is None:
            return
        if self._in_memory + part.size <= self._budget:
            self._in_memory += part.size
            return
        if not self.ranged and part.spooled_at is None:
            self._to_disk(part)
        part.data = None

    def release(self, part: Part) -> None:
        """The part no longer waits."""
        if part.data is not None:
            self._in_memory -= part.size

    def _to_disk(self, part: Part) -> None:
        assert part.data is not None
        if self._spool_bytes + part.size > self._limits.worker_memory:
            raise UserError(
                f"{self._unit.uri} keeps the members of a sample too far apart: more than "
                f"{self._limits.worker_memory:,} bytes would have to wait",
                "pack the members of a key side by side, store the tar without gzip, or raise limits.worker_memory",
            )
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(prefix="clipmill-")  # noqa: SIM115 - closed on exit; has no name
        part.spooled_at = self._spool_bytes
        self._spool.seek(part.spooled_at)
        self._spool.write(part.data)
        self._spool_bytes += part.size

    def load(self, part: Part) -> None:
        """The part's bytes are in memory again. Thread-safe. Raises as `storage.get_bytes` does."""
        if part.data is not None or part.problem is not None:
            return
        if part.spooled_at is not None:
            assert self._spool is not None
            with self._lock:
                self._spool.seek(part.spooled_at)
                part.data = self._spool.read(part.size)
            return
        try:
            part.data = get_bytes(
                self._unit.uri,
                self._storage,
                max_bytes=part.size,
                part=(part.offset, part.size),
                expected_etag=self._unit.etag,
            )
        except FileNotFoundError as error:
            raise SourceChanged(f"{self._unit.uri} is gone", "run again: it will be planned anew") from error
