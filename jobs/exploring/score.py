"""`clipmill score TABLE --head FILE`: a linear head on the stored vectors, as a column. No images, no GPU.

The aesthetic predictors of LAION are such heads: score = weight . vector + bias, on unit-length CLIP vectors.
N: rows of a fragment. D: dimension.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import FINGERPRINT_KEY
from clipmill.schemas.config import Storage
from clipmill.schemas.errors import UserError

MAX_HEAD_BYTES = 50_000_000
HEAD_KEY = b"clipmill.head"  # field metadata of a score column: JSON {file, sha256, vector}
FENCED_RETRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """`weight_D` float32, `sha256` of the file."""

    weight_D: npt.NDArray[np.float32]
    bias: float
    file: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """`rows`: scored now. `without_vector`: rows that have no vector and so no score."""

    table: str
    column: str
    rows: int
    without_vector: int
    least: float | None
    mean: float | None
    greatest: float | None


def load_head(path: str) -> Head:
    """A linear head from .pth, .pt (only weights are read, never code), .safetensors or .npz. Raises UserError."""
    import hashlib

    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no file {path}", "give the head's .pth or .safetensors file")
    if file.stat().st_size > MAX_HEAD_BYTES:
        raise UserError(f"{path} has {file.stat().st_size} bytes, too many for a linear head", "give the head alone")
    tensors = _tensors(file)
    matrices = {k: v for k, v in tensors.items() if v.ndim == 2}
    weight = next(iter(matrices.values())) if len(matrices) == 1 else None
    bias = next((v for v in tensors.values() if v.size == 1 and v.ndim < 2), np.zeros(1))
    if weight is None or weight.shape[0] != 1:
        shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in sorted(tensors.items())[:8])
        raise UserError(
            f"{path} holds no single linear layer with one output ({shapes or 'nothing'})",
            "give a head with one weight of shape (1, D), such as LAION's sa_0_4_vit_b_32_linear.pth",
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise UserError(f"{path} holds numbers that are not finite", "export the head again")
    return Head(
        weight_D=weight[0].astype(np.float32),
        bias=float(bias.reshape(-1)[0]),
        file=file.name,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )


def _tensors(file: Path) -> dict[str, npt.NDArray[Any]]:
    unreadable = UserError(
        f"{file} cannot be read as weights", "a head is a .pth or .safetensors file of tensors and nothing else"
    )
    try:
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(file))
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        import torch

        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's file: torch, pickle, zip and safetensors raise a dozen kinds
        raise unreadable from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    return {k: v.float().numpy() for k, v in state.items() if isinstance(v, torch.Tensor)}


def score(
    table: str,
    head: Head,
    storage: Storage | None = None,
    *,
    column: str = "aesthetic",
    source: str = "vector",
    tell: Callable[[str], None] = lambda _: None,
) -> ScoreReport:
    """Fill `column` with the head's score of every row that has a vector and no score yet.

    Fragment by fragment, each one commit: killed, it goes on where it was; run after new rows came, it scores those.
    Raises UserError where the head does not fit the vectors, or the column belongs to something else.
    """
    dataset = Tables.at(table, storage).open()
    _check_fit(dataset, head, column, source)
    if column not in dataset.schema.names:
        about = {"file": head.file, "sha256": head.sha256, "vector": source}
        dataset.add_columns(pa.field(column, pa.float32(), metadata={HEAD_KEY: json.dumps(about).encode()}))
    rows, parts = 0, []
    for fragment_id in [f.fragment_id for f in dataset.get_fragments()]:
        done = _fill(dataset, fragment_id, head, column, source)
        if done is not None:
            rows += len(done)
            parts.append(done)
            tell(f"{rows} rows scored")
    dataset.checkout_latest()
    scores = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return ScoreReport(
        table=table,
        column=column,
        rows=rows,
        without_vector=dataset.count_rows(f"{column} IS NULL"),
        least=float(scores.min()) if len(scores) else None,
        mean=float(scores.mean()) if len(scores) else None,
        greatest=float(scores.max()) if len(scores) else None,
    )


def _check_fit(dataset: Any, head: Head, column: str, source: str) -> None:
    if source not in dataset.schema.names or not pa.types.is_fixed_size_list(dataset.schema.field(source).type):
        raise UserError(f"{source} is no vector column of the table", "leave --source out for the image vectors")
    dim = dataset.schema.field(source).type.list_size
    if len(head.weight_D) != dim:
        fingerprint = (dataset.schema.field(source).metadata or {}).get(FINGERPRINT_KEY, b"{}")
        model = json.loads(fingerprint).get("model", "its model")
        raise UserError(
            f"{head.file} is for vectors of {len(head.weight_D)} numbers; {source} has {dim}",
            f"use a head that was trained on {model}",
        )
    if not column.isidentifier() or "__" in column:
        raise UserError(f"'{column}' cannot be a column name", "letters, digits and single _ only")
    if column in dataset.schema.names:
        about = json.loads((dataset.schema.field(column).metadata or {}).get(HEAD_KEY, b"{}"))
        if not about:
            raise UserError(f"{column} is a column of the table already", "choose another name with --column")
        if about["sha256"] != head.sha256 or about["vector"] != source:
            raise UserError(
                f"{column} holds the scores of {about['file']} on {about['vector']}",
                "choose another name with --column",
            )


def _fill(dataset: Any, fragment_id: int, head: Head, column: str, source: str) -> npt.NDArray[np.float32] | None:
    """Score one fragment and commit the column's values for it; the scores, or None where nothing was missing.

    Compaction may take the fragment away meanwhile: then its rows are in another, which this run or the next fills.
    """
    import lance

    for _ in range(FENCED_RETRIES):
        dataset.checkout_latest()
        fragment = dataset.get_fragment(fragment_id)
        if fragment is None or not fragment.count_rows(f"{column} IS NULL AND {source} IS NOT NULL"):
            return None
        values_N, scores = _scores(fragment, head, source)
        group = _data_file(dataset, fragment_id, column, values_N)
        operation = lance.LanceOperation.DataReplacement([group])
        try:
            lance.LanceDataset.commit(dataset, lance.Transaction(dataset.version, operation))
        except OSError as error:
            if "conflict" not in str(error).lower() and "incompatible" not in str(error).lower():
                raise
            continue
        return scores
    raise UserError(f"fragment {fragment_id} was rewritten again and again", "run the command when maintenance is over")


def _scores(fragment: Any, head: Head, source: str) -> tuple[pa.Array, npt.NDArray[np.float32]]:
    """The column's values for every physical row of the fragment, deleted ones included as null; and the scores."""
    values_N = np.zeros(fragment.physical_rows, dtype=np.float32)
    null_N = np.ones(fragment.physical_rows, dtype=bool)
    for batch in fragment.scanner(columns=[source], with_row_address=True, batch_size=8192).to_batches():
        stored = batch.column(source)
        valid = np.asarray(stored.is_valid())
        place = (batch.column("_rowaddr").to_numpy()[valid] & 0xFFFFFFFF).astype(np.int64)
        rows_ND = np.asarray(stored.drop_null().flatten()).astype(np.float32).reshape(-1, len(head.weight_D))
        lengths_N = np.linalg.norm(rows_ND, axis=1)
        values_N[place] = rows_ND @ head.weight_D / np.where(lengths_N == 0, 1, lengths_N) + head.bias
        null_N[place] = False
    return pa.array(values_N, mask=null_N), values_N[~null_N]


def _data_file(dataset: Any, fragment_id: int, column: str, values_N: pa.Array) -> Any:
    """Write the values as a data file of the table and name it as the fragment's file for the column."""
    import lance
    from lance.fragment import DataFile

    from clipmill.workers.write import write_column_file

    batch = pa.RecordBatch.from_arrays([values_N], schema=pa.schema([pa.field(column, pa.float32())]))
    options = dataset.latest_storage_options() or {}
    file = write_column_file(dataset, fragment_id, [batch], options, rows=len(values_N) - values_N.null_count)
    made = DataFile(file.path, list(file.fields), [0], file.major, file.minor)
    return lance.LanceOperation.DataReplacementGroup(fragment_id, made)
