"""The files of an export: one class a format, which is given the rows a file's worth at a time.

parquet          part-00000.parquet ...                                     every column asked for
webdataset       00000.tar ... with KEY.jpg, KEY.txt, KEY.json              the images themselves
clip-retrieval   img_emb/img_emb_0.npy, text_emb/..., metadata/...parquet   as `clip-retrieval index` expects it
embedding-atlas  part-00000.parquet ... with vector, caption, image         as Apple's `embedding-atlas` takes them

`export_json` has those that describe pictures in one JSON document. A picture is called after what its bytes are.
"""

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmill.jobs.table.originals import Originals, place_columns, why
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Storage
from clipmill.schemas.text.plain import plain
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.decode.sniff import ending

FETCH_THREADS = 8
NO_VECTOR = "without a vector"
NO_DECODE = "cannot be decoded"
_VECTORS = {"vector": "img_emb", "caption_vector": "text_emb"}
Row = dict[str, Any]
T = TypeVar("T")


@dataclass(slots=True)
class Out:
    """The folder that is written to. `files`: how many were."""

    to: str
    storage: Storage
    files: int = 0

    def put(self, name: str, data: bytes) -> None:
        from clipmill.workers.store.storage import put_bytes

        put_bytes(self.uri(name), data, self.storage)
        self.files += 1

    def put_file(self, name: str, local: str) -> None:
        from clipmill.workers.store.storage import put_file

        put_file(self.uri(name), local, self.storage)
        self.files += 1

    def uri(self, name: str) -> str:
        return f"{self.to.rstrip('/')}/{name}"


@dataclass(slots=True)
class Files:
    """What every format is. `dims`: the width of each vector column."""

    out: Out
    originals: Originals
    dims: Mapping[str, int]
    left_out: list[dict[str, str]] = field(default_factory=list)

    def write(self, rows: pa.Table, number: int) -> None:
        """The rows of file `number`; those that cannot be written are added to `left_out`, each with its reason."""
        raise NotImplementedError

    def end(self) -> None:
        """What is written once all rows were."""

    def close(self) -> None:
        """Give back what is held beside memory."""

    def leave_out(self, row: Mapping[str, Any], reason: str, detail: str = "") -> None:
        self.left_out.append({"id": row["id"], "uri": row["uri"], "reason": reason, "detail": detail[:200]})

    def pictures(self, rows: Sequence[Row], make: Callable[[bytes, int], T]) -> dict[int, T]:
        """What `make` makes of the picture of each row, which stands at that place; rows without a picture are left
        out. As many pictures are held as there are threads, and what was made of them."""
        with ThreadPoolExecutor(FETCH_THREADS) as pool:
            made = list(pool.map(lambda place: self._made(rows[place], place, make), range(len(rows))))
        for row, one in zip(rows, made, strict=True):
            if isinstance(one, UserError):
                self.leave_out(row, why(one), one.message)
            elif isinstance(one, BadImage):
                self.leave_out(row, NO_DECODE, f"{one.reason}: {one.detail}")
        return {place: one for place, one in enumerate(made) if not isinstance(one, UserError | BadImage)}

    def _made(self, row: Row, place: int, make: Callable[[bytes, int], T]) -> T | UserError | BadImage:
        try:
            image = self.originals.read(row)
        except UserError as error:
            return error
        try:
            return make(image, place)
        except BadImage as bad:
            return bad


class Parquet(Files):
    def write(self, rows: pa.Table, number: int) -> None:
        self.out.put(f"part-{number:05d}.parquet", parquet_bytes(rows))


class WebDataset(Files):
    """Keys are running numbers, because ids may hold dots and slashes, which mean something in a tar; the id is in the
    JSON."""

    def write(self, rows: pa.Table, number: int) -> None:
        listed = rows.to_pylist()
        images = self.pictures(listed, lambda image, place: image)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for place, image in images.items():
                key, row = f"{number:05d}{place:05d}", listed[place]
                _member(tar, f"{key}.{ending(image)}", image)
                if row.get("caption") is not None:
                    _member(tar, f"{key}.txt", str(row["caption"]).encode("utf-8", "replace"))
                _member(tar, f"{key}.json", json.dumps(plain(row), ensure_ascii=False).encode("utf-8", "replace"))
        if images:
            self.out.put(f"{number:05d}.tar", out.getvalue())


class ClipRetrieval(Files):
    """Vectors as (N, D) and the rest beside them, row by row. A row without a vector is a row of zeros, which is near
    nothing, because clip-retrieval matches its files by position."""

    def write(self, rows: pa.Table, number: int) -> None:
        there = [name for name in _VECTORS if name in rows.column_names]
        for name in there:
            folder = _VECTORS[name]
            self.out.put(f"{folder}/{folder}_{number}.npy", _npy(rows[name], self.dims[name]))
        metadata = rows.drop_columns(there)
        metadata = metadata.append_column("image_path", metadata["uri"])
        self.out.put(f"metadata/metadata_{number}.parquet", parquet_bytes(metadata))


class EmbeddingAtlas(Files):
    """`image` is a small WebP beside its address, {bytes, path} as Hugging Face has it: the table's thumbnail, or one
    made of the original. A row without a vector has no place on the map."""

    def write(self, rows: pa.Table, number: int) -> None:
        rows = self._with_vector(rows)
        names = (*place_columns(rows.schema), "thumbnail")
        listed = rows.select([name for name in names if name in rows.column_names]).to_pylist()
        images = {place: row["thumbnail"] for place, row in enumerate(listed) if row.get("thumbnail")}
        others = [place for place in range(len(listed)) if place not in images]
        made = self.pictures([listed[place] for place in others], lambda image, place: _small(image))
        images |= {others[place]: image for place, image in made.items()}
        if not images:
            return
        there = sorted(images)
        rows = rows.take(there).drop_columns([name for name in ("thumbnail",) if name in rows.column_names])
        column = pa.array(
            [{"bytes": images[place], "path": listed[place]["uri"]} for place in there],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        self.out.put(f"part-{number:05d}.parquet", parquet_bytes(rows.append_column(free("image", rows), column)))

    def _with_vector(self, rows: pa.Table) -> pa.Table:
        has = rows["vector"].is_valid()
        for row in rows.filter(pc.invert(has)).select(["id", "uri"]).to_pylist():
            self.leave_out(row, NO_VECTOR)
        return rows.filter(has)


def free(name: str, rows: pa.Table) -> str:
    """That name, or with as many `_` behind it as it takes to be no column's."""
    while name in rows.column_names:
        name += "_"
    return name


def parquet_bytes(rows: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(None), out, compression="zstd")
    return out.getvalue()


def _npy(column: pa.ChunkedArray, dim: int) -> bytes:
    array = np.zeros((len(column), dim), dtype=column.type.value_type.to_pandas_dtype())
    valid = np.asarray(column.is_valid())
    if valid.any():
        array[valid] = np.asarray(column.drop_null().combine_chunks().flatten()).reshape(-1, dim)
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _small(image: bytes) -> bytes:
    from clipmill.workers.decode.picture import THUMBNAIL_PX, decode, thumbnail

    return thumbnail(decode(image, Limits(), target_px=THUMBNAIL_PX).pixels_HWC)


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
