"""What the driver sends to a worker: once per run the context, once per attempt the task. Descriptors only."""

from dataclasses import dataclass, field

from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.job.heads import Head
from clipmill.schemas.unit.tombstones import Tombstones
from clipmill.schemas.unit.units import WorkUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkContext:
    """Everything about a run that is the same for all of its units.

    Rows are written against `rows_version`, the version the plan read, so that field ids and not names decide the
    column. `options` may hold credentials, so it is never printed. `fill`: the slug of the set whose columns are filled
    from the rows that are there; empty where rows are made.
    """

    run: str
    rows_uri: str
    rows_version: int
    rejects_uri: str
    source: Source
    storage: Storage
    limits: Limits
    thumbnails: bool = False
    phash: bool = False
    units_in_flight: int = 3
    table_id: str = ""  # of the rows table
    fill: str = ""
    heads: tuple[Head, ...] = field(default=(), compare=False, repr=False)  # small models, each a column
    deleted: Tombstones = field(default_factory=Tombstones, compare=False)  # samples that stay away
    options: dict[str, str] = field(default_factory=dict, repr=False)

    def at_the_model(self, callers: int) -> int:
        """Units that use a model at once, of a device that serves `callers`; one more reads and decodes meanwhile."""
        return max(1, min(callers, self.units_in_flight - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One attempt at one unit.

    `skip`: ordinals (0-based, among the samples the reader yields) that are rejected unread, with the reason: they
    killed or hung an earlier attempt. `known`: content hash -> unit id of the unit this one would replace; equal
    content under a new etag, of which the old rows are true, is an alias and is not embedded again. `moved_from`: the
    unit that seems to have been what this one is, at another place; what its rows know of the same pictures is not
    computed again. `kin`: units that leave with the commit of this one, of which the same holds.
    """

    unit: WorkUnit
    attempt: int
    skip: dict[int, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    moved_from: str = ""
    kin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitProgress:
    """How far a worker is with a unit. `steps` only grows: with every sample that is read, every one that is decoded
    and every batch that is embedded. `waits`: other units have the model."""

    steps: int = 0
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What an actor says of itself after its model is loaded."""

    fingerprint_json: str
    batch_size: int
    callers: int
    device: str
    threads: int
