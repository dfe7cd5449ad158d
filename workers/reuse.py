"""What the table knows of pictures already: a unit that moved, or whose rows say another id or place than the object
now has, need not go through the model again."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.schemas.columns import ORIENTATION, has_orientation
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Picture, Sample
from clipmill.workers.write import Embedded

MAX_BYTES = 256_000_000  # of vectors held for one unit; the rows beyond are embedded again
_PLACES = ["id", "uri", "image_hash", "image_offset", "image_size"]
_COLUMNS = ["image_hash", "caption", "vector", "caption_vector", "tags", "tag_scores"]


class Remembered:
    """Rows of some units by picture and caption, as the pinned version of the table has them.

    The table has one model and one vocabulary, so what was computed from equal bytes that lie equally, and an
    equal caption, is what would be computed again, to the rounding of float16.
    """

    def __init__(self, dataset: Any, unit_ids: Sequence[str]) -> None:
        columns = [*_COLUMNS, *([ORIENTATION] if has_orientation(dataset.schema) else [])]
        where = " OR ".join(f"unit_id = '{unit_id}'" for unit_id in unit_ids)
        batches: list[pa.RecordBatch] = []
        size = 0
        for batch in dataset.scanner(columns=columns, filter=where).to_batches():
            size += batch.nbytes
            if size > MAX_BYTES:
                break
            batches.append(batch)
        self._rows = pa.Table.from_batches(batches, schema=dataset.schema.empty_table().select(columns).schema)
        usable = self._rows["vector"].is_valid().to_pylist()
        turned = self._rows[ORIENTATION].to_pylist() if ORIENTATION in columns else [None] * len(usable)
        hashes, captions = (self._rows[name].to_pylist() for name in ("image_hash", "caption"))
        self._row_of = {
            (h, c, t): row for row, (h, c, t, ok) in enumerate(zip(hashes, captions, turned, usable, strict=True)) if ok
        }

    def rows_of(self, pictures: list[tuple[str, str | None, int | None]]) -> list[int] | None:
        """Row numbers for (image hash, caption, orientation) of a batch; None unless every one is known."""
        found = [self._row_of.get(picture) for picture in pictures]
        known = [row for row in found if row is not None]
        return known if len(known) == len(found) else None

    def embedded(self, rows: list[int], samples: list[Sample], pictures: list[Picture], hashes: list[str]) -> Embedded:
        """The batch as the model would give it back, with vectors (B, D) and tags of these rows."""
        table = self._rows.take(rows)
        caption_vectors_BD, has_caption_B = _vectors(table["caption_vector"])
        return Embedded(
            samples=samples,
            pictures=pictures,
            hashes=hashes,
            vectors_BD=_vectors(table["vector"])[0],
            caption_vectors_BD=caption_vectors_BD,
            has_caption_B=has_caption_B,
            tags=_whole(table["tags"]),
            tag_scores=_whole(table["tag_scores"]),
        )


class Unseen:
    """Rows of one unit, as the pinned version has them, that no sample has been read for. None is left where the unit
    is read again and each row is true of it. Equal content alone does not say so: members of a tar that was written
    anew may lie at other offsets, and `source.id` may have changed. Samples without a row say nothing, except where
    the unit has no row at all; then its rejects, which have ids too, are asked.
    """

    def __init__(self, dataset: Any, unit_id: str, rejects: Callable[[], Any]) -> None:
        where = f"unit_id = '{unit_id}'"
        self.rows: set[tuple[Any, ...]] = set()
        self.rejects: set[tuple[str, str]] = set()
        for batch in dataset.scanner(columns=_PLACES, filter=where).to_batches():
            self.rows.update(zip(*(batch.column(name).to_pylist() for name in _PLACES), strict=True))
        if not self.rows:
            for batch in rejects().scanner(columns=["id", "uri"], filter=where).to_batches():
                self.rejects.update(zip(batch.column("id").to_pylist(), batch.column("uri").to_pylist(), strict=True))

    def saw(self, item: Sample | Reject, image_hash: str) -> None:
        if isinstance(item, Sample):
            self.rows.discard((item.id, item.uri, image_hash, item.image_offset, item.image_size))
        if self.rejects:
            self.rejects -= {(item.id, item.uri), ("", item.uri)}  # some are rejected before they have an id

    def __bool__(self) -> bool:
        return bool(self.rows or self.rejects)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _vectors(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(vectors (B, D), zeros where there is none; where there is one (B,))."""
    array = _whole(column)
    there_B = np.asarray(array.is_valid())
    vectors_BD = np.zeros((len(array), array.type.list_size), np.float32)
    vectors_BD[there_B] = np.asarray(array.flatten()).astype(np.float32).reshape(-1, array.type.list_size)
    return vectors_BD, there_B
