"""The figures of a run, by name: one list that the file, Ray's exporter and the dashboard share.

All of them are read off the driver's own state a few times a minute; a worker counts nothing for them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

# Upper bounds of a commit's seconds.
BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` as Prometheus has it; a counter's ends in _total. `labels` beside `table`, which every metric has."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


ROWS = Metric("clipmill_rows_total", "counter", "Rows committed to the table by this run.")
SAMPLES = Metric("clipmill_samples_total", "counter", "Samples of committed units: rows and rejects.")
REJECTS = Metric("clipmill_rejects_total", "counter", "Samples without a row, by reason.", ("reason",))
BYTES = Metric("clipmill_source_bytes_total", "counter", "Bytes of the source objects of committed units.")
UNITS = Metric("clipmill_units_total", "counter", "Work units committed.")
FAILED = Metric("clipmill_units_failed_total", "counter", "Work units given up on.")
QUEUE = Metric(
    "clipmill_queue_units",
    "gauge",
    "Work units of the plan: waiting for a worker, at one, or done and not committed yet.",
    ("state",),
)
RATE = Metric("clipmill_images_per_second", "gauge", "Samples of finished units a second, over the last minute.")
STAGE_S = Metric("clipmill_stage_seconds_total", "counter", "Seconds that a stage was busy, of all units.", ("stage",))
BUSY = Metric(
    "clipmill_stage_busy_ratio",
    "gauge",
    "Share of the last minute in which a stage was busy, of what it could be; embed: how busy GPUs are kept.",
    ("stage",),
)
ACTORS = Metric("clipmill_actors", "gauge", "Actors that have their model loaded.")
RESTARTS = Metric("clipmill_actor_restarts_total", "counter", "Actors that died at work.")
COMMIT_S = Metric("clipmill_commit_seconds", "histogram", "How long commits took, from duplicates to the ledger.")
CONFLICTS = Metric("clipmill_commit_conflicts_total", "counter", "Commits that met another writer's and began again.")
LAG = Metric("clipmill_commit_lag_seconds", "gauge", "Age of the oldest finished unit that readers do not see yet.")
GPU_S = Metric("clipmill_gpu_seconds_total", "counter", "GPU seconds held by actors.")
DOLLARS = Metric("clipmill_dollars_total", "counter", "Their price so far, where the job file names one.")
UPDATED = Metric("clipmill_updated_timestamp_seconds", "gauge", "When these figures were taken, Unix time.")
RUN = Metric(
    "clipmill_run_info", "gauge", "Always 1; its labels say which run this is.", ("run", "command", "model", "device")
)
METRICS = (
    ROWS, SAMPLES, REJECTS, BYTES, UNITS, FAILED, QUEUE, RATE, STAGE_S, BUSY, ACTORS, RESTARTS, COMMIT_S, CONFLICTS,
    LAG, GPU_S, DOLLARS, UPDATED, RUN,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One reading. Counts are of this run; `queue`, `stage_s` and `busy` by state or stage; `commits_s`: how long each
    took; `dollars` None: no price."""

    table: str
    run: str = ""
    command: str = "embed"
    model: str = ""
    device: str = ""
    at_s: float = 0.0
    rows: int = 0
    samples: int = 0
    rejects: Mapping[str, int] = field(default_factory=dict)
    source_bytes: int = 0
    units: int = 0
    failed: int = 0
    queue: Mapping[str, int] = field(default_factory=dict)
    images_per_s: float = 0.0
    stage_s: Mapping[str, float] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)
    actors: int = 0
    restarts: int = 0
    commits_s: Sequence[float] = ()
    conflicts: int = 0
    lag_s: float = 0.0
    gpu_s: float = 0.0
    dollars: float | None = None

    def samples_of(self) -> Iterator[tuple[Metric, dict[str, str], float | Sequence[float]]]:
        """(metric, its labels without `table`, value; of a histogram all values), all of one metric together."""
        yield from ((m, {}, v) for m, v in ((ROWS, self.rows), (SAMPLES, self.samples)))
        yield from ((REJECTS, {"reason": str(reason)}, n) for reason, n in sorted(self.rejects.items()))
        plain = ((BYTES, self.source_bytes), (UNITS, self.units), (FAILED, self.failed), (RATE, self.images_per_s))
        yield from ((m, {}, v) for m, v in plain)
        for metric, label, values in (
            (QUEUE, "state", self.queue),
            (STAGE_S, "stage", self.stage_s),
            (BUSY, "stage", self.busy),
        ):
            yield from ((metric, {label: name}, value) for name, value in values.items())
        more = ((ACTORS, self.actors), (RESTARTS, self.restarts), (CONFLICTS, self.conflicts), (LAG, self.lag_s))
        yield from ((m, {}, v) for m, v in (*more, (GPU_S, self.gpu_s), (UPDATED, self.at_s)))
        yield COMMIT_S, {}, self.commits_s
        if self.dollars is not None:
            yield DOLLARS, {}, self.dollars
        yield RUN, {"run": self.run, "command": self.command, "model": self.model, "device": self.device}, 1
