"""The real planner, dispatcher, collector and committer on a simulated cluster, in compressed time.

    python -m benchmarks.simulate [--units 10000] [--actors 100] [--unit-s 60] [--lost-an-hour 0.36] [--out FOLDER]
    python -m benchmarks.simulate --actors 2 100 1000 --a-second 17 --lost-an-hour 0      # the driver's CPU

Real are `make_plan`, the `Dispatcher` with its attempts and watches, the `Collector`, the `Committer` with its lease,
the `Compactor`, and the table, a Lance table on a local disk with a row of a fragment of its own for each unit; at the
end `verify` looks at it. Simulated are time, Ray's calls, the nodes (`simulated/cluster.py`: up after two minutes, of
three speeds, lost by chance, every second one without a notice), the work on a unit, and how long the store takes for a
commit (`COMMIT_S`, and `THROTTLED_S` more for one in twenty). Not part of it: listing, Ray's memory and its processor
time for calls and answers, the network, the progress line and the figures of a run.

`dispatch_ms_per_unit` and `commit_ms_per_unit` are processor time of the driver, without the simulation's own;
`ray_wait_ms_per_unit` is what Ray would take for the waits, from a figure that was measured on a real one. The first
and the last grow with the time that passes too, because the dispatcher looks twice a second; so compare numbers of
actors at one rate of units (`--a-second`).
"""

import argparse
import contextlib
import json
import queue
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import machine
from benchmarks.scale import memory_bytes
from benchmarks.simulated.clock import Clock, Own
from benchmarks.simulated.cluster import SPEEDS, Cluster
from clipmill.jobs.cluster import nodes, patience
from clipmill.jobs.cluster.patience import Patience
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.compaction import Compactor
from clipmill.jobs.planning.plan import Plan, make_plan
from clipmill.jobs.running import collect
from clipmill.jobs.running.actors import dispatch
from clipmill.jobs.running.actors.dispatch import Dispatcher
from clipmill.jobs.running.collect import Collector
from clipmill.jobs.table import memory
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.job.config import Commit, Limits, Storage
from clipmill.schemas.unit.receipts import Outcome, Receipt
from clipmill.schemas.unit.tasks import Task
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.write import fragment_json, write_row_fragments
from tests.committed import make_tables, rows_table, take_lease

COMMIT_S, THROTTLED_S, THROTTLED = 1.5, 20.0, 0.05
# Ray's processor time for a ray.wait, and for each of its references: by hand, 2026-11-28, with 6 to 3,000 references.
WAIT_MS, REFERENCE_MS = 0.018, 0.00026
RUN = "simulated"


class Writer:
    """What a worker does for a unit of one picture: a fragment of the version that the plan read. Lance writes the
    first; the others are its bytes with another unit's id and address, which have the same length."""

    def __init__(self, tables: Tables) -> None:
        self.data = Path(tables.rows) / "data"
        self.first = replace(units(1)[0], unit_id="5f" * 12, uri="file:///simulated/first__.tar")
        row = rows_table(tables, self.first.unit_id, [self.first.unit_id], of=self.first)
        (made,) = write_row_fragments(row.to_batches(), tables.open(), tables.options)
        self.fragment = fragment_json(made)
        self.name = str(json.loads(self.fragment)["files"][0]["path"])
        self.bytes = (self.data / self.name).read_bytes()
        (self.data / self.name).unlink()
        assert self.bytes.count(self.first.unit_id.encode()) == 3  # its id, its unit's, and at the end of its address
        assert self.bytes.count(self.first.uri.encode()) == 1

    def write(self, task: Task) -> Receipt:
        unit, name = task.unit, f"{task.unit.unit_id}-{task.attempt}.lance"
        found = self.bytes.replace(self.first.uri.encode(), unit.uri.encode())
        (self.data / name).write_bytes(found.replace(self.first.unit_id.encode(), unit.unit_id.encode()))
        return Receipt(
            unit_id=unit.unit_id,
            run=RUN,
            attempt=task.attempt,
            outcome=Outcome.DONE,
            seen=1,
            written=1,
            fragments=(self.fragment.replace(self.name, name),),
            content_hash=unit.unit_id,
        )


class Pump:
    """The collector's own thread, in simulated time: while a commit is under way, receipts wait in its queue."""

    def __init__(self, collector: Collector, clock: Clock, seed: int) -> None:
        self.collector, self.clock, self.chance = collector, clock, random.Random(seed)
        self.busy_until_s = self.cpu_s = 0.0
        self.tenths: list[dict[str, float]] = []  # how it stood after each tenth of the units
        self._tenth_cpu_s, self._tenth_commits = 0.0, 0

    def turn(self) -> None:
        began_s = time.process_time()
        collector, commits = self.collector, self.collector.totals.commits
        while self.clock.now_s >= self.busy_until_s:
            try:
                receipt = collector._queue.get_nowait()
                assert receipt is not None, "the end, which nobody sends here"
                collector._turn(receipt)
            except queue.Empty:
                if self.clock.now_s < collector._due():
                    break
                collector._commit()
                if collector.totals.commits == commits:
                    break
            if collector.totals.commits > commits:
                took_s = COMMIT_S + (THROTTLED_S if self.chance.random() < THROTTLED else 0.0)
                self.busy_until_s = collector._last_commit = self.clock.now_s + took_s
        self.cpu_s += time.process_time() - began_s
        if collector.totals.units * 10 >= len(collector.units) * (len(self.tenths) + 1):
            self._note(collector.totals.units, collector.totals.commits)

    def _note(self, done: int, commits: int) -> None:
        more, cpu_s = commits - self._tenth_commits, self.cpu_s - self._tenth_cpu_s
        self._tenth_cpu_s, self._tenth_commits = self.cpu_s, commits
        anonymous_mb = round(memory_bytes("RssAnon") / 1e6, 1)
        self.tenths.append(
            {"units": done, "ms_per_commit": round(1000 * cpu_s / max(1, more), 1), "anonymous_mb": anonymous_mb}
        )
        print(json.dumps(self.tenths[-1]), file=sys.stderr, flush=True)


def units(number: int) -> list[WorkUnit]:
    return [
        WorkUnit(unit_id=f"{n:024x}", format="webdataset", uri=f"file:///simulated/{n:07d}.tar", etag="e", size_bytes=1)
        for n in range(number)
    ]


@contextlib.contextmanager
def in_simulated_time(clock: Clock, cluster: Cluster) -> Iterator[None]:
    """Ray's calls and the modules' clocks."""
    import ray

    with contextlib.ExitStack() as stack:
        for module in (dispatch, collect, patience):
            stack.enter_context(mock.patch.object(module, "time", clock))
        calls = {"wait": cluster.answers.wait, "get": cluster.answers.get, "kill": cluster.kill, "nodes": cluster.table}
        for name, call in calls.items():
            stack.enter_context(mock.patch.object(ray, name, call))
        for module in (dispatch, nodes):
            stack.enter_context(mock.patch.object(module, "leaving", cluster.leaving))
        yield


def simulate(
    folder: Path, *, number: int, actors: int, unit_s: float, lost_an_hour: float, seed: int = 0
) -> dict[str, Any]:
    memory.use_little()  # as a run does
    tables = make_tables(folder)
    writer, clock = Writer(tables), Clock()
    cluster = Cluster(clock, most=actors, unit_s=unit_s, lost_an_hour=lost_an_hour, work=writer.write, seed=seed)
    planned_s, anonymous = time.process_time(), memory_bytes("RssAnon")
    plan = make_plan(units(number), {})
    planned_s = time.process_time() - planned_s
    lease = take_lease(tables, RUN)
    try:
        with in_simulated_time(clock, cluster):
            found = _run(tables, plan, cluster, Compactor(tables, lease), Committer(tables, lease), actors, seed)
    finally:
        lease.release()
    found["plan_ms_per_unit"] = round(1000 * planned_s / number, 4)
    found["driver_growth_mb"] = round((memory_bytes("RssAnon") - anonymous) / 1e6, 1)
    rows = tables.open()
    found |= {"rows": rows.count_rows(), "table_versions": int(rows.version), "fragments": len(rows.get_fragments())}
    found["problems"] = list(verify(f"{folder}/db/images", Storage(), source=False).problems)
    return found


def _run(
    tables: Tables, plan: Plan, cluster: Cluster, compactor: Compactor, committer: Committer, actors: int, seed: int
) -> dict[str, Any]:
    clock = cluster.clock
    collector = Collector(committer, plan, Commit(), None, compactor.added)
    pump = Pump(collector, clock, seed)
    dispatcher = Dispatcher(
        plan,
        Limits(),
        start_actor=cluster.start_actor,
        on_receipt=collector.offer,
        units_in_flight=3,
        patience=Patience(900.0, "1 GPU", lambda text: None),
    )
    dispatcher.wanted = actors
    began_s, cpu_s, wall_s = clock.now_s, time.process_time(), time.monotonic()
    dispatcher.run(pump.turn)
    cpu_s = time.process_time() - cpu_s - clock.own_cpu_s - pump.cpu_s
    while collector.totals.units < len(plan.todo):
        with Own(clock):
            clock.pass_until(clock.now_s + 1.0, lambda: False)
        pump.turn()
    totals, attempts = collector.totals, dispatcher.attempts
    return {
        "units": totals.units,
        "hours": round((clock.now_s - began_s) / 3600, 2),
        "simulated_in_s": round(time.monotonic() - wall_s, 1),
        "actors_at_once": dispatcher.most_at_once,
        "actor_hours": round(dispatcher.worker_s / 3600, 2),
        "of_actor_hours_at_work": round(cluster.useful_s / dispatcher.worker_s, 3),
        "nodes_lost": dict(cluster.lost),
        "worker_restarts": dispatcher.restarts,
        "attempts_lost": attempts.lost,
        "attempts_failed": attempts.used,
        "failed_units": len(attempts.failed),
        "commits": totals.commits,
        "compactions": compactor.passes,
        "dispatch_ms_per_unit": round(1000 * cpu_s / len(plan.todo), 3),
        "ray_wait_ms_per_unit": round(_ray_wait_ms(cluster) / len(plan.todo), 3),
        "references_per_unit": round(cluster.answers.looked_at / len(plan.todo), 1),
        "commit_ms_per_unit": round(1000 * pump.cpu_s / len(plan.todo), 3),
        "tenths": pump.tenths,
    }


def _ray_wait_ms(cluster: Cluster) -> float:
    return WAIT_MS * cluster.answers.waits + REFERENCE_MS * cluster.answers.looked_at


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--actors", type=int, nargs="+", default=[100])
    parser.add_argument("--unit-s", type=float, default=60.0, help="of a unit, on the fastest nodes")
    parser.add_argument("--a-second", type=float, help="so many units, of all actors: instead of --unit-s")
    parser.add_argument(
        "--lost-an-hour", type=float, default=0.36, help="rate at which a node is lost; 0.36: 30 percent"
    )
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    given = parser.parse_args()
    speed = sum(SPEEDS) / len(SPEEDS)
    results = []
    for actors in given.actors:
        unit_s = actors * speed / given.a_second if given.a_second else given.unit_s
        with tempfile.TemporaryDirectory(prefix="clipmill-simulated-") as folder:
            found = simulate(
                Path(folder), number=given.units, actors=actors, unit_s=unit_s, lost_an_hour=given.lost_an_hour
            )
        results.append({"at": machine.now(), "actors": actors, "unit_s": round(unit_s, 2), **found})
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    result = {"machine": machine.machine(), "runs": results}
    print(json.dumps(result, indent=1))
    if given.out is not None:
        machine.save(machine.dated(given.out, f"simulate-{given.units}"), result)
    return 1 if any(run["problems"] or run["rows"] != given.units for run in results) else 0


if __name__ == "__main__":
    sys.exit(main())
