"""Which columns of a table-like source (parquet, CSV) a job needs, by the names the source has."""

from collections.abc import Sequence

from schemas.config import Source
from schemas.errors import UserError

IMAGE_NAMES = ("image", "jpg", "png", "image_bytes", "bytes", "uri", "url", "image_url", "image_uri", "path", "file")
LINK_NAMES = ("uri", "url", "image_url", "image_uri", "image", "path", "file", "key")


def image_column(names: Sequence[str], source: Source, candidates: Sequence[str]) -> str | None:
    """The column that the job file names, else the first of `candidates` that is there."""
    if source.image:
        return source.image[0] if source.image[0] in names else None
    return next((name for name in candidates if name in names), None)


def needed_columns(names: Sequence[str], source: Source, uri: str, candidates: Sequence[str]) -> tuple[str, list[str]]:
    """(image column, all columns to read). Raises UserError that names the column which is missing or there twice."""
    there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    image = image_column(names, source, candidates)
    if image is None:
        missing = f"column {source.image[0]}" if source.image else f"column named one of {', '.join(candidates)}"
        raise UserError(f"{uri} has no {missing}", f"set source.image; its columns are {there}")
    wanted = [image]
    asked = [("source.caption", (source.caption or "").removeprefix("json:"))]
    asked += [(f"source.keep.{name}", keep.source or name) for name, keep in source.keep.items()]
    if source.id.startswith("column:"):
        asked.append(("source.id", source.id.removeprefix("column:")))
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
