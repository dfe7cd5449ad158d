"""When the store of the table fails: one sentence, as for the source's; what passes is tried again, and lands once."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.compaction import Compactor, tidy_side_tables
from clipmill.jobs.indexing.segments import Checkpoint
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.errors import EXIT_OTHER, EXIT_USER, ClipmillError, UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.store import errors as store_errors
from clipmill.workers.store import storage
from clipmill.workers.store.storage import StoreUnavailable
from tests.committed import entry, ids, make_tables, receipt, take_lease
from tests.fake_s3 import FakeS3

SECRET = "very-secret-value"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def running() -> Iterator[FakeS3]:
    with FakeS3().running() as fake:
        yield fake


@pytest.fixture
def store(running: FakeS3) -> FakeS3:
    """One for all, because lance takes two seconds to get to know another."""
    running.reset()
    return running


def storage_of(store: FakeS3) -> Storage:
    return Storage(endpoint_url=store.endpoint, region="us-east-1")


ANSWERS = [
    ((400, "ExpiredToken"), "refuses the credentials for s3://b/db/images", EXIT_USER),
    ((403, "InvalidAccessKeyId"), "refuses the credentials for s3://b/db/images", EXIT_USER),
    ((403, "AccessDenied"), r"no permission to (read|write to) s3://b/db/images", EXIT_USER),
    ((403, "RequestTimeTooSkewed"), "this machine's clock and that of the store", EXIT_USER),
    ((301, "PermanentRedirect"), "is in another region", EXIT_USER),
    ((404, "NoSuchBucket"), "the bucket of s3://b/db/images.* does not exist", EXIT_USER),
    ((503, "SlowDown"), r"too busy or ill \(SlowDown\)", EXIT_OTHER),
]


# Lance takes two seconds to open a table that it cannot read.
SLOWLY = [
    pytest.param(*one, marks=[] if one[0][1] in ("ExpiredToken", "AccessDenied") else pytest.mark.slow)
    for one in ANSWERS
]


@pytest.mark.parametrize(("answer", "sentence", "code"), SLOWLY)
def test_what_the_tables_store_refuses_is_one_sentence(
    store: FakeS3, answer: tuple[int, str], sentence: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store.before = lambda method, key: answer
    tables = Tables.at("s3://b/db/images", storage_of(store))
    with pytest.raises(ClipmillError, match=sentence) as caught:
        tables.open(missing_ok=True)
    assert (caught.value.exit_code, bool(caught.value.hint)) == (code, True)

    assert cli.run(["status", "s3://b/db/images", "--endpoint-url", store.endpoint, "--region", "us-east-1"]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 2, said
    assert said.startswith("error: ")
    assert "hint: " in said
    assert SECRET not in said


@pytest.mark.parametrize(("answer", "sentence", "code"), ANSWERS)
def test_what_it_refuses_to_write_is_one_sentence(
    store: FakeS3, answer: tuple[int, str], sentence: str, code: int
) -> None:
    tables = Tables.at("s3://b/db/images", storage_of(store))
    store.before = lambda method, key: answer if method in ("PUT", "POST") else None
    with pytest.raises(ClipmillError, match=sentence) as caught:
        tables.ensure_side_tables()
    assert caught.value.exit_code == code


def test_a_store_that_is_not_there_is_named() -> None:
    tables = Tables.at("s3://b/db/images", Storage(endpoint_url="http://127.0.0.1:9", region="us-east-1"))
    with pytest.raises(
        StoreUnavailable, match=r"s3://b/db/images.lance does not answer: http://127.0.0.1:9: HTTP"
    ) as it:
        tables.open()
    assert "storage.endpoint_url" in it.value.hint


def test_a_store_that_swallows_what_is_written_ends_in_one_sentence_in_time(
    store: FakeS3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes the connection and the bytes, and says nothing. Lance alone tries that 16 times."""
    monkeypatch.setattr(storage, "STALLED_S", 2.0)
    tables = make_tables("s3://b", storage=storage_of(store))
    over = threading.Event()

    def stall(method: str, key: str) -> tuple[int, str] | None:
        if method not in ("PUT", "POST"):
            return None
        over.wait(200)
        return 503, "SlowDown"

    store.before = stall
    store.requests.clear()
    begun_s = time.monotonic()
    try:
        code = cli.run(["index", "s3://b/db/images", "--endpoint-url", store.endpoint, "--region", "us-east-1"])
    finally:
        over.set()
    assert time.monotonic() - begun_s < 100
    assert code == EXIT_OTHER
    said = capsys.readouterr().err.splitlines()
    assert re.match(r"error: the store of (the table|s3://b/db/images\S*) does not answer", said[-2]), said
    assert said[-1].startswith("hint: ")
    assert len([method for method, _ in store.requests if method == "PUT"]) == 1
    assert tables.options["timeout"] == "2s"


def test_what_fails_at_once_is_tried_as_often_as_ever(store: FakeS3) -> None:
    tables = make_tables("s3://b", storage=storage_of(store))
    left = 12

    def busy(method: str, key: str) -> tuple[int, str] | None:
        nonlocal left
        if method != "PUT" or not left:
            return None
        left -= 1
        return 503, "SlowDown"

    store.before = busy
    tables.log_run("run", "embed", "started", "")
    assert left == 0


CONFIG = """
[profile sso]
sso_session = corp
sso_account_id = 111122223333
sso_role_name = ReadOnly
region = us-east-1
[sso-session corp]
sso_start_url = https://example.invalid/start
sso_region = us-east-1
[profile command]
credential_process = /bin/false
[profile assume]
role_arn = arn:aws:iam::111122223333:role/x
source_profile = missing
"""


@pytest.mark.parametrize("road", [pytest.param("table", marks=pytest.mark.slow), "source"])
@pytest.mark.parametrize(
    ("profile", "sentence", "hint"),
    [
        ("sso", r"single sign-on is not logged in \(profile sso\)", "aws sso login --profile sso"),
        ("command", r"no usable credentials for s3://b/\S+ \(profile command\)", "AWS config file"),
        ("assume", r"no usable credentials for s3://b/\S+ \(profile assume\)", "AWS config file"),
        ("nosuch", r"no usable credentials for s3://b/\S+ \(profile nosuch\)", "AWS config file"),
    ],
)
def test_a_profile_without_credentials_is_one_sentence(
    road: str, profile: str, sentence: str, hint: str, store: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipmill.workers.store.storage import list_objects

    (tmp_path / "config").write_text(CONFIG)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", profile)
    with pytest.raises(UserError, match=sentence) as caught:
        if road == "table":
            Tables.at("s3://b/db/images", storage_of(store)).open(missing_ok=True)
        else:
            list(list_objects("s3://b/raw/", storage_of(store)))
    assert hint in caught.value.hint


@pytest.mark.parametrize("road", ["import", "status", "plan"])
def test_a_hint_names_what_the_command_has(
    road: str, store: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job file's fields where there is a job file, else options; `import` reads no bucket without credentials."""
    (tmp_path / "job.yaml").write_text(
        f"table: {tmp_path}/t/x\nstorage: {{endpoint_url: '{store.endpoint}', region: x}}\n"
        "source: {format: files, uri: 's3://b/raw/'}\n"
    )
    asked = {
        "import": ["import", "s3://b/v/", "--to", f"{tmp_path}/t/x", "--model", "clipmill-tiny"],
        "status": ["status", "s3://b/db/images"],
        "plan": ["plan", f"{tmp_path}/job.yaml"],
    }[road]
    there = [] if road == "plan" else ["--endpoint-url", store.endpoint, "--region", "x"]

    def hint(*more: str) -> str:
        code, said = cli.run([*asked, *more]), capsys.readouterr().err
        assert code == EXIT_USER, said
        return said.partition("hint:")[2]

    store.before = lambda method, key: (404, "NoSuchBucket")
    assert ("--endpoint-url" if there else "storage.endpoint_url") in hint(*there)
    store.reset()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert ("storage." in hint(*there)) == (road == "plan")


@pytest.fixture
def table(store: FakeS3) -> Tables:
    return make_tables("s3://b", storage=storage_of(store))


PARTS = ["images.lance", "images__rejects.lance", "images__units.lance"]


def lands_unsaid(store: FakeS3, part: str) -> Callable[[], int]:
    """The next version of this table is made, and then the store is away until lance gives up; how many requests that
    are yet, 1 once it is back."""
    left = [0]

    def land(key: str) -> tuple[int, str] | None:
        if f"{part}/_versions/" not in key or left[0]:
            return None
        left[0] = 66  # lance gives up after 63
        return (503, "SlowDown")

    def be_away(method: str, key: str) -> tuple[int, str] | None:
        left[0] -= left[0] > 1
        return (503, "SlowDown") if left[0] > 1 else None

    store.after, store.before = land, be_away
    return lambda: left[0]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["images.lance", "images__units.lance"])
def test_a_merge_that_landed_before_the_store_went_away_ends_no_run(
    store: FakeS3, table: Tables, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_errors, "_WAIT", lambda state: 0.01)
    lease = take_lease(table, "a")
    committer = Committer(table, lease)
    for unit in ("u1", "u2", "u3"):
        made = receipt(table, "a", unit, [f"{unit}-1", f"{unit}-2"])
        committer.commit([entry(unit, "a", 2)], made.fragments)
    left = lands_unsaid(store, part)
    compactor = Compactor(table, lease)
    if part == "images.lance":
        compactor.compact()
    else:
        tidy_side_tables(table, lease, every=2)
    assert left() == 1
    assert compactor.conflicts == 0
    assert len(table.open("" if part == "images.lance" else "units").get_fragments()) == 1
    assert ids(table) == sorted(f"{unit}-{n}" for unit in ("u1", "u2", "u3") for n in (1, 2))
    assert verify(f"{table.database}/{table.name}", table.storage).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_commit_that_landed_before_the_store_went_away_lands_once(
    store: FakeS3, table: Tables, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is made and nobody is told: the store answers nothing but 503 until lance gives up ("may or may not
    have been applied"). The next try begins at that version, and no conflict keeps it from doubling the rows."""
    monkeypatch.setattr(store_errors, "_WAIT", lambda state: 0.01)
    committer = Committer(table, take_lease(table, "a"))
    one = receipt(table, "a", "u1", ["1", "2"], bad=1)
    said = replace(entry("u1", "a", 2), seen=3, rejected=1)
    left = lands_unsaid(store, part)
    committer.commit([said], one.fragments, reject_fragments=one.reject_fragments)
    assert left() == 1
    assert ids(table) == ["1", "2"]
    assert ledger.read_ledger(table)["u1"].written == 2
    assert verify(f"{table.database}/{table.name}", table.storage).problems == []


def test_notes_of_an_index_that_may_not_be_read_are_one_sentence(store: FakeS3) -> None:
    store.before = lambda method, key: (403, "AccessDenied")
    with pytest.raises(UserError, match=r"no permission to read s3://b/db/images.lance/_clipmill/index-vector.json"):
        Checkpoint(Tables.at("s3://b/db/images", storage_of(store)), "vector", "key")
