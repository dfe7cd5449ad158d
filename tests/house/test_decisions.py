"""Each decision has a page of one shape, the walk through the house leads to it, and every path, link and file of
figures that a page names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "findings/README.md"])
PARTS = ("The question.", "Decided.", "What lost.", "What would change our mind.", "Where.")
PATHS = re.compile(r"`((?:clipmill|jobs|workers|schemas|tests|benchmarks|deploy|docs|findings)/[\w./*-]*)`")
LINKS = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
ANCHORS = re.compile(r"\]\(([^)#:]*)#([^)]+)\)")
FIGURES = re.compile(r"\b\d{4}-\d\d-\d\d-[\w*-]+\.json")


def headings(page: Path) -> set[str]:
    """As GitHub calls them in an address."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).strip().replace(" ", "-") for one in found}


def section(text: str, part: str) -> str:
    """What stands under a bold word, up to the next one at the start of a line or the next heading."""
    found = re.search(rf"^\*\*{re.escape(part)}\*\*(.*?)(?=^\*\*[A-Z]|^## |\Z)", text, re.M | re.S)
    return " ".join(found[1].split()) if found else ""


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_says_what_lost_by_how_much_and_where_it_is(page: Path) -> None:
    text = page.read_text()
    missing = [part for part in PARTS if not section(text, part)]
    assert not missing, f"{page.name}: {missing}"
    assert section(text, "The question.").endswith("?")
    lost = section(text, "What lost.")
    assert re.search(r"\d", lost) or "not measured" in lost.lower(), "a figure, or that there is none"
    assert PATHS.search(section(text, "Where.")), "a module"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_path_link_and_file_of_figures_is_there(page: Path) -> None:
    text = page.read_text()
    assert not [one for one in PATHS.findall(text) if not any(ROOT.glob(one.rstrip("/")))]
    assert not [one for one in FIGURES.findall(text) if not any((ROOT / "benchmarks/results").glob(one))]
    assert not [one for one in LINKS.findall(text) if not (page.parent / one).exists()]
    to_headings = [(page.parent / one if one else page, name) for one, name in ANCHORS.findall(text)]
    assert not [name for one, name in to_headings if one.suffix != ".md" or name not in headings(one)]


def test_the_walk_leads_to_every_decision_and_through_every_floor() -> None:
    walk = (ROOT / "docs/design.md").read_text()
    assert {page.stem for page in DECISIONS} == set(re.findall(r"\(decisions/([\w-]+)\.md\)", walk))
    rooms = {f"jobs/{path.parent.name}/" for path in (ROOT / "jobs").glob("*/__init__.py")}
    rooms |= {f"workers/{path.parent.name}/" for path in (ROOT / "workers").glob("*/__init__.py")} | {"schemas/"}
    assert not {room for room in rooms if f"`{room}`" not in walk}, "rooms that the walk passes by"


def test_the_readme_leads_to_both() -> None:
    assert {"docs/design.md", "docs/decisions"} <= set(LINKS.findall((ROOT / "README.md").read_text()))
