"""The child of a probe, as its parent hears it: a real process that names sample after sample."""

import subprocess
import sys

import pytest

from clipmill.schemas.unit.rejects import Reason
from clipmill.workers.probe import _watch


def watched(program: str, deadline_s: float) -> tuple[int, str] | None:
    child = subprocess.Popen([sys.executable, "-c", f"import os, signal, time; {program}"], stdout=subprocess.PIPE)
    try:
        return _watch(child, deadline_s)
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@pytest.mark.parametrize(
    ("end", "found"),
    [
        ("time.sleep(60)", (2, Reason.TIMED_OUT)),
        ("os.kill(os.getpid(), signal.SIGKILL)", (2, Reason.KILLED_WORKER)),
        ("pass", None),
        ("os._exit(1)", None),
    ],
)
def test_the_sample_that_was_named_last_is_to_blame_however_many_names_came_at_once(
    end: str, found: tuple[int, str] | None
) -> None:
    r"""As they do where the parent has no core for a moment."""
    assert watched(rf"os.write(1, b'-1\n0\n1\n2\n'); {end}", 0.5) == found


def test_a_name_that_comes_in_two_pieces_is_read_whole() -> None:
    assert watched(r"os.write(1, b'-1\n1'); time.sleep(0.2); os.write(1, b'7\n'); time.sleep(60)", 0.5) == (
        17,
        Reason.TIMED_OUT,
    )


def test_a_child_that_never_gets_to_a_sample_blames_none() -> None:
    assert watched(r"os.write(1, b'-1\n'); time.sleep(60)", 0.5) is None
