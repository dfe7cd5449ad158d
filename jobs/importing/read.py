"""Pieces to windows of rows: vectors as numpy has them, everything else as Arrow. Memory: a window.

B: rows of a window. D: dimension.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.importing.columns import Chosen
from clipmill.jobs.importing.npy import windows
from clipmill.jobs.importing.sources import LANCE, NPY, Piece, open_lance
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.read.tables.parquet import raise_if_the_stores
from clipmill.workers.store.storage import open_stream

WINDOW = 8192
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """(B, D) as stored, and which rows have none, or one of another length: what they hold then means nothing."""

    values_BD: Floats
    none_B: Bools

    def take(self, places: npt.NDArray[np.int64]) -> "Vectors":
        return Vectors(values_BD=self.values_BD[places], none_B=self.none_B[places])


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """`places_B`: numbers of the rows in their piece, from 0. `columns`: by the file's own names."""

    places_B: npt.NDArray[np.int64]
    vectors: Vectors
    texts: Vectors | None
    columns: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(self.places_B)

    def strings(self, name: str) -> pa.Array:
        """A column as text; nulls where there is no such column."""
        return self.converted(name, pa.string())[0] if name else pa.nulls(len(self), pa.string())

    def converted(self, name: str, kind: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
        """A column as another kind, and why some rows cannot be that; they are null then."""
        column = self.columns[name]
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.type == kind:
            return column, {}
        with contextlib.suppress(pa.ArrowInvalid):
            return column.cast(kind), {}
        cells, bad = [], {}
        for row in range(len(column)):
            try:
                cells.append(column.slice(row, 1).cast(kind))
            except pa.ArrowInvalid as error:
                cells.append(pa.nulls(1, kind))
                bad[row] = f"its {name} cannot be {kind}: {str(error)[:100]}"
        return pa.concat_arrays(cells), bad


def read(
    piece: Piece, chosen: Chosen, dim: int, storage: Storage, picks: Sequence[int] | None = None
) -> Iterator[Window]:
    """Every row in order, or those of `picks` alone, which are sorted. Raises UserError where the vectors have another
    dimension or the file is damaged, SourceChanged where it is no longer the one that was listed."""
    reader = {NPY: _npy, LANCE: _lance}.get(piece.form, _parquet)
    wanted = None if picks is None else np.asarray(picks, np.int64)
    try:
        yield from reader(piece, chosen, dim, storage, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:  # OSError: pages that do not unpack
        raise_if_the_stores(error)
        file = piece.metadata.uri if piece.metadata is not None else piece.unit.uri
        raise UserError(f"{file} cannot be read: {str(error)[:150]}", "it is damaged: copy it again") from None


_Picks = npt.NDArray[np.int64] | None


def _npy(piece: Piece, chosen: Chosen, dim: int, storage: Storage, picks: _Picks) -> Iterator[Window]:
    assert piece.vectors is not None
    for matrix in filter(None, (piece.vectors, piece.texts)):
        check_dim(matrix.dim, dim, matrix.item.uri)
    texts = piece.texts
    with windows(piece.vectors, storage) as images, windows(texts or piece.vectors, storage) as captions:
        for at, batch in _batches(piece, chosen.beside, storage, picks):
            count = batch.num_rows
            places = _picked(picks, at, count)
            if not places.size:
                continue
            values = Vectors(values_BD=images.take(at, count), none_B=np.zeros(count, np.bool_))
            said = Vectors(values_BD=captions.take(at, count), none_B=np.zeros(count, np.bool_)) if texts else None
            yield _window(batch, at, places, values, said)


def _parquet(piece: Piece, chosen: Chosen, dim: int, storage: Storage, picks: _Picks) -> Iterator[Window]:
    names = [*chosen.beside, chosen.vector, *filter(None, (chosen.caption_vector,))]
    for at, batch in _batches(piece, list(dict.fromkeys(names)), storage, picks):
        if (places := _picked(picks, at, batch.num_rows)).size:
            yield _with_vectors(piece, chosen, dim, batch, at, places)


def _lance(piece: Piece, chosen: Chosen, dim: int, storage: Storage, picks: _Picks) -> Iterator[Window]:
    names = list(dict.fromkeys([*chosen.beside, chosen.vector, *filter(None, (chosen.caption_vector,))]))
    fragment = open_lance(piece.unit.uri, storage, int(piece.unit.end)).get_fragment(int(piece.unit.start))
    if picks is not None:
        for batch in fragment.take(picks.tolist(), columns=names).combine_chunks().to_batches():
            window = _with_vectors(piece, chosen, dim, batch, 0, np.arange(batch.num_rows))
            yield Window(places_B=picks, vectors=window.vectors, texts=window.texts, columns=window.columns)
        return
    at = 0
    for batch in fragment.to_batches(columns=names, batch_size=WINDOW):
        yield _with_vectors(piece, chosen, dim, batch, at, np.arange(batch.num_rows))
        at += batch.num_rows


def _with_vectors(
    piece: Piece, chosen: Chosen, dim: int, batch: pa.RecordBatch, at: int, places: npt.NDArray[np.int64]
) -> Window:
    vectors = vectors_of(batch.column(chosen.vector), dim, piece.unit.uri)
    texts = vectors_of(batch.column(chosen.caption_vector), dim, piece.unit.uri) if chosen.caption_vector else None
    return _window(batch, at, places, vectors, texts)


def _window(
    batch: pa.RecordBatch, at: int, places: npt.NDArray[np.int64], vectors: Vectors, texts: Vectors | None
) -> Window:
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if len(places) < batch.num_rows:
        vectors, texts = vectors.take(places), texts and texts.take(places)
        columns = {name: column.take(pa.array(places)) for name, column in columns.items()}
    return Window(places_B=places + at, vectors=vectors, texts=texts, columns=columns)


def _picked(picks: _Picks, at: int, count: int) -> npt.NDArray[np.int64]:
    """Offsets of the rows asked for in a batch that begins at row `at`."""
    if picks is None:
        return np.arange(count)
    first, stop = np.searchsorted(picks, [at, at + count])
    return picks[first:stop] - at


def _batches(piece: Piece, names: list[str], storage: Storage, picks: _Picks) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Row number of the first, and rows; row groups without a pick are not read."""
    import pyarrow.parquet as pq

    item = piece.metadata
    assert item is not None
    with open_stream(item.uri, storage, expected_etag=item.etag, straight_on=picks is None) as stream:
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        at = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if _picked(picks, at, rows).size:
                begun = at
                if not names:  # nothing beside the vectors: only how many there are
                    for start in range(0, rows, WINDOW):
                        count = min(WINDOW, rows - start)
                        yield at + start, pa.record_batch([pa.nulls(count)], [""])
                for batch in file.iter_batches(WINDOW, row_groups=[group], columns=names) if names else ():
                    yield begun, batch
                    begun += batch.num_rows
            at += rows


def vectors_of(column: pa.Array, dim: int, uri: str) -> Vectors:
    """(B, D) of a column of lists. Raises UserError where all of them have another length."""
    null_B = np.asarray(column.is_null())
    if pa.types.is_fixed_size_list(column.type):
        check_dim(column.type.list_size, dim, uri)
        values = column.values.slice(column.offset * dim, len(column) * dim)
        return Vectors(values_BD=_numbers(values).reshape(-1, dim), none_B=null_B)
    lengths_B = np.asarray(pc.fill_null(pc.list_value_length(column), -1))
    right_B = lengths_B == dim
    if right_B.all():
        return Vectors(values_BD=_numbers(column.flatten()).reshape(-1, dim), none_B=null_B)
    there = lengths_B[~null_B]
    if there.size and not right_B.any():
        check_dim(int(there[0]), dim, uri)
    values_BD = np.zeros((len(column), dim), np.float32)
    values_BD[right_B] = _numbers(column.filter(pa.array(right_B)).flatten()).reshape(-1, dim)
    return Vectors(values_BD=values_BD, none_B=~right_B)


def _numbers(values: Any) -> Floats:
    """A null inside a vector becomes NaN."""
    return np.asarray(values.to_numpy(zero_copy_only=False))


def check_dim(found: int, dim: int, uri: str) -> None:
    if found != dim:
        raise UserError(
            f"the vectors of {uri} have {found} numbers, the model's have {dim}",
            "name the model that made them: --model NAME --pretrained TAG; `clipmill models` lists each with its `dim`",
        )
