"""A list of the web whose server is away at the first run."""

from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.schemas.errors import EXIT_OK, EXIT_UNITS_FAILED
from tests.integration.conftest import last_json, write_job
from tests.integration.help import job, rejects, rows
from tests.listening import listening
from tests.read.test_web import free_port

pytestmark = [pytest.mark.ray, pytest.mark.realdata]


def test_the_reported_list_fails_its_unit_and_comes_again(
    here: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = real_data / "reported"
    port = free_port()
    lines = (reported / "web" / "list.jsonl").read_text().replace(":18977/", f":{port}/")
    assert f":{port}/" in lines
    (here / "list.jsonl").write_text(lines)
    source = {"format": "manifest", "uri": f"{here}/list.jsonl", "image": "url", "caption": "caption"}
    made = job(here, source, limits={"max_attempts": 1})
    file = write_job(here / "job.yaml", made)
    assert cli.run(["embed", str(file), "--json"]) == EXIT_UNITS_FAILED
    first = last_json(capsys.readouterr().out)
    assert (first["rows"], first["rejects"], len(first["failed_units"])) == (0, {}, 1)
    assert "does not answer" in first["failed_units"][0]["reason"]
    assert rejects(made) == []
    serving = partial(SimpleHTTPRequestHandler, directory=str(reported / "pics"))
    with listening(serving, port=port):
        assert cli.run(["embed", str(file), "--json"]) == EXIT_OK
    second = last_json(capsys.readouterr().out)
    assert (second["rows"], second["rejects"], second["failed_units"]) == (3, {}, [])
    assert {row["caption"] for row in rows(made, "caption")} == {"c0", "c1", "c2"}
