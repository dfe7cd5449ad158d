"""Where the partitions of an index lie: k-means over a sample. S: sampled vectors. P: partitions. D: dimension."""

from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.jobs.indexing.kmeans import train
from clipmill.jobs.querying.vectors import as_rows, normalise

SAMPLES_PER_PARTITION = 64
MAX_SAMPLE_BYTES = 512_000_000
_BLOCK = 2048
FEW = 256  # rows that are cheap to read one by one: neighbours are often pictures of one kind


def centroids(dataset: Any, column: str, num_partitions: int) -> npt.NDArray[np.float32]:
    """Unit centroids (P, D) from a random sample of the stored vectors."""
    sample_SD = sample(dataset, column, num_partitions * SAMPLES_PER_PARTITION)
    return train(sample_SD, min(num_partitions, len(sample_SD)))


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
