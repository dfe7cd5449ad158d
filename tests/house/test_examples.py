"""What .ci/run draws is the same each time, and `make fuzz` draws more: no property test has a way of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples import examples, load_profile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    monkeypatch.setenv("HYPOTHESIS_PROFILE", request.param)
    load_profile()
    yield request.param
    monkeypatch.undo()
    load_profile()


@pytest.mark.parametrize(
    ("profile", "drawn", "same"), [("", 60, False), ("gate", 60, True), ("fuzz", 1200, False)], indirect=["profile"]
)
def test_a_tests_own_number_grows_with_the_profile(profile: str, drawn: int, same: bool) -> None:
    assert (examples(60).max_examples, examples(60).derandomize, examples(60).deadline) == (drawn, same, None)


DRAW = """
import sys, hypothesis.strategies as st
from hypothesis import given
from tests.examples import examples, load_profile
load_profile()
drawn = []
@examples(300)
@given(st.one_of(st.text(), st.integers()))
def draw(one): drawn.append(one)
sys.path.insert(0, sys.argv[1])
import said_by_nobody_else
draw()
print(drawn)
"""


def test_what_the_gate_draws_does_not_follow_the_code(tmp_path: Path) -> None:
    seen = set()
    for words in ("", "THIS = 'a word of a module'\nTHAT = 418_734_123\nWHAT = 'and another one'"):
        (tmp_path / "said_by_nobody_else.py").write_text(words)
        command, env = [sys.executable, "-B", "-c", DRAW, str(tmp_path)], {**os.environ, "HYPOTHESIS_PROFILE": "gate"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        seen.add(done.stdout)
    assert len(seen) == 1


def test_the_suites_of_ci_and_of_fuzz_name_their_profile() -> None:
    assert re.search(r"^export HYPOTHESIS_PROFILE=gate$", (ROOT / ".ci" / "run").read_text(), re.M)
    said = subprocess.run(["make", "-n", "fuzz"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "HYPOTHESIS_PROFILE=fuzz" in said


def test_no_test_sets_what_the_profile_decides() -> None:
    own = re.compile(r"\b(max_examples|derandomize)=|(?<!\w)settings\(")
    files = [path for path in (ROOT / "tests").rglob("*.py") if path.name not in ("examples.py", "test_examples.py")]
    assert not [str(path) for path in files if own.search(path.read_text())]
