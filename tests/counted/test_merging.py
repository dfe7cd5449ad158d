"""What merging an index's segments holds at once, of whatever size the index is: some partitions of them."""

import re
from pathlib import Path

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from clipmill.jobs.indexing import segments
from clipmill.jobs.indexing.plan import VectorPlan
from clipmill.jobs.querying.vectors import normalise
from clipmill.jobs.table import memory
from clipmill.jobs.table.tables import Tables

pytestmark = [pytest.mark.counted, pytest.mark.slow]

ROWS, DIM, BITS, PARTITIONS = 30_000, 1536, 5, 640
# Of the codes' 29 MB. 49 to 51 MB were seen, and 92 where Lance reads as many at once as it does by itself.
MOST_BYTES = 70_000_000


def resident_bytes(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_an_index_is_merged_some_partitions_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(dataset: object, column: str, num_partitions: int, hold: object) -> npt.NDArray[np.float32]:
        return normalise(numbers[:num_partitions].astype(np.float32))  # to train them would take minutes

    monkeypatch.setattr(segments, "all_centroids", drawn)
    grown: list[int] = []

    def measured(dataset: lance.LanceDataset, built: list[object]) -> object:
        memory.give_back()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident_bytes("VmRSS")
        segment = merge(dataset, built)
        grown.append(resident_bytes("VmHWM") - before)
        return segment

    merge = lance.LanceDataset.merge_existing_index_segments
    monkeypatch.setattr(lance.LanceDataset, "merge_existing_index_segments", measured)
    rng = np.random.default_rng(0)
    for _ in range(2):
        numbers = rng.standard_normal((ROWS // 2, DIM), np.float32).astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), DIM)
        lance.write_dataset(pa.table({"vector": column}), f"{tmp_path}/images.lance", mode="append")
    memory.use_little()
    tables = Tables.at(f"{tmp_path}/images")
    builder = segments.Builder(tables=tables, rows_per_segment=ROWS // 2, run=segments.in_turn, tell=print)
    plan = VectorPlan(kind="IVF_RQ", num_partitions=PARTITIONS, bits=BITS)
    assert segments.build_in_segments(lance.dataset(f"{tmp_path}/images.lance"), "vector", plan, builder) == 2
    assert len(grown) == 1
    assert grown[0] < MOST_BYTES, f"{grown[0]:,} bytes"
