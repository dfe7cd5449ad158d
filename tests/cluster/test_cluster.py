"""How many actors a job gets on which cluster, and what each of them gets."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from clipmill.jobs.cluster import connect as cluster
from clipmill.jobs.cluster.nodes import Node
from clipmill.jobs.cluster.shape import AHEAD, Shape, check_fits, shape, wanted
from clipmill.jobs.running.actors.sizing import _worth, few
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Workers
from clipmill.schemas.unit.units import WorkUnit


def workers(**options: object) -> Workers:
    return Workers.model_validate(options)


def node(cpus: float, gpus: float = 0.0) -> Node:
    return Node(node_id=f"{cpus:g}-{gpus:g}", cpus=cpus, gpus=gpus)


def one_gpu(num: int, cpus: float) -> Shape:
    """Actors with a GPU each, whose threads are their share of their own node."""
    return Shape(num=num, cpus=cpus, gpus=1, threads=int(cpus), own_share=True)


MANY = 10_000


def test_without_gpus_one_actor_per_node_has_all_of_its_cpus() -> None:
    assert shape(workers(), [node(8), node(8)], MANY) == Shape(num=2, cpus=8, gpus=0, threads=8)


def test_an_actor_without_a_gpu_computes_on_the_cpu_also_on_a_node_that_has_some() -> None:
    assert shape(workers(gpus=0), [node(8, 4)], MANY).device == "cpu"
    assert shape(workers(), [node(8, 4)], MANY).device == "auto"


def test_one_actor_per_gpu_with_its_share_of_the_cpus() -> None:
    assert shape(workers(), [node(32, 4), node(32, 4)], MANY) == one_gpu(num=8, cpus=8)


def test_nodes_without_a_gpu_are_left_out_where_others_have_one() -> None:
    assert shape(workers(), [node(64), node(8, 2)], MANY) == one_gpu(num=2, cpus=4)


def test_of_nodes_that_differ_the_smallest_share_is_asked_for_and_each_actor_uses_its_own() -> None:
    """An actor's CPUs are asked of any node, so asking for more than one of them has would leave its GPUs idle."""
    assert shape(workers(), [node(96, 8), node(4, 2)], MANY) == one_gpu(num=10, cpus=2)
    assert not shape(workers(cpus=2), [node(96, 8), node(4, 2)], MANY).own_share  # the job said how many
    mixed = shape(workers(), [node(16), node(4)], MANY)
    assert mixed == Shape(num=5, cpus=4, gpus=0, threads=4)


def test_more_gpus_than_cpus_still_uses_all_of_them() -> None:
    """Ray would place two actors of one CPU each on a node of two, and leave two of its GPUs idle."""
    found = shape(workers(), [node(2, 4)], MANY)
    assert (found.num, found.gpus, found.cpus, found.threads) == (4, 1, 0.5, 1)


def test_a_part_of_a_gpu_makes_more_actors() -> None:
    assert shape(workers(gpus=0.5), [node(16, 2)], MANY) == replace(one_gpu(num=4, cpus=4), gpus=0.5)
    assert shape(workers(gpus=0.1), [node(20, 1)], MANY).num == 10


def test_several_gpus_each_make_fewer() -> None:
    found = shape(workers(gpus=2), [node(32, 8), node(8, 1)], MANY)
    assert found == replace(one_gpu(num=4, cpus=8), gpus=2)


@pytest.mark.parametrize("found", [[node(8)], [], [node(8, 1), node(8, 1)]])
def test_gpus_that_no_node_has_are_asked_for_where_nodes_join_and_refused_where_none_does(found: list[Node]) -> None:
    """Two nodes with a GPU each do not make a node with two."""
    asked = shape(workers(gpus=2, num=3), found, MANY)
    assert (asked.num, asked.gpus, asked.cpus, asked.own_share) == (3, 2, 1, True)
    assert asked.need == "2 GPUs and 1 CPU"
    with pytest.raises(UserError, match=r"workers.gpus is 2, but this machine has no GPUs like that") as error:
        check_fits(asked, found)
    assert "--address" in error.value.hint


def test_auto_grows_to_what_may_come_and_max_bounds_it() -> None:
    one = shape(workers(), [node(8)], MANY)
    assert shape(workers(), [node(8)], MANY, 12).num == wanted(workers(), one, [node(8)], MANY, 12) == 12
    assert wanted(workers(), one, [node(8)] * 20, MANY, 12) == 20, "nodes that are up are used, however little is left"
    assert wanted(workers(), one, [node(8)] * 20, MANY, 5000) == 20 + AHEAD, "the rest when nodes have come"
    assert wanted(workers(max=5), one, [node(8)] * 20, MANY, 12) == 5
    assert wanted(workers(), one, [node(8)], 3, 12) == 3
    assert wanted(workers(num=4, max=2), one, [], MANY) == 2
    assert wanted(workers(num=4), one, [], MANY, 12) == 4


def test_no_gpus_where_the_job_wants_none() -> None:
    assert shape(workers(gpus=0), [node(8, 4)], MANY) == Shape(num=1, cpus=8, gpus=0, threads=8)


def test_more_actors_than_nodes_share_the_cpus() -> None:
    assert shape(workers(num=4), [node(8), node(8)], MANY) == Shape(num=4, cpus=4, gpus=0, threads=4)
    assert shape(workers(num=3), [node(8), node(8)], MANY).cpus == 4
    assert shape(workers(num=5), [node(2)], MANY) == Shape(num=5, cpus=1, gpus=0, threads=1)


def test_fewer_actors_than_nodes() -> None:
    assert shape(workers(num=1), [node(8), node(8)], MANY) == Shape(num=1, cpus=8, gpus=0, threads=8)


def test_cpus_as_the_job_says() -> None:
    assert shape(workers(cpus=2), [node(8), node(4)], MANY) == Shape(num=6, cpus=2, gpus=0, threads=2)
    assert shape(workers(cpus=0.5), [node(2)], MANY) == Shape(num=4, cpus=0.5, gpus=0, threads=1)


def test_no_more_actors_than_units_and_at_least_one() -> None:
    assert shape(workers(), [node(4)] * 10, 3).num == 3
    assert shape(workers(num=8), [node(8)], 2).num == 2
    assert shape(workers(), [], MANY).num == 1  # a cluster that grows when somebody asks
    assert shape(workers(), [node(0)], MANY) == Shape(num=1, cpus=1, gpus=0, threads=1)


def test_ports_for_rays_agents_are_free_and_never_handed_out_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a connection of Ray's own got in the meantime kills the raylet."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(cluster, "_PORTS", range(port, port + 40))
        assert port not in cluster._free_ports(20)
    monkeypatch.undo()
    ports = cluster._free_ports(40)
    assert len(set(ports)) == 40
    setting = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(setting.read_text().split()[0]) if setting.exists() else 49152
    assert max(ports) < first or first < 32768  # a machine whose owner widened the range has no such ports


def test_more_cpus_than_this_machine_has_are_refused_instead_of_waited_for() -> None:
    here = [Node(node_id="a", cpus=4, gpus=0)]
    check_fits(shape(Workers(cpus=4), here, 10), here)
    check_fits(shape(Workers(), here, 10), here)
    with pytest.raises(UserError, match=r"workers.cpus is 5, but this machine has 4 .*--address"):
        check_fits(shape(Workers(cpus=5), here, 10), here)


def test_a_sigterm_that_ray_takes_for_itself_while_it_connects_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    def stopped(*args: object, **options: object) -> None:
        raise SystemExit(15)  # what Ray's own handler does

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", stopped)
    with pytest.raises(KeyboardInterrupt), cluster.connected(None):
        pass


@pytest.mark.parametrize(
    ("units", "workers", "short"),
    [
        ([(600, 0), (399, 0)], 1, True),
        ([(600, 0), (400, 0)], 1, False),
        ([(600, 0), (400, 0)], 2, True),
        ([(None, 40_000_000)], 1, True),
        ([(None, 60_000_000)], 1, False),
        ([(None, 0)], 3, False),  # nothing is known of it
    ],
)
def test_batch_sizes_are_not_tried_for_few_pictures(
    units: list[tuple[int | None, int]], workers: int, short: bool
) -> None:
    todo = [
        WorkUnit(unit_id=str(number), format="files", uri="", etag="", size_bytes=size, num_samples=samples)
        for number, (samples, size) in enumerate(units)
    ]
    assert few(todo, workers) == short


def test_no_work_is_no_reason_to_speak_of_workers() -> None:
    """A night of another model's job, without a new unit: "up to 0 workers if nodes join: 0.0 hours of work"."""
    told: list[str] = []
    assert _worth(None, [], None, told.append) == 0  # type: ignore[arg-type]  # neither is looked at
    assert told == []
