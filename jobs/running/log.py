"""A run's lines in the log that the table keeps of its runs: how it began, and how it ended."""

import contextlib
import json
import os
from dataclasses import dataclass
from typing import Any

from clipmill.jobs.planning.jobfile import redacted
from clipmill.jobs.running.context import RunContext
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.table.tables import new_id
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.text.plain import plain
from clipmill.schemas.text.secrets import named


@dataclass(frozen=True, slots=True)
class RunLog:
    """`table_id` is the table's, or the one that it gets when this run makes it."""

    context: RunContext
    table_id: str

    @classmethod
    def begin(cls, context: RunContext) -> "RunLog":
        found = context.tables.id()
        log = cls(context, new_id() if found is None else found)
        log._write("started", {**plain(redacted(context.job)), "folder": os.getcwd()})
        return log

    def failed(self, error: BaseException) -> None:
        with contextlib.suppress(OSError, ClipmillError):  # the error is what has to be told
            self._write("failed", named(error))

    def ended(self, summary: Summary) -> None:
        self._write("drained" if summary.interrupted else "finished", plain(summary))

    def _write(self, event: str, detail: Any) -> None:
        text = detail if isinstance(detail, str) else json.dumps(detail)
        context = self.context
        context.tables.log_run(context.lease.run, context.options.command, event, text, table_id=self.table_id)
