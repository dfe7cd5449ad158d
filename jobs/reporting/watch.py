"""Standing searches: which rows that came in some runs answer the searches that a job file saves under `nightly.watch`.

Rows of a run are those whose unit the ledger has from that run. One new picture in a tar makes a new unit of all of
them, so a row whose bytes were in the table before is none that came. Every such row is compared, without an index: a
standing search that misses one for the sake of speed is of no use.
"""

import difflib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying.filters import conjunction, filter_errors, quote
from clipmill.jobs.querying.open import Examples, Query, Table
from clipmill.jobs.querying.vectors import as_rows, normalise
from clipmill.jobs.reporting.arrivals import Arrivals
from clipmill.jobs.table.originals import STORES
from clipmill.jobs.table.runs import last_job
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.job.nightly import Saved
from clipmill.workers.store.uri import split_uri

BATCH_ROWS = 4096
_UNITS_AT_ONCE = 500
_HASHES_AT_ONCE = 1000
_COLUMNS = ["id", "image_hash", "vector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """`score`: the cosine."""

    score: float
    id: str
    caption: str | None
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """`matched`: rows that came and answer; `hits`: the best of them. `error`: why it could not be asked."""

    name: str
    search: dict[str, Any]
    matched: int = 0
    hits: tuple[Hit, ...] = ()
    error: str = ""


def watch(
    table: Table, tables: Tables, saved: Mapping[str, Saved], came: Arrivals, *, own: bool
) -> tuple[Watched, ...]:
    """Each search over the rows that came, as far as `table`, at its version, has them. One that cannot be asked, such
    as for a row that left, says so and keeps no other from being asked.

    `own`: the searches are the caller's. Those that a table in a store brings along are somebody's word: they open no
    file of this machine and ask no web server."""
    found = []
    before = before_of(tables, came)
    for name, search in saved.items():
        about = search.model_dump(exclude_none=True)
        try:
            if not own and search.image and split_uri(search.image)[0] not in STORES:
                raise UserError("its picture lies outside the stores, where a table in a store does not reach", "")
            matched, hits = _ask(table, search, came, before)
        except (ClipmillError, OSError) as error:
            said = error.message if isinstance(error, ClipmillError) else type(error).__name__
            found.append(Watched(name=name, search=about, error=said))
        else:
            found.append(Watched(name=name, search=about, matched=matched, hits=hits))
    return tuple(found)


def before_of(tables: Tables, came: Arrivals) -> Any:
    """The rows as they were before; None where that version is no longer kept, or there was none."""
    try:
        return tables.open(version=came.before) if came.before else None
    except (UserError, ValueError, OSError):  # cleaned up: then all rows of the units count as new
        return None


def _ask(table: Table, saved: Saved, came: Arrivals, before: Any) -> tuple[int, tuple[Hit, ...]]:
    example = Examples(
        texts=(saved.text,) if saved.text else (),
        images=(saved.image,) if saved.image else (),
        ids=(saved.like,) if saved.like else (),
    )
    query = Query(positive=example, where=saved.where, min_score=saved.min_score, k=saved.k)
    where = table.predicate(query)
    if saved.where is not None:
        with filter_errors(saved.where):  # alone: what is wrong with it is not told with our own part around it
            table.snapshot.dataset.scanner(columns=["id"], filter=saved.where).explain_plan()
    vector_D = table.query_vector(query)
    matched, best = 0, list[tuple[float, str]]()
    for batch in new_rows(table, came, before, _COLUMNS, where=where):
        scores_B = normalise(as_rows(pa.chunked_array([batch.column("vector")]), len(vector_D))) @ vector_D
        keep_B = scores_B >= (-2.0 if saved.min_score is None else saved.min_score)
        ids = batch.column("id").to_pylist()
        pairs = [(float(scores_B[n]), ids[n]) for n in np.flatnonzero(keep_B) if ids[n] != saved.like]
        matched += len(pairs)
        best = heapq.nlargest(saved.k, [*best, *pairs])
    about = {row["id"]: row for row in table.get([i for _, i in best], ("id", "caption", "tags")).to_pylist()}
    return matched, tuple(
        Hit(score=round(score, 6), id=i, caption=about[i]["caption"], tags=tuple(about[i]["tags"] or ()))
        for score, i in best
        if i in about
    )


def new_rows(
    table: Table, came: Arrivals, before: Any, columns: Sequence[str], *, where: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows with a vector of the units that came, without those whose bytes were there before. `columns` has
    image_hash."""
    for start in range(0, len(came.units), _UNITS_AT_ONCE):
        units = ", ".join(quote(unit) for unit in came.units[start : start + _UNITS_AT_ONCE])
        predicate = conjunction([where, f"unit_id IN ({units})", "vector IS NOT NULL"])
        with filter_errors(where):
            scanner = table.snapshot.dataset.scanner(columns=list(columns), filter=predicate, batch_size=BATCH_ROWS)
            for batch in scanner.to_batches():
                fresh = batch.filter(pa.array(_is_new(batch.column("image_hash"), before)))
                if len(fresh):
                    yield fresh


def _is_new(hashes: pa.Array, before: Any) -> npt.NDArray[np.bool_]:
    new_B = np.ones(len(hashes), bool)
    if before is None:
        return new_B
    for start in range(0, len(hashes), _HASHES_AT_ONCE):
        part = hashes.slice(start, _HASHES_AT_ONCE)
        listed = ", ".join(quote(one) for one in dict.fromkeys(part.to_pylist()))
        known = before.scanner(columns=["image_hash"], filter=f"image_hash IN ({listed})").to_table()["image_hash"]
        new_B[start : start + len(part)] = ~np.asarray(pc.is_in(part, value_set=pc.unique(known)))
    return new_B


def saved_searches(tables: Tables, name: str | None = None) -> dict[str, Saved]:
    """Those of the job that ran last; `name`: only this one. Raises UserError where there is none."""
    nightly = last_job(tables).get("nightly")
    found = nightly.get("watch") if isinstance(nightly, dict) else None
    try:
        saved = {str(key): Saved.model_validate(value) for key, value in (found or {}).items()}
    except ValueError:  # of another release
        saved = {}
    if not saved:
        raise UserError(
            f"the job that last filled {tables.name} saves no search",
            'write `nightly: {watch: {name: "words"}}` into the job file; the next run brings it here',
        )
    if name is None:
        return saved
    if name not in saved:
        near = difflib.get_close_matches(name, saved, n=1) or sorted(saved)
        raise UserError(f"no search is saved as '{name}'", f"there is: {', '.join(near)}")
    return {name: saved[name]}
