"""The list of ids as a file, by its ending, and the tag on the version that it was made from."""

import json
import re

import pyarrow as pa

from clipmill.jobs.querying.lists import ENDINGS, write_ids
from clipmill.jobs.querying.open import Table
from clipmill.jobs.selecting.selection import Selection
from clipmill.jobs.table.errors import writing
from clipmill.jobs.table.live import PREVIOUS
from clipmill.jobs.table.readers import LIVE, tags_of
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage

METADATA_KEY = b"clipmill.selection"  # of the parquet file's schema: JSON {table, version, recipe, recipe_hash}
_TAG = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?")


def check_out(to: str) -> str:
    """Raises UserError for a name whose ending says no format."""
    if not to.endswith(ENDINGS):
        raise UserError(f"--out {to} ends in none of {', '.join(ENDINGS)}", "such as --out ids.parquet")
    return to


def write_list(found: Selection, to: str, storage: Storage) -> None:
    """Whole or not at all. Raises UserError where an id cannot stand on a line of a .txt."""
    check_out(to)
    write_ids(_stamped(found) if to.endswith(".parquet") else found.rows, to, storage)


def _stamped(found: Selection) -> pa.Table:
    said = found.report
    about = {
        "table": said.table,
        "version": said.version,
        "table_id": said.table_id,
        "recipe": said.recipe,
        "recipe_hash": said.recipe_hash,
    }
    return found.rows.replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})


def check_tag(table: Table, name: str) -> None:
    """Raises UserError for a name that cannot be one, is clipmill's own, or names another version."""
    if not _TAG.fullmatch(name) or ".." in name or name.endswith(".lock") or len(name) > 100:
        raise UserError(f"'{name}' is no name of a tag", "letters, digits, _, - and single dots, such as clean-2026-11")
    if name.isdigit():
        raise UserError(f"the tag '{name}' would be read as the number of a version", f"such as v{name}")
    if name in (LIVE, PREVIOUS) or name.startswith("clipmill-"):
        raise UserError(f"the tag '{name}' is clipmill's own", "choose another name")
    there = tags_of(Tables.at(table.uri, table.storage).open()).get(name)
    if there is not None and int(there["version"]) != table.version:
        raise UserError(
            f"the tag '{name}' of {table.uri} is on version {there['version']}, and this is version {table.version}",
            "choose another name: a tag that data sets were made by does not move",
        )


def set_tag(table: Table, name: str) -> None:
    """On the version that is open; nothing where it is there. Maintenance keeps what a tag names."""
    check_tag(table, name)
    tables = Tables.at(table.uri, table.storage)
    rows = tables.open()
    if name in tags_of(rows):
        return
    try:
        with writing(tables.rows):
            rows.tags.create(name, table.version)
    except (OSError, ValueError, RuntimeError) as error:
        text = str(error)
        if "not found" in text.lower() or "does not exist" in text.lower():
            raise UserError(
                f"version {table.version} of {table.uri} is not there any more, so it cannot be tagged",
                "maintenance removed it: run this again on the newest version",
            ) from None
        check_tag(table, name)  # somebody made the same tag meanwhile
        if name not in tags_of(tables.open()):
            raise
