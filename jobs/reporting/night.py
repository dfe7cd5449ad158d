"""A night on one page: what came, changed, went and was rejected, at what rate, through which gates, who sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clipmill.jobs.publishing.night import Gate, Night, nights
from clipmill.jobs.querying.open import Table
from clipmill.jobs.reporting.arrivals import Arrivals, came_in
from clipmill.jobs.reporting.changes import Changes, read_changes
from clipmill.jobs.reporting.contents import Drift, drift
from clipmill.jobs.reporting.runs import RunFigures, read_runs
from clipmill.jobs.reporting.samples import Pictures, Shown, reject_rows
from clipmill.jobs.reporting.table import versions
from clipmill.jobs.reporting.watch import Watched, before_of, new_rows, watch
from clipmill.jobs.table.originals import is_local
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.job.nightly import Saved

HISTORY = 30  # nights
SAMPLE = 18
SHOWN_HITS = 12  # of a search; all are in the JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class GateHistory:
    """A gate of this night, and its values of the last nights, the earliest first; None where it was not computed."""

    gate: Gate
    at: tuple[str, ...] = ()
    values: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NightReport:
    """`run`: None where the night started none. `drift`: from the version that readers saw before to the night's last.
    `listed_runs`: those whose rows and rejects are listed: the night's own, and what nights before it that did not end
    had brought. `shown_hits`: by search, pictures of the best."""

    night: Night
    made_at: str
    version: int
    run: RunFigures | None
    changes: Changes
    gates: tuple[GateHistory, ...]
    history: tuple[Night, ...]
    drift: Drift | None
    listed_runs: tuple[str, ...]
    rejects: dict[str, int]
    shown_rejects: tuple[Shown, ...]
    reject_pictures: bool
    sample: tuple[Shown, ...]
    watched: tuple[Watched, ...]
    shown_hits: dict[str, tuple[Shown, ...]] = field(default_factory=dict)
    versions: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NightOptions:
    """`allow`: places, beside what the table says of itself, that pictures may be read from: the source of the job that
    ran. `watch`: the job's saved searches; `own` where they are the caller's and not the table's word."""

    allow: Sequence[str] = ()
    watch: Mapping[str, Saved] = field(default_factory=dict)
    own: bool = False
    pictures: bool = True


def night_report(tables: Tables, night: Night, options: NightOptions | None = None) -> NightReport:
    """Of a night that has ended, whatever its end. It reads the night's last version, published or not."""
    options = options or NightOptions()
    uri, storage = f"{tables.database}/{tables.name}", tables.storage
    table = _at(uri, night.versions.get("rows"), storage) or Table(uri, _newest(tables), storage, None)
    changes = read_changes(tables, night.run, since=night.version_before, until=night.versions.get("rows"))
    came = came_in(tables, night)
    if came is None:
        came = Arrivals(runs=(night.run,), units=changes.unit_ids, before=changes.before or 0)
    album = Pictures(table, tables, options.allow)
    counts, some = reject_rows(tables, {night.run, *came.runs} if night.is_whole else ())
    ids = _sample(table, tables, came) if options.pictures else []
    sample = album.rows(ids)
    asked = options.watch if night.is_whole else {}
    watched = watch(table, tables, asked, came, own=options.own or is_local(tables)) if asked else ()
    hits = {
        one.name: album.rows([h.id for h in one.hits[:SHOWN_HITS]], {h.id: h.score for h in one.hits})
        for one in watched
        if options.pictures and one.hits
    }
    past = tuple(one for one in nights(tables, HISTORY) if one.at <= night.at)
    before = _at(uri, night.live_before or night.version_before or changes.before, storage)
    return NightReport(
        night=night,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=table.version,
        run=next((run for run in read_runs(tables) if run.run == night.run), None),
        changes=changes,
        gates=_histories(night, past),
        history=past,
        drift=drift(before, table) if before is not None else None,
        listed_runs=came.runs,
        rejects=counts,
        shown_rejects=album.rejects(some) if options.pictures else (),
        reject_pictures=is_local(tables) or bool(options.allow),
        sample=sample,
        watched=watched,
        shown_hits=hits,
        versions=versions(table),
    )


def find_night(tables: Tables, run: str) -> Night:
    """Of the last nights that of a run, or the last one for `last`: of older ones the ledger says no more what came.
    Raises UserError."""
    tables.open()  # a table that is not there knows no night, and that is not what is wrong
    known = nights(tables, HISTORY)
    if run == "last" and known:
        return known[-1]
    found = next((night for night in reversed(known) if night.run == run), None)
    if found is None:
        hint = f"the last one is {known[-1].run}" if known else "`clipmill status TABLE` shows what ran"
        raise UserError(f"{tables.name} knows no night '{run}'", hint)
    return found


def _at(uri: str, version: int | None, storage: Storage) -> Table | None:
    """The table at a version; None where there is none, or it was cleaned up."""
    if not version:
        return None
    try:
        return Table(uri, version, storage, None)
    except UserError:
        return None


def _newest(tables: Tables) -> int:
    return int(tables.open().version)


def _sample(table: Table, tables: Tables, came: Arrivals) -> list[str]:
    """Ids of rows that came: of each batch its first new ones, until there are enough, so not all of one tar."""
    found: list[str] = []
    for batch in new_rows(table, came, before_of(tables, came), ["id", "image_hash"]):
        step = max(1, len(batch) // SAMPLE)
        found += batch.column("id").to_pylist()[::step][:SAMPLE]
        if len(found) >= 4 * SAMPLE:
            break
    return found[:: max(1, len(found) // SAMPLE)][:SAMPLE]


def _histories(night: Night, past: Sequence[Night]) -> tuple[GateHistory, ...]:
    histories = []
    for gate in night.gates:
        values = [(one.at, other.value) for one in past for other in one.gates if other.name == gate.name]
        histories.append(
            GateHistory(gate=gate, at=tuple(at for at, _ in values), values=tuple(value for _, value in values))
        )
    return tuple(histories)
