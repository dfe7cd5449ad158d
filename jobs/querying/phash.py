"""Which rows look the same: an exact scan of the perceptual hashes, by their distance in bits.

Memory is a batch of hashes and the hits. A million rows take a fifth of a second (docs/querying.md).
B: rows of a batch.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.querying import deadline, filters
from clipmill.jobs.querying.encoder import QUERY_LIMITS, image_bytes, unusable
from clipmill.jobs.querying.request import Examples
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.schemas.columns import PHASH, has_phash
from clipmill.schemas.errors import UserError
from clipmill.schemas.installed import not_installed
from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.samples import BadImage

BITS = 64
DEFAULT_DISTANCE = 8  # scaled and compressed copies of photographs differ by 4 at most, cropped by 1 % a side by 8
DISTANCE = "phash_distance"
_HEX = re.compile(r"[0-9a-f]{16}")
_NUMBER = re.compile(r"-?(\d{1,20}|\d{1,3}(,\d{3}){1,6})")  # of the column, also as a search prints it
_BATCH_ROWS = 65_536

Hashes = npt.NDArray[np.uint64]


def check_hashes(snapshot: Snapshot, *, otherwise: str = "") -> None:
    """Raises UserError where the table has none. `otherwise`: what can be done without."""
    if not has_phash(snapshot.schema):
        raise UserError(
            "the table has no perceptual hashes", f"`phash: true` in the job file of a new table makes them{otherwise}"
        )


def hash_of(snapshot: Snapshot, asked: Any, storage: Storage) -> int:
    """The hash that is meant: of the row with this id, else 16 hex digits, a number, or a picture as `image` of a
    search takes it. `Examples` with one id mean that row and never a file. Raises UserError."""
    check_hashes(snapshot)
    if isinstance(asked, Examples):
        if len(asked) != 1 or not asked.ids:
            raise UserError(
                "Examples of a search by perceptual hash are one id and nothing else",
                "ask once for each; a picture or a hash is given as it is",
            )
        found = _of_row(snapshot, *asked.ids)
        if found is None:
            raise UserError(f"there is no row with id {asked.ids[0]!r}", "ids are exact; list some with a search")
        return found
    if isinstance(asked, int | np.integer) and not isinstance(asked, bool):
        return _signed(int(asked))
    if isinstance(asked, str):
        found = _of_row(snapshot, asked)
        if found is not None:
            return found
        if _HEX.fullmatch(asked):
            return _signed(int(asked, 16))
        if "://" not in asked and not Path(asked).is_file():
            if _NUMBER.fullmatch(asked):
                return _signed(int(asked.replace(",", "")))
            raise UserError(f"{asked!r} is no id of a row and no file", "give an id, a picture, or a hash of 16 digits")
    return _of_picture(image_bytes(asked, storage=storage))


def _of_row(snapshot: Snapshot, row_id: str) -> int | None:
    """None where there is no such row."""
    where = filters.ids_predicate([row_id])
    found = snapshot.dataset.scanner(columns=[PHASH.name], filter=where).to_table()[PHASH.name].to_pylist()
    if found and found[0] is None:
        raise UserError(
            f"the row {row_id!r} has no perceptual hash", "search by its picture instead: a file or address"
        )
    return int(found[0]) if found else None


def _signed(value: int) -> int:
    """As the column has it; an unsigned number means the same bits."""
    if not -(1 << 63) <= value < 1 << 64:
        raise UserError(f"{value} has more than {BITS} bits", "give a perceptual hash: a number, or 16 hex digits")
    return value - (1 << 64) if value >= 1 << 63 else value


def _of_picture(image: bytes) -> int:
    try:
        from clipmill.workers.decode.phash import phash
        from clipmill.workers.decode.picture import decode
    except ModuleNotFoundError as error:  # the client alone decodes nothing
        raise not_installed(error, "a search by a picture") or error from None
    try:
        return phash(decode(image, QUERY_LIMITS, target_px=None))
    except BadImage as bad:
        raise unusable(bad, QUERY_LIMITS) from None


def distances_to(phash: int, hashes_B: Hashes) -> npt.NDArray[np.uint8]:
    """In bits."""
    found_B: npt.NDArray[np.uint8] = np.bitwise_count(hashes_B ^ np.uint64(phash & (2**BITS - 1)))
    return found_B


def hashes(snapshot: Snapshot, predicate: str | None) -> Iterator[tuple[npt.NDArray[np.uint64], Hashes]]:
    """Row ids and hashes of the rows that pass and have one, in batches."""
    scanner = snapshot.dataset.scanner(
        columns=[PHASH.name], filter=predicate, with_row_id=True, batch_size=_BATCH_ROWS, batch_readahead=2
    )
    with filters.filter_errors(predicate):
        for batch in scanner.to_batches():
            deadline.check()
            stored = batch.column(PHASH.name)
            there_B = np.asarray(stored.is_valid())
            values_B = stored.fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
            yield batch.column(ROW_ID).to_numpy()[there_B], values_B[there_B]


def nearest(snapshot: Snapshot, phash: int, max_distance: int, depth: int, predicate: str | None) -> pa.Table:
    """Row ids and distances, nearest first, of equal ones by row id: columns _rowid uint64 and phash_distance int32;
    `depth` rows or fewer."""
    if not 0 <= max_distance <= BITS:
        raise UserError(f"a distance of {max_distance} bits is not from 0 to {BITS}", "0 is the same hash, 8 is near")
    ids_M, distances_M = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
    least = max_distance
    for ids_B, hashes_B in hashes(snapshot, predicate):
        distances_B = distances_to(phash, hashes_B)
        near_B = distances_B <= least
        if not near_B.any():
            continue
        ids_M = np.concatenate([ids_M, ids_B[near_B]])
        distances_M = np.concatenate([distances_M, distances_B[near_B]])
        if len(ids_M) > depth:
            best = np.lexsort((ids_M, distances_M))[:depth]
            ids_M, distances_M = ids_M[best], distances_M[best]
            least = int(distances_M[-1])  # an equal one with a lower row id may come yet
    order = np.lexsort((ids_M, distances_M))
    return pa.table({ROW_ID: ids_M[order], DISTANCE: pa.array(distances_M[order].astype(np.int32))})
