"""How far an index must be searched for the recall promised: measured on the table's own vectors once it is built.

Vectors of the table are asked for; where their true nearest rows lie says how many partitions hold enough of them, as
deep as filters make a search look (a filter that one row in twenty passes and that has nothing to do with the vectors
finds its ten nearest among the two hundred nearest of all). How many estimates must be compared exactly, the index
itself is asked. Text and image vectors lie apart in CLIP's space, so where captions have vectors both kinds are asked,
and whichever needs more counts.

Q: queries. K: true neighbours of each. P: partitions. D: dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.indexing.centroids import sample
from clipmill.jobs.indexing.kmeans import OnCpu
from clipmill.jobs.indexing.recall import nearest_of, query_column
from clipmill.jobs.querying.curve import MAX_REFINE, Curve
from clipmill.jobs.querying.roads import REFINE
from clipmill.jobs.querying.snapshot import ROW_ID, VectorIndex
from clipmill.jobs.querying.vectors import as_rows, batches_of, normalise

QUERIES = 64
# Above the 0.97 that is promised of every filter: a mean over so few queries is uncertain by some 0.005.
TARGET = 0.99
# Of what the partitions searched hold, the share that the exact comparison must not miss.
REFINE_TARGET = 0.998
RANKS = (10, 20, 40, 80, 160, 320, 640, 1280, 2560)
REFINE_STEPS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_REFINE)
MAX_ROWS = 1_000_000  # compared with the queries; of a larger table a sample
GROWN = 0.1  # a curve is measured again when so large a share of the rows came or went
_BLOCK = 8192
_RUN = 16  # neighbours that are read together
_K = 10
_ITSELF = 1 - 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Truth:
    """Row ids and cosines of the true nearest rows, best first, of every query, among `share` of the table's rows."""

    queries_QD: npt.NDArray[np.float32]
    ids_QK: npt.NDArray[np.uint64]
    score_QK: npt.NDArray[np.float32]
    share: float


def up_to_date(curve: Curve | None, index: VectorIndex, rows: int) -> bool:
    """Whether a curve still says something of this index over so many rows."""
    if curve is None or not curve.is_of(index.kind, index.num_partitions, index.bits):
        return False
    return abs(rows - curve.rows) <= GROWN * curve.rows


def measure_curve(dataset: Any, column: str, index: VectorIndex, *, seed: int = 2) -> Curve | None:
    """None for an index without partitions to choose from, and for a table without vectors to ask for."""
    if not index.kind.startswith("IVF") or index.kind.startswith("IVF_HNSW"):
        return None
    centroids_PD = _centroids(dataset, index)
    rows = dataset.count_rows()
    if centroids_PD is None or rows < 2:
        return None
    share = min(1.0, MAX_ROWS / rows)
    kinds = dict.fromkeys((column, query_column(dataset, column)))
    asked = [truth for by in kinds if (truth := _ask(dataset, column, by, share, seed)) is not None]
    if not asked:
        return None
    probes = np.max([_probes(dataset, column, centroids_PD, truth) for truth in asked], axis=0)
    refine = max(_refine(dataset, column, index, int(probes[0]), truth) for truth in asked)
    return Curve(
        ranks=RANKS,
        probes=tuple(int(p) for p in np.maximum.accumulate(probes)),
        refine=refine,
        kind=index.kind,
        num_partitions=index.num_partitions,
        bits=index.bits,
        rows=rows,
    )


def _centroids(dataset: Any, index: VectorIndex) -> npt.NDArray[np.float32] | None:
    """Unit centroids (P, D) as the index has them; None where its parts were trained apart."""
    stored = dataset.get_ivf_model(index.name).centroids
    if stored is None or len(stored) != index.num_partitions:
        return None
    return normalise(np.asarray(stored.flatten()).astype(np.float32).reshape(len(stored), -1))


def _ask(dataset: Any, column: str, by: str, share: float, seed: int) -> _Truth | None:
    queries_QD = sample(dataset, by, QUERIES, seed=seed)[:QUERIES]
    if not len(queries_QD):
        return None
    own = by == column
    ids_QK, score_QK = nearest_of(_batches(dataset, column, share, seed), column, queries_QD, RANKS[-1] + own)
    if ids_QK.shape[1] <= own:
        return None
    if own:
        # The query's own row is found by any index, so it counts on neither side; of a sample it may not be a part.
        found_Q = score_QK[:, :1] > _ITSELF
        ids_QK = np.where(found_Q, ids_QK[:, 1:], ids_QK[:, :-1])
        score_QK = np.where(found_Q, score_QK[:, 1:], score_QK[:, :-1])
    return _Truth(queries_QD=queries_QD, ids_QK=ids_QK, score_QK=score_QK, share=share)


def _batches(dataset: Any, column: str, share: float, seed: int) -> Iterator[pa.RecordBatch]:
    """All rows, or runs of neighbours from all over the table."""
    if share == 1.0:
        yield from batches_of(dataset, column)
        return
    runs = dataset.count_rows() // _RUN
    starts = np.random.default_rng(seed).choice(runs, int(runs * share), replace=False)
    offsets = (np.sort(starts)[:, None] * _RUN + np.arange(_RUN)).reshape(-1)
    for start in range(0, len(offsets), _BLOCK):
        table = dataset.take(offsets[start : start + _BLOCK].tolist(), columns=[column, ROW_ID])
        yield from table.combine_chunks().to_batches()


def _probes(dataset: Any, column: str, centroids_PD: npt.NDArray[np.float32], truth: _Truth) -> npt.NDArray[np.int64]:
    """For each of `RANKS` the least number of partitions, nearest first, that hold `TARGET` of so many true nearest."""
    queries_QD, ids_QK = truth.queries_QD, truth.ids_QK
    places = _spread(ids_QK.shape[1])
    partition_QK = _partitions(dataset, column, centroids_PD, ids_QK[:, places])
    order_QP = np.argsort(-(queries_QD @ centroids_PD.T), axis=1)
    rank_QP = np.empty_like(order_QP)
    np.put_along_axis(rank_QP, order_QP, np.arange(len(centroids_PD))[None, :], axis=1)
    needed_QK = np.take_along_axis(rank_QP, partition_QK, axis=1) + 1
    width_K = np.diff(places, append=ids_QK.shape[1])  # a place looked at stands for those up to the next one
    found = []
    for rank in RANKS:
        within = places < max(1, round(rank * truth.share))
        needed = needed_QK[:, within].reshape(-1)
        weight = np.broadcast_to(width_K[within], (len(queries_QD), int(within.sum()))).reshape(-1)
        nearest_first = np.argsort(needed, kind="stable")
        so_far = np.cumsum(weight[nearest_first])
        found.append(needed[nearest_first][np.searchsorted(so_far, TARGET * so_far[-1])])
    return np.asarray(found)


def _spread(count: int) -> npt.NDArray[np.int64]:
    """Places of the ranking to look at: the first 64, then ever fewer, some 200 in all."""
    beyond = np.geomspace(64, max(count, 65), 128)
    places = np.unique(np.concatenate([np.arange(64), beyond.astype(np.int64)]))
    return places[places < count]


def _partitions(
    dataset: Any, column: str, centroids_PD: npt.NDArray[np.float32], ids: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """The partition of each row, which is that of its nearest centroid; same shape as `ids`."""
    known, inverse = np.unique(ids, return_inverse=True)
    partition_N = np.empty(len(known), dtype=np.int64)
    for start in range(0, len(known), _BLOCK):
        block = known[start : start + _BLOCK]
        stored = dataset._take_rows(block.tolist(), columns=[column])[column]
        rows_ND = as_rows(stored, centroids_PD.shape[1])
        partition_N[start : start + len(block)] = OnCpu(centroids_PD).nearest(rows_ND)
    return partition_N[inverse].reshape(ids.shape)


def _refine(dataset: Any, column: str, index: VectorIndex, probes: int, truth: _Truth) -> int:
    """How many times what is wanted must be compared exactly. Never less than where nothing was measured."""
    usual = REFINE.get(index.bits, 4)
    if truth.share < 1.0 or index.unindexed_rows or truth.score_QK.shape[1] < _K:
        return usual  # whose ten nearest are not known, or stand beside true distances
    steps = [step for step in REFINE_STEPS if step >= usual]
    found_S = np.zeros(len(steps))
    for query_D, ids_K, score_K in zip(truth.queries_QD, truth.ids_QK, truth.score_QK, strict=True):
        # One row that is as near as another is as good: copies of a picture do not count as missed.
        good = ids_K[score_K >= score_K[_K - 1] - 1e-6]
        proposed = dataset.scanner(
            columns=["_distance"],
            nearest={"column": column, "q": query_D, "k": _K * MAX_REFINE, "metric": "cosine", "nprobes": probes},
            with_row_id=True,
        ).to_table()
        hit_N = np.isin(proposed[ROW_ID].to_numpy(), good)
        found_S += [min(_K, int(hit_N[: step * _K].sum())) for step in steps]
    return steps[int(np.argmax(found_S >= REFINE_TARGET * found_S[-1]))]
