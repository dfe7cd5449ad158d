"""What a run leaves out is said by plan, summary and status alike; and a run that brought nothing says so."""

from pathlib import Path

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.verifying.status import status
from clipmill.schemas.errors import EXIT_OK, EXIT_UNITS_FAILED
from tests.build import picture, tar
from tests.integration.conftest import last_json, write_job
from tests.integration.help import job, problems, run

pytestmark = pytest.mark.ray


def test_plan_summary_and_status_say_what_was_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = here / "raw"
    raw.mkdir()
    (raw / "a.tar").write_bytes(tar([("a.jpg", picture(1)), ("a.heic", b"x"), ("b.jpg", b"broken"), ("NOTES", b"")]))
    (raw / "zip.tar").write_bytes(b"PK\x03\x04" + bytes(3000))
    (raw / "list.csv").write_bytes(b"")
    made = job(here, {"format": "webdataset", "uri": f"{raw}/", "caption": "txt", "keep": {"license": "string"}})
    file = write_job(here / "job.yaml", made)

    assert cli.run(["plan", str(file), "--json"]) == EXIT_OK
    assert last_json(capsys.readouterr().out)["left_out"] == {"csv": 1}

    assert cli.run(["embed", str(file), "--json"]) == EXIT_UNITS_FAILED
    printed = capsys.readouterr()
    found = last_json(printed.out)
    assert found["left_out"] == {"csv": 1, "heic": 1, "no extension": 1}
    assert (found["rows"], found["filled"]) == (1, {"caption": 0, "license": 0})
    (failed,) = found["failed_units"]
    assert "zip.tar is a zip archive, not a tar; pack it again: " in failed["reason"]
    assert "zip archive" in printed.err
    assert status(made.table, made.storage).left_out == {"csv": 1, "heic": 1, "no extension": 1}
    assert problems(made) == []

    (raw / "zip.tar").unlink()
    again = run(made)
    assert again.note.startswith("nothing to do")
    assert again.left_out == {"csv": 1, "heic": 1, "no extension": 1}
