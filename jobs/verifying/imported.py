"""Rows of files of vectors, counted again where those are still at hand: by their headers and footers, and by other
code than the importer's. A file that is gone or another one by now says nothing, and that is said."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from clipmill.jobs.table.originals import is_local, source_storage
from clipmill.jobs.table.tables import Tables, lance_module
from clipmill.jobs.verifying.report import Problems, Report
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text import words
from clipmill.schemas.unit.receipts import LedgerEntry
from clipmill.schemas.unit.units import IMPORTED
from clipmill.workers.store.storage import head, lance_options, open_stream
from clipmill.workers.store.uri import lance_address, split_uri

_PARQUET = (".parquet", ".parq", ".pq")
_GONE, _OTHER = "is gone or cannot be read", "is another file by now"


def check_imported(tables: Tables, alive: Sequence[LedgerEntry], report: Report, say: Problems) -> None:
    """What the files hold against what the ledger accounts for."""
    entries = [entry for entry in alive if entry.format == IMPORTED]
    if not entries:
        return
    storage, reaches_disk = source_storage(tables), is_local(tables)
    compared = 0
    unread: dict[str, list[str]] = {}
    for entry in entries:
        if split_uri(entry.uri)[0] == "file" and not reaches_disk:
            unread.setdefault("lies on a disk, which a table in a store does not reach", []).append(entry.uri)
            continue
        rows, why = _rows(entry, storage)
        if rows is None:
            unread.setdefault(why, []).append(entry.uri)
            continue
        compared += 1
        if rows != entry.seen:
            held = words.counted(rows, "row")
            part = f" fragment {entry.start}" if entry.start else ""
            say("source", f"{entry.uri}{part} holds {held}, the ledger accounts for {entry.seen:,}")
    report.source_units = (report.source_units or 0) + compared
    for why, uris in unread.items():
        others = f" and {len(uris) - 1:,} more" if len(uris) > 1 else ""
        report.not_checked.append(f"the rows of imported files: {uris[0]}{others} {why}")


def _rows(entry: LedgerEntry, storage: Storage) -> tuple[int | None, str]:
    """(rows of the unit's file, or None and why)."""
    try:
        if entry.start:
            return _of_fragment(entry, storage)
        return (_of_parquet if entry.uri.lower().endswith(_PARQUET) else _of_matrix)(entry, storage)
    except (ClipmillError, OSError, ValueError, pa.ArrowException):
        return None, _GONE


def _of_parquet(entry: LedgerEntry, storage: Storage) -> tuple[int | None, str]:
    import pyarrow.parquet as pq

    if head(entry.uri, storage).etag != entry.etag:
        return None, _OTHER
    with open_stream(entry.uri, storage, expected_etag=entry.etag) as stream:
        return int(pq.ParquetFile(stream, pre_buffer=False).metadata.num_rows), ""


def _of_matrix(entry: LedgerEntry, storage: Storage) -> tuple[int | None, str]:
    """clip-retrieval's, of which a unit is the matrix with its metadata, and with that of the texts where it was."""
    from numpy.lib import format as npy

    matrix = head(entry.uri, storage)
    beside = [re.sub(r"img_emb/img_emb(_\w+)\.npy$", pattern, entry.uri) for pattern in _BESIDE]
    etags = [matrix.etag, head(beside[0], storage).etag]
    if not _is(etags, entry) and not _is([*etags, head(beside[1], storage).etag], entry):
        return None, _OTHER
    with open_stream(entry.uri, storage, expected_etag=matrix.etag) as stream:
        major = npy.read_magic(stream)[0]
        shape: tuple[int, ...] = (npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0)(stream)[0]
    return int(shape[0]), ""


_BESIDE = (r"metadata/metadata\1.parquet", r"text_emb/text_emb\1.npy")


def _is(etags: list[str], entry: LedgerEntry) -> bool:
    return hashlib.sha256(json.dumps(etags).encode()).hexdigest()[:32] == entry.etag


def _of_fragment(entry: LedgerEntry, storage: Storage) -> tuple[int | None, str]:
    """Of the version that was imported, while it is there."""
    version = int(entry.end)
    dataset: Any = lance_module().dataset(
        lance_address(entry.uri), version=version, storage_options=lance_options(entry.uri, storage) or None
    )
    return int(dataset.get_fragment(int(entry.start)).count_rows()), ""
