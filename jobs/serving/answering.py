"""One search: the question as a query, in a thread or at once, and the answer as JSON."""

import time
from collections.abc import Callable
from contextlib import suppress

from fastapi import Response

from clipmill.jobs.querying.damaged import reading_table
from clipmill.jobs.querying.deadline import OutOfTime, deadline
from clipmill.jobs.querying.nearest import is_quick
from clipmill.jobs.querying.nothing import caveat, why_nothing
from clipmill.jobs.querying.open import Table
from clipmill.jobs.serving import models
from clipmill.jobs.serving.services import Services, steady, unproven
from clipmill.schemas.errors import DamagedIndex, UserError, VersionGone
from clipmill.schemas.text.plain import plain

_QUICK_S = 0.02
_OF_PLAIN = {"vector", "k", "offset", "columns"}


async def answer(found: Services, question: models.SearchRequest) -> Response:
    """The answer as JSON, made in the query's thread: FastAPI would check and write it in the one all clients share. A
    question that is answered at once is answered in that one: threads of Python wait for each other, and of 32 clients
    on two cores those of four took as much again as the work (by hand, 2026-11-29)."""
    columns = tuple(question.columns) if question.columns is not None else None
    if question.text or question.not_text:
        found.need_encoder()

    def once(version: int) -> models.SearchResponse:
        start = time.perf_counter()
        query = models.to_query(
            question, found.model, k=question.k, offset=question.offset, columns=_shown(found.table, columns)
        )
        matching = found.table.count(query)  # first: it looks at the clock, and is remembered for the search
        rows = found.table.run(query).to_pylist()
        note = caveat(found.table, query) or ("" if rows or question.offset else why_nothing(found.table, query))
        return models.SearchResponse(
            hits=[models.Row(**plain(row)) for row in rows],
            note=note or None,
            unproven=unproven(found.table),
            matching=matching,
            version=version,
            took_ms=round((time.perf_counter() - start) * 1e3, 2),
        )

    def work() -> bytes:
        return steady(found.table, once).model_dump_json().encode()

    body = _at_once(work) if _is_quick(found, question, columns) else None
    return Response(await found.runner.run(work) if body is None else body, media_type="application/json")


def _at_once(work: Callable[[], bytes]) -> bytes | None:
    """None where it takes longer than others should wait, such as among thousands of copies, or files are gone."""
    with suppress(OutOfTime, VersionGone, DamagedIndex), deadline(_QUICK_S), reading_table():
        return work()
    return None


def _is_quick(found: Services, question: models.SearchRequest, columns: tuple[str, ...] | None) -> bool:
    if not question.vector or not question.model_fields_set <= _OF_PLAIN:  # an empty one asks for any rows
        return False
    snapshot = found.table.snapshot
    return is_quick(snapshot, "vector", question.k + question.offset, columns or snapshot.default_columns())


def _shown(table: Table, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Bytes do not fit into JSON, and a vector of a row is asked for by searching with its id."""
    if columns is None:
        return None
    readable = table.snapshot.default_columns()
    for name in table.snapshot.check_columns(columns):
        if name not in readable:
            raise UserError(f"the column {name} is not given out over HTTP", f"there is: {', '.join(readable)}")
    return columns
