"""Steps of a benchmark that go wrong; their processes import this module, so it needs nothing heavy."""

import os
import time

from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import Report


def works(setting: Setting, report: Report) -> None:
    report.case("first", 0, lambda: {"value": 1})
    report.case("wrong", 0, lambda: 1 // 0)
    report.case("long", 1e6, lambda: {"value": 2})
    report.case("last", 0, lambda: {"value": 3})


def hangs(setting: Setting, report: Report) -> None:
    time.sleep(600)


def dies(setting: Setting, report: Report) -> None:
    report.case("before", 0, lambda: {"value": 5})
    os.kill(os.getpid(), 9)


def raises(setting: Setting, report: Report) -> None:
    raise ValueError("no such thing")
