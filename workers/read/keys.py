"""What a folder of images looks like to both sides: the survey that cuts it into slices, and the worker that reads one.

A stem is a key without its last extension; `a/b.jpg` and `a/b.txt` share one. Every image file is a sample; the texts
beside it (`.txt`, `.json`, as the job file says) are its sidecars. Other files, and texts without an image, are none.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from schemas.config import Source, Storage
from workers.read.fields import Wanted
from workers.store_list import Key, list_keys, resolve
from workers.store_uri import Pattern, join_uri, parse_pattern, split_uri


def split_key(name: str) -> tuple[str, str]:
    """(stem, lower-case extension) of a key; the extension is empty for dot files and names without one."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.rpartition(".")
    if not stem or not dot or base.startswith("."):
        return name, ""
    return folder + slash + stem, extension.lower()


def is_wanted(extension: str, wanted: Wanted) -> bool:
    return extension in wanted.image or extension == wanted.caption or (extension == "json" and wanted.json)


def pattern_of(uri: str) -> Pattern:
    """The pattern that a unit's uri stands for: a folder ending in `/`, or a glob."""
    return parse_pattern(*split_uri(uri))


def folder_of(uri: str) -> str:
    """The folder that the keys of a unit with this uri are relative to, spelled as in their own URIs."""
    pattern = pattern_of(uri)
    return join_uri(pattern.scheme, pattern.root)


def uri_of(pattern: Pattern, typed: str) -> str:
    """The other way round: the spelling of a resolved pattern that `pattern_of` understands."""
    if pattern.regex is None:
        return join_uri(pattern.scheme, pattern.root)
    return join_uri(*split_uri(typed))


def wanted_keys(
    pattern: Pattern,
    source: Source,
    storage: Storage,
    *,
    before: tuple[Pattern, ...] = (),
    start_after: str = "",
    end: str = "",
) -> Iterator[Key]:
    """Images and their possible sidecars, in key order. A key that a pattern of `before` matches is left to it.

    A glob chooses images: `*.jpg` does not match `a.txt`, yet that is the caption of `a.jpg`, so sidecars are taken
    whatever the glob's extension says.
    """
    wanted = Wanted.of(source)
    # `b.jp*` lists from `b`, or `b.txt` would not be met.
    prefix = split_key(pattern.prefix)[0] if "." in pattern.prefix.rpartition("/")[2] else pattern.prefix
    listed = replace(pattern, prefix=prefix, regex=None)
    for key in list_keys(listed, storage, start_after=start_after, end=end):
        extension = split_key(key.name)[1]
        if not is_wanted(extension, wanted):
            continue
        if extension in wanted.image and not (
            pattern.matches(key.name) and not any(_covers(other, pattern, key.name) for other in before)
        ):
            continue
        yield key


def _covers(other: Pattern, pattern: Pattern, name: str) -> bool:
    """Whether `other` matches the key that is called `name` below `pattern`."""
    path = pattern.root + name
    if other.scheme != pattern.scheme or not path.startswith(other.root):
        return False
    below = path[len(other.root) :]
    return (other.deep or "/" not in below) and below.startswith(other.prefix) and other.matches(below)


def earlier_patterns(source: Source, uri: str, storage: Storage) -> tuple[Pattern, ...]:
    """Patterns of the job file before the one that `uri` stands for: overlapping ones give each key to the first."""
    found: list[Pattern] = []
    if len(source.uri) == 1 and "{" not in source.uri[0]:
        return ()
    for typed, pattern in file_patterns(source, storage):
        if uri_of(pattern, typed) == uri:
            break
        found.append(pattern)
    return tuple(found)


def file_patterns(source: Source, storage: Storage) -> Iterator[tuple[str, Pattern]]:
    """(as typed, pattern) of every uri of a `files` source. One file named alone is a glob that matches only it."""
    from workers.store_uri import expand_braces

    for typed in source.uri:
        for text in expand_braces(typed) if "{" in typed else [typed]:
            for pattern, key in resolve(text, storage):
                if key is None:
                    yield text, pattern
                    continue
                literal = join_uri(pattern.scheme, pattern.root + key.name.replace("[", "[[]").replace("?", "[?]"))
                glob = literal[:-1] + f"[{literal[-1]}]"
                yield glob, pattern_of(glob)


class Digest:
    """SHA-256 over keys and etags of a slice, in key order."""

    def __init__(self) -> None:
        self._hash: Any = hashlib.sha256()

    def add(self, key: Key) -> None:
        self._hash.update(f"{key.name}\0{key.etag}\n".encode("utf-8", "surrogateescape"))

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())[:32]
