"""Rows that came while two sets of columns are there get the other one too: the last step of `embed` and of a night.

Under the fill lease, like `reembed`, which this is: what is filled is seen in the table, so a kill loses what was not
committed, and the next run or night goes on. What cannot be filled never undoes what the run did: it is told.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from clipmill.jobs.migrating.beside_derived import fill_columns
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.table import sets
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import sets_in
from clipmill.schemas.errors import ClipmillError, LeaseHeld, LeaseLost
from clipmill.schemas.job.config import JobFile, Model
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.text.secrets import masked, named
from clipmill.schemas.text.words import counted

if TYPE_CHECKING:
    from clipmill.jobs.migrating.fill import Hook
    from clipmill.jobs.migrating.reembed import Reembedded

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """One set beside the one in use, once the run is over: `rows == filled + failed + left`; `new` were filled by it.
    `rejects`: the failed by reason. `note`: why rows are left. `interrupted`: a signal ended it."""

    set: str
    model: str
    rows: int
    filled: int
    failed: int
    left: int
    rejects: dict[str, int] = field(default_factory=dict)
    new: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    note: str = ""


def fill_sets(
    job: JobFile,
    *,
    say: Say,
    address: str | None = None,
    num_cpus: int | None = None,
    hook: "Hook | None" = None,
) -> tuple[Beside, ...]:
    """Fill what is left of every set of the job's table; nothing is started where nothing is. `hook` is called at each
    step of `migrating.fill`. Raises only what the store says where even the table cannot be read."""
    tables = Tables.at(job.table, job.storage)
    how = {"address": address, "num_cpus": num_cpus} | ({"hook": hook} if hook else {})
    found: list[Beside] = []
    for slug in sets_in(tables.open().schema):
        before = sets.coverage(tables, tables.open(), slug)
        if not before.left or (found and found[-1].interrupted):
            found.append(_beside(before))
            continue
        say(f"filling the set '{slug}': {counted(before.left, 'row has', 'rows have')} none of it yet")
        found.append(_filled(tables, slug, how, say))
    return tuple(found)


def with_sets(summary: Summary, job: JobFile, *, say: Say, address: str | None = None) -> Summary:
    """The summary of a run that has ended, with the sets filled, and what follows from vectors beside the job's."""
    found = fill_sets(job, say=say, address=address)
    interrupted = summary.interrupted or any(one.interrupted for one in found)
    columns = () if interrupted else fill_columns(Tables.at(job.table, job.storage), "embed", say)
    whole = replace(summary, sets=[asdict(one) for one in found], columns=[asdict(one) for one in columns])
    return replace(whole, interrupted=interrupted)


def _filled(tables: Tables, slug: str, how: dict[str, Any], say: Say) -> Beside:
    from clipmill.jobs.migrating.reembed import reembed  # with all of a job's machinery: only where a set lacks rows
    from clipmill.jobs.migrating.reembed_plan import ReembedOptions

    done: Reembedded | None = None
    note = ""
    try:
        fingerprint = sets.fingerprint_of(tables.open().schema, slug)
        options = ReembedOptions(model=model_of(fingerprint), slug=slug, **how)
        done = reembed(f"{tables.database}/{tables.name}", tables.storage, options)
        if done.left and not done.interrupted:
            note = done.failed_units[0]["reason"] if done.failed_units else "more rows came meanwhile"
    except (LeaseHeld, LeaseLost) as error:
        note = f"another fill is under way, which takes these rows too: {error.message}"
    except ClipmillError as error:
        note = masked(error.message)
    except Exception as error:  # noqa: BLE001 - the set in use is whole, whatever keeps this one from it
        note = named(error)
    if note:
        say(f"the set '{slug}' is not whole: {note}")
    return _beside(sets.coverage(tables, tables.open(), slug), done, note)


def _beside(now: sets.Coverage, done: "Reembedded | None" = None, note: str = "") -> Beside:
    return Beside(
        set=now.slug,
        model=f"{now.model} {now.pretrained}".strip(),
        rows=now.rows,
        filled=now.filled,
        failed=now.failed,
        left=now.left,
        rejects=now.rejects,
        new=done.rows if done else 0,
        seconds=done.seconds if done else 0.0,
        interrupted=bool(done and done.interrupted),
        note=note,
    )


def model_of(fingerprint: Fingerprint) -> Model:
    """What loads the model of these vectors again, with the preprocessing they were made with."""
    spec = fingerprint.spec()
    values: dict[str, Any] = {"name": spec.name, "pretrained": spec.pretrained, "activation": spec.activation}
    if spec.preprocess:
        values["preprocess"] = dict(spec.preprocess)
    return Model.model_validate(values)
