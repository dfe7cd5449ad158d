"""Rows of a manifest: CSV and TSV with a header line, JSON lines, plain lists of URIs, parquet.

Each row is first seen as bytes (`raw`), which is what slices are cut and digested by; then as a record.
"""

import hashlib
import io
import json
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Protocol, cast

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Source, Storage
from clipmill.workers.read.fields import BadField, decode_json, decode_text
from clipmill.workers.read.lists import coco
from clipmill.workers.read.lists.delimited import Shape, lines_of_record, split_fields, strip_end
from clipmill.workers.read.tables.columns import holds_bytes, link_names, needed_columns, rows_of
from clipmill.workers.read.tables.features import Features
from clipmill.workers.store.storage import open_stream

MAX_ROW_BYTES = 1_000_000
_BUFFER_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"


class Rows(Protocol):
    """An open manifest. `header` is part of what every row means, `names` are its columns where it has such; positions
    are bytes (text) or row numbers."""

    header: bytes
    names: Sequence[str]
    unit: str  # what positions count: "byte" or "row"
    start: int
    continued: int  # lines so far that went on with the row before them, inside its quotes

    def raw(self) -> Iterator[tuple[bytes, int]]:
        """(row, position after it) from `start` to the end asked for. Raises UserError for a row over 1 MB."""
        ...

    def record(self, raw: bytes) -> dict[str, Any]:
        """The row's fields. Raises BadField."""
        ...

    def __enter__(self) -> "Rows": ...
    def __exit__(self, *_: object) -> None: ...


def digest_start(header: bytes) -> Any:
    """The hash that a slice's rows are added to."""
    return hashlib.sha256(header)


def open_rows(
    uri: str, source: Source, storage: Storage, *, etag: str = "", start: int | None = None, end: int | None = None
) -> Rows:
    """Rows of the manifest at positions [start, end), all by default.

    Raises UserError for an unknown format or a missing column, SourceChanged.
    """
    name = uri.lower()
    if name.endswith((".gz", ".zst", ".bz2", ".zip")):
        raise UserError(f"manifest {uri} is compressed", "store it uncompressed, or as parquet")
    if name.endswith(".json") and coco.is_coco(uri, storage):
        return CocoRows(uri, source, coco.open_coco(uri, storage, etag=etag), start, end)
    stream = open_stream(uri, storage, expected_etag=etag)
    if name.endswith((".parquet", ".parq", ".pq")):
        return _ParquetRows(uri, source, stream, start, end)
    for suffix, kind in ((".csv", "csv"), (".tsv", "tsv"), (".jsonl", "json"), (".ndjson", "json"), (".json", "json")):
        if name.endswith(suffix):
            return _TextRows(uri, source, stream, kind, (start, end))
    return _TextRows(uri, source, stream, "plain", (start, end))


class _TextRows:
    unit = "byte"

    def __init__(
        self, uri: str, source: Source, stream: BinaryIO, kind: str, span: tuple[int | None, int | None]
    ) -> None:
        self._uri, self._kind = uri, kind
        self._stream = io.BufferedReader(cast(io.RawIOBase, stream), _BUFFER_BYTES)
        self._looked_at: deque[bytes] = deque()  # lines that were read to see where a row before them ends
        self._end = span[1]
        self.header = b""
        self.start = self.continued = 0
        self.names: Sequence[str] = []
        self._shape: Shape | None = None
        if span[0] is None:
            self._refuse_other_text()
        if kind in ("csv", "tsv"):
            self._read_header(source)
        if span[0] is not None:
            self.start = span[0]

    def _refuse_other_text(self) -> None:
        """One sentence for a file of which every row, or none, would be a reject. Raises UserError."""
        sample = self._stream.read(MAX_ROW_BYTES)
        self._stream.seek(0)
        first = sample.removeprefix(_BOM).lstrip()
        if sample.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in sample[:4096]:
            wide = sample.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in sample[:2]
            what = "is UTF-16 text" if wide else "holds zero bytes, so it is no text"
            hint = (
                f"save it as UTF-8: iconv -f UTF-16 -t UTF-8 LIST > NEW.{self._kind}" if wide else "give the right file"
            )
            raise UserError(f"manifest {self._uri} {what}", hint)
        if b"\n" not in sample and b"\r" in sample.rstrip():
            raise self._old_line_ends()
        if self._kind == "json" and b"\n" not in first.rstrip() and coco.BEGINS.match(first):
            raise UserError(
                f"manifest {self._uri} holds annotations as COCO has them, and a .jsonl is one JSON object a line",
                "call it .json",
            )
        if self._kind == "json" and first.startswith(b"["):
            raise UserError(
                f"manifest {self._uri} holds a JSON array, and a list is one JSON object a line",
                "rewrite it: jq -c '.[]' LIST > NEW.jsonl",
            )
        if self._kind == "json" and first.partition(b"\n")[0].strip() == b"{":
            raise UserError(
                f"manifest {self._uri} spreads a JSON object over several lines, and a list is one object a line",
                "rewrite it: jq -c . LIST > NEW.jsonl",
            )

    def _old_line_ends(self) -> UserError:
        return UserError(
            f"manifest {self._uri} ends its lines with a carriage return alone",
            "end them with a line feed: tr '\\r' '\\n' < LIST > NEW",
        )

    def _read_header(self, source: Source) -> None:
        delimiter = b"\t" if self._kind == "tsv" else b","
        self._shape = Shape(delimiter=delimiter)
        row, lines = b"", []  # blank lines before the header belong to it: the csv module and pandas pass over them too
        for row, position in self._rows(0):
            lines.append(row)
            self.start = position
            row = row.removeprefix(_BOM)
            if row.strip() or position > MAX_ROW_BYTES:
                break
        self.header = b"".join(lines)
        try:
            self.names = self._split(row) if row.strip() else []
        except BadField as error:
            hint = "save the list as UTF-8"
            raise UserError(f"manifest {self._uri} has no readable header line: {error}", hint) from error
        if any("\r" in name for name in self.names):
            raise self._old_line_ends()
        if self.names:
            self._refuse_other_separator(source)
            link = needed_columns(self.names, source, self._uri, link_names(self._uri))[0]
            self._shape = Shape(delimiter=delimiter, num_columns=len(self.names), link_column=self.names.index(link))

    def _refuse_other_separator(self, source: Source) -> None:
        """One column whose name is a whole header: as spreadsheets of many countries write it."""
        known = {"csv": ",", "tsv": "a tab"}[self._kind]
        separators = {";": ";", "|": "|", "\t": "a tab", ",": ","}
        found = next((name for sign, name in separators.items() if sign in self.names[0] and name != known), None)
        if len(self.names) == 1 and found and self.names[0] not in source.image:
            raise UserError(
                f"manifest {self._uri} parts its columns by {found}, and a .{self._kind} is read by {known}",
                "call it .tsv" if found == "a tab" else "write it anew, with commas",
            )

    def __enter__(self) -> "_TextRows":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def raw(self) -> Iterator[tuple[bytes, int]]:
        self._stream.seek(self.start)
        self._looked_at.clear()
        self.continued = 0
        for row, position in self._rows(self.start):
            if self._end is not None and position > self._end:
                return
            yield row, position

    def _next_line(self) -> bytes:
        return self._looked_at.popleft() if self._looked_at else self._stream.readline(MAX_ROW_BYTES + 1)

    def _rows(self, position: int) -> Iterator[tuple[bytes, int]]:
        """A CSV record goes on to the next line while a quote is open (RFC 4180, 2.6)."""
        while row := self._next_line():
            if len(row) > MAX_ROW_BYTES:
                raise UserError(
                    f"manifest {self._uri} has a row of more than {MAX_ROW_BYTES:,} bytes at byte {position}",
                    "is it another format than its name says?",
                )
            if self._shape is not None and b'"' in row:
                count, lines = lines_of_record(row, self._next_line, self._shape, MAX_ROW_BYTES)
                self._looked_at.extendleft(reversed(lines[count:]))
                self.continued += count - 1
                row = b"".join(lines[:count])
            position += len(row)
            yield row, position

    def _split(self, row: bytes) -> list[str]:
        assert self._shape is not None
        decode_text(row, "the row")
        return [field.decode() for field in split_fields(strip_end(row), self._shape.delimiter)[0]]

    def record(self, raw: bytes) -> dict[str, Any]:
        if self._kind == "json":
            return decode_json(raw)
        if self._kind == "plain":
            return {"uri": decode_text(raw, "the row").strip()}
        values = self._split(raw)
        shown = f"{raw[:60].decode(errors='replace').rstrip()}{'…' if len(raw) > 60 else ''}"
        if len(values) != len(self.names):
            raise BadField(f"the row has {len(values)} values for {len(self.names)} columns: {shown}")
        if values == self.names:
            raise BadField("the row is the header once more")
        return dict(zip(self.names, values, strict=True))


class CocoRows:
    """Pictures of a document of COCO's form, by their place in it. Slices of two rows that are alike have one name, as
    those of a text do."""

    unit = "row"
    continued = 0
    header = b""

    def __init__(self, uri: str, source: Source, document: coco.Coco, start: int | None, end: int | None) -> None:
        self.names: Sequence[str] = document.names
        needed_columns(self.names, source, uri, link_names(uri))
        self.start = start or 0
        self._rows = document.rows[self.start : end]

    def __enter__(self) -> "CocoRows":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def raw(self) -> Iterator[tuple[bytes, int]]:
        yield from zip(self._rows, range(self.start + 1, self.start + 1 + len(self._rows)), strict=True)

    def record(self, raw: bytes) -> dict[str, Any]:
        return decode_json(raw)


class _ParquetRows:
    """Rows as canonical JSON of the columns that the job needs, so that the digest is of what it reads."""

    def __init__(self, uri: str, source: Source, stream: BinaryIO, start: int | None, end: int | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.unit = "row"
        self.continued = 0
        self._stream = stream
        try:
            self._file = pq.ParquetFile(stream, pre_buffer=False)
        except pa.ArrowInvalid as error:
            stream.close()
            raise UserError(f"manifest {uri} is not a readable parquet file", "write it again") from error
        self.names: Sequence[str] = self._file.schema_arrow.names
        image, self._columns = needed_columns(self.names, source, uri, link_names(uri))
        if holds_bytes(self._file.schema_arrow.field(image).type):
            stream.close()
            raise UserError(
                f"column {image} of {uri} holds pictures, and a list says where they are", "set source.format: parquet"
            )
        self._features = Features.of(self._file.schema_arrow)
        self.header = self._features.header
        self.start = start or 0
        self._end = self._file.metadata.num_rows if end is None else end

    def __enter__(self) -> "_ParquetRows":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def raw(self) -> Iterator[tuple[bytes, int]]:
        first = 0
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            after = first + metadata.row_group(group).num_rows
            if after > self.start and first < self._end:
                row = first
                for batch in self._file.iter_batches(1000, row_groups=[group], columns=self._columns):
                    for record in rows_of(batch):
                        if self.start <= row < self._end:
                            yield json.dumps(record, sort_keys=True, default=_plain).encode(), row + 1
                        row += 1
            first = after

    def record(self, raw: bytes) -> dict[str, Any]:
        return self._features.named(decode_json(raw))


def _plain(value: Any) -> str:
    """What JSON has no type for: dates by ISO 8601, bytes as text, decimals as they print."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value.isoformat() if hasattr(value, "isoformat") else value)
