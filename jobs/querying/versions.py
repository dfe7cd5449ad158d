"""The version of a table that is read."""

from clipmill.jobs.querying.newer import Newer
from clipmill.jobs.querying.snapshot import Snapshot
from clipmill.jobs.table.memory import available_bytes
from clipmill.jobs.table.readers import FENCE_TAG, LIVE, tags_of
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage

_INDEX_BYTES = 6 << 30  # of indices that Lance may keep, which is its default, or half of what is free


def open_snapshot(uri: str, version: int | str | None, storage: Storage) -> Snapshot:
    """`version`: a number, a tag, or None for `live` where that tag exists and else the newest. Raises UserError."""
    free = available_bytes()
    index_bytes = _INDEX_BYTES if free is None else min(_INDEX_BYTES, free // 2)
    dataset = Tables.at(uri, storage).open(index_bytes=index_bytes)
    tags = tags_of(dataset)
    wanted = version if version is not None else LIVE if LIVE in tags else None
    if wanted is None or wanted == dataset.version:
        return Snapshot(dataset)
    number = tags[wanted]["version"] if wanted in tags else wanted
    try:
        if isinstance(number, int):
            found = dataset.checkout_version(number)
            added = frozenset(dataset.schema.names) - frozenset(found.schema.names)
            return Snapshot(found, Newer(dataset.version, added))
    except (ValueError, OSError) as error:
        if "not found" not in str(error).lower() and "does not exist" not in str(error).lower():
            raise
    raise UserError(
        f"the table {uri} has no version {wanted}",
        f"newest: {dataset.version}; tags: {', '.join(sorted(set(tags) - {FENCE_TAG})) or 'none'}",
    )
