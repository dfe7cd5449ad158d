"""The operators that compare vectors: near, duplicates, per_cluster, diverse.

Vectors are read in batches and let go; what stays in memory is some numbers a row, a sample to find the clusters by,
and the vectors of one cluster.
N: rows that are left. S: rows of the sample. M: of a cluster. K: clusters. D: dimension.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.exploring.dedup import EXACT_ONLY, copies, hash_copies
from clipmill.jobs.indexing.kmeans import train
from clipmill.jobs.querying.encoder import image_bytes
from clipmill.jobs.querying.open import Examples, Query
from clipmill.jobs.querying.snapshot import ROW_ID
from clipmill.jobs.selecting.outcome import Outcome, Place, bounded, worth_first
from clipmill.jobs.selecting.rows import Places, Rows
from clipmill.schemas.job.recipe import Diverse, Duplicates, Near, PerCluster
from clipmill.schemas.text.words import counted

SAMPLE_BYTES = 256_000_000
SAMPLES_PER_CLUSTER = 64
ROWS_PER_CLUSTER = 2_000  # of `diverse`, on average
_BLOCK = 1024
_MOST_STEPS = 50_000_000  # rows x rows drawn of one cluster: beyond, those are drawn by chance


def near(rows: Rows, asked: Near, place: Place) -> Outcome:
    """The cosine with a text or a picture."""
    name, note = f"near:{asked.words}", ""
    if asked.picture is not None:
        picture = image_bytes(asked.picture, storage=rows.table.storage)
        examples = Examples(images=(picture,))
        name, note = f"near:{asked.picture}", f"the picture's sha256 is {hashlib.sha256(picture).hexdigest()}"
    else:
        assert asked.words is not None
        examples = Examples(texts=(asked.words,))
    query_D = rows.table.query_vector(Query(positive=examples, column=asked.column))
    cosine_N = np.full(len(rows), np.nan, np.float32)
    for places, vectors_BD in rows.vectors(asked.column):
        cosine_N[places] = np.einsum("bd,d->b", vectors_BD, query_D)
    return bounded(name, cosine_N, asked, note=note)


def duplicates(rows: Rows, asked: Duplicates, place: Place) -> Outcome:
    """One of each group of copies. Rows without a vector can only be copies by their bytes."""
    hashes: list[pa.Array] = []
    order: list[Places] = []
    pixels_N = np.zeros(len(rows), np.int64)
    phashes: list[pa.Array] = []
    names = ["image_hash", "width", "height"]
    if asked.phash is not None:
        names.append("phash")
    for places, found in rows.batches(names):
        hashes += found["image_hash"].chunks
        phashes += found["phash"].chunks if asked.phash is not None else ()
        order.append(places)
        pixels_N[places] = found["width"].to_numpy().astype(np.int64) * found["height"].to_numpy()
    if not len(rows):
        return Outcome(keep=np.zeros(0, np.bool_))
    in_order = pa.array(np.argsort(np.concatenate(order)))
    facts = pa.table({"image_hash": pa.chunked_array(hashes).take(in_order), ROW_ID: rows.row_ids_N})
    if asked.phash is not None:
        facts = facts.append_column("phash", pa.chunked_array(phashes).take(in_order))
        found, by = hash_copies(facts, asked.phash, tell=place.tell), "perceptual hashes"
    else:
        threshold = EXACT_ONLY if asked.exact else asked.threshold
        found, by = copies(rows.table, facts, threshold, tell=place.tell), "vectors"
    worth_N: npt.NDArray[np.float64] = np.zeros(len(rows))
    if asked.order_by is not None:
        worth_N = worth_first(rows.numbers(asked.order_by))
    elif asked.keep == "largest":
        worth_N = -pixels_N.astype(np.float64)
    best = np.lexsort((worth_N, found.roots_N))  # stable: of equal ones the lowest id
    roots = found.roots_N[best]
    first = np.r_[True, roots[1:] != roots[:-1]]
    return Outcome(keep=best[first], note=f"{found.exact:,} by their bytes, {found.near:,} by their {by}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """`cluster_N`: of each row, -1 where it has no vector. `centroids_KD`: unit vectors."""

    cluster_N: npt.NDArray[np.int64]
    centroids_KD: npt.NDArray[np.float32]
    hash_N: npt.NDArray[np.uint64]

    @property
    def without_value(self) -> int:
        return int((self.cluster_N < 0).sum())


def clustered(rows: Rows, column: str, count: int, seed: int) -> Clusters:
    """Spherical k-means over a sample of the rows, by a hash of their ids; then each row's nearest centroid. There are
    no more clusters than rows in the sample."""
    hash_N = rows.hashes(f"clusters {seed}")
    dim = rows.table.snapshot.dim(column)
    wanted = min(len(rows), max(count, min(count * SAMPLES_PER_CLUSTER, SAMPLE_BYTES // (4 * dim))))
    drawn = rows.keep(np.argsort(hash_N, kind="stable")[:wanted])
    sample_SD = np.zeros((len(drawn), dim), np.float32)
    there_S = np.zeros(len(drawn), np.bool_)
    for places, vectors_BD in drawn.vectors(column):
        sample_SD[places] = vectors_BD
        there_S[places] = True
    sample_SD = sample_SD if there_S.all() else sample_SD[there_S]
    cluster_N = np.full(len(rows), -1, np.int64)
    if not len(sample_SD):
        return Clusters(cluster_N=cluster_N, centroids_KD=sample_SD, hash_N=hash_N)
    centroids_KD = train(sample_SD, min(count, len(sample_SD)), seed=seed)
    del sample_SD
    for places, vectors_BD in rows.vectors(column):
        for start in range(0, len(places), _BLOCK):
            part = slice(start, start + _BLOCK)
            cluster_N[places[part]] = np.argmax(vectors_BD[part] @ centroids_KD.T, axis=1)
    return Clusters(cluster_N=cluster_N, centroids_KD=centroids_KD, hash_N=hash_N)


def per_cluster(rows: Rows, asked: PerCluster, place: Place) -> Outcome:
    found = clustered(rows, asked.column, asked.clusters, asked.seed)
    if asked.order_by is not None:
        order = np.lexsort((worth_first(rows.numbers(asked.order_by)), found.cluster_N))
    else:
        order = np.lexsort((found.hash_N, found.cluster_N))
    cluster = found.cluster_N[order]
    begins = np.r_[True, cluster[1:] != cluster[:-1]] if len(cluster) else np.zeros(0, np.bool_)
    rank = np.arange(len(cluster)) - np.maximum.accumulate(np.where(begins, np.arange(len(cluster)), 0))
    sizes = np.bincount(cluster[cluster >= 0], minlength=1)
    note = f"{counted(int((sizes > 0).sum()), 'cluster')}, the largest of {counted(int(sizes.max()), 'row')}"
    return Outcome(keep=order[(rank < asked.at_most) & (cluster >= 0)], without_value=found.without_value, note=note)


def diverse(rows: Rows, asked: Diverse, place: Place) -> Outcome:
    """As many rows of each cluster as of any other, as far as it has them; within a cluster the one nearest to its
    centroid and then always the one that is farthest from those that are drawn (Gonzalez 1985, "Clustering to minimize
    the maximum intercluster distance")."""
    found = clustered(rows, asked.column, min(asked.n, max(1, len(rows) // ROWS_PER_CLUSTER)), asked.seed)
    if found.without_value == len(rows):
        return Outcome(keep=np.zeros(len(rows), np.bool_), without_value=len(rows))
    order = np.lexsort((found.hash_N, found.cluster_N))[found.without_value :]
    sizes_K = np.bincount(found.cluster_N[order], minlength=len(found.centroids_KD))
    quotas_K = quotas(sizes_K, asked.n)
    kept: list[Places] = [order[:0]]
    by_chance = 0
    for cluster, (members_M, quota) in enumerate(zip(np.split(order, np.cumsum(sizes_K)[:-1]), quotas_K, strict=True)):
        if quota == len(members_M):
            kept.append(members_M)
        elif quota * len(members_M) > _MOST_STEPS:
            kept.append(members_M[:quota])  # in the order of a hash
            by_chance += 1
        elif quota:
            members_M = np.sort(members_M)
            kept.append(members_M[_far_apart(rows.keep(members_M), asked.column, found.centroids_KD[cluster], quota)])
        if cluster % 100 == 99:
            place.tell(f"{cluster + 1:,} of {counted(len(sizes_K), 'cluster')} drawn from")
    note = f"of {counted(len(sizes_K), 'cluster')}"
    note += f", {by_chance:,} of them so large that their rows were drawn by chance" if by_chance else ""
    return Outcome(keep=np.concatenate(kept), without_value=found.without_value, note=note)


def quotas(sizes_K: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Of each cluster as many as of any other, as far as it has them; one more of the first ones, until it is `n`."""
    if n >= sizes_K.sum():
        return sizes_K
    low, high = 0, int(sizes_K.max())
    while low < high:  # the highest level at which not more than n are drawn
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(sizes_K, level).sum() <= n else (low, level - 1)
    drawn_K = np.minimum(sizes_K, low)
    more = np.flatnonzero(sizes_K > low)[: n - int(drawn_K.sum())]
    drawn_K[more] += 1
    return drawn_K


def _far_apart(rows: Rows, column: str, centroid_D: npt.NDArray[np.float32], quota: int) -> Places:
    """Places of `quota` of these rows, all of which have a vector."""
    vectors_MD = np.zeros((len(rows), len(centroid_D)), np.float32)
    for places, vectors_BD in rows.vectors(column):
        vectors_MD[places] = vectors_BD
    drawn = np.empty(quota, np.int64)
    drawn[0] = np.argmax(vectors_MD @ centroid_D)
    nearest_M = np.full(len(rows), -np.inf, np.float32)  # cosine with the nearest that is drawn
    for n in range(1, quota):
        nearest_M[drawn[n - 1]] = np.inf
        nearest_M = np.maximum(nearest_M, vectors_MD @ vectors_MD[drawn[n - 1]])
        drawn[n] = np.argmin(nearest_M)
    return drawn
