"""Which columns of a table-like source (parquet, CSV) a job needs, and rows as Python."""

from collections.abc import Sequence
from typing import Any

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Source
from clipmill.workers.read.orientation import path_of

LINK_NAMES = ("uri", "url", "image_url", "image_uri", "image", "path", "file", "key")
IMAGE_NAMES = ("image", "img", "jpg", "png", "webp", "image_bytes", "bytes", *LINK_NAMES[:4], "path", "file")

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of an `imagefolder`


def is_metadata(uri: str) -> bool:
    """Whether a list is called as that of Hugging Face's `imagefolder` is."""
    return uri.rpartition("/")[2] in _METADATA


def link_names(uri: str) -> tuple[str, ...]:
    """Columns that may name the pictures of the list at `uri`, the likeliest first."""
    return ("file_name", *LINK_NAMES) if is_metadata(uri) else (*LINK_NAMES, "file_name")


STATUS = ("status", "error_message")  # what img2dataset says of each row


def said_of(record: dict[str, Any]) -> str:
    """img2dataset's own words for a row without a picture; empty where it says nothing."""
    words = [str(record[name]) for name in STATUS if record.get(name)]
    return f"img2dataset says {': '.join(words)}"[:200] if words else ""


def usual_rank(name: str) -> int:
    """For sorting: columns of pictures by how usual their name is, all others behind them."""
    return IMAGE_NAMES.index(name) if name in IMAGE_NAMES else len(IMAGE_NAMES)


def image_column(names: Sequence[str], source: Source, candidates: Sequence[str]) -> str | None:
    """The column that the job file names, else the first of `candidates` that is there, however it is written."""
    if source.image:
        return source.image[0] if source.image[0] in names else None
    exact = next((name for name in candidates if name in names), None)
    if exact is not None:
        return exact
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in candidates if name in lower), None)


_LAION = ("URL", "TEXT")  # its lists are known by these two; nobody else writes them in capitals


def recognised(names: Sequence[str], source: Source, candidates: Sequence[str]) -> Source:
    """The source, with LAION's column of captions where the job file names neither picture nor caption."""
    url, text = _LAION
    if source.image or source.caption is not None or text not in names:
        return source
    if image_column(names, source, candidates) != url:
        return source
    return source.model_copy(update={"caption": text})


def needed_columns(names: Sequence[str], source: Source, uri: str, candidates: Sequence[str]) -> tuple[str, list[str]]:
    """(image column, all columns to read). Raises UserError that names the column which is missing or there twice."""
    there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    image = image_column(names, source, candidates)
    if image is None:
        missing = f"column {source.image[0]}" if source.image else f"column named one of {', '.join(candidates)}"
        raise UserError(f"{uri} has no {missing}", f"set source.image; its columns are {there}")
    wanted = [image]
    source = recognised(names, source, candidates)
    asked = [("source.caption", (source.caption or "").removeprefix("json:"))]
    asked += [(f"source.keep.{name}", keep.field(name)) for name, keep in source.keep.items()]
    asked.append(("source.id", source.id_field))
    asked.append(("source.orientation", path_of(source)))
    for option, path in asked:
        if not path:
            continue
        column = path if path in names else path.split(".", 1)[0]
        if column not in names:
            raise UserError(f"{uri} has no column {path}, which {option} names", f"its columns are {there}")
        if column not in wanted:
            wanted.append(column)
    for column in wanted:
        if names.count(column) > 1:
            raise UserError(f"{uri} has {names.count(column)} columns called {column}", "rename all but one of them")
    return image, wanted


def is_text(kind: Any) -> bool:
    """Whether a column of this Arrow type holds text, which then may be a URI."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def holds_bytes(kind: Any) -> bool:
    """Whether a column of this Arrow type may hold encoded images: as they are, or as Hugging Face's {bytes, path}."""
    import pyarrow as pa

    of = pa.types
    kind = kind.value_type if of.is_dictionary(kind) else kind
    if of.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    plain = (of.is_binary, of.is_large_binary, of.is_fixed_size_binary, of.is_binary_view)
    return any(test(kind) for test in plain)


def has_paths(kind: Any) -> bool:
    """Whether a column of this Arrow type is Hugging Face's {bytes, path}."""
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 and is_text(kind.field("path").type))


def rows_of(batch: Any) -> list[dict[str, Any]]:
    """The rows of a record batch as plain Python. A value that Python has no type for, such as a date of the year
    20000, costs itself alone: a text in angle brackets stands for it."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except (ValueError, OverflowError):
        names = batch.schema.names
        return [{name: _cell(batch.column(name)[i]) for name in names} for i in range(batch.num_rows)]


def _cell(scalar: Any) -> Any:
    import pyarrow as pa

    try:
        if pa.types.is_timestamp(scalar.type) and scalar.type.unit == "ns":  # Python keeps microseconds
            scalar = scalar.cast(pa.timestamp("us", scalar.type.tz), safe=False)
        return scalar.as_py()
    except (ValueError, OverflowError):
        return f"<{scalar.type} that is out of range>"
