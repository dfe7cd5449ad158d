"""What is done where files of the version that is served are found gone: the newest is opened at once.

Else each query would be refused until the background looks again (`Settings.refresh_s`), though there is an answer.
"""

import logging
import threading
import time

from clipmill.jobs.querying.open import Table
from clipmill.schemas.errors import ClipmillError

logger = logging.getLogger(__name__)
_EVERY_S = 2.0  # what is damaged for good is not looked at by every query


class Renewal:
    """Thread-safe. `every_s`: between two looks."""

    def __init__(self, table: Table, *, every_s: float = _EVERY_S) -> None:
        self._table, self._every_s = table, every_s
        self._lock = threading.Lock()
        self._looked, self._moved = float("-inf"), False

    def __call__(self) -> bool:
        """Whether a query that found files gone is worth another try. Others that ask wait for the same look."""
        with self._lock:
            if time.monotonic() - self._looked >= self._every_s:
                self._moved = self._look()
                self._looked = time.monotonic()
            return self._moved

    def _look(self) -> bool:
        before = self._table.version
        try:
            moved = self._table.renew()
        except ClipmillError:  # away or dropped; the background finds that out too, and says it
            return False
        if moved:
            now = self._table.version
            logger.warning("files of version %s are gone: version %s answers, with nothing at hand yet", before, now)
        return moved
