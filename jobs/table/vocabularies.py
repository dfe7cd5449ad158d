"""The vocabulary that a table's tags were made with, where it can be found again. The table holds its name and hash
only, and is somebody else's word: what it names is opened as a table in that place may ask for it, and believed where
the hash is right."""

import os

import pyarrow as pa

from clipmill.jobs.table import compat
from clipmill.jobs.table.originals import STORES, is_local
from clipmill.jobs.table.runs import last_job
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.vocabulary import Vocabulary
from clipmill.workers.store.uri import split_uri


def vocabulary_of(tables: Tables, schema: pa.Schema, column: str = "tags") -> Vocabulary | None:
    """Built in, as `retag` noted it, or as the last job names it. A file on this disk is opened only for a table on
    this disk, one in a store only from an object store, and a pipe never. None where the table has none, and where it
    is not found here or was changed since."""
    from clipmill.workers.tag import BUILT_IN, load_vocabulary

    stored = compat.stored_vocabulary(schema, column)
    if stored is None:
        return None
    named = (last_job(tables).get("tags") or {}).get("vocabulary")
    for name in dict.fromkeys(n for n in (stored["name"], stored.get("file"), named) if isinstance(n, str)):
        scheme, path = split_uri(name)
        is_file = scheme == "file" and is_local(tables) and os.path.isfile(path)
        if name not in BUILT_IN and not is_file and scheme not in STORES:
            continue
        try:
            found = load_vocabulary(name, tables.storage)
        except (ClipmillError, OSError):
            continue
        if found.hash == stored["hash"]:
            return found
    return None
