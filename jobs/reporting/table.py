"""`clipmill report TABLE`: everything worth knowing of a table on one page, as figures.

What is counted is counted over all rows; scores, the map and pictures are of rows that are evenly spaced, and say so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clipmill.jobs.exploring.dedup import DEFAULT_THRESHOLD, EXACT_ONLY, dedup
from clipmill.jobs.querying.open import Table
from clipmill.jobs.reporting.contents import Histogram, TagCount, VectorMap, evenly, histograms, tag_counts, vector_map
from clipmill.jobs.reporting.runs import RunFigures, read_runs
from clipmill.jobs.reporting.samples import Pictures, Shown, reject_rows
from clipmill.jobs.table.originals import is_local
from clipmill.jobs.table.readers import FENCE_TAG, readers, tags_of
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import Status
from clipmill.jobs.verifying.status import status as read_status
from clipmill.schemas.job.config import Storage

# Beyond these, finding copies is an evening's work or needs memory for every row: then `clipmill dedup` is named.
NEAR_ROWS = 100_000
EXACT_ROWS = 2_000_000
GROUPS = 6
OF_A_GROUP = 6
SAMPLE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Near-duplicates. `looked`: near | exact | no. `groups`: the largest, of each the first rows, the one to keep
    first; `sizes` are parallel."""

    looked: str
    threshold: float
    exact: int = 0
    near: int = 0
    surplus: int = 0
    num_groups: int = 0
    sizes: tuple[int, ...] = ()
    groups: tuple[tuple[Shown, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """`version`: what was read, `live` where there is one. `status` is of the newest version, as the command has it.
    `dollars`: of all runs that are known, None where no price is given."""

    table: str
    made_at: str
    version: int
    rows: int
    status: Status
    fingerprint: dict[str, Any]
    versions: tuple[dict[str, Any], ...]
    runs: tuple[RunFigures, ...]
    dollars: float | None
    rejects: dict[str, int]
    shown_rejects: tuple[Shown, ...]
    reject_pictures: bool
    sample: tuple[Shown, ...]
    tags: tuple[TagCount, ...]
    histograms: tuple[Histogram, ...]
    map: VectorMap | None
    copies: Copies = field(default_factory=lambda: Copies(looked="no", threshold=DEFAULT_THRESHOLD))


def table_report(uri: str, storage: Storage, *, allow: Sequence[str] = (), pictures: bool = True) -> TableReport:
    """`allow`: places beside the table's own source that pictures may be read from. Without `pictures` none is read.
    Raises UserError where there is no such table."""
    status = read_status(uri, storage)
    tables = Tables.at(uri, storage)
    table = Table(uri, None, storage, None)
    album = Pictures(table, tables, allow)
    counts, some = reject_rows(tables)
    runs = tuple(read_runs(tables))
    costs = [run.dollars for run in runs if run.dollars is not None]
    ids = evenly(table, ["id"], SAMPLE)["id"].to_pylist() if pictures else []
    return TableReport(
        table=status.table,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=table.version,
        rows=table.num_rows,
        status=status,
        fingerprint=_fingerprint(table),
        versions=versions(table),
        runs=runs,
        dollars=round(sum(costs), 4) if costs else None,
        rejects=counts,
        shown_rejects=album.rejects(some) if pictures else (),
        reject_pictures=is_local(tables) or bool(allow),
        sample=album.rows(ids),
        tags=tag_counts(table),
        histograms=histograms(table),
        map=vector_map(table),
        copies=copies(table, album, pictures=pictures),
    )


def _fingerprint(table: Table) -> dict[str, Any]:
    found = table.snapshot.fingerprint("vector")
    size = found.preprocess.size_HW
    return {
        "model": found.model,
        "pretrained": found.pretrained,
        "weights sha256": found.weights_sha256,
        "dimension": found.dim,
        "input": f"{size[0]} × {size[1]} px, {found.preprocess.interpolation}, {found.preprocess.resize_mode}",
        "tokenizer": found.tokenizer,
        **found.provenance,
    }


def versions(table: Table, *, last: int = 12) -> tuple[dict[str, Any], ...]:
    """The last ones that are kept, newest first: version, at, rows, tags. Those with a tag are always among them; the
    fence, which commits put there for themselves, is no tag of a reader."""
    dataset = table.snapshot.dataset
    kept = {int(v["version"]): v for v in dataset.versions()}
    named: dict[int, list[str]] = {}
    for tag, about in tags_of(dataset).items():
        if tag != FENCE_TAG:
            named.setdefault(int(about["version"]), []).append(tag)
    newest = readers(Tables.at(table.uri, table.storage).open()).newest
    chosen = sorted({*sorted(kept)[-last:], *(v for v in named if v in kept)}, reverse=True)
    return tuple(
        {
            "version": v,
            "at": kept[v]["timestamp"].astimezone(UTC).isoformat(timespec="seconds"),
            "rows": dataset.checkout_version(v).count_rows(),
            "tags": sorted([*named.get(v, []), *(["newest"] if v == newest else [])]),
        }
        for v in chosen
    )


def copies(table: Table, album: Pictures, *, pictures: bool) -> Copies:
    looked = "near" if table.num_rows <= NEAR_ROWS else "exact" if table.num_rows <= EXACT_ROWS else "no"
    if looked == "no":
        return Copies(looked=looked, threshold=DEFAULT_THRESHOLD)
    threshold = DEFAULT_THRESHOLD if looked == "near" else EXACT_ONLY
    found = dedup(table, threshold=threshold)
    grouped: dict[int, list[str]] = {}
    for row in found.groups.select(["group", "id"]).to_pylist():
        grouped.setdefault(row["group"], []).append(row["id"])
    largest = list(grouped.values())[:GROUPS]
    return Copies(
        looked=looked,
        threshold=threshold,
        exact=found.exact,
        near=found.near,
        surplus=found.surplus,
        num_groups=len(grouped),
        sizes=tuple(len(ids) for ids in largest),
        groups=tuple(album.rows(ids[:OF_A_GROUP]) for ids in largest) if pictures else (),
    )
