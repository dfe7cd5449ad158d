"""What .ci/run draws is the same each time, and `make fuzz` draws more: no property test has a way of its own."""

import re
import subprocess
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


def test_the_suites_of_ci_and_of_fuzz_name_their_profile() -> None:
    assert re.search(r"^export HYPOTHESIS_PROFILE=gate$", (ROOT / ".ci" / "run").read_text(), re.M)
    said = subprocess.run(["make", "-n", "fuzz"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "HYPOTHESIS_PROFILE=fuzz" in said


def test_no_test_sets_what_the_profile_decides() -> None:
    own = re.compile(r"\b(max_examples|derandomize)=|(?<!\w)settings\(")
    files = [path for path in (ROOT / "tests").rglob("*.py") if path.name not in ("examples.py", "test_examples.py")]
    assert not [str(path) for path in files if own.search(path.read_text())]
