"""Exports that are a folder of pictures and a JSON document about them, read whole by other programs.

fiftyone  data/000000000001.jpg ..., samples.json, metadata.json
coco      images/000000000001.jpg ..., annotations/captions_default.json, annotations/labels_default.json

What of FiftyOne's two forms is written is the one without its database's own version (it calls it legacy), because all
its releases read that one, also as `FiftyOneDataset`. COCO's files are called as Datumaro calls those without a split.
The documents are spooled to disk while rows come, so that memory is some pictures' and not the export's.
"""

import base64
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa

from clipmill.jobs.exploring.export_files import Files, Out, Row
from clipmill.jobs.table.originals import Originals
from clipmill.schemas.text.plain import plain
from clipmill.workers.decode.sniff import ending, sniff

_FIELD = "fiftyone.core.fields."
_CLASSIFICATIONS = f"{_FIELD}EmbeddedDocumentField(fiftyone.core.labels.Classifications)"
# What FiftyOne's samples have already; a column that is called so gets a name of its own.
_TAKEN = {
    "id",
    "filepath",
    "metadata",
    "media_type",
    "created_at",
    "last_modified_at",
    "group",
    "frames",
    "frame_number",
    "clip_tags",  # what `tags` is called here
}
_OF_TAGS = ("caption", "tags", "tag_scores")


@dataclass(frozen=True, slots=True)
class _Stored:
    """A picture that was written: its name in the folder, its length in bytes, its media type where that is known."""

    name: str
    size: int
    kind: str | None


class _Spool:
    """The items of a JSON array, on disk."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the export
        self.count = 0

    def add(self, value: Mapping[str, Any]) -> None:
        separator = b",\n" if self.count else b""
        self._file.write(separator + json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
        self.count += 1

    def copy_to(self, file: IO[bytes]) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 1 << 20)

    def close(self) -> None:
        self._file.close()


class _WithPictures(Files):
    """Pictures have running numbers from 1; of those that are left out the number is missing."""

    folder = ""

    def __init__(self, out: Out, originals: Originals, dims: Mapping[str, int]) -> None:
        super().__init__(out, originals, dims)
        self._seen = 0

    def write(self, rows: pa.Table, number: int) -> None:
        listed, first = rows.to_pylist(), self._seen + 1
        self._seen += len(listed)
        for place, stored in self.pictures(listed, self._storing(first)).items():
            self.describe(first + place, listed[place], stored)

    def describe(self, number: int, row: Row, stored: _Stored) -> None:
        raise NotImplementedError

    def _storing(self, first: int) -> Callable[[bytes, int], _Stored]:
        def store(image: bytes, place: int) -> _Stored:
            name = f"{first + place:012d}.{ending(image)}"
            self.out.put(f"{self.folder}/{name}", image)
            return _Stored(name, len(image), sniff(image))

        return store

    @contextmanager
    def document(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write to, which is `name` of the export once it is whole."""
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            self.out.put_file(name, file.name)


class FiftyOne(_WithPictures):
    """Tags are the field `clip_tags`, Classifications with the scores as their confidence. Vectors are of float32."""

    folder = "data"

    def __init__(self, out: Out, originals: Originals, dims: Mapping[str, int]) -> None:
        super().__init__(out, originals, dims)
        self._samples = _Spool()
        self._fields: dict[str, str] = {}

    def write(self, rows: pa.Table, number: int) -> None:
        if not self._fields:
            self._fields = _fields_of(rows.schema)
        super().write(rows, number)

    def describe(self, number: int, row: Row, stored: _Stored) -> None:
        sample: Row = {"filepath": f"{self.folder}/{stored.name}", "tags": []}
        if row["width"]:  # of an imported row nobody measured it
            sides = {"width": row["width"], "height": row["height"]}
            sample["metadata"] = {
                "_cls": "ImageMetadata",
                "size_bytes": stored.size,
                "mime_type": stored.kind,
                **sides,
            }
        for name, value in row.items():
            if name == "tags":
                sample["clip_tags"] = _classifications(value, row.get("tag_scores"))
            elif name in self.dims:
                sample[name] = value if value is None else _binary(value)
            elif name != "tag_scores":
                sample[_called(name)] = plain(value)
        self._samples.add(sample)

    def end(self) -> None:
        with self.document("samples.json") as file:
            file.write(b'{"samples": [')
            self._samples.copy_to(file)
            file.write(b"]}\n")
        self.out.put("metadata.json", json.dumps({"media_type": "image", "sample_fields": self._fields}).encode())

    def close(self) -> None:
        self._samples.close()


def _called(name: str) -> str:
    return f"row_{name}" if _is_taken(name) else name


def _is_taken(name: str) -> bool:
    """Also by what another column is called here, so that no two columns become one."""
    return name in _TAKEN or name.startswith("_") or (name.startswith("row_") and _is_taken(name[len("row_") :]))


def _fields_of(schema: pa.Schema) -> dict[str, str]:
    """FiftyOne's schema, without which the first sample's values would decide."""
    found = {}
    for field in schema:
        if field.name == "tags":
            found["clip_tags"] = _CLASSIFICATIONS
        elif field.name != "tag_scores":
            found[_called(field.name)] = _field(field.type)
    return found


def _field(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{_FIELD}VectorField"
    if pa.types.is_list(kind):
        return f"{_FIELD}ListField({_field(kind.value_type)})"
    if pa.types.is_boolean(kind):
        return f"{_FIELD}BooleanField"
    if pa.types.is_integer(kind):
        return f"{_FIELD}IntField"
    return f"{_FIELD}FloatField" if pa.types.is_floating(kind) else f"{_FIELD}StringField"


def _classifications(tags: list[str] | None, scores: list[float] | None) -> Row | None:
    if tags is None:
        return None
    labels = [{"_cls": "Classification", "label": label, "confidence": score} for label, score in _scored(tags, scores)]
    return {"_cls": "Classifications", "classifications": labels}


def _scored(tags: list[str] | None, scores: list[float] | None) -> list[tuple[str, float | None]]:
    known = scores if scores is not None and len(scores) == len(tags or ()) else [None] * len(tags or ())
    return list(zip(tags or (), plain(known), strict=True))


def _binary(vector: list[float]) -> Row:
    """An .npy, packed, as MongoDB's extended JSON has bytes."""
    out = io.BytesIO()
    np.save(out, np.asarray(vector, np.float32), allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(out.getvalue())).decode(), "subType": "00"}}


class Coco(_WithPictures):
    """Each tag is a category and an annotation of the whole picture: `category_id` and `score`, no box. The other
    columns are in the image's `row`."""

    folder = "images"

    def __init__(self, out: Out, originals: Originals, dims: Mapping[str, int]) -> None:
        super().__init__(out, originals, dims)
        self._images, self._captions, self._labels = _Spool(), _Spool(), _Spool()
        self._categories: dict[str, int] = {}

    def describe(self, number: int, row: Row, stored: _Stored) -> None:
        rest = {name: plain(value) for name, value in row.items() if name not in _OF_TAGS}
        sides = {"width": row["width"], "height": row["height"]}
        self._images.add({"id": number, "file_name": stored.name, **sides, "row": rest})
        if row.get("caption") is not None:
            self._captions.add({"id": self._captions.count + 1, "image_id": number, "caption": row["caption"]})
        for label, score in _scored(row.get("tags"), row.get("tag_scores")):
            category = self._categories.setdefault(label, len(self._categories) + 1)
            one = {"id": self._labels.count + 1, "image_id": number, "category_id": category, "score": score}
            self._labels.add(one)

    def end(self) -> None:
        categories = [{"id": n, "name": name, "supercategory": ""} for name, n in self._categories.items()]
        # pycocotools takes annotations beside any list of categories for ones that have a category.
        self._write("captions", self._captions, {})
        self._write("labels", self._labels, {"categories": categories})

    def close(self) -> None:
        for spool in (self._images, self._captions, self._labels):
            spool.close()

    def _write(self, what: str, annotations: _Spool, more: Row) -> None:
        with self.document(f"annotations/{what}_default.json") as file:
            head = {"info": {"description": "clipmill export"}, "licenses": [], **more}
            file.write(json.dumps(head, ensure_ascii=False).encode()[:-1] + b', "images": [')
            self._images.copy_to(file)
            file.write(b'], "annotations": [')
            annotations.copy_to(file)
            file.write(b"]}\n")
