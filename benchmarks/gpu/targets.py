"""What was promised for one H100 or H200, beside what was reached; from a result alone."""

from typing import Any

L14_PER_S = 2450.0
B32_PER_S = 12_000.0
LEAST_COSINE = 0.999
BUSY_PERCENT = 90.0
PLAN_WITHIN = 0.15


def targets(result: dict[str, Any], price_per_hour: float | None) -> dict[str, Any]:
    """One line each: what was wanted, what was reached, and whether that is enough; None where it was not measured."""
    steps = result["steps"]
    roads = {**steps.get("targets", {}), **steps.get("roads", {})}
    large, small = _measured(roads, "L/14"), _measured(roads, "B/32")
    found = {
        "L/14, images/s": _line(L14_PER_S, large.get("samples_per_s")),
        "L/14, share of the matmul peak": _line(0.5, large.get("share_of_matmul_peak")),
        "L/14, GPU busy in percent": _line(BUSY_PERCENT, large.get("gpu_busy_percent")),
        "least cosine": _line(LEAST_COSINE, _least_cosine(steps.get("parity", {}))),
    }
    if small:
        wanted = 0.9 * min(B32_PER_S / 0.9, small["decode_alone_per_s"])
        found["B/32, images/s, or 0.9 of decoding"] = _line(round(wanted, 1), small["samples_per_s"])
    for label, one in (("L/14", large), ("B/32", small)):
        if one:
            off = abs(one["reached_over_plan"] - 1)
            found[f"{label}, plan off by"] = {"most": PLAN_WITHIN, "reached": round(off, 3), "ok": off <= PLAN_WITHIN}
    if price_per_hour is not None:
        found["dollars per million images"] = {
            label: round(price_per_hour / 3600 / one["samples_per_s"] * 1e6, 3)
            for label, one in roads.items()
            if isinstance(one, dict) and one.get("samples_per_s")
        }
    return found


def _measured(roads: dict[str, Any], label: str) -> dict[str, Any]:
    one = roads.get(label, {})
    return one if "samples_per_s" in one else {}


def _line(least: float, reached: float | None) -> dict[str, Any]:
    return {"least": least, "reached": reached, "ok": None if reached is None else reached >= least}


def _least_cosine(parity: dict[str, Any]) -> float | None:
    """Over models, precisions, pictures and texts, as they are; the self-check's own among them."""
    cosines = []
    for one in parity.values():
        for precision in ("bf16", "fp16"):
            for part in ("images", "texts") if isinstance(one, dict) and precision in one else ():
                cosines.append(one[precision][part]["least"])
    return min(cosines, default=None)
