"""`.ci/run` finds the files of a mark by its name in them, and reads no others."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_marks_that_choose_a_suite_are_named_in_files_of_tests_alone() -> None:
    named = re.compile(r"mark\.(slow|chaos|s3|counted|browser)\b")
    others = [path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith("test_")]
    assert others
    assert not [str(path) for path in others if named.search(path.read_text())]
