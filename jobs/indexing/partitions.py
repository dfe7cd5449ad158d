"""Which partition each row goes into, found here and handed to Lance.

Lance 13 finds it by itself too, one distance after the other where vectors are float16: of 200,000 rows of 512 and 976
partitions that was some 90 of the 103 s of CPU that a segment took; a matrix product takes 4 (by hand, 2026-11-29, an
EPYC of family 25). Partitions hold the same but for rows between two: nine or some more of 20,000 random ones.

N: rows of a block. P: partitions. D: dimension.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.indexing.kmeans import Held, Hold, OnCpu
from clipmill.jobs.querying.snapshot import ROW_ID
from clipmill.jobs.querying.vectors import as_rows, batches_of
from clipmill.jobs.table.tables import lance_module
from clipmill.schemas.errors import UserError

_SCHEMA = pa.schema([pa.field("row_id", pa.uint64()), pa.field("partition", pa.uint32())])  # as Lance reads it


@contextlib.contextmanager
def assigned(
    dataset: Any,
    column: str,
    centroids_PD: npt.NDArray[np.float32],
    fragment_ids: Sequence[int] | None = None,
    *,
    hold: Hold = OnCpu,
) -> Iterator[dict[str, str]]:
    """What to call Lance's index with: a table of row ids and partitions of these fragments, or of all, on this disk,
    12 bytes a row, gone when the block ends. Rows without a direction are not in it, nor in the index then. Where no
    row has one Lance is told nothing, because it refuses an empty table."""
    with temporary_folder() as folder:
        path = str(Path(folder) / "partitions.lance")
        rows = pa.RecordBatchReader.from_batches(_SCHEMA, _rows(dataset, column, hold(centroids_PD), fragment_ids))
        written = lance_module().write_dataset(rows, path, max_rows_per_file=1 << 31)  # Lance wants a single file
        yield {"precomputed_partition_dataset": path} if written.count_rows() else {}


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """In TMPDIR as it is, whatever else Python would take instead: Lance takes no other, and panics without."""
    try:
        return tempfile.TemporaryDirectory(prefix="clipmill-", dir=os.environ.get("TMPDIR") or None)
    except OSError as error:
        raise UserError(
            f"an index needs a temporary folder, and none can be made: {error.strerror or error}", "set TMPDIR to one"
        ) from error


def _rows(dataset: Any, column: str, centroids: Held, fragment_ids: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
    dim = dataset.schema.field(column).type.list_size
    for batch in batches_of(dataset, column, fragment_ids=fragment_ids):
        ids_N = batch.column(ROW_ID).to_numpy()[np.asarray(batch.column(column).is_valid())]
        rows_ND = as_rows(pa.chunked_array([batch.column(column)]), dim)
        length_N = np.einsum("nd,nd->n", rows_ND, rows_ND)
        good_N = np.isfinite(length_N) & (length_N > 0)
        partition_N = centroids.nearest(rows_ND[good_N]).astype(np.uint32)
        yield pa.RecordBatch.from_arrays([pa.array(ids_N[good_N]), pa.array(partition_N)], schema=_SCHEMA)
