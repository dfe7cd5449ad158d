"""Whether the files that a table's manifest names are there, whole. Two listings a table; no file is opened."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.report import Problems
from clipmill.workers.store.storage import list_objects
from clipmill.workers.store.uri import split_uri

SIDE = ("units", "rejects", "runs")
_TITLES = {"units": "the ledger", "rejects": "the rejects", "runs": "the runs", "deleted": "the tombstones"}


def check_files(tables: Tables, part: str, dataset: Any, say: Problems) -> list[Any]:
    """The fragments of the rows or of a table beside them whose files are all there; names what is missing or cut."""
    title = _TITLES.get(part, "the table")
    data = _sizes(tables, part, "data")
    deletions = _sizes(tables, part, "_deletions")
    whole = []
    for fragment in dataset.get_fragments():
        problem = ""
        for file in fragment.metadata.files:
            problem = problem or _problem(f"data file {file.path}", data.get(file.path), file.file_size_bytes)
        if fragment.metadata.deletion_file is not None:
            name = fragment.deletion_file().rpartition("/")[2]
            problem = problem or _problem(f"deletion file {name}", deletions.get(name), None)
        if problem:
            say("files", f"{title}: {problem}")
        else:
            whole.append(fragment)
    return whole


def index_bytes(tables: Tables) -> Counter[str]:
    """Bytes that are there by uuid of an index's segment."""
    found: Counter[str] = Counter()
    for uri, size in _list(tables, "", "_indices"):
        found[uri.split("/_indices/", 1)[1].partition("/")[0]] += size
    return found


@contextlib.contextmanager
def readable(what: str, say: Problems) -> Iterator[None]:
    """What cannot be read is a problem with a name, not a traceback."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        say("files", f"{what} cannot be read: {' '.join(str(error).split())[:200]}")


def _problem(name: str, there: int | None, stated: int | None) -> str:
    if there is None:
        return f"{name} is gone"
    return f"{name} has {there:,} bytes of {stated:,}" if stated and there != stated else ""


def _sizes(tables: Tables, part: str, folder: str) -> dict[str, int]:
    return {uri.rpartition("/")[2]: size for uri, size in _list(tables, part, folder)}


def _list(tables: Tables, part: str, folder: str) -> Iterator[tuple[str, int]]:
    place = f"{tables.place(part)}/{folder}/"
    scheme, path = split_uri(place)
    if scheme == "file" and not os.path.isdir(path):
        return  # as a store has it, where a folder without objects is none
    for item in list_objects(place, tables.storage):
        yield item.uri, item.size_bytes
