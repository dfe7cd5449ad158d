"""Hints, help texts and documents send people to commands: each of them has to exist, and each line that a page shows
to be typed is read by the command line itself."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
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
PAGES = [*TEXTS, "CHANGELOG.md", "CONTRIBUTING.md"]
OTHERS = {
    "--help",
    "--verbose",
    "--folder",
    "--reuse",
    "--paired",
    "--text",
    "--vector",
}  # of every command, of clipmill itself, of benchmarks, of embedding-atlas
OTHERS |= {"--device", "--small", "--minutes", "--steps", "--price-per-hour"}  # of benchmarks.gpu
OTHERS |= {"--alone"}  # of benchmarks.stages
OTHERS |= {"--dashboard-agent-listen-port"}  # of `ray start`
# In a code block, behind the `#` of a file's head, or as what a cluster runs; `exec head` is compose's.
TYPED = re.compile(
    r"^ *(?:\$ |# +|# .*, then: | *entrypoint: |# +docker compose .* exec head )?(clipmill [a-z]+(?: .*)?)$", re.M
)
SPAN = re.compile(r"`(clipmill [a-z][^`]*)`")
GRAMMAR = re.compile(r"[\[\]|…]|\.\.\.")


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


def written(name: str, text: str) -> Iterator[tuple[str, bool]]:
    """Command lines of a page, and whether each is whole, as one in a block is; one inside a sentence may lack what its
    command must have."""
    blocks, prose = [text] if name.startswith(("docs/", "deploy/")) else [], text  # what code prints, its room tests
    if name.endswith(".md"):
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for span in SPAN.findall(prose):
        yield " ".join(span.split()), False
    for block in blocks:
        for line in TYPED.findall(block.replace("\\\n", " ")):
            yield line, True


def complaint(line: str, whole: bool) -> str:
    """What the command line has against it; empty for nothing. Nothing is run."""
    grammar = not whole and GRAMMAR.search(line)
    words = re.sub(r"[\[\]|]", " ", line).split() if grammar else shlex.split(re.split(r"\s#\s", line)[0])
    _, name, *words = words[: min((words.index(end) for end in ("|", ">", "&&") if end in words), default=None)]
    command = build().commands.get(name)
    if command is None:
        return f"no command {name}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    if unknown := [word for word in words if word.startswith("-") and word not in known | OTHERS]:
        return f"no {unknown}"
    if grammar or "--help" in words:
        return ""
    try:
        words = ["3" if word == "N" else word for word in words]
        command.make_context(name, words, parent=click.Context(build()))
    except click.exceptions.Exit:  # as `--list` ends, which wants nothing else
        return ""
    except click.MissingParameter as error:
        return error.format_message() if whole else ""
    except click.UsageError as error:
        return "" if "does not exist" in error.format_message() else error.format_message()  # a file of the reader's
    return ""


def test_a_line_that_cannot_be_typed_is_seen() -> None:
    block = "```\n  $ clipmill embed a.yaml --adress auto  # so\n```\n"
    page = f"Do `clipmill search` or `clipmill report\nTABLE --html FILE`.\n{block}"
    assert list(written("a.md", page)) == [
        ("clipmill search", False),
        ("clipmill report TABLE --html FILE", False),
        ("clipmill embed a.yaml --adress auto  # so", True),
    ]
    assert [complaint(*one) for one in written("a.md", page)] == ["", "", "no ['--adress']"]
    assert complaint("clipmill embed", True) == "Missing argument 'JOB'."
    assert complaint("clipmill search t x -k many", True)
    assert complaint("clipmill serve t u", True)
    assert complaint("clipmill delete TABLE --where SQL | --undone [--idz FILE]", False) == "no ['--undone', '--idz']"
    assert complaint("clipmill search t 'a > b | c' -k 3 --json | jq .nothing-of-ours > ids.txt", True) == ""


@pytest.mark.parametrize("name", PAGES)
def test_every_line_to_be_typed_is_a_real_command_line(name: str) -> None:
    lines = written(name, (ROOT / name).read_text())
    assert {line: said for line, whole in lines if (said := complaint(line, whole))} == {}


def test_lines_to_be_typed_are_found_at_all() -> None:
    whole = {name: sum(one for _, one in written(name, (ROOT / name).read_text())) for name in PAGES}
    assert whole["README.md"] > 10
    assert whole["docs/runbook.md"] > 10
    overlays = {f"deploy/kubernetes/{name}" for name in ("once/rayjob.yaml", "standing/kustomization.yaml")}
    assert {"deploy/compose.yaml", "deploy/ray-cluster.yaml", *overlays} <= {n for n in whole if whole[n]}


@pytest.mark.parametrize("name", [one for one in PAGES if one.endswith(".md") and not one.startswith("workers")])
def test_every_option_that_a_page_names_is_some_commands(name: str) -> None:
    parameters = [one for command in build().commands.values() for one in command.params]
    known = {option for one in parameters for option in (*one.opts, *one.secondary_opts)}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", (ROOT / name).read_text())) <= known | OTHERS
