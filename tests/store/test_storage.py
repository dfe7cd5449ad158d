"""Names, listings, streams, retries and error sentences of object stores and local disks."""

import errno
import gc
import io
import os
import pickle
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.planning.listing import list_source
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import EXIT_OTHER, SourceChanged, UserError
from clipmill.schemas.job.config import JobFile, Limits, Source, Storage
from clipmill.schemas.model import ModelSpec
from clipmill.workers.actor import EmbedWorker
from clipmill.workers.origin import origin
from clipmill.workers.store import check as store_check
from clipmill.workers.store import errors as store_errors
from clipmill.workers.store import fs as store_fs
from clipmill.workers.store.storage import (
    StoreUnavailable,
    TooManyBytes,
    absolute_uri,
    check_store,
    connect,
    get_bytes,
    head,
    lance_options,
    list_objects,
    open_stream,
    put_bytes,
    put_file,
)
from clipmill.workers.store.uri import expand_braces, join_uri, quote, split_uri, unquote
from tests.conftest import S3
from tests.fake_s3 import FakeS3
from tests.throttling import Throttle

LOCAL = Storage()
names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)


@pytest.fixture(scope="module")
def fake_server() -> Iterator[FakeS3]:
    with FakeS3().running() as store:
        yield store


@pytest.fixture
def fake(fake_server: FakeS3, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    """One server for all, so that its client is made once."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    fake_server.reset()
    return fake_server


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_errors, "_WAIT", lambda state: 0.001)
    monkeypatch.setattr(store_errors, "_FIRST_WAIT_S", 0.001)


@given(names)
def test_a_quoted_name_comes_back_and_can_be_cut_at_the_hash(name: str) -> None:
    assert unquote(quote(name)) == name
    assert "#" not in quote(name)


def test_bytes_that_are_not_utf8_survive_in_a_uri(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9 #1.tar")
    with open(path, "wb") as file:
        file.write(b"x")
    (found,) = list_objects(f"{tmp_path}/", LOCAL)
    assert found.uri.endswith("/caf%E9 %231.tar")
    assert get_bytes(found.uri, LOCAL, max_bytes=9) == b"x"


def test_one_spelling_for_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in ("a/b.tar", "./a/b.tar", f"file://{tmp_path}/a/b.tar", f"{tmp_path}/a/../a/b.tar"):
        assert absolute_uri(typed) == f"{tmp_path}/a/b.tar"
    assert absolute_uri("s3a://b/100%.jpg") == "s3://b/100%25.jpg" == absolute_uri("s3://b/100%25.jpg")
    assert split_uri("https://x/a%20b#c") == ("https", "https://x/a%20b#c")
    assert join_uri(*split_uri("memory://x/y")) == "memory://x/y"


def test_braces() -> None:
    assert expand_braces("x-{008..011}.tar") == ["x-008.tar", "x-009.tar", "x-010.tar", "x-011.tar"]
    assert expand_braces("{a,b}/{1..2}") == ["a/1", "a/2", "b/1", "b/2"]
    assert expand_braces("{uuid}") == ["{uuid}"]
    with pytest.raises(UserError, match="more than 100,000"):
        expand_braces("{0..99999999999}")


KEYS = ["a-b/x.tar", "a.tar", "a/x.tar", "a/y.txt", "a/ä ö.tar", "a/#1%.tar", "ab.tar", "z/deep/er/k.tar", "日本/x.tar"]


@pytest.mark.s3
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", KEYS),
        ("a/", [k for k in KEYS if k.startswith("a/")]),
        ("a", [k for k in KEYS if k.startswith("a/")]),
        ("*.tar", ["a.tar", "ab.tar"]),
        ("a/*.tar", ["a/x.tar", "a/ä ö.tar", "a/#1%.tar"]),
        ("**/*.tar", [k for k in KEYS if k.endswith(".tar")]),
        ("a*/?.tar", ["a-b/x.tar", "a/x.tar"]),
        ("{a,ab}.tar", ["a.tar", "ab.tar"]),
        ("a/#1%.tar", ["a/#1%.tar"]),
    ],
)
def test_local_and_s3_list_the_same_in_the_same_order(
    s3: S3, tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    for key in KEYS:
        s3.put(key, b"12345")
        put_bytes(quote(f"{tmp_path}/{key}"), b"12345", LOCAL)
    on_s3 = [unquote(o.uri).removeprefix(f"{s3.uri}/") for o in list_objects(f"{s3.uri}/{pattern}", s3.storage)]
    on_disk = [unquote(o.uri).removeprefix(f"{tmp_path}/") for o in list_objects(f"{tmp_path}/{pattern}", LOCAL)]
    assert on_s3 == on_disk == sorted(expected, key=str.encode)
    if "{" not in pattern and expected:
        uri = f"{s3.uri}/{quote(expected[0])}"
        assert head(uri, s3.storage) in list(list_objects(f"{s3.uri}/{pattern}", s3.storage))


def test_a_local_slice_of_a_walk_is_what_a_whole_walk_has_there(tmp_path: Path) -> None:
    from clipmill.workers.store.listing import list_keys
    from clipmill.workers.store.uri import parse_pattern

    for key in KEYS:
        put_bytes(quote(f"{tmp_path}/{key}"), b"1", LOCAL)
    pattern = parse_pattern("file", f"{tmp_path}/")
    whole = [key.name for key in list_keys(pattern, LOCAL)]
    for i, start in enumerate(whole):
        for j in range(i + 1, len(whole)):
            part = [k.name for k in list_keys(pattern, LOCAL, start_after=start, end=whole[j])]
            assert part == whole[i + 1 : j + 1]


@pytest.mark.s3
def test_bytes_ranges_and_limits(s3: S3) -> None:
    uri = s3.put("k", b"0123456789")
    empty = s3.put("empty", b"")
    etag = head(uri, s3.storage).etag
    assert get_bytes(uri, s3.storage, max_bytes=10, expected_etag=etag) == b"0123456789"
    assert get_bytes(uri, s3.storage, max_bytes=4, part=(8, 4)) == b"89"
    assert get_bytes(uri, s3.storage, max_bytes=4, part=(50, 4)) == b""
    assert get_bytes(empty, s3.storage, max_bytes=4) == get_bytes(empty, s3.storage, max_bytes=4, part=(0, 2)) == b""
    with pytest.raises(TooManyBytes):
        get_bytes(uri, s3.storage, max_bytes=9)
    with pytest.raises(SourceChanged):
        get_bytes(uri, s3.storage, max_bytes=10, expected_etag="0" * 32)
    with pytest.raises(FileNotFoundError):
        get_bytes(uri + "x", s3.storage, max_bytes=10)


@pytest.mark.s3
def test_a_client_made_ready_is_the_one_that_is_used(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.put("k", b"1")
    monkeypatch.setattr(store_fs, "_CACHE", {})
    connect(uri, s3.storage)

    def another(scheme: str, storage: Storage) -> Any:
        raise AssertionError("a second client")

    monkeypatch.setattr(store_fs, "_make_fs", another)
    assert get_bytes(uri, s3.storage, max_bytes=1) == b"1"


@pytest.mark.parametrize(
    ("uri", "endpoint"), [("s3://b/x", "http://127.0.0.1:1"), ("s4://b/x", None), ("/no/file", None)]
)
def test_a_worker_that_gets_ready_leaves_a_bad_store_to_its_units(uri: str, endpoint: str | None, fake: FakeS3) -> None:
    worker = EmbedWorker()
    worker.load(ModelSpec(name="stub"), 1, 1, origin()[1])
    worker.get_ready(uri, Storage(endpoint_url=endpoint))


def test_a_worker_whose_model_fails_to_load_gets_ready_all_the_same(tmp_path: Path) -> None:
    """Its call must end: a method that waits for ever would hold one of the actor's threads."""
    pytest.importorskip("torch")
    worker = EmbedWorker()
    worker.load(ModelSpec(name="no-such-model"), 1, 1, origin()[1])
    with pytest.raises(UserError, match="no-such-model"):
        worker.facts()
    worker.get_ready(f"{tmp_path}/x", LOCAL)
    assert gc.isenabled()


@pytest.mark.s3
def test_a_stream_reads_what_the_object_holds_wherever_it_is_asked(s3: S3, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(5_000_000)
    (tmp_path / "k").write_bytes(data)
    for uri, storage in ((s3.put("k", data), s3.storage), (str(tmp_path / "k"), LOCAL)):
        picks = random.Random(2)
        with open_stream(uri, storage, expected_etag=head(uri, storage).etag) as stream:
            reference = io.BytesIO(data)
            for _ in range(40):
                size = picks.choice([0, 1, 511, 70_000, 1_500_000])
                if picks.random() < 0.5:
                    where = picks.randrange(len(data) + 10)
                    stream.seek(where), reference.seek(where)
                assert stream.read(size) == reference.read(size)
                assert stream.tell() == reference.tell() or stream.read() == b""
                stream.seek(reference.tell())
        with open_stream(uri, storage, start=7, end=11) as stream:
            assert stream.read() == data[7:11]


@pytest.mark.s3
def test_an_object_replaced_before_or_while_reading_is_source_changed(s3: S3) -> None:
    uri = s3.put("k", b"a" * 3_000_000)
    etag = head(uri, s3.storage).etag
    stream = open_stream(uri, s3.storage, expected_etag=etag)
    assert stream.read(10) == b"a" * 10
    s3.put("k", b"b" * 3_000_000)
    with pytest.raises(SourceChanged):
        stream.read()
    with pytest.raises(SourceChanged, match="planned"):
        open_stream(uri, s3.storage, expected_etag=etag)
    s3.client.delete_object(Bucket=s3.bucket, Key="k")
    with pytest.raises(SourceChanged, match="gone"):
        open_stream(uri, s3.storage, expected_etag=etag)
    with pytest.raises(UserError, match="does not exist"):
        open_stream(uri, s3.storage)


def test_a_local_file_replaced_while_reading_is_source_changed(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"a" * 3_000_000)
    stream = open_stream(str(path), LOCAL)
    stream.read(10)
    path.write_bytes(b"b" * 3_000_001)
    with pytest.raises(SourceChanged):
        stream.read()


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("answer", [(503, "SlowDown"), (500, "InternalError"), (502, ""), (429, "TooManyRequests")])
def test_what_passes_is_retried(fake: FakeS3, answer: tuple[int, str]) -> None:
    fake.objects["k"] = b"x" * 100
    storage = Storage(endpoint_url=fake.endpoint)
    left = [2]

    def fail_twice(method: str, key: str) -> tuple[int, str] | None:
        left[0] -= 1
        return answer if left[0] >= 0 else None

    for action in (
        lambda: get_bytes("s3://b/k", storage, max_bytes=100),
        lambda: list(list_objects("s3://b/", storage)),
        lambda: open_stream("s3://b/k", storage).read(),
        lambda: put_bytes("s3://b/new", b"1", storage),
    ):
        left[0] = 2
        fake.before = fail_twice
        action()
        assert left[0] < 0


@pytest.mark.usefixtures("quick_retries")
def test_what_does_not_pass_ends_under_one_name(fake: FakeS3) -> None:
    storage = Storage(endpoint_url=fake.endpoint)
    fake.before = lambda method, key: (503, "SlowDown")
    with pytest.raises(StoreUnavailable) as caught:
        get_bytes("s3://b/k", storage, max_bytes=1)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert len(fake.requests) == store_errors.ATTEMPTS
    fake.requests.clear()
    fake.before = lambda method, key: (501, "NotImplemented")
    with pytest.raises(OSError):
        get_bytes("s3://b/k", storage, max_bytes=1)
    assert len(fake.requests) == 1, "501 was retried"


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("answer", "sentence", "hint"),
    [
        ((403, "AccessDenied"), "no permission to read", "s3:ListBucket"),
        ((403, "InvalidAccessKeyId"), "refuses the credentials", "AWS_ACCESS_KEY_ID"),
        ((403, "SignatureDoesNotMatch"), "refuses the credentials", "AWS_ACCESS_KEY_ID"),
        ((400, "ExpiredToken"), "refuses the credentials", "AWS_ACCESS_KEY_ID"),
        ((301, "PermanentRedirect"), "another region", "AWS_REGION"),
        ((404, "NoSuchBucket"), "bucket of .* does not exist", "storage.endpoint_url"),
    ],
)
def test_what_the_store_refuses_is_one_sentence_and_a_hint(
    fake: FakeS3, answer: tuple[int, str], sentence: str, hint: str
) -> None:
    fake.before = lambda method, key: answer if method == "GET" else None
    with pytest.raises(UserError, match=sentence) as caught:
        list(list_objects("s3://b/x/", Storage(endpoint_url=fake.endpoint)))
    assert hint in caught.value.hint
    assert "very-secret-value" not in str(caught.value) + caught.value.hint


def test_what_may_not_be_written_is_one_sentence_and_a_hint(fake: FakeS3, tmp_path: Path) -> None:
    storage = Storage(endpoint_url=fake.endpoint)
    fake.before = lambda method, key: (403, "AccessDenied") if method == "PUT" else None
    (tmp_path / "file").write_bytes(b"1")
    for write in (
        lambda: put_bytes("s3://b/new", b"1", storage),
        lambda: put_file("s3://b/new", str(tmp_path / "file"), storage),
    ):
        with pytest.raises(UserError, match="no permission to write to s3://b/new") as caught:
            write()
        assert "s3:PutObject" in caught.value.hint


def test_what_lance_says_through_an_arrow_stream_is_the_stores_too() -> None:
    said = "External error: LanceError(IO): ... Server returned non-2xx status code: 503 Service Unavailable: ..."
    assert isinstance(store_errors.of_table(pa.ArrowInvalid(said), "s3://b/db/t"), StoreUnavailable)
    other = pa.ArrowInvalid("Could not convert 'a' with type str")
    assert store_errors.of_table(other, "s3://b/db/t") is other


@pytest.mark.usefixtures("quick_retries")
def test_a_store_that_is_busy_for_long_is_no_mistake_of_the_users(fake: FakeS3) -> None:
    fake.before = lambda method, key: (503, "SlowDown")
    with pytest.raises(StoreUnavailable, match=r"store of s3://b/x/ is too busy or ill \(SlowDown\)") as caught:
        list(list_objects("s3://b/x/", Storage(endpoint_url=fake.endpoint)))
    assert caught.value.exit_code == EXIT_OTHER
    assert "later" in caught.value.hint
    # Its first request too: one that says "slow down" is no wrong endpoint. And not for ever.
    assert len(fake.requests) == store_errors.ATTEMPTS


@pytest.mark.usefixtures("quick_retries")
def test_whoever_says_nothing_is_asked_less_often_while_planning(fake: FakeS3) -> None:
    """A wrong endpoint should be said soon; nothing is said of patience."""
    tries: list[str] = []

    def hangs_up() -> None:
        tries.append("")
        raise ConnectionResetError

    with pytest.raises(StoreUnavailable), store_errors.telling(tries.append):
        store_errors.call("s3://b/x/", hangs_up, attempts=store_errors.FIRST_CONTACT_ATTEMPTS)
    assert tries == [""] * store_errors.FIRST_CONTACT_ATTEMPTS


@pytest.mark.usefixtures("quick_retries")
def test_a_listing_gets_through_a_store_that_throttles(fake: FakeS3) -> None:
    """Each request is refused five times, also the very first; whoever plans hears of it once."""
    fake.listing = [f"x/{number:05d}.tar" for number in range(2_500)]
    source = Source(format="webdataset", uri="s3://b/x/*.tar")
    said: list[str] = []
    with Throttle(fake.endpoint, 1.0, in_a_row=5).running() as store:
        job = JobFile.model_validate({"table": "db/t", "source": source, "storage": {"endpoint_url": store.endpoint}})
        found = list_source(job, say=said.append)
    assert [unit.uri for unit in found.units] == [f"s3://b/{key}" for key in fake.listing]
    assert store.passed == 3, "pages"
    assert store.refused == {"GET": 15}
    assert said == ["the store of s3://b/x/ is busy (SlowDown); each request is tried up to 8 times"]


@pytest.mark.parametrize(
    ("uri", "storage", "sentence"),
    [
        ("s4://b/x/", LOCAL, "scheme that is not known"),
        ("/no/such/folder/", LOCAL, "does not exist"),
        ("/no/such/file.tar", LOCAL, "does not exist"),
    ],
)
def test_what_cannot_be_reached_is_one_sentence_and_a_hint(
    uri: str, storage: Storage, sentence: str, fake: FakeS3
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        list(list_objects(uri, storage))
    assert caught.value.hint


def test_a_store_that_does_not_answer_is_a_matter_of_later(fake: FakeS3) -> None:
    """As the table's, tests/table/test_table_store.py: a scheduler retries exit code 1 and never 2."""
    nowhere = Storage(endpoint_url="http://127.0.0.1:1")
    source = Source(format="webdataset", uri="s3://b/x/*.tar")
    for ask in (lambda: list(list_objects("s3://b/x/", nowhere)), lambda: list(survey(source, nowhere, Limits()))):
        with pytest.raises(StoreUnavailable, match="does not answer") as caught:
            ask()
        assert caught.value.exit_code == EXIT_OTHER
        assert "storage.endpoint_url" in caught.value.hint


def test_no_credentials_is_said(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uri = s3.put("k", b"1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no usable credentials"):
        head(uri, s3.storage)


@pytest.mark.s3
def test_a_store_that_keeps_its_promises_passes_and_is_left_clean(s3: S3, tmp_path: Path) -> None:
    check_store(f"{s3.uri}/db/images", s3.storage)
    assert s3.keys() == []
    check_store(str(tmp_path), LOCAL)


@pytest.mark.parametrize(
    ("fault", "sentence"), [("ignores_conditions", "8 of 8 racing"), ("ignores_ranges", "status 200")]
)
def test_a_store_that_does_not_is_refused(fake: FakeS3, fault: str, sentence: str) -> None:
    setattr(fake, fault, True)
    with pytest.raises(UserError, match=sentence):
        check_store("s3://b/db", Storage(endpoint_url=fake.endpoint))
    assert fake.objects == {}


def test_lost_acknowledgements_are_no_broken_promise(fake: FakeS3) -> None:
    """The client asks again where the connection was closed, and is told that the object is there: its own."""
    rounds: list[str] = []

    def hang_up(key: str) -> tuple[int, str] | None:
        if key.endswith("probe"):
            return None
        rounds.append(key)
        return (0, "") if len(rounds) % 3 == 1 else None

    fake.after = hang_up
    check_store("s3://b/db", Storage(endpoint_url=fake.endpoint))
    assert len(rounds) > 25, "a round that says nothing is not counted"


def test_a_store_that_is_too_busy_to_be_tested_is_no_mistake_of_the_users(
    fake: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_check, "_MAX_WAIT_S", 0.01)
    fake.before = lambda method, key: (503, "SlowDown") if method == "PUT" and not key.endswith("probe") else None
    with pytest.raises(StoreUnavailable, match="fails too many requests to be tested") as caught:
        check_store("s3://b/db", Storage(endpoint_url=fake.endpoint))
    assert caught.value.exit_code == EXIT_OTHER


@pytest.mark.slow
def test_a_new_store_that_swallows_what_is_written_is_given_up_in_time(
    fake: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight tries of a client that waits a minute each were eight minutes, and a race of writers longer still."""
    monkeypatch.setattr(store_fs, "_READ_TIMEOUT_S", 1)
    monkeypatch.setattr(store_errors, "REPEAT_FOR_S", 1.5)
    monkeypatch.setattr(store_check, "REPEAT_FOR_S", 1.5)
    over = threading.Event()
    for stalled, tries in (("probe", 3), ("00-00", 8)):

        def stall(method: str, key: str, stalled: str = stalled) -> tuple[int, str] | None:
            if method == "PUT" and (key.endswith("probe") == (stalled == "probe")):
                over.wait(200)
                return 503, "SlowDown"
            return None

        fake.before = stall
        fake.requests.clear()
        monkeypatch.setattr(store_fs, "_CACHE", {})
        begun_s = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            check_store("s3://b/db", Storage(endpoint_url=fake.endpoint))
        assert time.monotonic() - begun_s < 100
        assert caught.value.exit_code == EXIT_OTHER
        sent = [key for method, key in fake.requests if method == "PUT" and key.endswith(stalled)]
        assert len(sent) <= tries, sent
    over.set()


@pytest.mark.s3
def test_lance_reaches_the_same_store_without_being_given_a_secret(s3: S3) -> None:
    import lance
    import pyarrow as pa

    options = lance_options(s3.uri, Storage())  # the endpoint from AWS_ENDPOINT_URL
    assert options["aws_endpoint"] == s3.endpoint
    assert not any("secret" in name or "key" in name for name in options)
    dataset: Any = lance.write_dataset(pa.table({"x": [1, 2]}), f"{s3.uri}/t.lance", storage_options=options)
    assert dataset.count_rows() == 2
    assert lance_options("/tmp/x", s3.storage) == {}


ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@pytest.mark.s3
@pytest.mark.parametrize("name", ENDPOINTS)
def test_the_job_files_endpoint_is_lances_too_whatever_the_environment_says(
    s3: S3, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import lance
    import pyarrow as pa

    with FakeS3().running() as other:
        for one in ENDPOINTS:
            monkeypatch.delenv(one, raising=False)
        monkeypatch.setenv(name, other.endpoint)
        uri = f"{s3.uri}/{name}.lance"
        lance.write_dataset(pa.table({"a": [1]}), uri, storage_options=lance_options(uri, s3.storage))
        assert s3.keys(f"{name}.lance/")
        assert other.requests == []


def test_put_replaces_whole_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    uri = f"{tmp_path}/new/folder/k"
    put_bytes(uri, b"1", LOCAL)
    put_bytes(uri, b"22", LOCAL)
    assert [p.name for p in Path(uri).parent.iterdir()] == ["k"]
    assert Path(uri).read_bytes() == b"22"


def test_dates_of_a_listing_are_read_as_botocore_reads_them() -> None:
    """The quick road for what S3 sends, and botocore's own for all else."""
    from botocore.utils import parse_timestamp

    from clipmill.workers.store.fs import parse_date

    for text in ("2026-11-01T00:00:00.000Z", "2026-11-01T12:34:56Z", "Sun, 01 Nov 2026 00:00:00 GMT", 1793491200):
        assert parse_date(text) == parse_timestamp(text)
    with pytest.raises(ValueError, match="Invalid"):
        parse_date("2026-13-77T00:00:00Z")


def test_a_folder_on_the_way_that_may_not_be_read_is_named_as_a_person_names_it() -> None:
    """The system's own words were shown, with their number."""
    told = store_errors.as_user_error(
        PermissionError(errno.EACCES, "Permission denied", "/lake/raw/b/"), "/lake/raw/**/*.jpg"
    )
    assert isinstance(told, UserError)
    assert told.message == "no permission to read /lake/raw/b/"
