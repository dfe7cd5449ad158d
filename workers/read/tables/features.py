"""What Hugging Face `datasets` says of the columns of a file: which hold pictures, and what a class number means.

It stands as JSON in the schema's metadata, under `huggingface`. It is a stranger's: what does not look as it should is
as good as not there, and nothing of it names a file.
"""

import json
from collections.abc import Mapping
from typing import Any

_LISTS = ("List", "LargeList", "Sequence")


class Label(int):
    """A class number that knows its name: a string column of the table gets the name, a column of numbers the number.

    -1 is how `datasets` writes that a row has no label.
    """

    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Raises ValueError for a number that no class has."""
        if not 0 <= self < len(self.names):
            raise ValueError
        return self.names[self]

    __str__ = int.__repr__

    def __repr__(self) -> str:
        return f"{int(self)} (of {len(self.names)} classes)"


class Features:
    """The features of one file by column; empty where nothing says them."""

    def __init__(self, features: Mapping[str, Any]) -> None:
        self._of = {name: feature for name, feature in features.items() if _holds_labels(feature)}
        self.images = tuple(name for name, feature in features.items() if _type(feature) == "Image")
        self.header = json.dumps(self._of, sort_keys=True).encode() if self._of else b""  # what class numbers mean

    @staticmethod
    def of(schema: Any) -> "Features":
        """From an Arrow schema."""
        try:
            found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = {}
        try:
            return Features(found if isinstance(found, dict) else {})
        except RecursionError:
            return Features({})

    def named(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record, its class numbers as labels."""
        for name, feature in self._of.items():
            if record.get(name) is not None:
                record[name] = _labelled(record[name], feature)
        return record


def _type(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def _names(feature: Any) -> tuple[str, ...]:
    """Of a ClassLabel; empty for all else."""
    names = feature.get("names") if _type(feature) == "ClassLabel" else None
    good = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if good and isinstance(names, list) else ()


def _holds_labels(feature: Any) -> bool:
    if _names(feature):
        return True
    inner = feature.values() if isinstance(feature, dict) else feature if isinstance(feature, list) else ()
    return any(_holds_labels(one) for one in inner if isinstance(one, (dict, list)))


def _labelled(value: Any, feature: Any) -> Any:
    """A list of structs is written as a list, by older releases as a struct of lists: both are understood."""
    if names := _names(feature):
        if isinstance(value, list):
            return [_labelled(item, feature) for item in value]
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        label = Label(value)
        label.names = names
        return label
    if _type(feature) in _LISTS:
        feature = feature.get("feature")
    elif isinstance(feature, list):
        feature = feature[0] if feature else None
    if isinstance(value, list):
        return [_labelled(item, feature) for item in value]
    if isinstance(value, dict) and isinstance(feature, dict):
        return {name: _labelled(item, feature.get(name)) for name, item in value.items()}
    return value
