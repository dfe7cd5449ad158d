"""`clipmill promote TABLE SLUG`: a filled set takes the names that are searched, in one commit; and back.

The names and what LanceDB encodes words with cannot change in one commit. So the entry that names the function leaves
first (words are an error then), then all columns are renamed, then the new model's entry comes: no version of the table
has the vectors of one model beside the text encoder of another. A client that follows the newest version may have read
the old entry and still be encoding, so between the first two it is given time. `live` moves last.

Killed between two steps, the same command goes on. Rows that came before it did are for the gates of nights to judge,
which let readers on to a promotion that has all but moved `live` (`is_done`).
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from clipmill.jobs.committing.lease import Lease, no_fill_beside
from clipmill.jobs.maintaining.maintain import leased
from clipmill.jobs.migrating.promote_gates import GateOptions, Verdict, judge, unpublished
from clipmill.jobs.querying.curve import CONFIG_KEY
from clipmill.jobs.table import sets
from clipmill.jobs.table.compat import stored_fingerprint, tags_of_model
from clipmill.jobs.table.heads import told as heads_told
from clipmill.jobs.table.lancedb_function import KEY, embedding_functions_metadata
from clipmill.jobs.table.readers import LIVE, tags_of
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import FINGERPRINT_KEY, SET_COLUMNS, heads_of, set_column, sets_in, vocabularies_in
from clipmill.schemas.errors import GateRefused, UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.text.words import counted

# Named so that a test can stop the command inside each and see that the kill landed there.
STEPS = ("before_detach", "after_detach", "after_rename", "after_attach", "after_live")
SETTLE_S = 5.0  # for clients that have read the old entry and are encoding words with it
# In the config of the rows: which set took whose place last, and whether what is known of indices has followed.
PROMOTED_KEY = "clipmill.promoted"
ALREADY = "it is in use already"
Say = Callable[[str], None]
Hook = Callable[[str], None]


def no_hook(step: str) -> None:
    assert step in STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """`set` is in use now; what was in use before is the set `beside`. `verdict` is None for a way back."""

    table: str
    set: str
    beside: str
    model: str
    version: int
    live: int | None
    verdict: Verdict | None = None
    notes: list[str] = field(default_factory=list)


def dry_run(table: str, slug: str, storage: Storage, options: GateOptions) -> Verdict:
    """What stands in the way. Takes no lease and changes nothing."""
    tables = Tables.at(table, storage)
    rows = tables.open()
    if slug not in sets_in(rows.schema) and slug == sets.slug_in_use(rows.schema):
        raise UserError(f"the set '{slug}' is in use already", "`clipmill status TABLE` lists those beside it")
    return judge(tables, rows, slug, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """`say` tells a person; `hook` is called at each of STEPS; `settle_s` is waited between the first two."""

    say: Say
    hook: Hook = no_hook
    settle_s: float = SETTLE_S


def promote(table: str, slug: str, storage: Storage, options: GateOptions, how: How) -> Promotion:
    """Raises GateRefused with every blocker's name, UserError where there is no such set, LeaseHeld where a run or a
    fill is under way."""
    tables = Tables.at(table, storage)
    tables.open()
    with leased(tables, "promote", how.say) as (lease, _), no_fill_beside(lease, how.say):
        rows = tables.open()
        if slug not in sets_in(rows.schema) and slug == sets.slug_in_use(rows.schema):
            return _Switch(tables, lease, slug, how).finish(ALREADY)
        how.say("looking at what stands in the way")
        verdict = judge(tables, rows, slug, options)
        if verdict.blockers:
            raise GateRefused(
                f"the set '{slug}' is not promoted: {'; '.join(f'{k}: {v}' for k, v in verdict.blockers.items())}",
                f"`clipmill promote {table} {slug} --dry-run` shows the figures",
            )
        return _Switch(tables, lease, slug, how).run(verdict)


def back(table: str, storage: Storage, how: How) -> Promotion:
    """The set that the last promotion put aside takes its names again. No gate: it was in use before. Raises UserError
    where nothing was promoted, or that set was dropped."""
    tables = Tables.at(table, storage)
    tables.open()
    with leased(tables, "promote", how.say) as (lease, _), no_fill_beside(lease, how.say):
        rows = tables.open()
        told = json.loads(rows.config().get(PROMOTED_KEY, "{}"))
        in_use, there = sets.slug_in_use(rows.schema), sets_in(rows.schema)
        if told.get("back") and told["to"] == in_use:
            return _Switch(tables, lease, in_use, how, is_back=True).finish("the last promotion was taken back already")
        if told and not told["back"] and told["from"] == in_use:  # killed before its columns were renamed
            return _Switch(tables, lease, in_use, how, is_back=True).finish("the last promotion had not happened")
        slug = told.get("to" if told.get("back") else "from", "")
        if slug not in there:
            raise UserError(
                f"no promotion of {table} can be taken back", f"its sets beside: {', '.join(there) or 'none'}"
            )
        found = sets.coverage(tables, rows, slug)
        missing = found.rows - found.filled
        why = sets.missing_in_words(found.failed, found.rejects, found.left)
        rows_have = counted(missing, "row has", "rows have")
        notes = [f"{rows_have} no vector of it, which no search finds: {why}"] if missing else []
        if came := unpublished(rows):
            what = ("row that passed no gate is", "rows that passed no gate are")
            notes.append(f"{counted(came, *what)} seen by readers with it")
        return _Switch(tables, lease, slug, how, is_back=True, notes=notes).run(None)


def is_done(rows: Any, live: Any) -> bool:
    """Whether `rows` have another set in use than `live` by a promotion that is whole, but for moving `live`: it was
    judged before it began, and plain clients have the new model's entry for words."""
    told = json.loads(rows.config().get(PROMOTED_KEY, "{}"))
    moved = (told.get("from"), told.get("to")) == (sets.slug_in_use(live.schema), sets.slug_in_use(rows.schema))
    return moved and "reports" not in told


class _Switch:
    """From one set to another, under both leases."""

    def __init__(
        self,
        tables: Tables,
        lease: Lease,
        slug: str,
        how: How,
        *,
        is_back: bool = False,
        notes: list[str] | None = None,
    ) -> None:
        self.tables, self.lease, self.slug, self.how = tables, lease, slug, how
        self.is_back, self.notes = is_back, notes or []

    def run(self, verdict: Verdict | None) -> Promotion:
        rows = self.tables.open()
        old = sets.slug_in_use(rows.schema)
        new = sets.fingerprint_of(rows.schema, self.slug)
        self.how.hook("before_detach")
        self._move_reports(old)  # of a promotion to that one, which was cut off and is not gone on with
        had_entry = KEY in (rows.schema.metadata or {})
        told = {"from": old, "to": self.slug, "back": self.is_back, "reports": "to move"}
        self._again(lambda now: now.update_config({PROMOTED_KEY: json.dumps(told)}))
        if had_entry:
            self._again(lambda now: now.update_schema_metadata({KEY.decode(): None}))
        self.how.hook("after_detach")
        if had_entry and self.how.settle_s:
            self.how.say(f"waiting {self.how.settle_s:g} s for searches that are under way")
            time.sleep(self.how.settle_s)
        self._again(lambda now: self._rename(now, old))
        self.how.hook("after_rename")
        self._attach(new)
        self.how.hook("after_attach")
        live = self._move_live(new)
        self.how.hook("after_live")
        told_of = heads_told(rows.schema)
        for head in sorted(set(told_of) - set(heads_of(rows.schema, self.slug))):
            if told_of[head].get("weights_sha256") == new.weights_sha256:  # scored from the set's own vectors
                continue
            self.notes.append(f"the scores of the head '{head}' stay those on the model before: the set has none of it")
        table = f"{self.tables.database}/{self.tables.name}"
        for beside in vocabularies_in(rows.schema):
            if not tags_of_model(rows.schema, set_column("tags", beside), new):
                self.notes.append(
                    f"the tags in {set_column('tags', beside)} are those of another model, and new rows get none: "
                    f"clipmill retag {table} --vocabulary FILE --as {beside}"
                )
        name = f"{new.model} {new.pretrained}".strip()
        self.notes.append(f"in the job file `model:` has to name {name} from now on, or the next run refuses")
        return self._told(old, live, verdict)

    def finish(self, note: str) -> Promotion:
        """What a kill may have left undone after the rename."""
        rows = self.tables.open()
        new = stored_fingerprint(rows.schema)
        told = json.loads(rows.config().get(PROMOTED_KEY, "{}"))
        self._attach(new)
        live = self._move_live(new, judged=self.is_back)
        self.notes.append(note)
        return self._told(str(told.get("from", "")), live, None)

    def _told(self, old: str, live: int | None, verdict: Verdict | None) -> Promotion:
        rows = self.tables.open()
        fingerprint = stored_fingerprint(rows.schema)
        done = Promotion(
            table=f"{self.tables.database}/{self.tables.name}",
            set=self.slug,
            beside=old,
            model=f"{fingerprint.model} {fingerprint.pretrained}".strip(),
            version=int(rows.version),
            live=live,
            verdict=verdict,
            notes=self.notes,
        )
        mine = {name: value for name, value in asdict(done).items() if name != "verdict"}
        self.tables.log_run(self.lease.run, "promote", "promoted", json.dumps(mine), table_id=self.tables.id())
        return done

    def _rename(self, rows: Any, old: str) -> None:
        """All in one commit; field ids stay, so do the indices on them."""
        if set_column("vector", self.slug) not in rows.schema.names:
            return  # a try before this one landed, though its answer was lost
        heads, stay = heads_of(rows.schema, self.slug), heads_of(rows.schema)
        away = [{"path": base, "name": set_column(base, old)} for base in [*SET_COLUMNS, *sorted({*heads} & {*stay})]]
        here = [{"path": set_column(base, self.slug), "name": base} for base in [*SET_COLUMNS, *heads]]
        rows.alter_columns(*away, *here)

    def _attach(self, fingerprint: Fingerprint) -> None:
        """The entry of the model in use, and what is known of its index under the name it has now."""
        rows = self.tables.open()
        wanted = embedding_functions_metadata(fingerprint).get(KEY)
        if (rows.schema.metadata or {}).get(KEY) != wanted:
            value = wanted.decode() if wanted else None
            self._again(lambda now: now.update_schema_metadata({KEY.decode(): value}))
        self._move_reports(self.slug)

    def _move_reports(self, slug: str) -> None:
        """Those of indices, where the set of this name has just come into use."""
        config = self.tables.open().config()
        told = json.loads(config.get(PROMOTED_KEY, "{}"))
        if "reports" not in told or told["to"] != slug:  # a second time, they would go to the set that left
            return
        del told["reports"]
        moved: dict[str, str | None] = {PROMOTED_KEY: json.dumps(told)}
        for base in ("vector", "caption_vector"):
            here, mine = CONFIG_KEY + base, CONFIG_KEY + set_column(base, slug)
            if here in config or mine in config:
                moved |= {
                    CONFIG_KEY + set_column(base, told["from"]): config.get(here),
                    here: config.get(mine),
                    mine: None,
                }
        self._again(lambda now: now.update_config(moved))

    def _move_live(self, fingerprint: Fingerprint, *, judged: bool = True) -> int | None:
        """To the newest version, unless it is at one of this model already; None where nothing is published. Not
        `judged`: nobody looked for rows that passed no gate, which came since a kill; they raise GateRefused."""
        rows = self.tables.open()
        tags = tags_of(rows)
        if LIVE not in tags:
            return None
        there = int(tags[LIVE]["version"])
        metadata = rows.checkout_version(there).schema.field("vector").metadata or {}
        seen = Fingerprint.from_json(metadata[FINGERPRINT_KEY].decode())
        if not fingerprint.differences(seen):
            return there
        if not judged and (came := unpublished(rows)):
            raise GateRefused(
                f"'{self.slug}' is in use, but {counted(came, 'row')} came since the version that readers see and "
                "passed no gate",
                f"`clipmill publish {self.tables.database}/{self.tables.name}`, or the next night, judges them and "
                "lets readers on",
            )
        self.lease.check()
        rows.tags.update(LIVE, rows.version)
        return int(rows.version)

    def _again(self, change: Callable[[Any], Any]) -> None:
        """An index that somebody builds may be in the way."""
        self.tables.change(change, what="the sets could not change places", check=self.lease.check)
