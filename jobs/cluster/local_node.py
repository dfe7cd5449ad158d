"""The Ray node that we started on this machine, and what to do when it dies under us.

A driver whose raylet is gone hangs in some calls, prints Ray's dumps, and is ended by Ray's own C++ without a word:
some 12 s later, or at once where a call is at the object store just then (2.60: "The connection to the plasma store is
failed. Terminate the process", then `_Exit(1)`). So we look for ourselves: the raylet is our child. Where we come too
late, a small process beside us says the sentence.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from clipmill.jobs.terminal.signals import signals_wait
from clipmill.schemas.errors import ClipmillError

_LOOK_EVERY_S = 0.2
_GRACE_S = 6.0  # for the main thread to come by; half of what Ray gives us
_MESSAGE = "Ray's node on this machine died (its raylet was killed or crashed)"
_HINT = (
    "what was committed stays and the same command goes on from there; too little memory is the usual reason, and the "
    "kernel's log names what it killed"
)
_DIED = "Raylet is terminated. "  # Ray 2.60, ray/_private/process_watcher.py
_SENTENCE = f"error: {_MESSAGE}\nhint: {_HINT}\n"

_raylet: "subprocess.Popen[bytes] | None" = None
_last_word: "subprocess.Popen[bytes] | None" = None


def is_gone() -> bool:
    """Whether we started a node here and its raylet is no more."""
    return _raylet is not None and _raylet.poll() is not None


def check() -> None:
    """Leave Ray and raise where our node died: whatever would ask it from now on may hang or end the process."""
    if not is_gone():
        return
    leave_ray()  # may be the end of this process too
    _needs_no_last_word()
    raise ClipmillError(_MESSAGE, _HINT)


def leave_ray() -> None:
    """An interrupt comes after it. In the middle, where Ray's core is gone and still named, the next reference that is
    freed asks that core, and Ray ends the process by `_Exit(1)` (2.60: "The core worker process is not initialized yet
    or already shutdown")."""
    import ray

    with signals_wait():
        ray.shutdown()


def wait(ref: Any, timeout_s: float | None = None) -> bool:
    """Whether `ref` is there within the time, while the node is watched."""
    import ray

    until_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if ray.wait([ref], timeout=min(0.5, max(0.0, until_s - time.monotonic())))[0]:
            return True
        check()
    return False


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Around all that happens on a node that `ray.init` has just started here.

    Most of a run comes by `check` twice a second and ends in order. Where it does not (an index is built, a call hangs)
    a thread says the sentence and ends the process, before Ray ends it without one.
    """
    global _raylet, _last_word
    from ray._private import worker

    node = worker._global_node
    _raylet = node.all_processes["raylet"][0].process
    _last_word = _start_last_word(node.get_logs_dir_path())
    left = threading.Event()
    threading.Thread(target=_watch, args=(left,), name="raylet", daemon=True).start()
    try:
        with contextlib.redirect_stdout(_Quiet(sys.stderr, _raylet)):
            yield
    finally:
        left.set()
        _raylet = None
        _needs_no_last_word()


def _start_last_word(logs: str) -> "subprocess.Popen[bytes] | None":
    """`logs`: the folder of Ray's logs. None where the system has no room for another process."""
    program = str(Path(__file__).with_name("last_word.py"))
    with contextlib.suppress(OSError):
        return subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", program, logs, str(os.getpid()), _SENTENCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for us
        )
    return None


def _needs_no_last_word() -> None:
    """All is well, or we say it ourselves."""
    global _last_word
    process, _last_word = _last_word, None
    if process is not None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # it was killed, or is late: it ends all the same
            process.communicate(b".", timeout=2.0)


def _watch(left: threading.Event) -> None:
    import ray

    while not left.wait(_LOOK_EVERY_S):
        if is_gone():
            break
    until_s = time.monotonic() + _GRACE_S
    while not left.wait(_LOOK_EVERY_S) and ray.is_initialized():
        if time.monotonic() > until_s:
            _needs_no_last_word()
            os.write(2, _SENTENCE.encode())
            os._exit(ClipmillError.exit_code)


class _Quiet:
    """For stdout, where only data belongs and Ray prints what raylets say. Of a node that died it says pages: the first
    perhaps a moment before the system says so, by an agent whose pipe to the raylet has closed, and the last perhaps
    when nobody watches any more."""

    def __init__(self, stream: TextIO, raylet: "subprocess.Popen[bytes]") -> None:
        self._stream, self._raylet, self._is_over = stream, raylet, False

    def write(self, text: str) -> int:
        self._is_over = self._is_over or _DIED in text or self._raylet.poll() is not None
        return len(text) if self._is_over else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
