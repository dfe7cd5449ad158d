"""Add up the ledger, and look at the rows: can the table be trusted?

Every check is made from what is stored, never from what a run remembered, so the balance can fail and be seen to.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from jobs import compat, ledger
from jobs.status import counted_rejects
from jobs.tables import Tables
from schemas.config import Limits, Storage
from schemas.receipts import LedgerEntry, LedgerState

MAX_NAMED = 20  # problems of one kind that are spelled out
NORM_TOLERANCE = 2e-3  # float16 has 11 bits; 512 rounded components stay within this of unit length
MIN_COSINE = 0.999  # of a stored vector, whatever precision made it, to the same picture in fp32


@dataclass(kw_only=True)
class Report:
    """`problems` is empty for a table that can be trusted."""

    table: str
    version: int = 0
    units: int = 0
    seen: int = 0
    rows: int = 0
    rejects: int = 0
    sampled: int = 0
    sample_not_checked: int = 0
    sample_min_cosine: float | None = None
    problems: list[str] = field(default_factory=list)


def verify(table: str, storage: Storage, *, sample: int = 0, seed: int = 0) -> Report:
    """Raises UserError where there is no such table."""
    tables = Tables.at(table, storage)
    rows = tables.open()
    fingerprint = compat.stored_fingerprint(rows.schema)
    latest = ledger.read_ledger(tables)
    alive = {u: e for u, e in ledger.live(latest).items() if e.state == LedgerState.COMMITTED}
    report = Report(table=f"{tables.database}/{tables.name}", version=int(rows.version), units=len(alive))
    report.rows = rows.count_rows()
    report.seen = sum(e.seen for e in alive.values())
    report.rejects = sum(e.rejected for e in alive.values())
    say = _Problems(report.problems)
    _check_units(tables, rows, alive, say)
    _check_ids(rows, say)
    _check_vectors(rows, say)
    if sample:
        _check_sample(tables, rows, fingerprint, report, say, (sample, seed))
    say.close()
    return report


class _Problems:
    """Names the first few of each kind and counts the rest."""

    def __init__(self, into: list[str]) -> None:
        self.into = into
        self.counts: Counter[str] = Counter()

    def __call__(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= MAX_NAMED:
            self.into.append(text)

    def close(self) -> None:
        self.into.extend(f"... and {n - MAX_NAMED} more: {kind}" for kind, n in self.counts.items() if n > MAX_NAMED)


def _check_units(tables: Tables, rows: Any, alive: dict[str, LedgerEntry], say: _Problems) -> None:
    """seen = written + rejected, written = present, rejected = rejects entered, for every unit."""
    present: Counter[str] = Counter()
    for batch in rows.scanner(columns=["unit_id"]).to_batches():
        for pair in batch.column("unit_id").value_counts().to_pylist():
            present[pair["values"]] += pair["counts"]
    rejected: Counter[str] = Counter()
    for batch in counted_rejects(tables, ["unit_id"]):
        for pair in batch.column("unit_id").value_counts().to_pylist():
            rejected[pair["values"]] += pair["counts"]
    for unit_id, entry in alive.items():
        name = f"unit {unit_id} ({entry.uri})"
        if entry.seen != entry.written + entry.rejected:
            say("balance", f"{name}: seen {entry.seen} != written {entry.written} + rejected {entry.rejected}")
        if present[unit_id] != entry.written:
            say("rows", f"{name}: the ledger says {entry.written} rows, the table has {present[unit_id]}")
        if rejected[unit_id] != entry.rejected:
            say("rejects", f"{name}: the ledger says {entry.rejected} rejects, {rejected[unit_id]} are named")
    for unit_id in sorted(set(present) - set(alive)):
        say("unknown units", f"{present[unit_id]} rows of unit {unit_id}, which the ledger does not have")


def _check_ids(rows: Any, say: _Problems) -> None:
    """Unique, by 8 bytes a row; what collides is looked at by name."""
    hashes: list[npt.NDArray[np.uint64]] = []
    for batch in rows.scanner(columns=["id"]).to_batches():
        ids = batch.column("id").to_pylist()
        hashes.append(np.fromiter((_hash(i) for i in ids), np.uint64, len(ids)))
    if not hashes:
        return
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    suspects = {int(v) for v in values[counts > 1]}
    if not suspects:
        return
    found: Counter[str] = Counter()
    for batch in rows.scanner(columns=["id"]).to_batches():
        found.update(i for i in batch.column("id").to_pylist() if _hash(i) in suspects)
    for name, count in found.items():
        if count > 1:
            say("ids", f"id {name} is there {count} times")


def _hash(text: str) -> int:
    return int(xxhash.xxh3_64_intdigest(text.encode()))


def _check_vectors(rows: Any, say: _Problems) -> None:
    """Unit length, finite; scores in range; tags and their scores parallel."""
    columns = [c for c in ("id", "vector", "caption_vector", "tags", "tag_scores") if c in rows.schema.names]
    for batch in rows.scanner(columns=columns, batch_size=4096).to_batches():
        for name in ("vector", "caption_vector"):
            for position in _not_unit(batch.column(name)):
                say(name, f"row {batch.column('id')[position]}: {name} is not of unit length")
        tags, scores = batch.column("tags"), batch.column("tag_scores")
        for position in np.flatnonzero(_lengths(tags) != _lengths(scores)).tolist():
            say("tags", f"row {batch.column('id')[position]}: tags and tag_scores differ in length")


def _not_unit(column: Any) -> list[int]:
    valid = np.asarray(column.is_valid())
    if not valid.any():
        return []
    dim = column.type.list_size
    vectors_BD = np.asarray(column.flatten()).astype(np.float32).reshape(-1, dim)  # flatten leaves nulls out
    norms_B = np.linalg.norm(vectors_BD, axis=1)
    bad = ~(np.abs(norms_B - 1) <= NORM_TOLERANCE)
    return [int(i) for i in np.flatnonzero(valid)[bad]]


def _lengths(column: Any) -> npt.NDArray[np.int64]:
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(pc.list_value_length(column), -1))


def _check_sample(
    tables: Tables, rows: Any, fingerprint: Any, report: Report, say: _Problems, drawn: tuple[int, int]
) -> None:
    """Fetch `drawn[0]` random rows again from their uri and embed them with the table's model, in fp32."""
    from schemas.model import ModelSpec
    from workers.load import load_engine

    engine = load_engine(ModelSpec(name=fingerprint.model, pretrained=fingerprint.pretrained or None, precision="fp32"))
    differences = engine.fingerprint.differences(fingerprint)
    if differences:
        say("model", f"the model that loads here is not the table's: {differences[0]}")
        return
    lowest = 1.0
    for row, image in _sampled(tables, rows, drawn, report):
        if xxhash.xxh3_128_hexdigest(image) != row["image_hash"]:
            say("bytes", f"row {row['id']}: the bytes at {row['uri']} are no longer those it was made from")
            continue
        pixels_1CHW = engine.prepare(image, Limits()).pixels_CHW[None]
        cosine = float(engine.encode_images(pixels_1CHW)[0] @ np.asarray(row["vector"], np.float32))
        lowest = min(lowest, cosine)
        report.sampled += 1
        if cosine < MIN_COSINE:
            say("vectors", f"row {row['id']}: embedding it again gives cosine {cosine:.5f}")
    report.sample_min_cosine = round(lowest, 6) if report.sampled else None


def _sampled(
    tables: Tables, rows: Any, drawn: tuple[int, int], report: Report
) -> Iterator[tuple[dict[str, Any], bytes]]:
    from schemas.errors import UserError
    from workers.fetch import fetch_image

    count, seed = drawn
    total = rows.count_rows()
    picks = np.random.default_rng(seed).choice(total, size=min(count, total), replace=False)
    names = ["id", "uri", "image_offset", "image_size", "image_hash", "vector"]
    column = _image_column(tables)
    for row in rows.take(sorted(int(i) for i in picks), columns=names).to_pylist():
        try:
            yield (
                row,
                fetch_image(
                    row["uri"],
                    tables.storage,
                    offset=row["image_offset"],
                    size=row["image_size"],
                    image_column=column,
                ),
            )
        except UserError:  # the source is gone or unreadable from here: not the table's fault, but said
            report.sample_not_checked += 1


def _image_column(tables: Tables) -> str:
    """`source.image` of the last run that said so; parquet rows need it."""
    runs = tables.open("runs", missing_ok=True)
    if runs is None:
        return "image"
    for row in runs.to_table(columns=["detail"], filter="event = 'started'").to_pylist()[::-1]:
        names = json.loads(row["detail"]).get("source", {}).get("image") or []
        if names:
            return str(names[0])
    return "image"
