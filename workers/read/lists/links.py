"""What a list names: which images the rows of one of its units may have been made from."""

from collections.abc import Iterator
from typing import Any

from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.fields import BadField
from clipmill.workers.read.lists.lines import open_rows
from clipmill.workers.read.lists.manifest import row_of
from clipmill.workers.read.remote import BadUri, allowed_uri
from clipmill.workers.read.tables.columns import has_paths, is_text, link_names
from clipmill.workers.read.tables.lance_table import text_records
from clipmill.workers.store.storage import open_stream


def linked_uris(unit: WorkUnit, source: Source, storage: Storage) -> Iterator[str]:
    """Every URI that a column of text names in the unit's rows: those of a manifest's slice or of a parquet file's row
    groups. As the reader spells them, and only those that it would have opened. Raises what reading the list raises.
    """
    for record in _records(unit, source, storage):
        for value in record.values():
            if isinstance(value, dict):  # {bytes, path}
                value = value.get("path")
            if isinstance(value, str) and value.strip():
                try:
                    yield allowed_uri(value.strip(), unit.uri, source.images)
                except BadUri:
                    continue


def named_by(uri: str, source: Source, storage: Storage) -> Iterator[str]:
    """The pictures that the rows of the list at `uri` name, spelled as a listing spells them."""
    names = link_names(uri)
    with open_rows(uri, source, storage) as rows:
        for raw, _ in rows.raw():
            try:
                link = row_of(rows, raw, "", source, names).link
                if link and link.strip():
                    yield allowed_uri(link.strip(), uri, source.images)
            except BadUri:
                continue


def _records(unit: WorkUnit, source: Source, storage: Storage) -> Iterator[dict[str, Any]]:
    if unit.format in ("parquet", "lance"):
        yield from _parquet_records(unit, storage) if unit.format == "parquet" else text_records(unit, source, storage)
        return
    with open_rows(
        unit.uri, source, storage, start=int(unit.start or 0), end=int(unit.end) if unit.end else None
    ) as rows:
        for raw, _ in rows.raw():
            try:
                yield rows.record(raw)
            except BadField:
                continue


def _parquet_records(unit: WorkUnit, storage: Storage) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with open_stream(unit.uri, storage) as stream:
        file = pq.ParquetFile(stream, pre_buffer=False)
        texts = [f.name for f in file.schema_arrow if is_text(f.type)]
        texts += [f"{f.name}.path" for f in file.schema_arrow if has_paths(f.type)]
        groups = range(int(unit.start or 0), min(int(unit.end or file.num_row_groups), file.num_row_groups))
        for batch in file.iter_batches(1000, row_groups=list(groups), columns=texts, use_threads=False):
            yield from batch.to_pylist()
