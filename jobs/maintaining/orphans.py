"""Files of a table that no version of it names: what killed workers, compactions and index builds left behind.

Lance removes such files when they are a week old, because it cannot know who is still at work. Under the lease more is
known: no run of clipmill is, so a day is enough for other clients. A file is an orphan if it is in no manifest of any
version, tagged or not, in no checkpoint of an index build, and older than a day by the store's own clock.

Memory holds the names that the newest version does not know, and one version's manifest at a time.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clipmill.jobs.table.tables import Tables
from clipmill.workers.store.storage import get_bytes, list_objects
from clipmill.workers.store.sweep import modified_s
from clipmill.workers.store.uri import split_uri

DAY_S = 86_400.0
FOLDERS = ("data", "_deletions", "_indices")
_CACHE_BYTES = 4_000_000
_MAX_CHECKPOINT_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file that no version of the table names."""

    uri: str
    size_bytes: int


def orphans(
    tables: Tables, part: str, *, now_s: float, older_than_s: float = DAY_S, folders: tuple[str, ...] = FOLDERS
) -> list[Orphan]:
    """Of one of the tables, by uri. Reads only. `now_s`: see `store_clock_s`. Nothing where the table has branches:
    their manifests lie elsewhere, and may name any file."""
    newest = tables.open(part, cache_bytes=_CACHE_BYTES)
    if newest.branches.list():
        return []
    known = named(newest, folders) | _in_checkpoints(tables, part)
    suspects = {
        name: one
        for folder in folders
        for one in _listed(tables, part, folder)
        if (name := _name(one.uri, folder)) not in known
    }
    suspects = {name: one for name, one in suspects.items() if _age_s(tables, one, now_s) > older_than_s}
    for version in newest.versions():
        if not suspects:
            break
        try:
            older = tables.open(part, version=int(version["version"]), cache_bytes=_CACHE_BYTES)
        except (OSError, ValueError):  # somebody's cleanup took it meanwhile; what it named is named by nobody now
            continue
        for name in named(older, folders):
            suspects.pop(name, None)
    # Several files of an index lie under one name, so the listing is gone through again for those.
    return sorted(_whole(tables, part, set(suspects), folders), key=lambda one: one.uri)


def store_clock_s(tables: Tables) -> float:
    """The time of the newest version's manifest as the store dated it. Just after a commit of our own that is now, by
    the clock that dates the files too; later it is too early, so that fewer files look old."""
    version = int(tables.open().version)
    for name in (f"{2**64 - 1 - version:020}.manifest", f"{version}.manifest"):  # Lance's newer and older naming
        try:
            return modified_s(f"{tables.place()}/_versions/{name}", tables.storage)
        except FileNotFoundError:
            continue
    return 0.0


def named(dataset: Any, folders: tuple[str, ...]) -> set[str]:
    """Files and index folders that a version needs, as `folder/name`."""
    found: set[str] = set()
    for fragment in dataset.get_fragments():
        metadata = fragment.metadata
        found.update(f"data/{file.path}" for file in metadata.files)
        if metadata.deletion_file is not None:
            found.add("_deletions/" + fragment.deletion_file().rpartition("/")[2])
    if "_indices" in folders:
        for index in dataset.describe_indices():
            found.update(f"_indices/{segment.uuid}" for segment in index.segments)
    return found


def _in_checkpoints(tables: Tables, part: str) -> set[str]:
    """Segments of an index build that was killed and can go on: finished, named by the checkpoint, in no version. One
    that is damaged begins anew, so nothing is kept for it."""
    found: set[str] = set()
    for one in _listed(tables, part, "_clipmill"):
        if not one.uri.endswith(".json"):
            continue
        content = get_bytes(one.uri, tables.storage, max_bytes=_MAX_CHECKPOINT_BYTES)
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
            found.update(f"_indices/{json.loads(text)['uuid']}" for text in json.loads(content)["segments"].values())
    return found


def _listed(tables: Tables, part: str, folder: str) -> Iterator[Orphan]:
    place = f"{tables.place(part)}/{folder}/"
    scheme, path = split_uri(place)
    if scheme == "file" and not os.path.isdir(path):
        return  # as a store has it, where a folder without objects is none
    for one in list_objects(place, tables.storage):
        yield Orphan(one.uri, one.size_bytes)


def _name(uri: str, folder: str) -> str:
    """`data/<file>`, `_deletions/<file>` or `_indices/<uuid>`: what a manifest names."""
    below = uri.rpartition(f"/{folder}/")[2]
    return f"{folder}/{below.partition('/')[0] if folder == '_indices' else below}"


def _whole(tables: Tables, part: str, names: set[str], folders: tuple[str, ...]) -> Iterator[Orphan]:
    for folder in folders:
        if any(name.startswith(f"{folder}/") for name in names):
            yield from (one for one in _listed(tables, part, folder) if _name(one.uri, folder) in names)


def _age_s(tables: Tables, one: Orphan, now_s: float) -> float:
    try:
        return now_s - modified_s(one.uri, tables.storage)
    except FileNotFoundError:
        return -1.0
