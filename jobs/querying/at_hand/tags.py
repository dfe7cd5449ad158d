"""Which rows have a tag, at hand: of a million rows Lance takes 5 to 15 ms of CPU to count and to name those that have
any of some tags, or none; from here it is 0.6 to 1.5 (by hand, 2026-11-29, beside other work).

N: rows, in the places of the vectors at hand. E: entries, one for each tag of each row. L: labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying.at_hand.marked import Marks

COLUMN = "tags"
MAX_LABELS = 1 << 16
_BATCH = 65_536  # rows
_ROOM = 45  # bytes that a tag of a row takes while they are sorted (41 by hand, 6 million tags); 4 of them are kept


class HeldTags:
    """Of a label, where its places begin and end in `places_E`. `elsewhere`: ids of the rows without a vector, whose
    places come behind the others. Memory: 4 bytes for each tag of a row. Immutable."""

    def __init__(
        self,
        of_label: dict[str, tuple[int, int]],
        places_E: npt.NDArray[np.uint32],
        rows: int,
        elsewhere: npt.NDArray[np.uint64],
    ) -> None:
        self._of_label, self._places_E, self._rows, self.elsewhere = of_label, places_E, rows, elsewhere

    @property
    def nbytes(self) -> int:
        return self._places_E.nbytes + self.elsewhere.nbytes + sum(200 + len(label) for label in self._of_label)

    def marks(self, any_of: Sequence[str], all_of: Sequence[str], none_of: Sequence[str]) -> Marks:
        """(rows,): whether a row has any of these, where there are some, and all of those, and none of the last. A row
        without tags has none of any."""
        found_N: Marks = self._having(any_of) if any_of else np.ones(self._rows, np.bool_)
        for label in all_of:
            found_N &= self._having((label,))
        if none_of:
            found_N &= ~self._having(none_of)
        return found_N

    def _having(self, labels: Sequence[str]) -> Marks:
        found_N = np.zeros(self._rows, np.bool_)
        for label in labels:
            start, stop = self._of_label.get(label, (0, 0))
            found_N[self._places_E[start:stop]] = True
        return found_N


def load(dataset: Any, row_ids_N: npt.NDArray[np.uint64], max_bytes: int) -> HeldTags | None:
    """Read the tags once. `row_ids_N`: of the places. None where they are more than `max_bytes`, and for what is no
    list of strings without nulls."""
    if COLUMN not in dataset.schema.names or not _is_tags(dataset.schema.field(COLUMN).type):
        return None
    codes: dict[str, int] = {}
    order_N = np.argsort(row_ids_N, kind="stable")
    sorted_N, rows, left = row_ids_N[order_N], len(row_ids_N), max_bytes
    code_parts, place_parts = [np.empty(0, np.uint16)], [np.empty(0, np.uint32)]
    elsewhere = [row_ids_N[:0]]
    for batch in dataset.scanner(columns=[COLUMN], with_row_id=True, batch_size=_BATCH).to_batches():
        lists, row_ids_B = batch.column(COLUMN), batch.column("_rowid").to_numpy()
        left -= len(lists.flatten()) * _ROOM
        coded = _coded(lists, codes) if left >= 0 else None
        if coded is None:
            return None
        place_B = _places(row_ids_B, sorted_N, order_N)
        unplaced = np.flatnonzero(place_B < 0)
        place_B[unplaced] = rows + np.arange(len(unplaced))
        rows += len(unplaced)
        elsewhere.append(row_ids_B[unplaced])
        code_parts.append(coded)
        tags_B = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
        place_parts.append(np.repeat(place_B.astype(np.uint32), tags_B))
    codes_E = np.concatenate(code_parts)
    places_E = np.concatenate(place_parts)[np.argsort(codes_E, kind="stable")]
    ends = np.cumsum(np.bincount(codes_E, minlength=len(codes))).tolist()
    of_label = {label: (ends[code - 1] if code else 0, ends[code]) for label, code in codes.items()}
    return HeldTags(of_label, places_E, rows, np.concatenate(elsewhere))


def _places(
    row_ids_B: npt.NDArray[np.uint64], sorted_N: npt.NDArray[np.uint64], order_N: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """-1 for a row without one."""
    if not len(sorted_N):
        return np.full(len(row_ids_B), -1, np.intp)
    found_B = np.minimum(np.searchsorted(sorted_N, row_ids_B), len(sorted_N) - 1)
    return np.where(sorted_N[found_B] == row_ids_B, order_N[found_B], -1)


def _coded(lists: Any, codes: dict[str, int]) -> npt.NDArray[np.uint16] | None:
    """The number of each tag; those of new labels go into `codes`. None where there are too many, or nulls."""
    flat = lists.flatten()
    if flat.null_count:
        return None
    coded = flat.dictionary_encode()
    number_L = [codes.setdefault(label, len(codes)) for label in coded.dictionary.to_pylist()]
    if len(codes) > MAX_LABELS:
        return None
    coded_E: npt.NDArray[np.uint16] = np.asarray(number_L, np.uint16)[coded.indices.to_numpy()]
    return coded_E


def _is_tags(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_string(kind.value_type))
