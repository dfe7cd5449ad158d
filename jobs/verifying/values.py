"""What every row must be like, told from its own columns, its unit and the job's last words. One pass over the table.

B: rows of a batch. D: dimension.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.table.originals import is_of_unit
from clipmill.jobs.verifying.report import Problems
from clipmill.jobs.verifying.tags import TagCheck
from clipmill.schemas.columns import ORIENTATION, is_orientation
from clipmill.schemas.job.config import Source
from clipmill.schemas.unit.receipts import LedgerEntry
from clipmill.schemas.unit.units import IMPORTED

NORM_TOLERANCE = 2e-3  # float16 has 11 bits; 512 rounded components stay within this of unit length
SCORE_TOLERANCE = 2e-3  # of caption_score, computed before the two vectors were rounded to float16
HASH = re.compile(r"[0-9a-f]{32}")
COLUMNS = (
    "id",
    "uri",
    "image_offset",
    "image_size",
    "source_etag",
    "unit_id",
    "image_hash",
    "caption",
    "width",
    "height",
    "vector",
    "caption_vector",
    "caption_score",
    "tags",
    "tag_scores",
    ORIENTATION,
)
_BATCH_ROWS = 4096


def check_values(
    rows: Any,
    fragments: list[Any],
    alive: dict[str, LedgerEntry],
    source: Source | None,
    tags: Sequence[TagCheck],
    say: Problems,
) -> None:
    """Vectors, captions, tags, hashes, byte ranges, ids and places of every row of `fragments`."""
    imported = frozenset(unit_id for unit_id, entry in alive.items() if entry.format == IMPORTED)
    checks: list[Callable[[pa.RecordBatch, Problems], None]] = [
        _check_vectors,
        partial(_check_captions, imported=imported),
        *tags,
        partial(_check_picture, imported=imported),
        _check_turn,
        _PlaceCheck(alive, source),
    ]
    beside = [name for check in tags for name in (check.column, check.scores)]
    columns = [name for name in dict.fromkeys((*COLUMNS, *beside)) if name in rows.schema.names]
    for batch in rows.scanner(columns=columns, batch_size=_BATCH_ROWS, fragments=fragments).to_batches():
        for check in checks:
            check(batch, say)


def _check_vectors(batch: pa.RecordBatch, say: Problems) -> None:
    ids = batch["id"]
    for position in np.flatnonzero(np.asarray(batch["vector"].is_null())).tolist():
        say("vector", f"row {ids[position]}: vector is null")
    for name in ("vector", "caption_vector"):
        for position in _not_unit(batch[name]):
            say(name, f"row {ids[position]}: {name} is not of unit length")


def _check_captions(batch: pa.RecordBatch, say: Problems, imported: frozenset[str]) -> None:
    """A caption has a vector and a score, no caption has neither; the score is the cosine of the two vectors. Rows of
    `imported` units may have captions alone: nobody brought their vectors."""
    ids = batch["id"]
    with_caption, with_vector, with_score = (
        np.asarray(batch[name].is_valid()) for name in ("caption", "caption_vector", "caption_score")
    )
    alone = ~with_vector & ~with_score & _of_units(batch, imported)
    for position in np.flatnonzero(((with_caption != with_vector) | (with_caption != with_score)) & ~alone).tolist():
        there = [n for n in ("caption", "caption_vector", "caption_score") if batch[n][position].is_valid]
        say("captions", f"row {ids[position]}: of caption, its vector and its score there is only {', '.join(there)}")
    both = np.flatnonzero(np.asarray(batch["vector"].is_valid()) & with_vector & with_score)
    if not both.size:
        return
    image_BD, text_BD = (_floats(batch[name].take(pa.array(both))) for name in ("vector", "caption_vector"))
    stored_B = np.asarray(batch["caption_score"].take(pa.array(both)))
    cosines_B = np.einsum("bd,bd->b", image_BD, text_BD)
    for place in np.flatnonzero(~(np.abs(stored_B - cosines_B) <= SCORE_TOLERANCE)).tolist():
        found = f"{stored_B[place]:.4f}, the two vectors give {cosines_B[place]:.4f}"
        say("caption_score", f"row {ids[int(both[place])]}: caption_score is {found}")


def _of_units(batch: pa.RecordBatch, units: frozenset[str]) -> npt.NDArray[np.bool_]:
    """(B,), whether a row is of one of them."""
    if not units:
        return np.zeros(batch.num_rows, np.bool_)
    return np.asarray(pc.is_in(batch["unit_id"], value_set=pa.array(sorted(units), pa.string())))


def _check_picture(batch: pa.RecordBatch, say: Problems, imported: frozenset[str]) -> None:
    """Size in pixels, byte range, hash. Rows of `imported` units may have no size."""
    names = ("id", "width", "height", "image_offset", "image_size", "image_hash")
    values = zip(*(batch[n].to_pylist() for n in names), _of_units(batch, imported).tolist(), strict=True)
    for row_id, width, height, offset, size, image_hash, unseen in values:
        if (width <= 0 or height <= 0) and not (unseen and width == height == 0):
            say("sizes", f"row {row_id}: {width}x{height} pixels")
        if (offset is None) != (size is None) or (offset is not None and (offset < 0 or size <= 0)):
            say("ranges", f"row {row_id}: image_offset {offset} with image_size {size} is no byte range")
        if not HASH.fullmatch(image_hash):
            say("image_hash", f"row {row_id}: image_hash '{image_hash[:40]}' is no xxh3-128")


def _check_turn(batch: pa.RecordBatch, say: Problems) -> None:
    if not any(map(is_orientation, batch.schema)):
        return
    for row_id, orientation in zip(batch["id"].to_pylist(), batch[ORIENTATION].to_pylist(), strict=True):
        if orientation is not None and not 1 <= orientation <= 8:
            say("orientation", f"row {row_id}: orientation {orientation} is none of EXIF's, 1 to 8")


class _PlaceCheck:
    """The uri and etag of a row are of its unit, and its id is what the job's `source.id` makes of it."""

    def __init__(self, alive: dict[str, LedgerEntry], source: Source | None) -> None:
        self._alive = alive
        self._id = source.id if source else ""

    def __call__(self, batch: pa.RecordBatch, say: Problems) -> None:
        names = ("id", "uri", "unit_id", "source_etag", "image_hash")
        for row_id, uri, unit_id, etag, image_hash in zip(*(batch[n].to_pylist() for n in names), strict=True):
            entry = self._alive.get(unit_id)
            if entry is not None and etag != entry.etag:
                say("source_etag", f"row {row_id}: source_etag '{etag}' is not its unit's '{entry.etag}'")
            if entry is not None and entry.format == IMPORTED:
                continue  # its id and uri are what somebody's files say
            if entry is not None and is_of_unit(entry.format, entry.uri, uri) is False:
                say("uri", f"row {row_id}: its uri {uri} is not of its unit's source {entry.uri}")
            if self._id == "uri" and row_id != uri:
                say("ids", f"row {row_id}: its id is not its uri {uri}")
            if self._id == "content" and row_id != image_hash:
                say("ids", f"row {row_id}: its id is not its image_hash {image_hash}")


def _not_unit(column: Any) -> list[int]:
    valid = np.asarray(column.is_valid())
    if not valid.any():
        return []
    norms_B = np.linalg.norm(_floats(column.drop_null()), axis=1)
    bad = ~(np.abs(norms_B - 1) <= NORM_TOLERANCE)
    return [int(i) for i in np.flatnonzero(valid)[bad]]


def _floats(column: Any) -> npt.NDArray[np.float32]:
    """(B, D) of a column without nulls."""
    return np.asarray(column.flatten()).astype(np.float32).reshape(-1, column.type.list_size)
