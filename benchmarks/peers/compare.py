"""Pure arithmetic on rounds and vectors: rates, paired ratios, cosines. A round maps a tool's name to its figures.

N samples, D dimension.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

MEDIANS = ("samples_per_s", "startup_s", "cpu_ms")  # cpu_ms: per sample, of the process tree
Round = Mapping[str, Mapping[str, float]]
Floats = npt.NDArray[np.float32]


def summarise(rounds: Sequence[Round], ours: str) -> dict[str, dict[str, Any]]:
    """For each tool: medians, and of our rate over its rate in the same round the median, least and greatest.

    A round without the tool or without ours gives no ratio; `rounds` counts those that did.
    """
    names = dict.fromkeys(name for one in rounds for name in one)
    summary: dict[str, dict[str, Any]] = {}
    for name in names:
        mine = [one[name] for one in rounds if name in one]
        ratios = [one[ours]["samples_per_s"] / one[name]["samples_per_s"] for one in rounds if {name, ours} <= set(one)]
        summary[name] = {
            "rounds": len(ratios),
            "samples": int(mine[0]["samples"]),
            **{f"median_{key}": round(median(m[key] for m in mine), 2) for key in MEDIANS},
            "max_peak_rss_mb": max(m["peak_rss_mb"] for m in mine),
        }
        if name != ours and ratios:
            costs = [one[name]["cpu_ms"] / one[ours]["cpu_ms"] for one in rounds if {name, ours} <= set(one)]
            summary[name]["ours_over_it"] = _spread(ratios)
            summary[name]["its_cpu_over_ours"] = _spread(costs)
    return summary


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


def cosines(mine: Mapping[str, npt.NDArray[Any]], theirs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Least and median cosine of the samples both have, by key; `apart` is the median cosine of unlike samples, for
    scale. Both hold `keys` (N,), `images` (N, D) and `texts` (N, D). Raises KeyError for a key of theirs we lack."""
    place = {str(key): n for n, key in enumerate(mine["keys"])}
    rows = [place[str(key)] for key in theirs["keys"]]
    found: dict[str, Any] = {"samples": len(rows)}
    for what in ("images", "texts"):
        a_ND, b_ND = _unit(mine[what][rows]), _unit(theirs[what])
        alike_N = np.einsum("nd,nd->n", a_ND, b_ND)
        apart_N = np.einsum("nd,nd->n", a_ND, np.roll(b_ND, 1, axis=0))
        found[what] = {
            "min": round(float(alike_N.min()), 5),
            "median": round(float(np.median(alike_N)), 5),
            "apart": round(float(np.median(apart_N)), 3),
        }
    return found


def as_markdown(summary: Mapping[str, Mapping[str, Any]], vectors: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| tool | samples/s | clipmill is faster by (least to greatest) | CPU ms a sample "
        "| its CPU time over clipmill's | start-up, s | peak memory, MB | cosine of images / captions, least |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in summary.items():
        ratio = row.get("ours_over_it")
        times = f"{ratio['median']:.1f}× ({ratio['min']:.1f} to {ratio['max']:.1f})" if ratio else ""
        cost = row.get("its_cpu_over_ours")
        costs = f"{cost['median']:.1f}× ({cost['min']:.1f} to {cost['max']:.1f})" if cost else ""
        same = vectors.get(name)
        cosine = f"{same['images']['min']:.5f} / {same['texts']['min']:.5f}" if same else ""
        lines.append(
            f"| {name} | {row['median_samples_per_s']:.1f} | {times} | {row['median_cpu_ms']:.0f} | {costs} "
            f"| {row['median_startup_s']:.1f} | {row['max_peak_rss_mb']:.0f} | {cosine} |"
        )
    return "\n".join(lines)


def _unit(vectors_ND: npt.NDArray[Any]) -> Floats:
    vectors_ND = vectors_ND.astype(np.float32)
    units_ND: Floats = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return units_ND
