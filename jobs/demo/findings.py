"""Everything the demo shows of its table, gathered by the same functions that the commands call."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clipmill.jobs.demo.bucket import number_of
from clipmill.jobs.demo.captions import LABELS
from clipmill.jobs.demo.scene_types import Scene
from clipmill.jobs.demo.searches import HITS, SEARCHES, Search, facet_accuracy
from clipmill.jobs.exploring.facets import facets
from clipmill.jobs.querying.open import Table
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import Status

MAX_VALUES = 16  # of a facet; its vocabulary has no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer. `thumbnail` is WebP; `right` by what was drawn, not by what the model thinks."""

    id: str
    caption: str
    score: float
    tags: list[str]
    thumbnail: bytes
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A search and its answers. `title`: the words, or what it starts from."""

    search: Search
    title: str
    command: str
    hits: list[Hit]

    @property
    def num_right(self) -> int:
        return sum(hit.right for hit in self.hits)


@dataclass(frozen=True, slots=True, kw_only=True)
class FacetFound:
    """`values`: (label, rows) by count. `accuracy`: share of rows whose tag is what was drawn."""

    name: str
    values: list[tuple[str, int]]
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the page is made of. `run`: the summary of the run that filled the table, as JSON values."""

    status: Status
    run: dict[str, Any]
    searches: list[Found]
    facets: list[FacetFound]
    rejects: list[dict[str, str]]


def search_all(
    table: Table, scenes: Sequence[Scene], *, program: str, shown: str, tell: Callable[[Found], None] = lambda _: None
) -> list[Found]:
    """Run the six searches, in order. `tell` is called with each as it is done."""
    found: list[Found] = []
    for search in SEARCHES:
        like = found[-1].hits[0] if search.like else None
        rows = table.search(
            search.text or None,
            like=like.id if like else None,
            where=search.where,
            k=HITS,
            columns=("id", "caption", "tags", "thumbnail"),
        ).to_pylist()
        one = Found(
            search=search,
            title=search.text or f"like “{like.caption}”" if like else search.text,
            command=search.command(program, shown, like.id if like else ""),
            hits=[_hit(row, search, scenes) for row in rows],
        )
        found.append(one)
        tell(one)
    return found


def _hit(row: dict[str, Any], search: Search, scenes: Sequence[Scene]) -> Hit:
    return Hit(
        id=row["id"],
        caption=row["caption"] or "",
        score=float(row["score"]),
        tags=list(row["tags"] or ()),
        thumbnail=row["thumbnail"] or b"",
        right=search.is_true(scenes[number_of(row["id"])]),
    )


def count_facets(table: Table, scenes: Sequence[Scene]) -> list[FacetFound]:
    """How many rows carry each label, facet by facet, and how often the best label is what was drawn."""
    rows = table.snapshot.dataset.to_table(columns=["id", "tags"]).to_pylist()
    accuracy = facet_accuracy([scenes[number_of(row["id"])] for row in rows], [row["tags"] or [] for row in rows])
    (counted,) = facets(table, columns=("tags",), top=1000)
    return [
        FacetFound(
            name=name,
            values=[(label, count) for label, count in counted.values if label in labels][:MAX_VALUES],
            accuracy=accuracy[name],
        )
        for name, labels in LABELS.items()
    ]


def filling_run(tables: Tables) -> dict[str, Any]:
    """The summary of the newest run that added rows; empty where there is none."""
    logged = tables.open("runs").to_table(
        columns=["at", "detail"], filter="event IN ('finished', 'drained') AND command = 'embed'"
    )
    for row in logged.sort_by([("at", "descending")]).to_pylist():
        summary: dict[str, Any] = json.loads(row["detail"])
        if summary.get("rows"):
            return summary
    return {}
