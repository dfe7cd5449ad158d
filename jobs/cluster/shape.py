"""How many actors a job gets, and what each of them asks for: of the nodes that are up, and of those that may come."""

from collections.abc import Sequence
from dataclasses import dataclass

from clipmill.jobs.cluster.nodes import Node
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Workers

AHEAD = 200  # actors without a place that `num: auto` asks for at a time: where nothing joins, they wait for nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How many actors, and what each asks of Ray. `threads`: its CPU threads, or the fewest of them where `own_share`:
    then an actor takes as many as its GPUs' share of its own node, because nodes differ."""

    num: int
    cpus: float
    gpus: float
    threads: int
    own_share: bool = False

    @property
    def device(self) -> str:
        """Where an actor computes: Ray shows one that asked for no GPU all of its node's, which are others' to use."""
        return "auto" if self.gpus else "cpu"

    @property
    def need(self) -> str:
        """For a person: `1 GPU and 4 CPUs`."""
        cpus = f"{self.cpus:g} CPU{'s' * (self.cpus > 1)}"
        return f"{self.gpus:g} GPU{'s' * (self.gpus > 1)} and {cpus}" if self.gpus else cpus

    def slots(self, found: Sequence[Node]) -> int:
        """Actors that these nodes hold at once, if nobody else is on them."""
        return sum(self._on(node) for node in found)

    def _on(self, node: Node) -> int:
        by_cpus = int(node.cpus / self.cpus + 1e-6)  # Ray counts in ten thousandths
        return min(by_cpus, int(node.gpus / self.gpus + 1e-6)) if self.gpus else by_cpus


def shape(workers: Workers, found: Sequence[Node], num_units: int, grow: int = 0) -> Shape:
    """Actors for a cluster with these nodes. One per GPU; without GPUs one per node, with all of its CPUs.

    What the job asks for it gets asked for, whether a node has it or not: an autoscaler may bring one. `grow`: how many
    actors such a cluster may come to, see `wanted`.
    """
    gpus = workers.gpus if workers.gpus != "auto" else float(any(node.gpus for node in found))
    cpus = workers.cpus if workers.cpus != "auto" else _cpus(workers, found, gpus)
    own_share = bool(gpus) and workers.cpus == "auto"
    one = Shape(num=1, cpus=cpus, gpus=gpus, threads=max(1, int(cpus)), own_share=own_share)
    num = wanted(workers, one, found, num_units, grow)
    return Shape(num=num, cpus=cpus, gpus=gpus, threads=one.threads, own_share=own_share)


def _cpus(workers: Workers, found: Sequence[Node], gpus: float) -> float:
    """The smallest share, because an actor's CPUs are asked of any node: one more than that leaves its GPUs idle. Where
    nobody has such a node yet, one: enough for Ray to place it."""
    if gpus:
        hosts = [(node, int(node.gpus / gpus + 1e-6)) for node in found if node.gpus >= gpus]
        shares = [node.cpus / actors for node, actors in hosts if node.cpus]
        return min(shares, default=1.0)
    hosts_without = [node for node in found if node.cpus >= 1]
    cpus = min((node.cpus for node in hosts_without), default=1.0)
    if workers.num != "auto" and workers.num > len(hosts_without) > 0:
        cpus = max(1.0, cpus // -(-workers.num // len(hosts_without)))  # share a node's CPUs among its actors
    return cpus


def wanted(workers: Workers, one: Shape, found: Sequence[Node], num_units: int, grow: int = 0) -> int:
    """How many actors like `one` there should be for `num_units` that are left. `num: auto`: as many as the nodes hold,
    and up to `grow` where more may come, asked for step by step; never more than `workers.max`."""
    held = one.slots(found)
    num = workers.num if workers.num != "auto" else max(1, held, min(grow, held + AHEAD))
    if workers.max != "auto":
        num = min(num, workers.max)
    return max(1, min(num, num_units))


def check_fits(one: Shape, found: Sequence[Node]) -> None:
    """For a cluster that nothing joins. Raises UserError where an actor asks for more than any node of `found` has: it
    would wait for ever."""
    if one.gpus > max((node.gpus for node in found), default=0.0):
        raise UserError(
            f"workers.gpus is {one.gpus:g}, but this machine has no GPU{'s' * (one.gpus > 1)} like that for Ray",
            "set workers.gpus: auto (a CPU works too, slower), or name a cluster with --address",
        )
    most = max((node.cpus for node in found), default=0.0)
    if one.cpus > most:
        raise UserError(
            f"workers.cpus is {one.cpus:g}, but this machine has {most:g} for Ray",
            "set workers.cpus: auto, or name a cluster with --address",
        )
