"""What the rounds say together: medians, the bound, and shares of it and of the machine's matrix peak."""

from statistics import median
from typing import Any

from benchmarks.stages.alone import STAGES

TOWERS = ("image tower", "text tower")


def bound(one: dict[str, Any], cores: int, *, server_cpu_ms: float = 0.0) -> float:
    """Samples/s that `cores` could do if nothing but the stages' own CPU time counted, or the wire if that is less."""
    cpu_ms = sum(one[stage]["cpu_ms_per_sample"] for stage in STAGES) + server_cpu_ms
    return float(min(1000 * cores / cpu_ms, one["read"]["samples_per_s"]))


def share_of_peak(one: dict[str, Any], tower: str) -> float:
    """Of what one core multiplies at most in the tower's precision, over the CPU time that the tower took."""
    gops = one["peak"][one["stages"]["precision"]]["one_core_gops"]
    stage = one["stages"][tower]
    return float(stage["gflop_per_sample"] / (stage["cpu_ms_per_sample"] / 1000) / gops)


def matrix_peak(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The machine's limit by precision and the towers' share of it, medians of the rounds that measured it."""
    measured = [one for one in rounds if "peak" in one]
    if not measured:
        return {}
    limits = {
        precision: {key: round(median(one["peak"][precision][key] for one in measured), 1) for key in found}
        for precision, found in measured[0]["peak"].items()
    }
    towers = {}
    for tower in TOWERS:
        shares = [share_of_peak(one, tower) for one in measured]
        towers[tower] = {
            "gflop_per_sample": round(measured[0]["stages"][tower]["gflop_per_sample"], 3),
            "share_of_one_core": _all(shares),
        }
    return {"matrix_peak": limits, "precision": measured[0]["stages"]["precision"], "towers": towers}


def summarise(rounds: list[dict[str, Any]], cores: int) -> dict[str, Any]:
    """Of the whole job only where rounds ran it."""
    return {
        **matrix_peak(rounds),
        "stages": {
            stage: {
                key: round(median(one["stages"][stage][key] for one in rounds), 3)
                for key in ("samples_per_s", "cpu_ms_per_sample")
            }
            for stage in STAGES
        },
        "bound_samples_per_s": round(median(bound(one["stages"], cores) for one in rounds), 2),
        **whole_job([one for one in rounds if "job" in one], cores),
    }


def whole_job(rounds: list[dict[str, Any]], cores: int) -> dict[str, Any]:
    if not rounds:
        return {}
    shares, with_server, cpu_shares = [], [], []
    for one in rounds:
        rate = one["job"]["samples_per_s"]
        shares.append(rate / bound(one["stages"], cores))
        server = one["job"]["server_cpu_ms_per_sample"]
        with_server.append(rate / bound(one["stages"], cores, server_cpu_ms=server))
        alone_ms = sum(one["stages"][stage]["cpu_ms_per_sample"] for stage in STAGES)
        cpu_shares.append(alone_ms / one["job"]["cpu_ms_per_sample"])
    return {
        "job_samples_per_s": round(median(one["job"]["samples_per_s"] for one in rounds), 2),
        "first_rows_s": round(median(one["job"]["first_rows_s"] for one in rounds), 1),
        "startup_s": round(median(one["job"]["startup_s"] for one in rounds), 1),
        "share_of_bound": _all(shares),
        "job_cpu_ms_per_sample": round(median(one["job"]["cpu_ms_per_sample"] for one in rounds), 2),
        "stages_share_of_job_cpu": _all(cpu_shares),
        "share_of_bound_with_server": _all(with_server),
    }


def _all(shares: list[float]) -> dict[str, Any]:
    return {"median": round(median(shares), 3), "all": [round(x, 3) for x in shares]}
