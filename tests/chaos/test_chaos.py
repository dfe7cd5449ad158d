"""kill -9 of the driver, of actors and of raylets, at random moments and at each step of a commit.

After a re-run: ids unique, the balance right for every unit. Repeated work is at most what had not been committed.
"""

import json
import math
import random
import signal
import time

import pytest

from clipmill.jobs.committing.commit import STEPS
from tests.build import picture, tar
from tests.chaos.conftest import END_S, SAMPLES, UNITS, WORKERS, Cluster, Scene
from tests.patience import slowness

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]

SLOW = {"CLIPMILL_STUB_SLEEP_MS": "10"}


def lasting(commits: int) -> dict[str, str]:
    """Slow enough that a run makes so many commits, however fast the machine: one a second in the units' own time."""
    return {"CLIPMILL_STUB_SLEEP_MS": str(math.ceil(1000 * (commits + 1) * WORKERS / (UNITS * SAMPLES)))}


@pytest.mark.parametrize("step", STEPS)
def test_driver_killed_inside_a_step(scene: Scene, step: str, seed: int) -> None:
    occurrence = 1 + seed
    driver = scene.start(f"{step}:{occurrence}", **lasting(occurrence))
    scene.wait_for(f"stopped {step}", driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    events = scene.events()
    assert f"woke {step}" not in events, "the kill landed outside the step"
    before = len({e.split()[1] for e in events if e.startswith("receipt")})
    summary = scene.finish()
    committed_before = UNITS - summary["units"]
    repeated = before - committed_before
    at_last_commit = _received_since_commit(events)
    assert 0 <= repeated <= at_last_commit, (before, committed_before, at_last_commit)


def _received_since_commit(events: list[str]) -> int:
    """Receipts that were in memory, not in the table: all since the last rows that landed, and those in that commit."""
    last = max((i for i, e in enumerate(events) if e == "step after_ledger"), default=-1)
    begun = max((i for i, e in enumerate(events[: last + 1]) if e == "step before_rejects"), default=0)
    return sum(e.startswith("receipt") for e in events[begun:])


def test_driver_killed_at_a_random_moment(scene: Scene, seed: int) -> None:
    rng = random.Random(seed)
    driver = scene.start(**SLOW)
    scene.wait_for("receipt", driver)
    time.sleep(rng.uniform(0, 2.5))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    scene.finish()


def test_actors_killed_while_the_job_runs(scene: Scene, cluster: Cluster, seed: int) -> None:
    rng = random.Random(seed)
    driver = scene.start(**SLOW)
    scene.wait_for("receipt", driver)
    killed = 0
    while driver.poll() is None and killed < 3:
        time.sleep(rng.uniform(0.1, 0.8))
        victims = cluster.actors()
        if victims:
            rng.choice(victims).kill()
            killed += 1
    out, err = driver.communicate(timeout=END_S)
    assert driver.returncode in (0, 3), err[-3000:]
    assert killed
    if driver.returncode == 0:
        scene.check()
        assert json.loads(out.strip().splitlines()[-1])["rejects"].get("killed_worker") is None, (
            "no picture is to blame"
        )
    else:
        scene.finish()


def test_raylet_killed_while_the_job_runs(scene: Scene, cluster: Cluster, seed: int) -> None:
    rng = random.Random(seed)
    driver = scene.start(**SLOW)
    scene.wait_for("receipt", driver)
    time.sleep(rng.uniform(0, 1.0))
    cluster.kill_a_raylet(rng)
    _, err = driver.communicate(timeout=END_S)
    assert driver.returncode == 0, err[-3000:]
    scene.check()


def test_raylet_killed_before_the_job_starts(scene: Scene, cluster: Cluster, seed: int) -> None:
    """Ray notices late, and gives the first worker a place on the node that is gone."""
    cluster.kill_a_raylet(random.Random(seed))
    driver = scene.start()
    _, err = driver.communicate(timeout=END_S)
    assert driver.returncode == 0, err[-3000:]
    scene.check()


def test_a_driver_that_slept_past_its_lease_lands_nothing(scene: Scene, seed: int) -> None:
    """Two drivers overlap: the first is suspended inside a commit, the second takes over and finishes."""
    sleeper = scene.start(f"before_rows:{2 + seed}:{scene.go_on}", CHAOS_LEASE_TTL_S="2", **lasting(2 + seed))
    scene.wait_for("stopped before_rows", sleeper)
    sleeper.send_signal(signal.SIGSTOP)  # the whole process: its renewals stop too
    woken = False
    try:
        second = scene.start()
        out, err = second.communicate(timeout=END_S)
        assert second.returncode == 0, (out, err[-3000:])
        version = scene.tables.open().version
        scene.go_on.touch()
        sleeper.send_signal(signal.SIGCONT)
        woken = True
        out, err = sleeper.communicate(timeout=END_S)
        assert json.loads(out.strip().splitlines()[-1])["error"] == "LeaseLost", (out, err[-2000:])
    finally:
        if not woken:
            sleeper.send_signal(signal.SIGCONT)
            sleeper.kill()
    scene.check()
    assert scene.tables.open().version == version, "the late driver changed the table"


def test_two_drivers_at_once(scene: Scene) -> None:
    # At work still, however late the second has started up and seen a renewal.
    first = scene.start(f"before_rows:2:{scene.go_on}", CHAOS_LEASE_TTL_S="6", **lasting(2))
    scene.wait_for("stopped before_rows", first)
    second = scene.start(CHAOS_LEASE_TTL_S="6")
    out, _ = second.communicate(timeout=END_S)
    assert second.returncode == 5
    assert "is being written by" in json.loads(out.strip().splitlines()[-1])["message"]
    scene.go_on.touch()
    out, err = first.communicate(timeout=END_S)
    assert first.returncode == 0, err[-3000:]
    scene.check()


def test_rows_appear_while_the_job_runs(scene: Scene) -> None:
    driver = scene.start(f"before_rows:2:{scene.go_on}", **lasting(2))
    scene.wait_for("stopped before_rows", driver)
    assert 0 < scene.tables.open().count_rows() < scene.expected_rows
    scene.go_on.touch()
    out, err = driver.communicate(timeout=END_S)
    assert driver.returncode == 0, (out, err[-3000:])
    scene.check()


def test_a_node_that_joins_gets_a_worker(scene: Scene, cluster: Cluster) -> None:
    job = scene.folder / "job.yaml"
    job.write_text(job.read_text().replace("workers: {num: 2, cpus: 1}", "workers: {units_in_flight: 1}"))
    driver = scene.start(CLIPMILL_STUB_SLEEP_MS="400")  # five seconds a unit, a minute and a half in all
    scene.wait_for("receipt", driver)
    assert len(cluster.actors()) == 2
    cluster.grow()
    while driver.poll() is None and len(cluster.actors()) < 3:
        time.sleep(0.2)
    assert (driver.poll(), len(cluster.actors())) == (None, 3)
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=END_S)
    assert driver.returncode == 0, (out, err[-3000:])
    scene.finish()


def test_a_picture_that_kills_its_worker_is_found_and_named(scene: Scene) -> None:
    """Two poison samples in one unit, one in another; everything around them becomes rows."""
    poison = {3: [2, 9], 17: [5]}
    for number, places in poison.items():
        members = []
        for i in range(SAMPLES):
            image = picture(number * SAMPLES + i) + (b"KILLME" if i in places else b"")
            members += [(f"{i:03d}.jpg", image), (f"{i:03d}.txt", f"{number} {i}".encode())]
        (scene.folder / "source" / f"{number:03d}.tar").write_bytes(tar(members))
    bad_before = sum((n * SAMPLES + i) % 29 == 7 for n in poison for i in range(SAMPLES))
    driver = scene.start(CLIPMILL_STUB_KILL="KILLME")
    out, err = driver.communicate(timeout=END_S)
    assert driver.returncode == 0, (out, err[-3000:])
    summary = json.loads(out.strip().splitlines()[-1])
    assert summary["rejects"]["killed_worker"] == 3
    assert summary["seen"] == UNITS * SAMPLES
    names = scene.tables.open("rejects").to_table(columns=["uri"], filter="reason = 'killed_worker'")["uri"].to_pylist()
    assert sorted(n[-11:] for n in set(names)) == ["tar#002.jpg", "tar#005.jpg", "tar#009.jpg"]
    assert summary["rows"] == scene.expected_rows + bad_before - 3


def test_a_picture_that_hangs_is_found_and_named(scene: Scene) -> None:
    job = scene.folder / "job.yaml"
    # Three times over it stands still. A worker's first unit does so too, where a busy machine is long over an import.
    job.write_text(job.read_text().replace("unit_deadline_s: 30", f"unit_deadline_s: {8 * slowness():.0f}"))
    members = [("000.jpg", picture(1)), ("001.jpg", picture(2) + b"HANGME"), ("002.jpg", picture(3))]
    (scene.folder / "source" / "005.tar").write_bytes(tar(members))
    driver = scene.start(CLIPMILL_STUB_HANG="HANGME")
    out, err = driver.communicate(timeout=END_S)
    assert driver.returncode == 0, (out, err[-3000:])
    assert json.loads(out.strip().splitlines()[-1])["rejects"]["timed_out"] == 1


def test_a_unit_that_takes_longer_than_its_deadline_but_gets_on_is_left_alone(scene: Scene) -> None:
    job = scene.folder / "job.yaml"
    slow = slowness()
    short = job.read_text().replace("unit_deadline_s: 30", f"unit_deadline_s: {2 * slow:.1f}")
    # One unit a worker: several share its decoding thread, and such a deadline is less than a turn at it.
    job.write_text(short.replace("cpus: 1}", "cpus: 1, units_in_flight: 1}"))
    members = [(f"{i:03d}.jpg", picture(i)) for i in range(80)]
    (scene.folder / "source" / "005.tar").write_bytes(tar(members))
    # One decoding thread a worker: four deadlines.
    driver = scene.start(CLIPMILL_STUB_SLEEP_MS=f"{100 * slow:.0f}")
    out, err = driver.communicate(timeout=END_S)
    assert driver.returncode == 0, (out, err[-3000:])
    summary = json.loads(out.strip().splitlines()[-1])
    assert summary["seconds"] > 8 * slow
    assert summary["worker_restarts"] == 0
    assert summary["seen"] == (UNITS - 1) * SAMPLES + 80
