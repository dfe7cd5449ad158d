"""What tests, benchmarks, scripts and comments name of the code is there. A module that moved would be missed late:
tests import inside functions, some suites run for hours or on other machines, and nothing imports a comment."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.test_architecture import MODULES, ours

ROOT = Path(__file__).parents[2]
FOLDERS = ("tests", "benchmarks", "deploy", "docs", "findings", "training")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
NAME = re.compile(r"clipmill(\.\w+)+")
IN_PROSE = re.compile(r"`((?:jobs|workers|schemas)\.\w+(?:\.\w+)+)`")  # of two parts are keys of a job file too
NOWHERE = "clipmill.jobs.nowhere"  # of a test that asks for what is not there
MOST_BEHIND = 2  # a class of a module, and a method of it


def missing(name: str) -> bool:
    """Whether nothing is at this dotted name: no module, and nothing that a module may hold."""
    parts = ours(name).split(".")
    if parts[0] not in ("schemas", "workers", "jobs"):
        return False
    known = next(n for n in range(len(parts), -1, -1) if n == 0 or ".".join(parts[:n]) in MODULES)
    whole, behind = ".".join(parts[:known]), parts[known:]
    if not known or len(behind) > MOST_BEHIND:
        return True
    return bool(behind) and not re.search(rf"\b{behind[0]}\b", MODULES[whole].read_text("utf-8"))


def named_in(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
            found.add(node.value)
    return {name for name in found if name.startswith("clipmill.") and name != NOWHERE}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_names_of_the_code_is_there(path: Path) -> None:
    assert not sorted(name for name in named_in(path.read_text("utf-8")) if missing(name))


@pytest.mark.parametrize("name", MODULES)
def test_what_comments_name_is_there(name: str) -> None:
    assert not sorted(found for found in IN_PROSE.findall(MODULES[name].read_text("utf-8")) if missing(found))


def test_what_is_gone_is_missed() -> None:
    text = "def f():\n    from clipmill.schemas import errors, gone\n    patch('clipmill.jobs.running.run.gone')"
    gone = {ours(name) for name in named_in(text) if missing(name)}
    assert gone == {"schemas.gone", "jobs.running.run.gone"}
