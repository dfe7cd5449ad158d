"""CSV and TSV as bytes: where a record ends, and what its fields are.

Well-formed files read as Python's csv module and pandas read them (RFC 4180). They differ where a quote is not one:

- a field that begins with a quote which nothing closes (`"hello, he said`), or whose closing quote is not followed by
  the delimiter (`"Sunset" over the bay`), is text, quotes and all. The csv module drops the quotes, and for the first
  it takes every line that follows into the field, up to the end of the file;
- lines inside an open quote that are rows by themselves, each with a link and the right number of columns, are rows;
- a carriage return inside a line is a character of its field; the csv module ends the row there.

Time is linear in the bytes: a region of lines is looked through for a closing quote at most once per column.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

# Possessive, so that nothing is tried twice: what lies between the quotes, `""` being one of them.
_INSIDE = rb'(?:[^"]++|"")*+'
_QUOTED = re.compile(rb'"(' + _INSIDE + rb')"')
_TO_CLOSE = re.compile(_INSIDE + rb'"')
_ENDS_AS_LINK = re.compile(rb"\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|heic)$", re.IGNORECASE)


def strip_end(row: bytes) -> bytes:
    """Without its line end, `\\n` or `\\r\\n`."""
    return row.removesuffix(b"\n").removesuffix(b"\r")


def split_fields(row: bytes, delimiter: bytes) -> tuple[list[bytes], int | None]:
    """(fields of a record without its line end, which of them begins with a quote that is not closed)."""
    if b'"' not in row:
        return row.split(delimiter), None
    fields: list[bytes] = []
    at = 0
    unclosed: int | None = None
    while True:
        quoted = _QUOTED.match(row, at)
        if quoted and row[quoted.end() : quoted.end() + 1] in (b"", delimiter):
            fields.append(quoted[1].replace(b'""', b'"'))
            at = quoted.end()
        else:
            if quoted is None and row.startswith(b'"', at):
                unclosed = len(fields)
            end = row.find(delimiter, quoted.end() if quoted else at)
            end = len(row) if end < 0 else end
            fields.append(row[at:end])
            at = end
        if at == len(row):
            return fields, unclosed
        at += 1


def looks_like_link(value: bytes) -> bool:
    """Whether a field may be the name of an image, as opposed to a piece of a caption."""
    value = value.strip()
    if b"://" in value or _ENDS_AS_LINK.search(value):
        return True
    return bool(value) and len(value.split()) == 1 and (b"/" in value or b"." in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a whole row looks like. `num_columns` 0: not known yet, as for the header itself."""

    delimiter: bytes
    num_columns: int = 0
    link_column: int = 0

    def is_row(self, line: bytes) -> bool:
        fields, _ = split_fields(strip_end(line), self.delimiter)
        return len(fields) == self.num_columns and looks_like_link(fields[self.link_column])


def lines_of_record(
    first: bytes, next_line: Callable[[], bytes], shape: Shape, max_bytes: int
) -> tuple[int, list[bytes]]:
    """(how many lines belong to the record that begins with `first`, the lines that were read to find out).

    A quote that stays open goes on to the next lines only if it is closed as it should be, within `max_bytes` and the
    columns there are, and if the lines it would take in are not rows by themselves: a caption that begins with a
    quote, and another that ends with one, do not hide the rows between them.
    """
    lines = [first]
    literal_first, unclosed = split_fields(strip_end(first), shape.delimiter)
    if unclosed is None:
        return 1, lines
    columns, size = unclosed + 1, len(first)
    while True:
        line = next_line()
        size += len(line)
        if not line:
            return 1, lines
        lines.append(line)
        if size > max_bytes:
            return 1, lines
        closed = _TO_CLOSE.match(line)
        if closed is None:
            continue
        rest = strip_end(line)[closed.end() :]
        if rest and not rest.startswith(shape.delimiter):
            return 1, lines
        fields, unclosed = split_fields(rest, shape.delimiter)
        columns += (len(fields) if unclosed is None else unclosed + 1) - 1
        if shape.num_columns and columns > shape.num_columns:
            return 1, lines
        if unclosed is None:
            return (1 if _hides_rows(lines, literal_first, shape) else len(lines)), lines


def _hides_rows(lines: list[bytes], first: list[bytes], shape: Shape) -> bool:
    """Whether a record of these lines would swallow rows: each is one by itself, and the first names its image."""
    if not shape.num_columns or len(first) <= shape.link_column or not looks_like_link(first[shape.link_column]):
        return False
    return all(shape.is_row(line) for line in lines[1:] if line.strip())
