"""The measured part of the model card: tables between two marks, so that no figure is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TARGETS = {"object": 0.95, "colour": 0.95, "count": 0.95, "background": 0.95, "position": 0.95}


def fill(card: Path, result: dict[str, Any]) -> None:
    """Replace what stands between the marks of ``card``."""
    text = card.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    card.write_text(f"{before}{BEGIN}\n{tables(result)}\n{END}{after}")


def tables(result: dict[str, Any]) -> str:
    """All tables in Markdown."""
    parts = [_main(result), _by_style("By style, new scenes, the shipped model", result["by_style"])]
    if "held_out" in result:
        title = "The same, for a model trained on the photo style alone (sketch and cartoon held out)"
        parts.append(_by_style(title, result["held_out"]))
    if result["background_confusions"]:
        wrong = "; ".join(f"{name}: {times}" for name, times in result["background_confusions"].items())
        parts.append(f"Backgrounds taken for one another, in {result['scenes']} scenes: {wrong}.")
    return "\n\n".join(parts)


def _row(name: str, *cells: str) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _main(result: dict[str, Any]) -> str:
    seeds, pairs = result["unseen_seeds"], result["unseen_pairs"]
    rows = ["| | target | new scenes | new combinations |", "|---|---|---|---|"]
    for name, value in seeds["accuracy"].items():
        rows.append(_row(f"zero-shot {name}", _target(name), f"{value:.3f}", f"{pairs['accuracy'][name]:.3f}"))
    for name, target in (("recall@1", "0.90"), ("recall@5", "0.99")):
        title = f"caption to image {name} of {result['gallery']}"
        rows.append(_row(title, target, f"{seeds[name]:.3f}", f"{pairs[name]:.3f}"))
    for name in ("colours", "places"):
        cells = (f"{part['binding'][name]:.3f}" for part in (seeds, pairs))
        rows.append(_row(f"binding, {name} exchanged", "0.85", *cells))
    return "\n".join(rows)


def _target(facet: str) -> str:
    return f"{TARGETS[facet]:.2f}" if facet in TARGETS else "none"


def _by_style(title: str, styles: dict[str, Any]) -> str:
    parts = list(styles.values())
    rows = [f"{title}:", "", _row("", *styles), "|---|" + "---|" * len(parts)]
    for facet in parts[0]["accuracy"]:
        rows.append(_row(facet, *(f"{part['accuracy'][facet]:.3f}" for part in parts)))
    for key in ("recall@1", "recall@5"):
        rows.append(_row(f"{key} of 500", *(f"{part[key]:.3f}" for part in parts)))
    return "\n".join(rows)
