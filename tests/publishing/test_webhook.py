"""The webhook: what is posted, to a real server, and that its address is told to nobody."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from clipmill.jobs.planning import listing
from clipmill.jobs.publishing import golden, webhook
from clipmill.jobs.publishing.night import Gate, Night, nights
from clipmill.jobs.publishing.nightly import nightly as one_night
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.job.nightly import Nightly
from clipmill.workers.store.errors import StoreUnavailable
from tests.committed import make_tables
from tests.listening import listening

SECRET = "T0/B0/verysecret"
NIGHT = Night(
    run="r1",
    table="s3://lake/db/images",
    at="2026-01-01T04:00:00+00:00",
    status="refused",
    live_before=7,
    live_after=7,
    gates=(
        Gate(name="coverage", passed=False, value=0.9, threshold=0.999, sentence="coverage 0.9 is below <0.999>"),
        Gate(name="recall", passed=True, value=0.99, threshold=0.95, sentence="recall is 0.99"),
    ),
)


@dataclass
class Server:
    """Answers each POST with the next of `answers`, then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    bodies: list[dict[str, object]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(state.answers.pop(0) if state.answers else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with listening(Handler) as address:
        state.url = f"{address}/services/{SECRET}"
        yield state


def nightly(address: str) -> Nightly:
    return Nightly.model_validate({"webhook": address})


def test_a_refused_night_is_told_once_in_a_form_that_slack_and_programs_read(server: Server) -> None:
    assert webhook.notify(nightly(server.url), NIGHT) == ""
    (body,) = server.bodies
    assert body["text"].startswith("clipmill nightly, images: not published\ncoverage 0.9 is below &lt;0.999&gt;")
    assert "recall" not in body["text"]
    assert (body["event"], body["status"], body["run"]) == ("clipmill.nightly", "refused", "r1")
    assert [gate["passed"] for gate in body["gates"]] == [False, True]
    assert SECRET not in json.dumps(body)


def test_units_that_failed_are_told_though_the_night_is_published(server: Server) -> None:
    from dataclasses import replace

    units = [{"unit_id": "u", "uri": "s3://lake/1.tar", "reason": "gone"}]
    assert webhook.notify(nightly(server.url), replace(NIGHT, status="published", gates=(), failed_units=units)) == ""
    assert server.bodies[0]["text"].splitlines()[:2] == [
        "clipmill nightly, images: published",
        "1 unit failed and has no rows: s3://lake/1.tar (gone)",
    ]


@pytest.mark.parametrize("status", ["published", "nothing", "interrupted"])
def test_a_night_that_went_well_is_not_told(server: Server, status: str) -> None:
    from dataclasses import replace

    assert webhook.notify(nightly(server.url), replace(NIGHT, status=status)) == ""
    assert server.bodies == []


def test_what_an_error_repeats_of_the_address_is_blotted_out(server: Server) -> None:
    from dataclasses import replace

    failed = replace(NIGHT, status="failed", error=f"cannot reach {server.url} of s3://me:password@host/x")
    assert webhook.notify(nightly(server.url), failed) == ""
    assert "***" in server.bodies[0]["error"]
    assert SECRET not in json.dumps(server.bodies)
    assert "password" not in json.dumps(server.bodies)


def test_it_tries_again_where_that_may_help_and_not_for_ever(server: Server) -> None:
    server.answers = [503, 429]
    assert webhook.post(server.url, {"text": "a"}, waits_s=0.01) == ""
    assert len(server.bodies) == 3
    server.answers = [500] * 9
    assert webhook.post(server.url, {"text": "a"}, waits_s=0.01) == "its server answers 500, 3 times"
    assert len(server.bodies) == 6


@pytest.mark.parametrize("status", [400, 404, 307])
def test_a_refusal_and_a_redirect_are_not_tried_again(server: Server, status: int) -> None:
    """A redirect would hand the document, and perhaps the address, to somebody else."""
    server.answers = [status]
    assert webhook.post(server.url, {"text": "a"}, waits_s=0.01) == f"its server answers {status}"
    assert len(server.bodies) == 1


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/{}", "http://[broken/{}", "http://a..b/{}"])
def test_an_address_that_does_not_work_is_told_without_it(
    address: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        why = webhook.post(address.format(SECRET), {"text": "a"}, waits_s=0.01)
    assert why
    said = why + caplog.text + "".join(capfd.readouterr())
    assert "verysecret" not in said
    assert "127.0.0.1" not in why


def test_nothing_of_a_post_is_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        webhook.post(server.url, {"text": "a"})
    assert "verysecret" not in caplog.text
    assert not logging.getLogger("urllib3.connectionpool").disabled


def test_the_address_may_stand_in_a_variable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_HOOK", server.url)
    assert webhook.notify(nightly("env:TEAM_HOOK"), NIGHT) == ""
    assert len(server.bodies) == 1
    monkeypatch.delenv("TEAM_HOOK")
    assert "TEAM_HOOK" in webhook.notify(nightly("env:TEAM_HOOK"), NIGHT)
    assert "hook" not in repr(nightly(server.url).model_dump(mode="json")["webhook"])


@pytest.mark.parametrize("is_there", [True, False], ids=["of a table", "the first"])
def test_a_night_that_the_store_refuses_is_told_though_it_is_for_a_person_to_mend(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    def refused(*args: object, **options: object) -> object:
        raise UserError("the store refuses the credentials for s3://lake/raw (ExpiredToken)", "get new ones")

    monkeypatch.setattr(listing, "survey", refused)
    table = f"{tmp_path}/db/images"
    if is_there:
        make_tables(tmp_path)
    values = {"table": table, "source": {"format": "webdataset", "uri": "s3://lake/raw/*.tar"}}
    job = JobFile.model_validate({**values, "model": {"name": "stub"}, "nightly": {"webhook": server.url}})
    with pytest.raises(UserError, match="refuses the credentials"):
        one_night(job, say=lambda text: None)
    (body,) = server.bodies
    assert body["status"] == "failed"
    assert "refuses the credentials" in str(body["text"])
    assert [night.status for night in nights(Tables.at(table))] == (["failed"] if is_there else [])
    assert (tmp_path / "db").exists() == is_there  # no log beside a table that was never made


@pytest.mark.parametrize("whose", ["the table's", "the golden set's"])
def test_a_store_that_is_away_is_told_though_no_night_began(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    def away(*given: object, **named: object) -> None:
        raise StoreUnavailable("the store does not answer", "")

    monkeypatch.setattr(*((Tables, "open") if whose == "the table's" else (golden, "get_bytes")), away)
    job = JobFile.model_validate(
        {
            "table": f"{tmp_path}/db/images",
            "source": {"format": "webdataset", "uri": f"{tmp_path}/raw/*.tar"},
            "model": {"name": "stub:4"},
            "nightly": {"webhook": server.url, "golden": None if whose == "the table's" else "s3://lake/g.csv"},
        }
    )
    with pytest.raises(StoreUnavailable):
        one_night(job, say=lambda text: None)
    assert [(body["status"], "does not answer" in body["error"]) for body in server.bodies] == [("failed", True)]
