"""Where the partitions of an index lie: k-means over a sample. S: sampled vectors. P: partitions. D: dimension."""

from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.jobs.indexing.kmeans import ITERATIONS, Hold, OnCpu, train
from clipmill.jobs.querying.vectors import as_rows, normalise
from clipmill.schemas.errors import UserError

SAMPLES_PER_PARTITION = 64
MAX_SAMPLE_BYTES = 512_000_000
_BLOCK = 2048
FEW = 256  # rows that are cheap to read one by one: neighbours are often pictures of one kind


def operations(rows: int, dim: int, num_partitions: int, *, train: bool) -> float:
    """How many (two per multiply-add) it takes to place so many rows, and to `train` the partitions before."""
    sampled = min(num_partitions * SAMPLES_PER_PARTITION, MAX_SAMPLE_BYTES // (dim * 4), rows)
    return 2.0 * dim * num_partitions * (rows + train * ITERATIONS * sampled)


def centroids(dataset: Any, column: str, num_partitions: int, hold: Hold = OnCpu) -> npt.NDArray[np.float32]:
    """Unit centroids (P, D) from a random sample of the stored vectors; fewer than `num_partitions`, or none, where
    there are not so many with a direction in it."""
    sample_SD = sample(dataset, column, num_partitions * SAMPLES_PER_PARTITION)
    aimed_S = sample_SD.any(axis=1)
    if not aimed_S.all():
        sample_SD = sample_SD[aimed_S]
    count = min(num_partitions, len(sample_SD))
    return train(sample_SD, count, hold=hold) if count else sample_SD


def all_centroids(dataset: Any, column: str, num_partitions: int, hold: Hold = OnCpu) -> npt.NDArray[np.float32]:
    """As `centroids`, but UserError where there are fewer: Lance would say in its own words that it wants more."""
    found_PD = centroids(dataset, column, num_partitions, hold)
    if len(found_PD) < num_partitions:
        raise nothing_to_train(column)
    return found_PD


def nothing_to_train(column: str) -> UserError:
    return UserError(
        f"too few rows have a {column} that points anywhere for an index of it; others are null, zeros or not finite",
        "`--kind none` lets searches compare every row; `clipmill verify TABLE` says what is wrong with the vectors",
    )


def sample(dataset: Any, column: str, wanted: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit vectors (S, D) of random rows that have one, S <= wanted or a few more. Many are read in runs of neighbours,
    which costs a fraction of single rows; the runs are spread over the whole table."""
    dim = dataset.schema.field(column).type.list_size
    wanted = min(wanted, MAX_SAMPLE_BYTES // (dim * 4))
    total = dataset.count_rows()
    run = 1 if total <= 4 * wanted or wanted <= FEW else 16
    rng = np.random.default_rng(seed)
    starts = rng.choice(max(1, total // run), min(max(1, total // run), -(-wanted // run)), replace=False) * run
    offsets = (np.sort(starts)[:, None] + np.arange(run)).reshape(-1)
    offsets = offsets[offsets < total]
    found_SD = np.empty((len(offsets), dim), dtype=np.float32)  # joining blocks would hold them all twice
    count = 0
    for start in range(0, len(offsets), _BLOCK):
        table = dataset.take(offsets[start : start + _BLOCK].tolist(), columns=[column])
        rows_BD = as_rows(table[column], dim)
        rows_BD = normalise(rows_BD[np.isfinite(rows_BD).all(axis=1)])  # one NaN would become every centroid's
        found_SD[count : count + len(rows_BD)] = rows_BD
        count += len(rows_BD)
    return found_SD[:count]
