"""The gates of what lies beside the columns in use: sets of other models, their heads' scores, further vocabularies.

They do not fall behind the rows: whoever promotes a set, goes back to it or filters by such a tag would lose them.

What nights could not fill is judged by its share of the rows, beside what readers see now. While a fill is under way
it is behind, and catches up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipmill.jobs.committing.lease import fill_holder
from clipmill.jobs.migrating.beside_derived import followed_vector, late_columns, of_model_in_use
from clipmill.jobs.publishing.night import Gate
from clipmill.jobs.table.enough import are_few
from clipmill.jobs.table.sets import coverage, missing_in_words
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import set_column, sets_in
from clipmill.schemas.job.nightly import Nightly
from clipmill.schemas.text.words import counted

NONE = "nothing is published yet to compare with"
_MEND = "`columns` of the night says why; `clipmill reembed --head NAME=FILE` and `clipmill retag --as SLUG` fill it"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """One thing beside: of `rows` so many have none. `before`: the same of what readers see; None where it is not
    there. `why`: of those that are missing. `mend`: what a person can do."""

    what: str
    rows: int
    missing: int
    before: tuple[int, int] | None
    why: str = ""
    mend: str

    @property
    def share(self) -> float:
        return 1 - self.missing / self.rows if self.rows else 1.0

    @property
    def share_before(self) -> float | None:
        if self.before is None:
            return None
        rows, missing = self.before
        return 1 - missing / rows if rows else 1.0

    @property
    def fell(self) -> float:
        return -1.0 if self.share_before is None else self.share_before - self.share

    def is_kept(self, nightly: Nightly) -> bool:
        """By the share, or short of it by few."""
        more = self.missing - (self.before[1] if self.before else 0)
        return self.fell <= nightly.max_more_rejects or are_few(more, self.rows, nightly.min_misses)

    def sentence(self, nightly: Nightly) -> str:
        said = f"{self.share:.2%} of the rows have {self.what}"
        if self.share_before is None:
            said += f"; {NONE}"
        else:
            most = nightly.max_more_rejects
            said += f", {self.share_before:.2%} in what readers see: at most {most:.2%} less"
        if self.missing:
            said += f"; of {counted(self.rows, 'row')} {self.why or f'{self.missing:,} have none'}"
        if self.is_kept(nightly):
            return said + ("; too few to judge a share by" if self.fell > nightly.max_more_rejects else "")
        return f"{said}; {self.mend}"


def sets_gate(tables: Tables, rows: Any, live: Any, nightly: Nightly) -> Gate | None:
    """None without a set beside, or where nights leave sets alone."""
    if nightly.sets == "leave":
        return None
    return _judged("sets", [_set(tables, rows, live, slug) for slug in sets_in(rows.schema)], tables, nightly)


def columns_gate(tables: Tables, rows: Any, live: Any, nightly: Nightly) -> Gate | None:
    """None where no row lacks a value. Tags that a promotion left on the model before are no night's to fill."""
    if nightly.sets == "leave":
        return None
    late = late_columns(rows)
    seen = late_columns(live) if late and live is not None else {}
    kept = []
    for column, missing in late.items():
        if not of_model_in_use(rows.schema, column):
            continue
        there = live is not None and column in live.schema.names
        kept.append(
            _Kept(
                what=f"a value in {column}",
                rows=_with(rows, column),
                missing=missing,
                before=(_with(live, column), seen.get(column, 0)) if there else None,
                mend=_MEND,
            )
        )
    return _judged("columns", kept, tables, nightly)


def _set(tables: Tables, rows: Any, live: Any, slug: str) -> _Kept:
    now = coverage(tables, rows, slug)
    column = set_column("vector", slug)
    before = None
    if live is not None and column in live.schema.names:
        before = int(live.count_rows()), int(live.count_rows(f"{column} IS NULL"))
    mend = ["`clipmill reembed` fills it"] if now.left else []
    mend += ["`clipmill reembed --again` tries once more what could not be"] if now.failed else []
    return _Kept(
        what=f"the set '{slug}'",
        rows=now.rows,
        missing=now.rows - now.filled,
        before=before,
        why=missing_in_words(now.failed, now.rejects, now.left),
        mend=", ".join([*mend, "`clipmill drop` gives it up"]),
    )


def _with(rows: Any, column: str) -> int:
    """Rows with the vector that the column follows from."""
    return int(rows.count_rows(f"{followed_vector(rows.schema, column)} IS NOT NULL"))


def _judged(name: str, kept: Sequence[_Kept], tables: Tables, nightly: Nightly) -> Gate | None:
    """One gate of all of them: its numbers are those of the one that fell furthest, and each that refuses is said."""
    if not kept:
        return None
    filling = fill_holder(tables) is not None
    worst = max(kept, key=lambda one: one.fell)
    refusing = [one for one in kept if not one.is_kept(nightly)]
    said = "; ".join(one.sentence(nightly) for one in refusing or [worst])
    return Gate(
        name=name,
        passed=filling or not refusing,
        value=worst.share,
        threshold=nightly.max_more_rejects,
        before=worst.share_before,
        sentence=said + ("; a fill is under way" if filling else ""),
    )
