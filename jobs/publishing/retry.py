"""Rejects whose reason may have passed, and the units that are done again for them; all others are left alone.

A picture that was not there, or that nobody might read, is asked for again: its unit is done again once it answers. One
that ran out of time or killed its worker cannot be asked, so its unit has `TRIES` nights. What is wrong with the bytes
themselves never passes, until the bytes change, and then the unit is another one anyway.
"""

import heapq
import os
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b

from clipmill.jobs.table.ledger import Ledger, live
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import of_table, table_id
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.receipts import LedgerState
from clipmill.schemas.unit.rejects import Reason
from clipmill.workers.read.fetch import ordered_map
from clipmill.workers.store.errors import FIRST_CONTACT_ATTEMPTS
from clipmill.workers.store.fs import head_of

ASKED = (Reason.NOT_FOUND, Reason.FORBIDDEN)
TRIED = (Reason.TIMED_OUT, Reason.KILLED_WORKER)
TRIES = 3
MAX_ASKED = 2_000  # pictures a night, drawn anew each night; one that answers is enough for its unit
_THREADS = 16


@dataclass(slots=True)
class Retry:
    """Asks each picture once, however often it is called."""

    tables: Tables
    storage: Storage
    units: frozenset[str] = frozenset()  # what the last call found
    _answers: dict[str, bool] = field(default_factory=dict)
    _night: bytes = field(default_factory=lambda: os.urandom(16))

    def __call__(self, latest: Ledger) -> frozenset[str]:
        rejects, rows = self.tables.open("rejects", missing_ok=True), self.tables.open(missing_ok=True)
        if rejects is None or rows is None:
            return frozenset()
        reasons = ", ".join(f"'{reason}'" for reason in (*ASKED, *TRIED))
        only = f"reason IN ({reasons}) AND {of_table(rejects.schema, table_id(rows.schema))}"
        if not rejects.count_rows(filter=only):
            self.units = frozenset()
            return self.units
        counted = {(e.unit_id, e.run, e.attempt) for e in live(latest).values() if e.state == LedgerState.COMMITTED}
        again: set[str] = set()
        tries: Counter[tuple[str, str]] = Counter()
        ask: dict[str, set[str]] = {}  # uri -> units
        waiting: list[tuple[str, str]] = []
        columns = ["id", "uri", "reason", "unit_id", "run", "attempt"]
        for batch in rejects.scanner(columns=columns, filter=only).to_batches():
            for row in batch.to_pylist():
                counts = (row["unit_id"], row["run"], row["attempt"]) in counted
                if row["reason"] in TRIED:
                    tries[row["unit_id"], row["id"]] += 1
                    waiting += [(row["unit_id"], row["id"])] if counts else []
                elif counts:
                    ask.setdefault(row["uri"], set()).add(row["unit_id"])
            ask = self._drawn(ask)
        again.update(unit for unit, sample in waiting if tries[unit, sample] < TRIES)
        answers = self._answer(list(ask))
        for uri, units in ask.items():
            again.update(units if answers[uri] else ())
        self.units = frozenset(again)
        return self.units

    def _drawn(self, ask: dict[str, set[str]]) -> dict[str, set[str]]:
        """The same ones all night. One that is not drawn of these would not be of more either."""
        lots = heapq.nsmallest(MAX_ASKED, ask, key=lambda uri: blake2b(uri.encode(), key=self._night).digest())
        return {uri: ask[uri] for uri in lots}

    def _answer(self, uris: list[str]) -> dict[str, bool]:
        new = [uri for uri in uris if uri not in self._answers]
        answers = ordered_map(new, self._is_there, threads=_THREADS)
        self._answers.update(zip(new, answers, strict=True))
        return self._answers

    def _is_there(self, uri: str) -> bool:
        try:
            head_of(uri, self.storage, attempts=FIRST_CONTACT_ATTEMPTS)
        except Exception:  # noqa: BLE001 - whatever it says: not tonight
            return False
        return True
