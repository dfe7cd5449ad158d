"""Hints, help texts and documents send people to commands: each of them has to exist."""

import re
from pathlib import Path

import pytest

from clipmill.jobs.cli.main import build

ROOT = Path(__file__).resolve().parents[2]
# In backticks anywhere, and at the start of a line of a code block or a comment.
NAMED = re.compile(r"`clipmill ([a-z][a-z-]+)|^[ #$]*clipmill ([a-z][a-z-]+)(?= [A-Z`\"/-]| [\w./-]+\.ya?ml|$)", re.M)
TEXTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("jobs", "workers", "schemas", "docs", "deploy", "README.md")
    for path in ([ROOT / folder] if (ROOT / folder).is_file() else (ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".yaml", ".html", ".js", ".j2")
)


def named(text: str) -> set[str]:
    return {one or other for one, other in NAMED.findall(text)}


def test_commands_are_recognised_where_people_read_them() -> None:
    assert named("run `clipmill retag TABLE`") == {"retag"}
    assert named("```\nclipmill embed job.yaml\n$ clipmill nightly JOB.yaml\n#   clipmill watch TABLE\n```") == {
        "embed",
        "nightly",
        "watch",
    }
    assert named("clipmill itself has been measured on no GPU") == set()
    assert len(TEXTS) > 100


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_that_is_named_exists(name: str) -> None:
    assert named((ROOT / name).read_text()) <= set(build().commands), name
