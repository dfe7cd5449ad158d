"""The vocabulary that a table's tags were made with, where it can be found again. The table holds its name and hash
only, and is somebody else's word: what it names is opened as a table in that place may ask for it, and believed where
the hash is right."""

import os
from typing import Any

import pyarrow as pa

from clipmill.jobs.table import compat
from clipmill.jobs.table.originals import STORES, is_local
from clipmill.jobs.table.runs import last_job
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import set_column, sets_in, vocabularies_in
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.workers.store.uri import split_uri


def vocabulary_of(tables: Tables, schema: pa.Schema, column: str = "tags") -> Vocabulary | None:
    """Built in, as `retag` noted it, or as the last job names it. A file on this disk is opened only for a table on
    this disk, one in a store only from an object store, and a pipe never. None where the table has none, and where it
    is not found here or was changed since."""
    stored = compat.stored_vocabulary(schema, column)
    if stored is None:
        return None
    for name in dict.fromkeys(n for n in (stored["name"], stored.get("file"), _named(tables)) if isinstance(n, str)):
        found = _opened(tables, name)
        if found is not None and found.hash == stored["hash"]:
            return found
    return None


def _named(tables: Tables) -> Any:
    """By the last job."""
    return (last_job(tables).get("tags") or {}).get("vocabulary")


def may_open(tables: Tables, name: str) -> bool:
    """May a file that the table names be opened: on this disk for a table on this disk, in a store always; no pipe."""
    scheme, path = split_uri(name)
    return scheme in STORES or (scheme == "file" and is_local(tables) and os.path.isfile(path))


def _opened(tables: Tables, name: str) -> Vocabulary | None:
    from clipmill.workers.tag import BUILT_IN, load_vocabulary

    if name not in BUILT_IN and not may_open(tables, name):
        return None
    try:
        return load_vocabulary(name, tables.storage)
    except (ClipmillError, OSError):
        return None


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Columns of tags -> the vectors they are of: those in use, of further vocabularies beside, of sets beside."""
    found = {"tags": "vector"} | {set_column("tags", slug): "vector" for slug in vocabularies_in(schema)}
    return found | {
        set_column("tags", slug): set_column("vector", slug)
        for slug in sets_in(schema)
        if set_column("tags", slug) in schema.names
    }


def all_vocabularies(tables: Tables, rows: Any) -> list[dict[str, Any]]:
    """Of every column of tags: which vocabulary, how many rows lack them, and what is not as it should be."""
    schema = rows.schema
    found = []
    for column, vector in columns_of(schema).items():
        stored = compat.stored_vocabulary(schema, column)
        if stored is None:
            continue
        found.append(
            {
                "column": column,
                "vocabulary": stored["name"],
                "hash": stored["hash"],
                "thresholds": compat.stored_thresholds(stored),
                "left": int(rows.count_rows(f"{column} IS NULL AND {vector} IS NOT NULL")),
                "note": _note(tables, schema, column.partition("__")[2], stored),
            }
        )
    return found


def _note(tables: Tables, schema: pa.Schema, slug: str, stored: dict[str, Any]) -> str:
    """Empty where the hash is the one it should be, or nobody can say."""
    if slug in sets_in(schema):
        in_use = compat.stored_vocabulary(schema)
        differs = in_use is not None and in_use["hash"] != stored["hash"]
        return f"another vocabulary than that of `tags`, '{in_use['name']}'" if differs and in_use else ""
    again = f"clipmill retag TABLE --vocabulary FILE{' --as ' + slug if slug else ''}"
    if slug and not compat.tags_of_model(schema, set_column("tags", slug), compat.stored_fingerprint(schema)):
        return f"nothing says that they are of the model in use, so new rows get none: {again}"
    file = stored.get("file")
    mine = _opened(tables, file) if isinstance(file, str) else None
    if mine is not None and mine.hash != stored["hash"]:
        return f"its file {file} has other labels or templates now: {again}"
    named = None if slug else _named(tables)
    theirs = _opened(tables, named) if isinstance(named, str) else None
    if theirs is not None and theirs.hash != stored["hash"]:
        return f"the last job names the vocabulary {named}, which is another: {again}"
    return ""
