"""`clipmill dedup TABLE`: groups of pictures that are the same, by bytes, or nearly so by vector or by
perceptual hash, and whom to keep.

Small tables compare every pair. Larger ones are first cut into clusters, and pairs are sought within each (Abbas et
al., "SemDeDup", 2023, section 3); each row is in its two nearest clusters, so that a pair on a border is not missed.
Groups are the connected components. Memory is some numbers per row and one cluster's vectors.
N: rows. B: rows of a batch. M: rows of a cluster. P: clusters. D: dimension.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.exploring import dedup_phash
from clipmill.jobs.exploring.forest import Forest
from clipmill.jobs.indexing.centroids import centroids
from clipmill.jobs.querying.damaged import naming_damage
from clipmill.jobs.querying.filters import filter_errors
from clipmill.jobs.querying.open import Query, Table
from clipmill.jobs.querying.parts import in_order
from clipmill.jobs.querying.phash import check_hashes
from clipmill.jobs.querying.snapshot import ROW_ID
from clipmill.jobs.querying.vectors import as_rows, normalise
from clipmill.schemas.errors import UserError
from clipmill.schemas.text.words import counted

DEFAULT_THRESHOLD = 0.95
EXACT_ONLY = 1.1  # more than any cosine, so nothing is near
BATCH_ROWS = 4096
READ_BYTES = 64_000_000  # that lance reads ahead; by default two gigabytes
SMALL_ROWS = 20_000  # up to here every pair is compared
ROWS_PER_CLUSTER = 2000
CLUSTERS_PER_ROW = 2
Prefer = Literal["largest", "first"]

GROUPS = pa.schema(
    [
        pa.field("group", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("how", pa.string(), nullable=False),  # exact | near
        pa.field("uri", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupReport:
    """`groups`: a table of `GROUPS`, largest group first, the row to keep first in each. `rows`: looked at.
    `exact`: rows that are byte for byte another one. `near`: further rows within the threshold. `surplus`: rows that
    are not kept. `phash`: most bits of a near pair, where vectors were not asked; `threshold` is null then."""

    table: str
    threshold: float | None
    phash: int | None
    rows: int
    exact: int
    near: int
    surplus: int
    groups: pa.Table = field(repr=False)


def dedup(
    table: Table,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    phash: int | None = None,
    where: str | None = None,
    prefer: Prefer = "largest",
    tell: Callable[[str], None] = lambda _: None,
) -> DedupReport:
    """Groups among the rows that pass `where`. `threshold`: least cosine of a near pair; above 1: exact only. `phash`:
    instead of vectors the perceptual hashes tell, and this is the most bits that a near pair differs in.

    `prefer`: which of a group to keep, the picture with most pixels or the first in the table. Raises UserError.
    """
    if not 0.5 <= threshold <= 1.5:
        raise UserError(f"the threshold {threshold} is no cosine that means alike", "try 0.95; 1 finds exact copies")
    predicate = table.predicate(Query(where=where))
    names = ["id", "image_hash", "width", "height"]
    if phash is not None:
        check_distance(table, phash)
        names.append("phash")
    dataset = table.snapshot.dataset
    with naming_damage(dataset, predicate), filter_errors(predicate):
        facts = dataset.scanner(columns=names, filter=predicate, with_row_id=True).to_table()
    if phash is not None:
        found = hash_copies(facts, phash, tell=tell)
    else:
        found = copies(table, facts, threshold, predicate=predicate, tell=tell)
    groups = _groups(table, found.roots_N, facts, prefer)
    surplus = len(groups) - len(set(groups["group"].to_pylist()))
    return DedupReport(
        table=table.uri,
        threshold=threshold if phash is None else None,
        phash=phash,
        rows=len(facts),
        exact=found.exact,
        near=found.near,
        surplus=surplus,
        groups=groups,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """`roots_N`: of each row the place of the first row of its group, its own where nothing is like it. `exact`: rows
    that are byte for byte an earlier one. `near`: further rows within the threshold."""

    roots_N: npt.NDArray[np.int64]
    exact: int
    near: int


def copies(
    table: Table,
    facts: pa.Table,
    threshold: float,
    *,
    predicate: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Copies:
    """Which of some rows are the same. `facts`: `image_hash` and row id of each. `predicate`: passes these rows, and
    others that do not matter; without it the vectors of the whole table are read."""
    forest = Forest(len(facts))
    exact = _join_equal(forest, facts["image_hash"])
    near = 0
    if threshold <= 1 and len(facts):
        for one, other in _near_pairs(table, predicate, facts, forest, threshold, tell):
            near += forest.join(one, other)
    return Copies(roots_N=forest.roots(), exact=exact, near=near)


def check_distance(table: Table, bits: int) -> None:
    """Raises UserError where hashes cannot be compared so."""
    check_hashes(table.snapshot, otherwise="; without phash, vectors are compared")
    if not 0 <= bits <= dedup_phash.MAX_DISTANCE:
        most = dedup_phash.MAX_DISTANCE
        raise UserError(
            f"{bits} bits are no distance of copies", f"0 to {most}; {dedup_phash.DEFAULT_DISTANCE} is near"
        )


def hash_copies(facts: pa.Table, bits: int, *, tell: Callable[[str], None] = lambda _: None) -> Copies:
    """`copies` by perceptual hash: `facts` has `image_hash` and `phash` of each row."""
    forest = Forest(len(facts))
    exact = _join_equal(forest, facts["image_hash"])
    near = sum(forest.join(one, other) for one, other in dedup_phash.near_pairs(facts["phash"], bits, tell))
    return Copies(roots_N=forest.roots(), exact=exact, near=near)


def _join_equal(forest: Forest, hashes: pa.ChunkedArray) -> int:
    """Join rows with equal hashes; how many rows joined an earlier one."""
    codes = hashes.combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    return sum(forest.join(int(order[n]), int(order[n + 1])) for n in np.flatnonzero(same))


def _near_pairs(
    table: Table,
    predicate: str | None,
    facts: pa.Table,
    forest: Forest,
    threshold: float,
    tell: Callable[[str], None],
) -> Iterator[tuple[int, int]]:
    """Places in `facts` of pairs at or above the threshold. Of exact copies only the first is compared."""
    row_ids = facts[ROW_ID].to_numpy()
    order = np.argsort(row_ids)
    first = forest.roots() == np.arange(len(row_ids))

    def places(wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        return order[np.searchsorted(row_ids, wanted, sorter=order)]

    count = 1 if len(row_ids) <= SMALL_ROWS else len(row_ids) // ROWS_PER_CLUSTER
    clusters: list[list[npt.NDArray[np.uint64]]] = [[] for _ in range(count)]
    centres_PD = centroids(table.snapshot.dataset, "vector", count) if count > 1 else None
    if centres_PD is not None and not len(centres_PD):  # hardly a vector that points anywhere
        centres_PD = None
    for ids_B, vectors_BD in _vectors(table, predicate):
        places_B = order[np.minimum(np.searchsorted(row_ids, ids_B, sorter=order), len(order) - 1)]
        alone_B = (row_ids[places_B] == ids_B) & first[places_B]  # others than `facts` are read too
        ids_B, vectors_BD = ids_B[alone_B], vectors_BD[alone_B]
        for cluster, member_B in _assign(vectors_BD, centres_PD):
            clusters[cluster].append(ids_B[member_B])
    for n, parts in enumerate(clusters):
        yield from _pairs_within(table, np.concatenate(parts) if parts else row_ids[:0], places, threshold)
        if n % 100 == 99:
            tell(f"{n + 1:,} of {counted(count, 'cluster')} compared")


def _assign(
    vectors_BD: npt.NDArray[np.float32], centres_PD: npt.NDArray[np.float32] | None
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Each cluster that any of the rows belongs to, with the places of those rows in the batch."""
    if centres_PD is None:
        yield 0, np.arange(len(vectors_BD))
        return
    cosine_BP = vectors_BD @ centres_PD.T
    width = min(CLUSTERS_PER_ROW, len(centres_PD))
    nearest_BW = np.argpartition(-cosine_BP, width - 1, axis=1)[:, :width]
    for cluster in np.unique(nearest_BW):
        yield int(cluster), np.flatnonzero((nearest_BW == cluster).any(axis=1))


def _pairs_within(
    table: Table,
    ids_M: npt.NDArray[np.uint64],
    places: Callable[[npt.NDArray[np.uint64]], npt.NDArray[np.int64]],
    threshold: float,
) -> Iterator[tuple[int, int]]:
    if len(ids_M) < 2:
        return
    stored = table.snapshot.dataset._take_rows(ids_M.tolist(), columns=["vector"])["vector"]
    vectors_MD = normalise(as_rows(stored, table.snapshot.dim("vector")))
    places_M = places(ids_M)
    for start in range(0, len(ids_M), BATCH_ROWS):
        block_BD = vectors_MD[start : start + BATCH_ROWS]
        one, other = np.nonzero(block_BD @ vectors_MD[start:].T >= threshold)
        ahead = other > one  # each pair once, no row with itself
        yield from zip(places_M[start + one[ahead]].tolist(), places_M[start + other[ahead]].tolist(), strict=True)


def _vectors(table: Table, predicate: str | None) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]]:
    scanner: Any = table.snapshot.dataset.scanner(
        columns=["vector"],
        filter=predicate,
        with_row_id=True,
        batch_size=BATCH_ROWS,
        batch_readahead=2,
        io_buffer_size=READ_BYTES,
    )
    dim = table.snapshot.dim("vector")
    for batch in scanner.to_batches():
        stored = batch.column("vector")
        rows_BD = normalise(as_rows(pa.chunked_array([stored]), dim))
        yield batch.column(ROW_ID).to_numpy()[np.asarray(stored.is_valid())], rows_BD


def _groups(table: Table, roots: npt.NDArray[np.int64], facts: pa.Table, prefer: Prefer) -> pa.Table:
    """Rows of groups of two and more, the one to keep first."""
    counts = np.bincount(roots, minlength=len(roots)) if len(roots) else np.zeros(0, np.int64)
    members = np.flatnonzero(counts[roots] > 1) if len(roots) else np.zeros(0, np.int64)
    pixels = facts["width"].to_numpy().astype(np.int64) * facts["height"].to_numpy()
    worth = -pixels[members] if prefer == "largest" else members
    order = members[np.lexsort((members, worth, roots[members], -counts[roots[members]]))]
    names, sizes = roots[order], facts.take(pa.array(order, pa.int64()))
    is_first = np.r_[True, names[1:] != names[:-1]] if len(names) else np.zeros(0, bool)
    hashes = sizes["image_hash"].to_pylist()
    kept_hash: dict[int, str] = {int(g): h for g, h, keep in zip(names, hashes, is_first, strict=True) if keep}
    uris = _uris(table, sizes[ROW_ID].to_pylist())
    return pa.table(
        {
            "group": np.cumsum(is_first) - 1,
            "id": sizes["id"],
            "keep": is_first,
            "how": ["exact" if kept_hash[int(g)] == h else "near" for g, h in zip(names, hashes, strict=True)],
            "uri": uris,
            "width": sizes["width"],
            "height": sizes["height"],
        },
        schema=GROUPS,
    )


def _uris(table: Table, row_ids: list[int]) -> pa.Array:
    if not row_ids:
        return pa.array([], pa.string())
    return table.snapshot.dataset._take_rows(row_ids, columns=["uri"])["uri"].combine_chunks()


def keep_list(table: Table, report: DedupReport, where: str | None = None) -> pa.Table:
    """Ids of every row but the surplus ones, in the table's order: what a data set without copies is made of."""
    surplus = report.groups.filter(pc.invert(report.groups["keep"]))["id"]
    schema = pa.schema([("id", pa.large_string())])  # string ends at 2 GB
    kept = [
        rows.filter(pc.invert(pc.is_in(rows["id"], surplus))).cast(schema)
        for rows in in_order(table, ["id"], table.predicate(Query(where=where)))
    ]
    return pa.concat_tables([schema.empty_table(), *kept])
