"""What a folder of images looks like to both sides: the survey that cuts it into slices, and the worker that reads one.

A stem is a key without its last extension; `a/b.jpg` and `a/b.txt` share one. Every image file is a sample; the texts
beside it (`.txt`, `.json`, as the job file says) are its sidecars: `a/b.txt`, or else `a/b.jpg.txt`. Other files, and
texts without an image, are none; they are counted (`left_out`).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.left_out import LeftOut, count, ending_of
from clipmill.workers.read.fields import Wanted
from clipmill.workers.store.listing import Key, list_keys, resolve
from clipmill.workers.store.uri import Pattern, escape, expand_braces, join_uri, parse_pattern, split_uri

T = TypeVar("T")


def split_key(name: str) -> tuple[str, str]:
    """(stem, lower-case extension) of a key; the extension is empty for dot files and names without one."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.rpartition(".")
    if not stem or not dot or base.startswith("."):
        return name, ""
    return folder + slash + stem, extension.lower()


def text_of(image: str, extension: str, texts: Mapping[tuple[str, str], T]) -> T | None:
    """The sidecar of an image among `texts`, which are by (stem, extension)."""
    found = texts.get((split_key(image)[0], extension))
    return found if found is not None else texts.get((image, extension))


def is_wanted(extension: str, wanted: Wanted) -> bool:
    return extension in wanted.image or wanted.is_text(extension)


def pattern_of(uri: str) -> Pattern:
    """The pattern that a unit's uri stands for: a folder ending in `/`, or a glob."""
    return parse_pattern(*split_uri(uri))


def folder_of(uri: str) -> str:
    """The folder that the keys of a unit with this uri are relative to, spelled as in their own URIs."""
    pattern = pattern_of(uri)
    return join_uri(pattern.scheme, pattern.root)


def wanted_keys(
    pattern: Pattern,
    source: Source,
    storage: Storage,
    *,
    before: tuple[Pattern, ...] = (),
    between: tuple[str, str] = ("", ""),
    left_out: LeftOut | None = None,
) -> Iterator[Key]:
    """Images and their possible sidecars, in key order; only names after the first of `between`, up to and with the
    second, where those are given. A key that a pattern of `before` matches is left to it. Other files that the pattern
    asks for are counted in `left_out`.

    A glob chooses images: `*.jpg` does not match `a.txt`, yet that is the caption of `a.jpg`, so sidecars are taken
    whatever the glob's extension says.
    """
    wanted = Wanted.of(source)
    # `b.jp*` lists from `b`, or `b.txt` would not be met.
    prefix = split_key(pattern.prefix)[0] if "." in pattern.prefix.rpartition("/")[2] else pattern.prefix
    listed = replace(pattern, prefix=prefix, regex=None)

    def passed_over(name: str, why: str) -> None:
        if left_out is not None and is_asked_for(name, pattern, before):
            count(left_out, why)

    for key in list_keys(listed, storage, start_after=between[0], end=between[1], passed_over=passed_over):
        extension = split_key(key.name)[1]
        if not is_wanted(extension, wanted):
            if left_out is not None and is_asked_for(key.name, pattern, before):
                count(left_out, ending_of(key.name))
            continue
        if extension in wanted.image and not is_asked_for(key.name, pattern, before):
            continue
        yield key


def is_asked_for(name: str, pattern: Pattern, before: tuple[Pattern, ...]) -> bool:
    """Whether the pattern matches the key below it, and no earlier one does."""
    return pattern.matches(name) and not any(_covers(other, pattern, name) for other in before)


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
    for pattern in file_patterns(source, storage):
        if pattern.uri == uri:
            break
        found.append(pattern)
    return tuple(found)


def file_patterns(source: Source, storage: Storage) -> Iterator[Pattern]:
    """The pattern of every uri of a `files` source. One file named alone is a glob that matches only it."""
    for typed in source.uri:
        for text in expand_braces(typed) if "{" in typed else [typed]:
            for pattern, key in resolve(text, storage):
                if key is None:
                    yield pattern
                    continue
                literal = join_uri(pattern.scheme, escape(pattern.root + key.name))
                yield pattern_of(literal[:-1] + f"[{literal[-1]}]")


@dataclass(slots=True)
class _Stem:
    """Names that share a stem, while more of them may come."""

    images: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)


class Pairs:
    """Pairs texts with images as keys come in their order, and forgets what can meet nothing any more.

    Names that begin with a stem and a dot lie side by side in key order, so a stem is done with at the first key that
    does not begin so. Held are at most as many stems as the newest name has dots, whatever the folder holds.
    """

    def __init__(self, lonely: Callable[[str], None]) -> None:
        """`lonely` is told each text that no image has as a sidecar."""
        self._lonely = lonely
        self._open: dict[str, _Stem] = {}

    def go_on_to(self, name: str) -> bool:
        """Done with what cannot go with `name`, the next key. Whether anything can: then both belong in one slice."""
        for stem in [stem for stem in self._open if not name.startswith(stem + ".")]:
            self._end(stem)
        return bool(self._open)

    def add(self, name: str, *, is_image: bool) -> None:
        """After `go_on_to` with the same name."""
        stem = split_key(name)[0]
        found = self._open.setdefault(stem, _Stem())
        if is_image:
            found.images.add(name)
        elif not self._is_image(stem):  # `a.jpg.txt` beside `a.jpg`, which sorts before it
            found.texts.append(name)

    def finish(self) -> None:
        for stem in list(self._open):
            self._end(stem)

    def _is_image(self, name: str) -> bool:
        found = self._open.get(split_key(name)[0])
        return found is not None and name in found.images

    def _end(self, stem: str) -> None:
        found = self._open.pop(stem)
        if not found.images:
            for text in found.texts:
                self._lonely(text)


class Digest:
    """SHA-256 over keys and etags of a slice, in key order."""

    def __init__(self) -> None:
        self._hash: Any = hashlib.sha256()

    def add(self, key: Key) -> None:
        self._hash.update(f"{key.name}\0{key.etag}\n".encode("utf-8", "surrogateescape"))

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())[:32]
