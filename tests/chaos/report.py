"""Turn the result of `make chaos` into a dated page: `python -m tests.chaos.report JUNIT.xml PAGE.md`."""

import os
import platform
import sys
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree


def main(junit: str, page: str) -> None:
    runs: dict[str, list[str]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(junit).iter("testcase"):
        name = case.attrib["name"].partition("[")[0].removeprefix("test_").replace("_", " ")
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        runs[name].append(outcome)
        seconds[name] += float(case.attrib["time"])
    lines = [
        "# Chaos: the last run",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("ray", "pylance", "lancedb")),
        "",
        "After every kill the job is run again and the whole table is checked: ids unique, and for each unit",
        "seen = written + rejected + moved, rows present = written, named rejects = rejected. What is random was done",
        f"with {os.environ.get('CHAOS_SEEDS', '2')} seeds (`make chaos` takes ten).",
        "",
        "| what was done | runs | passed | failed | seconds |",
        "|---|---|---|---|---|",
    ]
    for name, outcomes in runs.items():
        passed, failed = outcomes.count("passed"), outcomes.count("failed")
        lines.append(f"| {name} | {len(outcomes)} | {passed} | {failed} | {seconds[name]:.0f} |")
    Path(page).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
