"""Listings in key order, one page in memory at a time.

Order is by the UTF-8 bytes of the raw key everywhere: S3 lists so, and a local walk is arranged to agree (a folder
sorts as `name/`), so that a slice (start_after, end_key] means the same on both.
"""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.left_out import BROKEN_LINK, NO_FILE
from clipmill.workers.store.errors import ATTEMPTS, FIRST_CONTACT_ATTEMPTS, call
from clipmill.workers.store.fs import etag_of, is_s3, open_fs, stat_of
from clipmill.workers.store.uri import (
    Pattern,
    escape,
    expand_braces,
    folder_pattern,
    join_uri,
    parse_pattern,
    split_uri,
)

PassedOver = Callable[[str, str], None]  # (name, why: a key of `left_out`)


@dataclass(frozen=True, slots=True)
class Key:
    """An object below a folder: `name` is raw and relative to the folder."""

    name: str
    etag: str
    size_bytes: int


def resolve(pattern: str, storage: Storage) -> Iterator[tuple[Pattern, Key | None]]:
    """What a pattern of the job file stands for: (pattern, None) for a folder or glob, or (folder, key) for one object.

    Braces are expanded first; an object or folder that exists as it is typed is that one, whatever `[` or `?` its name
    holds. Raises FileNotFoundError where a name without magic is neither an object nor a folder.
    """
    for text in expand_braces(pattern) if "{" in pattern else [pattern]:
        fs, path = open_fs(text, storage)
        scheme = split_uri(text)[0]
        if not path.endswith("/") and "*" not in path:
            try:
                etag, size = call(text, lambda fs=fs, path=path: stat_of(fs, path), attempts=FIRST_CONTACT_ATTEMPTS)  # type: ignore[misc]
                folder, _, name = path.rpartition("/")
                yield Pattern(scheme, folder + "/", "", None, False), Key(name, etag, size)
                continue
            except FileNotFoundError:
                if escape(path) == path and not _is_folder(scheme, path + "/", storage):
                    raise
        if escape(path) == path:
            yield folder_pattern(scheme, path.rstrip("/") + "/"), None
        else:
            yield parse_pattern(scheme, _with_folder_as_typed(scheme, path, storage)), None


def _with_folder_as_typed(scheme: str, path: str, storage: Storage) -> str:
    """A glob, its folder escaped where one exists that is called just so (`pictures [2024]/*.jpg`)."""
    if scheme in ("http", "https"):
        return path
    star = path.find("*")
    folder = path[: path.rfind("/", 0, star if star >= 0 else None) + 1]
    whole = [path + "/"] if star < 0 and not path.endswith("/") else []
    for typed in (*whole, folder):
        if escape(typed) != typed and _is_folder(scheme, typed, storage):
            return escape(typed) + path[len(typed) :]
    return path


def _is_folder(scheme: str, path: str, storage: Storage) -> bool:
    """Whether a folder of this raw name, which ends in `/`, is there; in a store: whether anything lies below."""
    if scheme == "file":
        return os.path.isdir(path)
    return next(list_keys(folder_pattern(scheme, path), storage), None) is not None


def list_keys(
    pattern: Pattern,
    storage: Storage,
    *,
    start_after: str = "",
    end: str = "",
    passed_over: PassedOver = lambda name, why: None,
) -> Iterator[Key]:
    """Objects that match, in key order; only names in (start_after, end] where those are given.

    Zero-byte "folder" keys ending in `/` are left out. `passed_over` is told the names on a local disk that match and
    are no file, and why. Raises as `errors.call` does.
    """
    fs, root = open_fs(join_uri(pattern.scheme, pattern.root), storage)
    uri = join_uri(pattern.scheme, pattern.root)
    if pattern.scheme == "file":
        call(uri, lambda: os.stat(root))  # a sentence where the folder itself is missing
        found = _walk_local(root, "", pattern, _raw(start_after), (), passed_over)
    elif is_s3(fs):
        found = _list_s3(fs, pattern, uri, start_after)
    else:
        found = _list_generic(fs, pattern, uri, start_after)
    last, matches = _raw(end), pattern.matches
    for key in found:
        if end and _raw(key.name) > last:
            return
        if matches(key.name):
            yield key


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _walk_local(
    root: str,
    folder: str,
    pattern: Pattern,
    start_after: bytes,
    inside: tuple[tuple[int, int], ...],
    passed_over: PassedOver,
) -> Iterator[Key]:
    """Depth first, in the order of whole keys. Folders that lie before `start_after` are not entered. `inside`: device
    and inode of the folders that lead here."""
    here = os.stat(root + folder)
    inside = (*inside, (here.st_dev, here.st_ino))
    wanted = _raw(pattern.prefix)
    with os.scandir(root + folder) as entries:
        names = ((folder + e.name + ("/" if _is(e, folder=True) else ""), e) for e in entries)
        found = sorted((_raw(name), name, e) for name, e in names)
    for raw, name, entry in found:
        if name.endswith("/"):
            # Everything below sorts with `name` as its prefix: skip what cannot hold a key after start_after.
            may_match = raw.startswith(wanted) or wanted.startswith(raw)
            may_be_after = raw > start_after or start_after.startswith(raw)
            if (
                pattern.deep
                and may_match
                and may_be_after
                and not _is_met_elsewhere(root, folder, entry, pattern, inside)
            ):
                yield from _walk_local(root, name, pattern, start_after, inside, passed_over)
        elif raw > start_after and name.startswith(pattern.prefix):
            if _is(entry, folder=False):
                stat = entry.stat()
                yield Key(name, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size)
            elif pattern.matches(name):
                passed_over(name, BROKEN_LINK if entry.is_symlink() else NO_FILE)


def _is(entry: "os.DirEntry[str]", *, folder: bool) -> bool:
    """Whether it is, or links to, a folder (else a file); a link to itself, or to nothing, is neither."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _is_met_elsewhere(
    root: str, folder: str, entry: "os.DirEntry[str]", pattern: Pattern, inside: tuple[tuple[int, int], ...]
) -> bool:
    """Whether a folder need not be entered, because what it holds is listed under another name.

    That is so for a folder the walk is in already; for a link to one that holds the link; and, where all folders below
    `root` count alike, for a link to one of them. A glob such as `new*/*.jpg` may match the link and not its target.
    """
    found = entry.stat()
    if (found.st_dev, found.st_ino) in inside:
        return True
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    if pattern.everywhere and _holds(os.path.realpath(root), target):
        return True
    return _holds(target, os.path.realpath(root + folder))


def _holds(folder: str, path: str) -> bool:
    """By path components: `/a/b` holds `/a/b/c` and itself, not `/a/bc`."""
    return os.path.commonpath((folder, path)) == folder


def _list_s3(fs: Any, pattern: Pattern, uri: str, start_after: str) -> Iterator[Key]:
    bucket, _, folder = pattern.root.partition("/")
    query: dict[str, Any] = {"Bucket": bucket, "Prefix": folder + pattern.prefix}
    if not pattern.deep:
        query["Delimiter"] = "/"
    if start_after:
        query["StartAfter"] = folder + start_after
    attempts = FIRST_CONTACT_ATTEMPTS
    while True:
        page = call(uri, lambda: fs.call_s3("list_objects_v2", **query, **fs.req_kw), attempts=attempts)
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield Key(item["Key"][len(folder) :], item["ETag"].strip('"'), int(item["Size"]))
        if not page.get("IsTruncated"):
            return
        query["ContinuationToken"] = page["NextContinuationToken"]
        attempts = ATTEMPTS


def _list_generic(fs: Any, pattern: Pattern, uri: str, start_after: str) -> Iterator[Key]:
    """fsspec shows a tree only whole, so this one is not flat in memory."""
    depth = None if pattern.deep else 1
    found = call(uri, lambda: fs.find(pattern.root.rstrip("/"), maxdepth=depth, detail=True))
    root = pattern.root.strip("/") + "/"
    for path in sorted(found, key=_raw):
        name = path.lstrip("/")[len(root) :] if root != "/" else path.lstrip("/")
        if name.startswith(pattern.prefix) and _raw(name) > _raw(start_after):
            info = found[path]
            yield Key(name, etag_of(info), int(info.get("size") or 0))
