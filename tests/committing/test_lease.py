"""Who holds a table, where clocks, host names and process ids lie, and a store that takes nothing."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.committing.holder import Holder, boot_id, pid_namespace, process_start
from clipmill.jobs.committing.lease import KEY, Lease
from clipmill.jobs.table.errors import check_folder, is_conflict, no_place_for_a_table, refusal
from clipmill.jobs.table.readers import FENCE_TAG
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import LeaseHeld, LeaseLost, UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.store import errors as store_errors
from clipmill.workers.store.uri import quote
from tests.committed import make_tables, take_lease, wait_until
from tests.conftest import unprivileged
from tests.fake_s3 import FakeS3


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return make_tables(tmp_path)


def elsewhere(**changes: object) -> Holder:
    """A holder of which nothing can be known: another machine's."""
    one = Holder(run="far", epoch=3, ttl_s=0.4, host="far", pid=1, boot="another", pid_ns="pid:[1]", started="1")
    return replace(one, **changes)  # type: ignore[arg-type]


def put(tables: Tables, holder: Holder) -> None:
    tables.open("runs").update_config({KEY: holder.text()})


@pytest.mark.parametrize("until", [0.001, None, 9e9])
def test_a_silent_holder_is_waited_for_one_term_whatever_its_clock_says(tables: Tables, until: float | None) -> None:
    """Its clock may be years behind, or ahead."""
    put(tables, elsewhere(until=until, at="1970-01-01T00:00:00+00:00"))
    said: list[str] = []
    lease = Lease(tables, "b", "embed")
    start = time.monotonic()
    lease.take(on_wait=said.append, poll_s=0.02)
    assert 0.4 <= time.monotonic() - start < 60
    assert len(said) == 1
    assert lease.epoch == 4


def test_a_holder_that_goes_on_is_alive_although_its_clock_says_that_its_time_is_over(tables: Tables) -> None:
    put(tables, elsewhere(until=0.001))
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.wait(0.05):
            put(tables, elsewhere(until=0.001, beat=(count := count + 1)))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(LeaseHeld, match="run far"):
            Lease(tables, "b", "embed").take(poll_s=0.02)
    finally:
        stop.set()
        thread.join()


def here(**changes: object) -> Holder:
    mine = {"pid": os.getpid(), "boot": boot_id(), "pid_ns": pid_namespace(), "started": process_start(os.getpid())}
    return Holder(**{"run": "r", "epoch": 1, **mine, **changes})  # type: ignore[arg-type]


def test_a_process_is_known_to_be_gone_only_among_those_that_can_be_seen() -> None:
    gone = 2**22 + 1  # above what Linux gives
    assert not here().is_dead()
    assert here(pid=gone).is_dead()
    assert here(started="1").is_dead()  # the number was given to another process
    assert not here(pid=gone, pid_ns="pid:[1]").is_dead()  # another pod of this node
    assert not here(pid=gone, boot="another").is_dead()
    assert not here(pid=gone, boot="", pid_ns="").is_dead()
    assert not here(pid=gone, started="").is_dead()


def test_a_process_that_was_killed_and_not_yet_reaped_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = here(pid=child.pid, started=process_start(child.pid))
    assert not holder.is_dead()
    child.kill()
    wait_until(holder.is_dead)
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


def test_what_another_version_stored_is_read() -> None:
    old = Holder.parse('{"run": "a", "epoch": 2, "until": 1790000000.5, "host": "h", "pid": 3}')
    assert (old is not None and old.is_released(), old is not None and old.epoch) == (False, 2)
    given_back = Holder.parse('{"run": "a", "epoch": 2, "until": 0.0, "from the future": 1}')
    assert given_back is not None
    assert given_back.is_released()


def test_a_driver_that_lost_its_lease_leaves_the_new_holders_alone(tables: Tables) -> None:
    sleeper = take_lease(tables, "a", ttl_s=0.2)
    new = take_lease(tables, "b")
    sleeper.release()
    new.check()
    assert Holder.parse(tables.open("runs").config()[KEY]) is not None
    with pytest.raises(LeaseLost, match="run b"):
        sleeper.renew()
    new.check()
    new.release()
    assert take_lease(tables, "c").epoch == 3


class Troubled(Lease):
    """Renewals fail for whatever reason, while there is a trouble."""

    trouble: Exception | None = None
    renewals = 0

    def renew(self) -> None:
        self.renewals += 1
        if self.trouble is not None:
            raise self.trouble
        super().renew()


def test_a_renewal_that_fails_is_told_once_and_tried_again(tables: Tables) -> None:
    """A ValueError is what Lance raises where a manifest cannot be read."""
    lease = Troubled(tables, "a", "embed", ttl_s=0.3)
    lease.take()
    lease.trouble = ValueError("the store is away: http://me:secret@host/")
    said: list[str] = []
    lease.keep(said.append)
    wait_until(lambda: lease.renewals >= 3)
    lease.trouble = None
    wait_until(lambda: len(said) == 2)
    lease.release()
    assert ["could not be renewed" in said[0], "renewed again" in said[1]] == [True, True]
    assert "secret" not in said[0]
    assert lease.lost is None


@pytest.fixture
def read_only() -> Iterator[Tables]:
    """In a folder of its own: pytest's are closed to others."""
    folder = Path(tempfile.mkdtemp())
    tables = make_tables(folder)
    Lease(tables, "a", "embed").take()  # imports what is imported late, while everything can be read
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield tables
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder)


@pytest.mark.timeout(60)
def test_a_table_that_may_not_be_written_to_is_one_sentence(read_only: Tables) -> None:
    """It went on trying for ever, as if somebody else were faster each time."""
    with unprivileged(), pytest.raises(UserError, match=r"no permission to write to .*images__runs") as caught:
        Lease(read_only, "a", "embed").take(poll_s=0.02)
    assert caught.value.hint
    with unprivileged(), pytest.raises(UserError, match="no permission to write to"):
        read_only.log_run("a", "embed", "started", "")


def test_a_new_table_where_nobody_may_write_is_refused_before_anything_is_loaded(read_only: Tables) -> None:
    check_folder("s3://bucket/db")
    inside = f"{read_only.database}/deeper/db"
    with unprivileged(), pytest.raises(UserError, match=f"no permission to write to {read_only.database}"):
        check_folder(inside)
    with pytest.raises(UserError, match="is no folder"):
        check_folder(f"{next(Path(read_only.rows, '_versions').iterdir())}/db")
    with pytest.raises(UserError, match="File name too long"):
        check_folder(f"{read_only.database}/{'a' * 300}/db")
    (odd := Path(read_only.database).parent / "50% #1").write_text("")
    with pytest.raises(UserError, match="is no folder"):
        check_folder(quote(f"{odd}/db"))


@pytest.fixture
def on_fake_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeS3, Tables]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    with FakeS3().running() as store:
        yield store, make_tables("s3://b", storage=Storage(endpoint_url=store.endpoint, region="us-east-1"))


@pytest.mark.timeout(120)
def test_a_store_that_takes_nothing_is_one_sentence(on_fake_s3: tuple[FakeS3, Tables]) -> None:
    store, tables = on_fake_s3
    lease = take_lease(tables, "a")
    store.before = lambda method, key: (403, "AccessDenied") if method in ("PUT", "POST") else None
    with pytest.raises(UserError, match=r"no permission to write to s3://b/db/images__runs") as caught:
        Lease(tables, "a", "embed").take(poll_s=0.02)
    assert "s3:PutObject" in caught.value.hint
    with pytest.raises(UserError, match=r"no permission to write to s3://b/db/images"):
        lease.fence()
    said: list[str] = []
    lease.release(said.append)
    assert len(said) == 1
    assert "could not be given back" in said[0]


AT = '{} at path "/mnt/conflict/t.lance/_transactions/.tmp5", /src/io/commit/conflict_resolver.rs:1006:34'


def test_a_fence_outlasts_a_store_that_is_busy_and_does_more_than_it_says(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command begins with one; a night ended there while the store throttled."""
    import lance

    real, answers = lance.LanceDataset.commit, [busy_after, busy_instead]

    def commit(*args: Any) -> Any:
        return answers.pop(0)(real, *args) if answers else real(*args)

    monkeypatch.setattr(lance.LanceDataset, "commit", commit)
    monkeypatch.setattr(store_errors, "_WAIT", lambda state: 0.001)
    lease = take_lease(tables, "a")
    rows = tables.open()
    assert not answers
    assert int(rows.tags.list()[FENCE_TAG]["version"]) == rows.version
    assert rows.version == 3, "the one that landed unsaid, and another"
    lease.release()


def busy_after(commit: Any, *args: Any) -> Any:
    commit(*args)
    return busy_instead(commit, *args)


def busy_instead(commit: Any, *args: Any) -> Any:
    raise OSError(
        "LanceError(IO): Generic S3 error: Server returned error response, status: 503: <Code>SlowDown</Code>"
    )


def test_conflicts_are_told_from_what_only_sounds_like_one() -> None:
    said = "This UpdateConfig transaction is incompatible with concurrent transaction UpdateConfig at version 5."
    assert is_conflict(OSError(f"Incompatible transaction: {said}"))
    assert is_conflict(OSError("Retryable commit conflict for version 10: This Merge transaction was preempted"))
    assert not is_conflict(OSError(AT.format("LanceError(IO): Permission denied (os error 13)")))
    assert not is_conflict(OSError("LanceError(IO): single PUT of t.txn failed: 409 Conflict: QuotaExceeded"))
    assert not is_conflict(ValueError("Incompatible transaction"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [  # as Lance 13 said on a full tmpfs, one mounted read-only, and a store that answers 507
        (
            "LanceError(IO): Generic LocalFileSystem error: Unable to copy data to file: No space left on device "
            f"(os error {errno.ENOSPC}), /src/commit.rs:1663:50",
            "there is no space left for",
        ),
        (AT.format(f"LanceError(IO): Read-only file system (os error {errno.EROFS})"), "mounted read-only"),
        (AT.format(f"LanceError(IO): File too large (os error {errno.EFBIG})"), "may make no file as large"),
        ("Server returned non-2xx status code: 507 Insufficient Storage: <Error>", "there is no space left for"),
    ],
)
def test_a_full_disk_and_a_read_only_one_are_named(text: str, sentence: str) -> None:
    told = refusal(OSError(text), "/mnt/t.lance")
    assert told is not None
    assert sentence in told.message
    assert told.message.endswith("/mnt/t.lance")
    assert refusal(OSError("LanceError(IO): 503 Service Unavailable"), "/mnt/t.lance") is None


def test_a_table_on_a_disk_that_may_not_be_read_is_one_sentence() -> None:
    """As Lance 13 said to another user of the machine; every command ended in a traceback."""
    at = "/lake/db/images__units.lance/_versions"
    text = f"LanceError(IO): Generic LocalFileSystem error: Unable to walk dir: IO error for operation on {at}: "
    told = no_place_for_a_table(
        ValueError(f"{text}Permission denied (os error 13), /src/object_store.rs:1"), "/lake/db"
    )
    assert told is not None
    assert told.message == f"no permission to read {at}"
