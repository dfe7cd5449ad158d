"""What a log file gets to see of a run."""

import re
from pathlib import Path

import pytest

from tests.integration.help import job, run, write_tar

UNITS = 4


@pytest.mark.ray
def test_a_log_gets_a_line_now_and_then(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipmill.jobs.terminal.progress.LINE_EVERY_S", 0.0)
    made = job(here, {"format": "webdataset", "uri": f"{here}/raw/*.tar"})
    for number in range(UNITS):
        write_tar(here / "raw" / f"{number}.tar", range(3), bad=1)
    run(made)
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if "samples/s" in line]
    counted = rf"\d+/{UNITS} units  [\d,]+ rows  [\d,.]+ samples/s  (\d+m\d\ds left  )?[\d,]+ rejects?"
    assert re.fullmatch(counted + r"  (limited by \w+  )?\d workers?", lines[-1]), lines[-1]
    assert not any("\x1b" in line for line in said.err.splitlines())
