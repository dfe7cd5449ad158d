"""The generated table of the query benchmark: unit vectors, captions, tags and a selectivity column.

Two kinds of vectors. `clustered`: a mixture of `CENTRES` centres, each with its own spread along a common
`RANK`-dimensional subspace, plus white noise. `one-domain`: one cloud without clusters, as CLIP's vectors of things of
one kind are: ViT-B-32's of the 1,203 names of LVIS's classes share a mean of length 0.86, and their variance falls with
the 1.08th power of its rank; of such a cloud an index can leave out least. Nothing about the queries is known to the
table: they are drawn from the same distribution by another seed.

N: rows of a chunk. D: dimension. R: rank.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.schemas.columns import rows_schema
from clipmill.schemas.model import Fingerprint, Preprocess

CENTRES = 1500
RANK = 64
CHUNK = 50_000
ADJECTIVES = ("red", "green", "blue", "black", "white", "yellow", "small", "large", "old", "new", "wooden", "wet")
NOUNS = tuple(f"thing{i:03d}" for i in range(300))


MEAN_LENGTH, SPECTRUM = 0.86, 1.08  # of the kind one-domain
KINDS = ("clustered", "one-domain")


def bench_fingerprint(dim: int) -> Fingerprint:
    return Fingerprint(
        model="generated",
        pretrained="none",
        weights_sha256="0" * 64,
        preprocess=Preprocess(size_HW=(224, 224), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        tokenizer="none",
        dim=dim,
    )


class Mixture:
    """Draws unit vectors; the same `seed` gives the same centres, `draw` its own stream."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.centres_CD = rng.standard_normal((CENTRES, dim)).astype(np.float32)
        self.centres_CD /= np.linalg.norm(self.centres_CD, axis=1, keepdims=True)
        self.basis_RD = rng.standard_normal((RANK, dim)).astype(np.float32) / np.sqrt(dim)
        self.weights_C = rng.dirichlet(np.full(CENTRES, 2.0))

    def draw(self, rows: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """`rows` unit vectors (N, D) and the centre of each."""
        rng = np.random.default_rng(seed)
        centre_N = rng.choice(CENTRES, rows, p=self.weights_C)
        spread_ND = rng.standard_normal((rows, RANK), dtype=np.float32) @ self.basis_RD
        noise_ND = rng.standard_normal((rows, self.centres_CD.shape[1]), dtype=np.float32)
        dim = self.centres_CD.shape[1]
        vectors_ND = self.centres_CD[centre_N] + 0.09 * spread_ND + 0.35 * noise_ND / np.sqrt(dim)
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True), centre_N


class OneDomain:
    """Draws unit vectors of the kind one-domain, as `Mixture` does; each has the tag of the nearest of 300 labels."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        axes_DD = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
        variance_D = np.arange(1, dim + 1) ** -SPECTRUM
        variance_D *= (1 - MEAN_LENGTH**2) / variance_D.sum()
        self.basis_DD = np.sqrt(variance_D).astype(np.float32)[:, None] * axes_DD
        mean_D = rng.standard_normal(dim)
        self.mean_D = (MEAN_LENGTH * mean_D / np.linalg.norm(mean_D)).astype(np.float32)
        self.labels_LD = rng.standard_normal((len(NOUNS), dim), dtype=np.float32) @ self.basis_DD

    def draw(self, rows: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """`rows` unit vectors (N, D) and the label of each."""
        rng = np.random.default_rng(seed)
        vectors_ND = rng.standard_normal((rows, len(self.basis_DD)), dtype=np.float32) @ self.basis_DD
        label_N = np.argmax(vectors_ND @ self.labels_LD.T, axis=1)
        vectors_ND += self.mean_D
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True), label_N


def vectors_of(kind: str, dim: int) -> Mixture | OneDomain:
    return OneDomain(dim) if kind == "one-domain" else Mixture(dim)


def kind_of(uri: str) -> str:
    """Of a table that `write` made."""
    return next((kind for kind in KINDS if kind in uri.rpartition("/")[2]), KINDS[0])


def schema(dim: int) -> pa.Schema:
    return rows_schema(
        dim=dim,
        keep={"bucket": "int32", "license": "string"},
        fingerprint_json=bench_fingerprint(dim).to_json(),
        vocabulary_json='{"name": "generated", "hash": "0", "top_k": 2, "min_score": 0.1}',
        thumbnails=False,
    )


def chunks(rows: int, dim: int, kind: str) -> Iterator[pa.RecordBatch]:
    mixture = vectors_of(kind, dim)
    for start in range(0, rows, CHUNK):
        yield _chunk(mixture, start, min(CHUNK, rows - start), dim)


def _chunk(mixture: Mixture | OneDomain, start: int, rows: int, dim: int) -> pa.RecordBatch:
    vectors_ND, centre_N = mixture.draw(rows, seed=1 + start)
    rng = np.random.default_rng(10**9 + start)
    ids = [f"{i:09d}" for i in range(start, start + rows)]
    adjectives = rng.integers(0, len(ADJECTIVES), rows)
    nouns = [NOUNS[c % len(NOUNS)] for c in centre_N]
    flat = pa.array(vectors_ND.astype(np.float16).reshape(-1))
    columns = {
        "id": ids,
        "uri": [f"s3://bench/x.tar#{i}.jpg" for i in ids],
        "image_offset": [0] * rows,
        "image_size": [1] * rows,
        "source_etag": ["e"] * rows,
        "unit_id": [f"u{start // CHUNK}"] * rows,
        "image_hash": [f"{i:032x}" for i in range(start, start + rows)],
        "caption": [f"a {ADJECTIVES[a]} {n} in scene {c}" for a, n, c in zip(adjectives, nouns, centre_N, strict=True)],
        "width": rng.integers(200, 2000, rows, dtype=np.int32),
        "height": rng.integers(200, 2000, rows, dtype=np.int32),
        "vector": pa.FixedSizeListArray.from_arrays(flat, dim),
        "caption_vector": None,
        "caption_score": rng.random(rows, dtype=np.float32),
        "tags": [[n, ADJECTIVES[a]] for a, n in zip(adjectives, nouns, strict=True)],
        "tag_scores": [[0.7, 0.2]] * rows,
        "bucket": rng.integers(0, 1000, rows, dtype=np.int32),
        "license": [("cc0", "cc-by", "other")[i] for i in rng.integers(0, 3, rows)],
    }
    arrays = [
        pa.nulls(rows, f.type) if columns[f.name] is None else pa.array(columns[f.name], type=f.type)
        for f in schema(dim)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema(dim))


def write(folder: Path, rows: int, dim: int, kind: str = KINDS[0]) -> str:
    """Write the table unless it is there; returns its `<folder>/<name>`."""
    import lance

    uri = folder / (f"bench_{rows}" if kind == KINDS[0] else f"bench_{kind}_{rows}")
    if not Path(f"{uri}.lance").exists():
        reader = pa.RecordBatchReader.from_batches(schema(dim), chunks(rows, dim, kind))
        lance.write_dataset(reader, f"{uri}.lance", enable_stable_row_ids=True, max_rows_per_file=200_000)
    return str(uri)
