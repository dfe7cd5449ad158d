"""What a CSV or parquet file says of pictures of the table, and the vectors of those. N: pictures. D: dimension."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipmill.jobs.exploring.evaluate_metrics import Floats
from clipmill.jobs.querying.filters import quote
from clipmill.jobs.querying.lists import bytes_of, columns_of_parquet, is_parquet
from clipmill.jobs.querying.open import Table
from clipmill.jobs.querying.vectors import as_rows, normalise
from clipmill.schemas.errors import UserError

MAX_BYTES = 200_000_000
Pairs = list[tuple[str, str]]  # (id, label or caption)
Row = dict[str, Any]


def sampled(pairs: Pairs, wanted: int) -> Pairs:
    """Everything that is said of `wanted` pictures."""
    names = list(dict.fromkeys(name for name, _ in pairs))
    if len(names) <= wanted:
        return pairs
    chosen = {names[i] for i in np.random.default_rng(0).choice(len(names), wanted, replace=False)}
    return [pair for pair in pairs if pair[0] in chosen]


def read_pairs(table: Table, path: str, value: str, wanted: int) -> Pairs:
    """(id, value) of a CSV or parquet file, here or in a store; rows named by uri are looked up. Raises UserError."""
    hint = f"give a CSV or parquet file with the columns id (or uri) and {value}"
    data = bytes_of(path, table.storage, hint=hint, max_bytes=MAX_BYTES)
    names, rows = _of_parquet(data, path, value) if is_parquet(data) else _of_csv(data, path)
    key = next((name for name in ("id", "uri") if name in names), None)
    if key is None or value not in names:
        raise UserError(f"{path} has the columns {', '.join(names) or 'none'}", f"it needs id (or uri) and {value}")
    pairs = sampled([(row[key], row[value]) for row in rows if row[key] and row[value]], wanted)
    if key == "uri":
        ids: dict[str, str] = {}
        for start in range(0, len(pairs), 1000):
            listed = ", ".join(quote(uri) for uri, _ in pairs[start : start + 1000])
            scanner = table.snapshot.dataset.scanner(columns=["id", "uri"], filter=f"uri IN ({listed})")
            ids.update((row["uri"], row["id"]) for row in scanner.to_table().to_pylist())
        pairs = [(ids.get(uri, ""), text) for uri, text in pairs]
    return pairs


def _of_csv(data: bytes, path: str) -> tuple[Sequence[str], list[Row]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        return reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not CSV in UTF-8 ({error})", "save it as CSV, UTF-8") from None


def _of_parquet(data: bytes, path: str, value: str) -> tuple[Sequence[str], list[Row]]:
    names, found = columns_of_parquet(data, path, ("id", "uri", value))
    return names, found.to_pylist()


def vectors_of(table: Table, ids: Sequence[str], column: str) -> tuple[dict[str, int], Floats]:
    """Place of each id that has a vector, and the unit vectors (N, D)."""
    places: dict[str, int] = {}
    blocks = [np.zeros((0, table.snapshot.dim(column)), np.float32)]
    unique = list(dict.fromkeys(i for i in ids if i))
    for start in range(0, len(unique), 1000):
        found = table.get(unique[start : start + 1000], ("id", column))
        found = found.filter(found[column].is_valid())
        for row_id in found["id"].to_pylist():
            places[row_id] = len(places)
        blocks.append(normalise(as_rows(found[column], table.snapshot.dim(column))))
    return places, np.concatenate(blocks)
