"""Small tables for tests, written with lance directly after schemas/columns.py, and a model of words to query them.

N: rows. B: texts or images of a batch. D: dimension. Nothing here imports torch.
"""

import colorsys
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.job.config import Limits
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.schemas.model import Fingerprint, Preprocess
from clipmill.schemas.unit.receipts import LedgerEntry
from clipmill.schemas.unit.samples import Picture
from clipmill.schemas.unit.units import WorkUnit
from tests.committed import entry_of

COLOURS = ("red", "green", "blue", "black", "white", "yellow")
THINGS = ("shoe", "dress", "hat", "shirt", "dog", "cat", "car", "tree", "house", "boat")
DIM = 64
KEEP = {"license": "string", "views": "int64", "shard": "int32"}
HUES = {"red": 0.0, "green": 0.33, "blue": 0.62, "yellow": 0.15}


def fingerprint(dim: int = DIM, *, weights: str = "words") -> Fingerprint:
    return Fingerprint(
        model="words",
        pretrained="none",
        weights_sha256=hashlib.sha256(weights.encode()).hexdigest(),
        preprocess=Preprocess(size_HW=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        tokenizer="split",
        dim=dim,
    )


def word_vector(word: str, dim: int = DIM) -> npt.NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def normalised(vectors_BD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return vectors_BD / np.linalg.norm(vectors_BD, axis=-1, keepdims=True)


class WordEngine:
    """A text is the sum of its words' random vectors; an image is the name of its dominant colour."""

    batch_size = 64

    def __init__(self, dim: int = DIM, *, weights: str = "words") -> None:
        self.dim = dim
        self.fingerprint = fingerprint(dim, weights=weights)
        self.texts_seen = 0

    def prepare(self, image: bytes, limits: Limits, *, thumbnail: bool = False, phash: bool = False) -> Picture:
        from PIL import Image

        from clipmill.workers.decode.picture import decode

        decoded = decode(image, limits, target_px=32)
        pixels_HWC = np.asarray(Image.fromarray(decoded.pixels_HWC).resize((32, 32)))
        return Picture(pixels_CHW=pixels_HWC.transpose(2, 0, 1).copy(), width=decoded.width, height=decoded.height)

    def encode_images(self, pixels_BCHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.encode_texts([self._colour(pixels_CHW) for pixels_CHW in pixels_BCHW])

    @staticmethod
    def _colour(pixels_CHW: npt.NDArray[np.uint8]) -> str:
        hue = colorsys.rgb_to_hsv(*(pixels_CHW.mean(axis=(1, 2)) / 255))[0]
        return min(HUES, key=lambda name: min(abs(HUES[name] - hue), 1 - abs(HUES[name] - hue)))

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts_seen += len(texts)
        rows = [sum((word_vector(w, self.dim) for w in t.lower().split() or ["?"]), np.zeros(self.dim)) for t in texts]
        return normalised(np.asarray(rows, dtype=np.float32))

    def unknown_words(self, texts: Any) -> list[str]:
        return []

    def self_check(self, reference: dict[str, Any] | None) -> dict[str, Any]:
        return reference or {}


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """`noise`: length of the noise added to each unit vector. `images`: folder to write a PNG per row into.
    `vocabulary`: tags are one label of each of its facets, the first ones oftener, instead of colour and thing."""

    rows: int = 600
    dim: int = DIM
    seed: int = 0
    noise: float = 0.6
    thumbnails: bool = False
    images: Path | None = None
    start: int = 0
    vocabulary: Vocabulary | None = None


def picture(colour: str, size_px: int = 48) -> bytes:
    """A PNG of one colour."""
    from PIL import Image

    rgb = {"red": (220, 20, 20), "green": (20, 180, 40), "blue": (30, 40, 220), "yellow": (230, 210, 20)}
    grey = {"black": (10, 10, 10), "white": (245, 245, 245)}
    out = io.BytesIO()
    Image.new("RGB", (size_px, size_px), {**rgb, **grey}[colour]).save(out, "PNG")
    return out.getvalue()


def batch(options: TableOptions = TableOptions()) -> pa.Table:
    """Rows whose vector is that of their caption plus noise; tags are the colour and the thing.

    Every 50th caption is markup, every 37th null; every 97th vector is null.
    """
    rng = np.random.default_rng(options.seed + options.start)
    index = np.arange(options.start, options.start + options.rows)
    colours = [COLOURS[i % len(COLOURS)] for i in index]
    things = [THINGS[(i // len(COLOURS)) % len(THINGS)] for i in index]
    clean_ND = WordEngine(options.dim).encode_texts([f"{c} {t}" for c, t in zip(colours, things, strict=True)])
    noise_ND = normalised(rng.standard_normal(clean_ND.shape).astype(np.float32)) * options.noise
    vectors_ND = normalised(clean_ND + noise_ND).astype(np.float16)
    captions: list[str | None] = [f"a {c} {t} number {i}" for c, t, i in zip(colours, things, index, strict=True)]
    for n, i in enumerate(index):
        if i % 50 == 7:
            captions[n] = f"<script>alert({i})</script> a {colours[n]} {things[n]}"
        if i % 37 == 5:
            captions[n] = None
    schema = rows_schema(
        dim=options.dim,
        keep=KEEP,
        fingerprint_json=fingerprint(options.dim).to_json(),
        vocabulary_json=json.dumps({**_vocabulary(options), "top_k": 2, "min_score": 0.1}),
        thumbnails=options.thumbnails,
    )
    columns: dict[str, Any] = {
        "id": [f"row-{i:06d}" for i in index],
        "uri": [_image_uri(options, int(i), c) for i, c in zip(index, colours, strict=True)],
        "image_offset": [None] * options.rows,
        "image_size": [None] * options.rows,
        "source_etag": ["etag"] * options.rows,
        "unit_id": [f"unit{i % 4}" for i in index],
        "image_hash": [_image_hash(options, int(i), c) for i, c in zip(index, colours, strict=True)],
        "caption": captions,
        "width": [48 + int(i) % 3 for i in index],
        "height": [48] * options.rows,
        "vector": [None if i % 97 == 3 else v for i, v in zip(index, vectors_ND, strict=True)],
        "caption_vector": list(clean_ND.astype(np.float16)),
        "caption_score": (clean_ND * vectors_ND.astype(np.float32)).sum(axis=1),
        "tags": _labels(options) or [[c, t] for c, t in zip(colours, things, strict=True)],
        "tag_scores": [[0.6, 0.4] if options.vocabulary is None else [0.5] * len(options.vocabulary.facets)]
        * options.rows,
        "license": [("cc0", "cc-by", "all rights")[i % 3] for i in index],
        "views": [int(i) for i in index],
        "shard": [int(i) % 7 for i in index],
    }
    if options.thumbnails:
        columns["thumbnail"] = [picture(c, 16) for c in colours]
    return pa.table(
        [pa.array(columns[field.name], type=field.type) for field in schema],
        schema=schema,
    )


def _vocabulary(options: TableOptions) -> dict[str, str]:
    found = options.vocabulary
    return {"name": found.name, "hash": found.hash} if found else {"name": "test", "hash": "0"}


def _labels(options: TableOptions) -> list[list[str]]:
    if options.vocabulary is None:
        return []
    rng = np.random.default_rng(options.seed)
    parts = [options.vocabulary.labels[start:stop] for _, start, stop in options.vocabulary.facets]
    return [[part[int(len(part) * rng.random() ** 2)].name for part in parts] for _ in range(options.rows)]


def _image_uri(options: TableOptions, index: int, colour: str) -> str:
    if options.images is None:
        return f"s3://bucket/shard.tar#{index:06d}.jpg"
    path = options.images / f"{index:06d}.png"
    path.write_bytes(picture(colour))
    return str(path)


def _image_hash(options: TableOptions, index: int, colour: str) -> str:
    return xxhash.xxh3_128_hexdigest(picture(colour) if options.images else b"%d" % (index % 500))


def ledger_entry(unit_id: str, uri: str, *, form: str = "files", rows: int = 0) -> LedgerEntry:
    """A committed unit of a source at `uri`."""
    unit = WorkUnit(unit_id=unit_id, format=form, uri=uri, etag="etag", size_bytes=0)
    return entry_of(unit, "test", rows, version=1)


def make_table(folder: Path, options: TableOptions = TableOptions(), *, name: str = "images") -> str:
    """Write a table with stable row ids; returns `<folder>/<name>`, as every command takes it."""
    import lance

    lance.write_dataset(
        batch(options), str(folder / f"{name}.lance"), enable_stable_row_ids=True, data_storage_version="2.2"
    )
    if options.images is not None:
        tables = Tables.at(f"{folder}/{name}")
        tables.ensure_side_tables()
        ledger.append(tables, [ledger_entry(f"unit{n}", f"{options.images}/") for n in range(4)])
    return str(folder / name)


def append(uri: str, options: TableOptions) -> None:
    import lance

    lance.write_dataset(batch(options), f"{uri}.lance", mode="append")
