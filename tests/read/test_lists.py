"""Parquet files and manifests: images inside or elsewhere, each row once, and no reach beyond what a list may name."""

import json
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.columns import KEEP_TYPES
from clipmill.schemas.errors import SourceChanged, UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import read_unit
from clipmill.workers.read.fetch import ordered_map
from clipmill.workers.read.fields import BadField, coerce
from clipmill.workers.read.remote import BadUri, allowed_uri
from clipmill.workers.store.storage import StoreUnavailable
from tests.build import parquet
from tests.conftest import S3
from tests.fake_s3 import FakeS3
from tests.read.help import reasons

LOCAL = Storage()


def read_all(
    uri: str, format: str, storage: Storage = LOCAL, limits: Limits | None = None, **options: Any
) -> list[Any]:
    source = Source(format=format, uri=uri, **options)
    limits = limits or Limits()
    return [s for u in survey(source, storage, limits) for s in read_unit(u, source, storage, limits)]


# --- parquet ----------------------------------------------------------------------------------------------------


def test_rows_keep_their_number_in_the_whole_file(tmp_path: Path) -> None:
    images = [b"x%d" % i if i % 7 else (None if i % 2 else b"") for i in range(4500)]
    when = [datetime(2024, 1, 1, tzinfo=UTC)] * 4500
    columns = {"image": images, "text": [f"t{i}" for i in range(4500)], "when": when, "n": list(range(4500))}
    (tmp_path / "a.parquet").write_bytes(parquet(columns, rows_per_group=400))
    keep = {"when": "timestamp", "n": "int64"}
    found = read_all(f"{tmp_path}/a.parquet", "parquet", caption="text", keep=keep, id="column:n")
    assert len(found) == 4500
    for i, item in enumerate(found):
        assert item.uri == f"{tmp_path}/a.parquet#row={i}"
        if isinstance(item, Sample):
            assert (item.id, item.caption, item.image) == (str(i), f"t{i}", images[i])
            assert item.metadata == {"when": when[0], "n": i}
    assert reasons(found) == {"ok": 3857, "no_image": 321, "empty": 322}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"abc", b"def"], pa.large_binary()),
        pa.array([b"abc", b"def"], pa.binary(3)),
        pa.array([{"bytes": b"abc", "path": "x/1.jpg"}, {"bytes": b"def", "path": None}]),
        pa.array([b"abc", b"def"]).dictionary_encode(),
        pa.array([b"abc", b"def"], pa.binary_view()),
    ],
    ids=["large", "fixed", "hugging face", "dictionary", "view"],
)
def test_image_columns_of_every_kind(tmp_path: Path, column: Any) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet({"jpg": column}))
    assert [s.image for s in read_all(f"{tmp_path}/a.parquet", "parquet")] == [b"abc", b"def"]


def test_a_column_that_is_no_image_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet({"image": [1, 2], "text": ["a", "b"]}))
    with pytest.raises(UserError, match="neither image bytes nor a URI"):
        read_all(f"{tmp_path}/a.parquet", "parquet")
    with pytest.raises(UserError, match=r"no column license, which source\.keep\.license names"):
        read_all(f"{tmp_path}/a.parquet", "parquet", keep={"license": "string"})


def test_damage_in_one_row_group_costs_its_rows_and_no_others(tmp_path: Path) -> None:
    data = bytearray(parquet({"image": [bytes([i % 251]) * 900 for i in range(300)]}, rows_per_group=100))
    data[200:400] = bytes(200)
    (tmp_path / "a.parquet").write_bytes(data)
    found = read_all(f"{tmp_path}/a.parquet", "parquet")
    assert reasons(found) == {"corrupt": 100, "ok": 200}
    assert len({item.uri for item in found}) == 300


@pytest.mark.s3
def test_parquet_on_s3_with_images_elsewhere(s3: S3) -> None:
    links = [s3.put(f"i/{i}.jpg", b"%d" % i) for i in range(30)] + [f"{s3.uri}/none.jpg", "", None, "i/3.jpg"]
    uri = s3.put("list.parquet", parquet({"url": links, "text": ["t"] * 34}))
    found = read_all(uri, "parquet", s3.storage, caption="text")
    assert [s.image for s in found if isinstance(s, Sample)] == [b"%d" % i for i in [*range(30), 3]]
    assert reasons(found) == {"ok": 31, "not_found": 1, "no_image": 2}
    assert found[0].uri == links[0]
    assert [item.uri for item in found[31:33]] == [f"{uri}#row=31", f"{uri}#row=32"]


# --- manifests --------------------------------------------------------------------------------------------------


def test_every_row_of_a_manifest_is_a_sample_or_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "ok.jpg").write_bytes(b"ok")
    (tmp_path / "blå #1%.jpg").write_bytes(b"odd")
    (tmp_path / "none.jpg").write_bytes(b"")
    (tmp_path / "big.jpg").write_bytes(b"x" * 101)
    rows: list[Any] = [
        {"url": "ok.jpg", "n": 1},
        {"url": f"file://{tmp_path}/blå #1%.jpg", "n": "2"},
        {"url": "none.jpg"},
        {"url": "big.jpg"},
        {"url": "gone.jpg"},
        {"url": "ok.jpg/under"},
        {"n": 1},
        {"url": 5},
        {"url": "x" * 5000},
        {"url": "ok.jpg", "n": "many"},
        {"url": "s3://"},
        {"url": f"{tmp_path}/"},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\nnot json\n[1]"
    (tmp_path / "m.jsonl").write_text(text)
    found = read_all(
        f"{tmp_path}/m.jsonl", "manifest", limits=Limits(max_image_bytes=100), keep={"n": "int32"}, image="url"
    )
    assert [item.reason.value if isinstance(item, Reject) else item.image for item in found] == [
        b"ok",
        b"odd",
        "empty",
        "too_many_bytes",
        "not_found",
        "bad_uri",
        "no_image",
        "bad_metadata",
        "bad_uri",
        b"ok",
        "bad_uri",
        "not_found",
        "bad_metadata",
        "bad_metadata",
    ]
    assert found[1].uri == f"{tmp_path}/blå %231%25.jpg"
    assert found[1].metadata == {"n": 2}
    assert found[9].metadata == {"n": None}
    assert found[9].unread == {"n": "n = 'many' is not int32"}


@pytest.mark.parametrize(
    ("text", "listed_in", "expected"),
    [
        ("a.jpg", "s3://b/d/m.csv", "s3://b/d/a.jpg"),
        ("e/../a.jpg", "s3://b/d/m.csv", "s3://b/d/a.jpg"),
        ("../a.jpg", "s3://b/d/m.csv", None),
        ("../../c/a.jpg", "s3://b/d/m.csv", None),
        ("/etc/passwd", "s3://b/d/m.csv", None),
        ("file:///etc/passwd", "s3://b/d/m.csv", None),
        ("local://x", "s3://b/d/m.csv", None),
        ("/data/a.jpg", "/lists/m.csv", "/data/a.jpg"),
        ("../a.jpg", "/lists/d/m.csv", "/lists/a.jpg"),
        ("s3://other/a#b.jpg", "/lists/m.csv", "s3://other/a%23b.jpg"),
        ("gs://other/a.jpg", "s3://b/m.csv", "gs://other/a.jpg"),
        ("ftp://x/y", "/lists/m.csv", None),
        ("github://o:r@/x", "/lists/m.csv", None),
        ("simplecache::s3://x/y", "s3://b/m.csv", None),
        ("http://127.0.0.1/a.jpg", "s3://b/m.csv", None),
        ("http://[::1]:80/a.jpg", "s3://b/m.csv", None),
        ("http://169.254.169.254/latest", "s3://b/m.csv", None),
        ("http://localhost:9/a", "s3://b/m.csv", None),
        ("http://10.1.2.3/a", "s3://b/m.csv", None),
        ("http://2130706433/a", "s3://b/m.csv", None),
        ("http://localhost:9/a", "/lists/m.csv", "http://localhost:9/a"),
        ("https://93.184.216.34/a%20b.jpg", "s3://b/m.csv", "https://93.184.216.34/a%20b.jpg"),
        ("http:///a", "s3://b/m.csv", None),
        ("a\n.jpg", "/lists/m.csv", None),
    ],
)
def test_what_a_manifest_may_name(text: str, listed_in: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(BadUri):
            allowed_uri(text, listed_in)
    else:
        assert allowed_uri(text, listed_in) == expected


@pytest.mark.s3
def test_a_manifest_on_s3_cannot_read_this_machine(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    uri = s3.put("m.csv", f"url\n{tmp_path}/secret.jpg\nfile://{tmp_path}/secret.jpg\n{s3.endpoint}/x\n".encode())
    assert reasons(read_all(uri, "manifest", s3.storage)) == {"bad_uri": 3}


@pytest.mark.s3
def test_a_manifest_edited_since_the_plan_is_source_changed(s3: S3) -> None:
    s3.put("a.jpg", b"a")
    uri = s3.put("m.csv", b"url,text\n" + b"a.jpg,x\n" * 20)
    source = Source(format="manifest", uri=uri, caption="text")
    (unit,) = survey(source, s3.storage, Limits())
    s3.put("m.csv", b"url,text\n" + b"a.jpg,x\n" * 20 + b"a.jpg,new\n")
    assert len(list(read_unit(unit, source, s3.storage, Limits()))) == 20, "a line added behind changes nothing"
    s3.put("m.csv", b"url,text\n" + b"a.jpg,y\n" * 20)
    with pytest.raises(SourceChanged):
        list(read_unit(unit, source, s3.storage, Limits()))


def test_a_store_that_does_not_answer_is_no_bad_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from clipmill.workers.store import errors as store_errors

    monkeypatch.setattr(store_errors, "_WAIT", lambda state: 0.001)
    monkeypatch.setattr(store_errors, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    (tmp_path / "m.txt").write_text("s3://b/a.jpg\ns3://b/secret.jpg\ns3://b/down.jpg\n")
    with FakeS3().running() as store:
        store.objects = {"a.jpg": b"a"}
        refusals: dict[str, tuple[int, str]] = {"secret.jpg": (403, "AccessDenied"), "down.jpg": (503, "SlowDown")}
        store.before = lambda method, key: refusals.get(key)
        storage = Storage(endpoint_url=store.endpoint)
        with pytest.raises(StoreUnavailable):
            read_all(f"{tmp_path}/m.txt", "manifest", storage)
        refusals["down.jpg"] = (404, "NoSuchKey")
        assert reasons(read_all(f"{tmp_path}/m.txt", "manifest", storage)) == {"ok": 1, "forbidden": 1, "not_found": 1}
        refusals["down.jpg"] = (403, "ExpiredToken")
        with pytest.raises(UserError, match="refuses the credentials"):
            read_all(f"{tmp_path}/m.txt", "manifest", storage)


# --- shared parts -----------------------------------------------------------------------------------------------


def test_fetches_are_in_order_and_bounded() -> None:
    import threading
    import time

    held, most, lock = 0, 0, threading.Lock()

    def fetch(i: int) -> bytes:
        nonlocal held, most
        with lock:
            held += 10
            most = max(most, held)
        time.sleep(0.002 * (i % 3))
        return b"%d" % i

    out = []
    for item in ordered_map(range(60), fetch, weigh=lambda _: 10, max_bytes=45):
        out.append(item)
        with lock:
            held -= 10
    assert out == [b"%d" % i for i in range(60)]
    assert most <= 50  # four under way or waiting, one with the consumer


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes() | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", list(KEEP_TYPES))
@given(value=_VALUES)
def test_what_is_accepted_can_be_stored_as_its_type(kind: str, value: Any) -> None:
    try:
        typed = coerce("field", value, kind)
    except BadField:
        return
    (stored,) = pa.array([typed], KEEP_TYPES[kind]).to_pylist()
    if kind == "float32" and typed is not None:
        return
    assert stored == typed or stored != stored


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (7, "string", "7"),
        (True, "string", "true"),
        ("yes", "bool", True),
        (0, "bool", False),
        (" 7 ", "int32", 7),
        (7.0, "int64", 7),
        ("512.0", "int32", 512),
        ("1e3", "int32", 1000),
        ("9007199254740993.00", "int64", 9007199254740993),
        (Decimal("3.00"), "int32", 3),
        (Decimal("3.25"), "float32", 3.25),
        (Decimal("3.25"), "string", "3.25"),
        (1.0, "bool", True),
        (float("nan"), "string", None),
        (float("nan"), "int32", None),
        (float("nan"), "float64", None),
        (float("nan"), "bool", None),
        (float("nan"), "timestamp", None),
        (Decimal("nan"), "float32", None),
        ("NaN", "int64", None),
        ("nan", "string", "nan"),
        ("1e3", "float64", 1000.0),
        ("2024-01-02T03:04:05+02:00", "timestamp", datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("2024-01-02", "timestamp", datetime(2024, 1, 2, tzinfo=UTC)),
        (0, "timestamp", datetime(1970, 1, 1, tzinfo=UTC)),
        ('["a", 1]', "list<string>", ["a", "1"]),
        ("", "int32", None),
        ("", "string", ""),
        (None, "bool", None),
    ],
)
def test_values_that_mean_the_type_are_taken(value: Any, kind: str, expected: Any) -> None:
    assert coerce("field", value, kind) == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("512.5", "int32"),
        (float("inf"), "int64"),
        ("1e999999999", "int64"),
        (Decimal("0.5"), "int32"),
        (Decimal("sNaN"), "float64"),
        (["a", float("nan")], "list<string>"),
        ("2024:05:06 07:08:09", "timestamp"),
        (1714979289000, "timestamp"),
    ],
)
def test_values_that_do_not_mean_the_type_are_refused(value: Any, kind: str) -> None:
    with pytest.raises(BadField, match=r"^field = .* is not "):
        coerce("field", value, kind)


@pytest.mark.parametrize("format", ["parquet", "manifest"])
def test_values_of_parquet_that_python_has_no_type_for_cost_themselves(tmp_path: Path, format: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"A")
    columns = {
        "uri": pa.array(["a.jpg"] * 3, pa.string_view()),
        "far": pa.array([0, 10**15, None], pa.timestamp("s")),
        "fine": pa.array([0, 1_500_001_001, None], pa.timestamp("ns")),
        "price": pa.array([Decimal("1.50"), Decimal("2.00"), None]),
    }
    (tmp_path / "l.parquet").write_bytes(parquet(columns))
    keep = {"far": "timestamp", "fine": "timestamp", "price": "float64"}
    found = read_all(f"{tmp_path}/l.parquet", format, keep=keep, image="uri")
    zero = datetime(1970, 1, 1, tzinfo=UTC)
    assert [s.metadata for s in found] == [
        {"far": zero, "fine": zero, "price": 1.5},
        {"far": None, "fine": zero.replace(second=1, microsecond=500_001), "price": 2.0},
        {"far": None, "fine": None, "price": None},
    ]
    assert [list(s.unread) for s in found] == [[], ["far"], []]
    assert "out of range" in found[1].unread["far"]


@pytest.mark.counted
def test_images_larger_than_expected_stay_within_the_memory_of_a_worker(tmp_path: Path) -> None:
    """Twenty of 12 MB where 40 MB may be held: none is lost, the order stays, and they are not held side by side."""
    for number in range(20):
        with (tmp_path / f"{number}.jpg").open("wb") as image:
            image.truncate(12_000_000)
    (tmp_path / "m.jsonl").write_text("".join(json.dumps({"url": f"{n}.jpg"}) + "\n" for n in range(20)))
    source = Source(format="manifest", uri=f"{tmp_path}/m.jsonl", image="url")
    limits = Limits(worker_memory=640_000_000)
    (unit,) = survey(source, LOCAL, limits)
    found = []
    tracemalloc.start()
    try:
        for item in read_unit(unit, source, LOCAL, limits):
            assert isinstance(item, Sample)
            found.append((item.uri, len(item.image)))
            del item
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [(f"{tmp_path}/{number}.jpg", 12_000_000) for number in range(20)]
    assert peak_bytes < 30_000_000, f"{peak_bytes:,} bytes"
