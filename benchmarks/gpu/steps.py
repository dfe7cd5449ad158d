"""Steps one after the other, each in a process of its own with seconds to spend; the result is saved after each case.

A step that raises, hangs, or is killed by the device's driver costs its own seconds and nothing else: what it had
found stays, with what went wrong beside it. The processes are forked from one that has imported torch and open_clip
and nothing else, so that a step starts at once.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.gpu.setting import Setting

_PRELOADED = ("torch", "open_clip", "benchmarks.gpu.setting")


@dataclass(slots=True)
class Report:
    """A step's way to tell what it found, and how many seconds it has left."""

    found: Connection
    ends: float  # of time.monotonic

    @property
    def left_s(self) -> float:
        return self.ends - time.monotonic()

    def case(self, name: str, needs_s: float, measure: Callable[[], Any]) -> Any:
        """What `measure` returns is kept under `name`; None, and why, where it fails or no longer fits."""
        if self.left_s < needs_s:
            self.found.send((name, {"skipped": f"takes some {needs_s:.0f} s, {max(0, self.left_s):.0f} were left"}))
            return None
        start = time.monotonic()
        try:
            found = measure()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next case may work
            traceback.print_exc()
            self.found.send((name, {"error": said(error), "took_s": round(time.monotonic() - start, 1)}))
            return None
        took = {"took_s": round(time.monotonic() - start, 1)}
        self.found.send((name, {**found, **took} if isinstance(found, dict) else found))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`most_s`: its seconds, or what is left of all; not begun with less than `least_s`."""

    name: str
    run: Callable[[Setting, Report], None]
    most_s: float
    least_s: float = 5.0


def said(error: BaseException) -> str:
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first[:300]}"


@dataclass(slots=True)
class Running:
    """The result as it grows. `path`: saved there after each case; None: nowhere. `grace_s`: what a step gets beside
    its seconds, for a case that is about to end."""

    result: dict[str, Any]
    path: Path | None
    preloaded: Sequence[str] = _PRELOADED
    grace_s: float = 3.0

    def all(self, steps: list[Step], setting: Setting, total_s: float) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(list(self.preloaded))
        ends = time.monotonic() + total_s
        for step in steps:
            left_s = ends - time.monotonic()
            if left_s < min(step.least_s, step.most_s):
                self._note(step.name, "skipped", f"{max(0, left_s):.0f} s were left")
                continue
            self._one(step, setting, min(step.most_s, left_s), context)

    def _one(self, step: Step, setting: Setting, seconds: float, context: Any) -> None:
        print(f"==> {step.name}, at most {seconds:.0f} s", file=sys.stderr)
        mine, its = context.Pipe(duplex=False)
        start = time.monotonic()
        self._note(step.name, "at_most_s", round(seconds, 1))
        process = context.Process(target=_in_child, args=(step, setting, start + seconds, its))
        process.start()
        its.close()
        late = self._listen(mine, step.name, start + seconds + self.grace_s)
        if late:
            with contextlib.suppress(ProcessLookupError):  # it may not have come as far as its own group
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.join()
        if late:
            self._note(step.name, "error", f"stopped after its {seconds:g} s")
        elif process.exitcode:
            self._note(step.name, "error", f"its process ended with {process.exitcode}")
        self._note(step.name, "took_s", round(time.monotonic() - start, 1))

    def _listen(self, mine: Connection, step: str, ends: float) -> bool:
        """Until the step has ended, or True where it did not in time."""
        while mine.poll(max(0.0, ends - time.monotonic())):
            try:
                name, found = mine.recv()
            except EOFError:
                return False
            self._note(step, name, found)
        return True

    def _note(self, step: str, name: str, found: Any) -> None:
        self.result["steps"].setdefault(step, {})[name] = found
        if name not in ("at_most_s", "took_s"):
            print(f"{step}: {name}: {found}", file=sys.stderr)
        self.save()

    def save(self) -> None:
        if self.path is not None:
            unfinished = self.path.with_suffix(".unfinished")
            machine.save(unfinished, self.result)
            unfinished.rename(self.path)


def _in_child(step: Step, setting: Setting, ends: float, found: Connection) -> None:
    os.setsid()  # with what it starts, so that all of it can be ended
    os.dup2(2, 1)  # the result alone goes to the standard output
    try:
        step.run(setting, Report(found, ends))
    except Exception as error:  # noqa: BLE001 - it is the step's result
        traceback.print_exc()
        found.send(("error", said(error)))
