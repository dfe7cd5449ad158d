"""COCO's JSON as the list of pictures that it is: one row for each entry of `images`, with what is said of it.

    {"file_name": "000000000139.jpg", "id": 139, "width": 640, ..., "captions": ["...", ...], "labels": ["chair", ...]}

`captions` are those of the annotations of that `image_id`, in their order; `labels` the names of their categories, each
once. An annotation of a picture that `images` does not have is a row without a picture, so that it is counted.

The document is a stranger's, and may be large (`instances_train2017.json` has 450 MB). It is read a piece at a time,
item by item: what is kept are the rows, not boxes and outlines. Annotations of a picture lie anywhere in it, so each
process reads it once, and keeps the rows of one document for the units that follow.
"""

import codecs
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.store.storage import get_bytes, head, open_stream

BEGINS = re.compile(rb'\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:\s*[\[{"]')
_LOOK_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
MAX_ITEM_CHARS = 16 << 20
MAX_KEPT_BYTES = 1_000_000_000  # of rows, in one process: some million pictures with five captions
_ITEM_BYTES = 100  # what an item costs in memory beside its text
_SAID = ("captions", "labels")
PICTURE = b'{"uri":'  # how the row of an entry of `images` begins; one of annotations alone has no address
_SPACE = re.compile(r"[ \t\n\r]*")
_BOM = b"\xef\xbb\xbf"

_lock = threading.Lock()
_last: tuple[tuple[str, str], "Coco"] | None = None


def is_coco(uri: str, storage: Storage) -> bool:
    """Whether a file that ends in .json begins as COCO's do, and is not one JSON object a line."""
    try:
        sample = get_bytes(uri, storage, max_bytes=_LOOK_BYTES, part=(0, _LOOK_BYTES)).removeprefix(_BOM)
    except FileNotFoundError:  # whoever opens it says so in the right words
        return False
    if not BEGINS.match(sample):
        return False
    first, _, rest = sample.partition(b"\n")
    if not rest.strip():
        return True
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return True
    return False


@dataclass(frozen=True, slots=True)
class Coco:
    """`rows`: JSON, in the document's order; `names`: the fields that they have."""

    names: tuple[str, ...]
    rows: list[bytes]


def open_coco(uri: str, storage: Storage, *, etag: str = "") -> Coco:
    """Raises UserError for what is no such document, SourceChanged, StoreUnavailable."""
    global _last
    name = (uri, etag or head(uri, storage).etag)
    with _lock:
        if _last is None or _last[0] != name:
            _last = None  # before the next one is read
            with open_stream(uri, storage, expected_etag=name[1]) as stream:
                kept = _Kept(uri)
                for array, item in _Document(uri, stream).items():
                    kept.add(array, item)
            _last = name, Coco((*kept.fields, *_SAID), list(kept.rows()))
        return _last[1]


class _Document:
    """The items of the top-level arrays of one JSON object, read from a stream."""

    def __init__(self, uri: str, stream: BinaryIO) -> None:
        self._uri, self._stream = uri, stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False

    def items(self) -> Iterator[tuple[str, Any]]:
        """(key, item) of every array, in order; other values are passed over."""
        self._take("{")
        while self._peek() != "}":
            key = self._value()
            self._take(":")
            if self._peek() == "[":
                self._take("[")
                while self._peek() != "]":
                    yield str(key), self._value()
                    if self._peek() != "]":
                        self._take(",")
                self._take("]")
            else:
                self._value()
            if self._peek() != "}":
                self._take(",")

    def _more(self) -> bool:
        if self._ended:
            return False
        piece = self._stream.read(_PIECE_BYTES)
        self._ended = not piece
        try:
            self._text = self._text[self._at :] + self._decode.decode(piece, final=self._ended)
        except UnicodeDecodeError as error:
            raise self._refused("is not UTF-8") from error
        self._at = 0
        return True

    def _peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self._refused("ends in the middle" if self._ended and self._at >= len(self._text) else "is no JSON")
        self._at += 1

    def _value(self) -> Any:
        """One whole value. A number at the edge of what was read may go on, so there is always more behind it."""
        self._peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            except RecursionError as error:
                raise self._refused("nests too deep") from error
            except ValueError as error:
                if self._ended:
                    raise self._refused("ends in the middle, or is no JSON") from error
            if len(self._text) - self._at > MAX_ITEM_CHARS:
                raise self._refused(f"has an item of more than {MAX_ITEM_CHARS:,} characters, or is no JSON")
            # Doubled, because each try begins at the item's start again.
            wanted = max(2 * (len(self._text) - self._at), _PIECE_BYTES)
            while len(self._text) - self._at < wanted and self._more():
                pass

    def _refused(self, why: str) -> UserError:
        return UserError(f"{self._uri} looks like COCO's annotations and {why}", "write or fetch it again")


class _Kept:
    """What is kept of a document while it is read: each picture's own fields, and what is said of it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._bytes = 0
        self._images: dict[Any, list[bytes]] = {}  # by id; more than one where an id is there twice
        self._said: dict[Any, tuple[list[str], dict[int | str, None]]] = {}  # by id: captions, numbers of categories
        self._categories: dict[int | str, str] = {}
        self.fields: dict[str, None] = {"uri": None}

    def add(self, array: str, item: Any) -> None:
        if array not in ("images", "annotations", "categories"):
            return
        if not isinstance(item, dict):
            item = {}
        if array == "images":
            self._add_image(item)
        elif array == "annotations":
            self._add_annotation(item)
        elif (number := _id(item.get("id"))) is not None:
            self._categories[number] = str(item.get("name", number))
            self._count(len(self._categories[number]))

    def _add_image(self, item: dict[str, Any]) -> None:
        own = {name: value for name, value in item.items() if name not in ("uri", *_SAID)}
        record = {"uri": item.get("file_name"), **own}
        self.fields |= dict.fromkeys(record)
        number = _id(item.get("id"))
        row = json.dumps(record).encode()
        self._images.setdefault(object() if number is None else number, []).append(row)
        self._count(len(row))

    def _add_annotation(self, item: dict[str, Any]) -> None:
        image = _id(item.get("image_id"))
        if image not in self._said:
            self._said[image] = [], {}
            self._count(0)
        captions, categories = self._said[image]
        if isinstance(caption := item.get("caption"), str):
            captions.append(caption.strip())
            self._count(len(caption))
        if (category := _id(item.get("category_id"))) is not None and category not in categories:
            categories[category] = None
            self._count(0)

    def rows(self) -> Iterator[bytes]:
        """Once: each is forgotten as it goes."""
        for image, rows in self._images.items():
            said = self._as_json(self._said.pop(image, ([], {})))
            for row in rows:
                yield row[:-1] + b", " + said[1:]
            rows.clear()
        for image, lost in self._said.items():
            yield json.dumps({"id": image}).encode()[:-1] + b", " + self._as_json(lost)[1:]

    def _as_json(self, said: tuple[list[str], dict[int | str, None]]) -> bytes:
        captions, categories = said
        labels = list(dict.fromkeys(self._categories.get(number, str(number)) for number in categories))
        return json.dumps({"captions": captions, "labels": labels}).encode()

    def _count(self, size: int) -> None:
        self._bytes += size + _ITEM_BYTES
        if self._bytes > MAX_KEPT_BYTES:
            raise UserError(
                f"{self._uri} says more than {MAX_KEPT_BYTES:,} bytes of its pictures",
                "write it in parts, each with its own pictures",
            )


def _id(value: Any) -> int | str | None:
    if isinstance(value, float) and value.is_integer():  # as pandas writes a column that has gaps
        return int(value)
    return value if isinstance(value, int | str) else None
