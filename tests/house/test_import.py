"""`import clipmill` costs nothing: what is heavy is loaded by the first use of a public name."""

import subprocess
import sys

import pytest

import clipmill

# Together some ten seconds on two cores; each of them waits until somebody needs it.
LATE = (
    *("torch", "torchvision", "open_clip", "ray", "lance", "lancedb", "pyarrow", "numpy", "pandas", "PIL"),
    *("pydantic", "click", "rich", "s3fs", "fsspec", "botocore", "fastapi", "uvicorn", "jinja2", "yaml", "requests"),
)
MOST_S = 0.05
HEAVY_OF_HELP = ("torch", "open_clip", "ray", "lance", "lancedb", "pyarrow", "pandas", "s3fs", "fastapi", "requests")

# With what they import more modules of ours than `embed` needs to see that there is nothing to do.
_ROOMS = ("running.run", "running.meter", "migrating.reembed", "migrating.retag", "cluster", "indexing", "querying")
OF_A_RUN = tuple(f"clipmill.jobs.{room}" for room in _ROOMS)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_clipmill_takes_no_time_and_no_library() -> None:
    code = (
        "import time, sys\nbegan = time.process_time()\nimport clipmill\nprint(time.process_time() - began)\n"
        f"print(*[name for name in {LATE!r} if name in sys.modules])"
    )
    seconds, loaded = zip(*(run(code).splitlines() for _ in range(3)), strict=True)
    assert set(loaded) == {""}
    assert min(map(float, seconds)) < MOST_S


@pytest.mark.counted
def test_the_command_line_that_only_helps_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom clipmill.jobs.cli.main import build\nbuild()\n"
        f"print(*[name for name in {HEAVY_OF_HELP!r} if name in sys.modules])"
    )
    assert run(code).strip() == ""


def test_an_embed_with_nothing_to_do_imports_nothing_of_a_run() -> None:
    code = (
        "import sys, clipmill.jobs.planning.jobfile, clipmill.jobs.running.embed, clipmill.jobs.migrating.beside\n"
        f"print(*[name for name in sys.modules if name.startswith({OF_A_RUN!r})])"
    )
    assert run(code).strip() == ""


def test_the_command_ends_without_looking_for_cycles() -> None:
    code = (
        "import atexit, gc, sys\nfrom clipmill.jobs.cli.main import main\nsys.argv = ['clipmill', '--version']\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\nmain()"
    )
    assert run(code).endswith("True\n")


@pytest.mark.parametrize("name", [name for name in clipmill.__all__ if name != "__version__"])
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(clipmill, name) is not None


def test_a_name_that_is_not_public_is_told_as_python_does() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = clipmill.nothing  # type: ignore[attr-defined]
