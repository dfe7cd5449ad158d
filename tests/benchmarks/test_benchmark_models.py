"""The trial of every architecture: what it calls equal, in which order it goes, and that its page is of its figures."""

from pathlib import Path
from typing import Any

from benchmarks import machine, models

ROOT = Path(__file__).parents[2]
STATE: dict[str, Any] = machine.load(max((ROOT / "benchmarks" / "results").glob("*-models.json")))


def result(precision: str, cosine: float, centred: float) -> dict[str, Any]:
    good = {"cosine": 1.0, "centred": 1.0, "others": 0.5}
    return {"precision": precision, "texts": good, "images": {"cosine": cosine, "centred": centred, "others": 0.9}}


def test_only_what_is_as_the_reference_passes() -> None:
    assert models.verdict(result("bf16", 0.9999, 0.995)) == "as reference"
    assert models.verdict(result("bf16", 0.998, 0.995)).startswith("differs: images 0.998")
    assert models.verdict(result("bf16", 0.9999, 0.5)).startswith("differs"), "a wrong channel hides in a random tower"
    assert models.verdict(result("fp32", 0.9999, 0.9999)).startswith("differs"), "fp32 promises more"
    assert models.verdict(result("bf16", float("nan"), 1.0)).startswith("differs")
    assert models.verdict({"failed": "RuntimeError: no"}) == "failed: RuntimeError: no"


def test_one_of_each_family_goes_first_and_large_ones_not_at_all() -> None:
    known = {
        "large": {"family": "a", "millions": 900.0},
        "middle": {"family": "a", "millions": 300.0},
        "small": {"family": "a", "millions": 100.0},
        "other": {"family": "b", "millions": 400.0},
        "hub": {"family": "c", "refused": "its text tower"},
    }
    assert models.order(known) == ["small", "other", "middle"]


def test_the_page_is_of_the_newest_figures() -> None:
    assert (ROOT / "docs" / "models.md").read_text() == models.page(STATE)
    assert len(STATE["results"]) >= 30
    assert not [name for name, found in STATE["results"].items() if models.verdict(found) != "as reference"]
