"""What stands in a table, in figures small enough for a page: tags, scores, and the vectors on a plane.

N: rows that are looked at. D: dimension.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.exploring.facets import MAX_DISTINCT, facets
from clipmill.jobs.publishing.gates import total_variation
from clipmill.jobs.querying.open import Table
from clipmill.jobs.querying.vectors import as_rows, normalise
from clipmill.schemas.columns import is_head

SCORED_ROWS = 100_000  # more are looked at evenly spaced
BINS = 24
MAP_POINTS = 2_000
MAX_TAGS = 24
MAP_COLOURS = 8
OTHER = "other tags"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagCount:
    """`share`: of the rows that have any tag, 0..1."""

    tag: str
    rows: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Of a column of numbers: `counts` in equal bins from `least` to `greatest`; `rows` looked at, without nulls."""

    column: str
    least: float
    greatest: float
    median: float
    rows: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TagPoints:
    """Rows whose best tag this is: places in the map, 0..1 both ways."""

    tag: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorMap:
    """The vectors of `rows` rows on the two directions in which they differ most (principal components); `explained`
    is the share of all differences that these two show."""

    rows: int
    explained: float
    groups: tuple[TagPoints, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Two histograms of tags. `total_variation`: half the sum of the differences of shares, 0 the same to 1 nothing
    in common. `changes`: (tag, share before, share after), the largest change first."""

    total_variation: float
    changes: tuple[tuple[str, float, float], ...]


def tag_counts(table: Table) -> tuple[TagCount, ...]:
    """The commonest tags; none where the table has none."""
    found = facets(table, top=MAX_TAGS)[0]
    tagged = table.count("tags IS NOT NULL") if found.values else 0
    return tuple(TagCount(tag=tag, rows=rows, share=rows / max(1, tagged)) for tag, rows in found.values)


def drift(before: Table, after: Table, *, top: int = 8) -> Drift | None:
    """How the shares of all tags changed; None where either version has no tags."""
    one, other = (dict(facets(table, top=MAX_DISTINCT)[0].values) for table in (before, after))
    if not one or not other:
        return None
    sums = sum(one.values()), sum(other.values())
    tags = sorted({*one, *other})
    shares = [(tag, one.get(tag, 0) / sums[0], other.get(tag, 0) / sums[1]) for tag in tags]
    shares.sort(key=lambda item: -abs(item[1] - item[2]))
    changed = tuple(item for item in shares[:top] if item[1] != item[2])
    return Drift(total_variation=round(total_variation(one, other), 6), changes=changed)


def histograms(table: Table) -> tuple[Histogram, ...]:
    """Of the captions' cosines, the best tag's score, and every column that a head filled."""
    names = [f.name for f in table.schema if f.name == "caption_score" or is_head(f)]
    tagged = ["tag_scores"] if "tag_scores" in table.schema.names else []
    found = evenly(table, [*names, *tagged], SCORED_ROWS)
    numbers = {name: found[name] for name in names}
    if tagged:
        numbers["best tag's score"] = pc.list_element(found["tag_scores"].filter(_filled(found["tag_scores"])), 0)
    made = [_histogram(name, column) for name, column in numbers.items()]
    return tuple(one for one in made if one is not None)


def _filled(column: pa.ChunkedArray) -> Any:
    return pc.greater(pc.fill_null(pc.list_value_length(column), 0), 0)


def _histogram(name: str, column: pa.ChunkedArray) -> Histogram | None:
    values_N = column.drop_null().to_numpy().astype(np.float64)
    values_N = values_N[np.isfinite(values_N)]
    if not len(values_N):
        return None
    counts, edges = np.histogram(values_N, bins=BINS)
    return Histogram(
        column=name,
        least=float(edges[0]),
        greatest=float(edges[-1]),
        median=float(np.median(values_N)),
        rows=len(values_N),
        counts=tuple(int(n) for n in counts),
    )


def evenly(table: Table, columns: list[str], rows: int) -> pa.Table:
    """At most `rows` rows, the same ones each time, evenly spaced in the table's order."""
    count = table.num_rows
    places = np.unique(np.linspace(0, count - 1, min(count, rows)).astype(np.int64)) if count else np.zeros(0, np.int64)
    if not len(places):
        return pa.schema([table.schema.field(name) for name in columns]).empty_table()
    found: pa.Table = table.snapshot.dataset.take(places.tolist(), columns=columns)
    return found


def vector_map(table: Table) -> VectorMap | None:
    """None where fewer than three rows have a vector. Principal components, not UMAP or t-SNE: linear, the same each
    time, and without a library; clusters that differ in other directions lie on each other."""
    found = evenly(table, ["vector", "tags"], MAP_POINTS)
    found = found.filter(found["vector"].is_valid())
    if len(found) < 3:
        return None
    xy_N2, explained = _plane(normalise(as_rows(found["vector"], table.snapshot.dim("vector"))))
    best = [tags[0] if tags else "" for tags in found["tags"].to_pylist()]
    counted = sorted({tag: best.count(tag) for tag in set(best) if tag}.items(), key=lambda item: (-item[1], item[0]))
    named = [tag for tag, _ in counted[:MAP_COLOURS]]
    groups: dict[str, list[tuple[float, float]]] = {OTHER: [], **{tag: [] for tag in reversed(named)}}
    for tag, (x, y) in zip(best, xy_N2.tolist(), strict=True):
        groups[tag if tag in groups and tag else OTHER].append((round(x, 4), round(y, 4)))
    # Drawn in this order: what has no colour of its own lies below.
    made = tuple(TagPoints(tag=tag, points=tuple(places)) for tag, places in groups.items() if places)
    return VectorMap(rows=len(found), explained=round(explained, 4), groups=made)


def _plane(vectors_ND: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], float]:
    """Places (N, 2) in 0..1 and the share of the variance they show (Pearson 1901; by the D×D covariance)."""
    centred_ND = vectors_ND.astype(np.float64) - vectors_ND.mean(axis=0)
    values_D, axes_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    axes_D2 = axes_DD[:, [-1, -2]] if axes_DD.shape[1] > 1 else np.repeat(axes_DD, 2, axis=1)
    # The sign of an eigenvector means nothing; the same side each time keeps two reports comparable.
    axes_D2 = axes_D2 * np.sign(axes_D2[np.abs(axes_D2).argmax(axis=0), [0, 1]])
    xy_N2 = centred_ND @ axes_D2
    low_2, high_2 = xy_N2.min(axis=0), xy_N2.max(axis=0)
    spread = max(float((high_2 - low_2).max()), 1e-12)  # one scale for both, so that distances are what they look
    total = float(values_D.sum())
    placed_N2 = (xy_N2 - (low_2 + high_2) / 2) / spread + 0.5
    return placed_N2, float(values_D[-2:].sum() / total) if total > 0 else 0.0
