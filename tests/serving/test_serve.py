"""The HTTP API over a real socket: answers, refusals, hostile input; the server is alive after each."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import re
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import lance
import numpy as np
import pytest
import xxhash
from starlette.testclient import TestClient

from clipmill.jobs.querying.open import open_table
from clipmill.jobs.serving import answering
from clipmill.jobs.serving.app import create_app
from clipmill.jobs.serving.quick import QuickSearch
from clipmill.jobs.serving.serve import _share_cores, check
from clipmill.jobs.serving.settings import Settings
from clipmill.schemas.errors import UserError
from clipmill.workers.tag import load_vocabulary
from tests.served import running
from tests.tables import TableOptions, WordEngine, append, make_table, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def uri(folder: Path) -> str:
    """Originals on disk, no stored thumbnails, full-text index."""
    from clipmill.jobs.indexing.build import build_index

    (folder / "pictures").mkdir()
    made = make_table(folder, TableOptions(rows=240, images=folder / "pictures"))
    build_index(made)
    return made


@pytest.fixture(scope="module")
def base(uri: str, engine: WordEngine) -> Iterator[str]:
    with running(open_table(uri, engine=engine)) as url:
        yield url


@pytest.fixture
def client(base: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base, timeout=30) as opened:
        yield opened
        assert opened.get("/health").status_code == 200


ONES = {"vector": base64.urlsafe_b64encode(b"\0\x3c" * 64).decode().rstrip("="), "k": 5}  # sixty-four times 1.0


def nearest_to_ones(uri: str) -> list[str]:
    return open_table(uri).search(vector=[1.0] * 64, k=5)["id"].to_pylist()


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "hint"}
    assert "Traceback" not in answer.text
    assert ".rs:" not in answer.text
    return str(body["error"])


def test_search_by_words_with_filters(client: httpx.Client) -> None:
    found = client.post("/api/search", json={"text": ["red shoe"], "where": "views < 200", "k": 5}).json()
    assert len(found["hits"]) == 5
    assert found["matching"] == 200
    assert all(set(hit["tags"]) & {"red", "shoe"} for hit in found["hits"])
    assert "vector" not in found["hits"][0]
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_every_part_of_a_question(client: httpx.Client) -> None:
    question = {
        "text": ["red"],
        "not_text": ["hat"],
        "not_like": ["row-000010"],
        "any_tags": ["red", "blue"],
        "no_tags": ["dog"],
        "min_score": -1,
        "hybrid": True,
        "text_weight": 0.4,
        "k": 3,
        "offset": 2,
        "columns": ["id", "tags"],
    }
    hits = client.post("/api/search", json=question).json()["hits"]
    assert len(hits) == 3
    assert all("dog" not in hit["tags"] for hit in hits)
    assert set(hits[0]) == {"id", "tags", "score", "bm25", "rank_score"}


def test_similar_and_item(client: httpx.Client) -> None:
    hits = client.get("/api/similar", params={"id": "row-000060", "k": 4}).json()["hits"]
    assert len(hits) == 4
    assert "row-000060" not in [hit["id"] for hit in hits]
    item = client.get("/api/item", params={"id": "row-000060"}).json()
    assert item["unit_id"] == "unit0"
    problem(client.get("/api/item", params={"id": "nobody"}), 404)
    problem(client.get("/api/similar", params={"id": "nobody"}), 400)


def test_an_uploaded_picture_becomes_a_vector_that_searches(client: httpx.Client) -> None:
    encoded = client.post("/api/encode", files={"image": ("a.png", picture("blue"), "image/png")}).json()
    assert encoded["dim"] == 64
    hits = client.post("/api/search", json={"vector": encoded["vector"], "k": 5}).json()["hits"]
    assert len(hits) == 5
    assert all("blue" in hit["tags"] for hit in hits)


def test_facets_over_filter_and_hits(client: httpx.Client) -> None:
    counted = client.post("/api/facets", json={"where": "license = 'cc0'", "columns_counted": ["tags", "license"]})
    tags, licenses = counted.json()["facets"]
    assert licenses["values"] == [{"value": "cc0", "rows": 80}]
    assert sum(v["rows"] for v in tags["values"]) == 160
    nearest = client.post("/api/facets", json={"text": ["red shoe"], "hits": 10}).json()["facets"][0]
    assert nearest["rows"] == 10


def test_tags_stand_under_the_facets_of_their_vocabulary(tmp_path: Path, engine: WordEngine) -> None:
    scenes = load_vocabulary("scenes")
    table = open_table(make_table(tmp_path, TableOptions(rows=300, vocabulary=scenes)), engine=engine)
    rows = table.snapshot.dataset.to_table(columns=["tags"])["tags"].to_pylist()
    by_hand = Counter(tag for tags in rows for tag in tags)
    facet_of = {label.name: label.facet for label in scenes.labels}
    with running(table) as base, httpx.Client(base_url=base) as client:

        def counted(**question: object) -> dict[str, dict[str, int]]:
            found = client.post("/api/facets", json={"columns_counted": ["tags"], **question}).json()["facets"]
            return {f["group"]: {v["value"]: v["rows"] for v in f["values"]} for f in found}

        assert "house" not in counted(top=30)[""]
        whole = counted(by_facet=True)
        assert list(whole) == [facet for facet, _, _ in scenes.facets]
        assert {tag: n for group in whole.values() for tag, n in group.items()} == by_hand
        assert all(facet_of[tag] == group for group, tags in whole.items() for tag in tags)
        assert all(len(tags) <= 3 for tags in counted(by_facet=True, top=3).values())
        assert counted(by_facet=True, containing="HOUS") == {"object": {"house": by_hand["house"]}}
        begins, others = (
            {n for tag, n in counted(containing="w")[""].items() if (tag[0] == "w") is b} for b in (True, False)
        )
        assert max(begins) < max(others), "or the next line shows nothing"
        assert next(iter(counted(containing="w")[""]))[0] == "w", "what begins with the text is first, however rare"
        one_row = {"where": "id = 'row-000000'", "containing": "house", "by_facet": True}
        assert counted(**one_row) == {"object": {"house": int("house" in rows[0])}}, "a tag that the filter hides"
        assert counted(containing="no such tag", by_facet=True) == {"": {}}


def test_tags_of_a_vocabulary_that_is_not_known_here_are_one_list(client: httpx.Client) -> None:
    (tags,) = client.post("/api/facets", json={"by_facet": True, "containing": "o"}).json()["facets"]
    assert (tags["column"], tags["group"]) == ("tags", "")
    assert {v["value"] for v in tags["values"]} == {"yellow", "shoe", "dog", "house", "boat"}


def test_the_facets_of_a_vocabulary_file_are_found_and_a_pipe_is_not_opened(tmp_path: Path, engine: WordEngine) -> None:
    (tmp_path / "mine.yaml").write_text("facets:\n  animal: [cat, dog]\n  sky: [day, night]\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    mine = load_vocabulary(f"{tmp_path}/mine.yaml")
    for file, groups in (("mine", {"animal", "sky"}), ("pipe", {""}), ("absent", {""})):
        named = replace(mine, name=f"{tmp_path}/{file}.yaml")
        uri = make_table(tmp_path, TableOptions(rows=20, vocabulary=named), name=file)
        with running(open_table(uri, engine=engine)) as base:
            found = httpx.post(f"{base}/api/facets", json={"by_facet": True}).json()["facets"]
            assert {facet["group"] for facet in found} == groups


def test_pictures_small_and_original(client: httpx.Client, folder: Path) -> None:
    small = client.get("/api/image", params={"id": "row-000003"})
    assert small.headers["content-type"] == "image/webp"
    assert small.headers["x-content-type-options"] == "nosniff"
    full = client.get("/api/image", params={"id": "row-000003", "size": "original"})
    assert full.content == (folder / "pictures" / "000003.png").read_bytes()
    assert full.headers["content-type"] == "image/png"
    problem(client.get("/api/image", params={"id": "nobody"}), 404)


def test_what_is_no_picture_is_never_passed_on(client: httpx.Client, folder: Path) -> None:
    """A row whose object became something else: a web page must not be served as one from this origin."""
    path = folder / "pictures" / "000004.png"
    path.write_text("<html><script>alert(1)</script>")
    for size in ("original", "thumbnail"):
        message = problem(client.get("/api/image", params={"id": "row-000004", "size": size}), 404)
        assert str(folder) not in message
    path.unlink()
    message = problem(client.get("/api/image", params={"id": "row-000004", "size": "original"}), 404)
    assert str(folder) not in message


def test_a_row_that_names_a_file_of_this_machine_is_not_shown(tmp_path: Path, engine: WordEngine) -> None:
    (tmp_path / "pictures").mkdir()
    uri = make_table(tmp_path, TableOptions(rows=10, images=tmp_path / "pictures"))
    (tmp_path / "secret.png").write_bytes(picture("red"))
    os.mkfifo(tmp_path / "pictures" / "pipe.png")
    for name, place in (("row-000000", "secret.png"), ("row-000006", "pictures/pipe.png")):
        lance.dataset(f"{uri}.lance").update({"uri": f"'{tmp_path}/{place}'"}, where=f"id = '{name}'")
    lance.dataset(f"{uri}.lance").update({"uri": "'unknown://a'"}, where="id = 'row-000001'")
    with running(open_table(uri, engine=engine)) as base, httpx.Client(base_url=base) as client:
        for name, said in (("0", "not of this table's source"), ("1", "not of this"), ("6", "gone")):
            for size in ("thumbnail", "original"):
                message = problem(client.get("/api/image", params={"id": f"row-00000{name}", "size": size}), 404)
                assert said in message
    allowing = Settings(refresh_s=0.2, allow_sources=(f"{tmp_path}/secret.png",))
    with running(open_table(uri, engine=engine), allowing) as base, httpx.Client(base_url=base) as client:
        found = client.get("/api/image", params={"id": "row-000000", "size": "original"})
        assert found.content == picture("red")


def test_table_health_metrics_and_openapi(client: httpx.Client) -> None:
    info = client.get("/api/table").json()
    assert info["rows"] == 240
    assert info["full_text"]
    assert info["facets"][0] == "tags"
    assert "license" in info["facets"]
    assert client.get("/health").json()["encoder"] == "ready"
    client.post("/api/search", json={"text": ["red"]})
    counts = client.get("/metrics").text
    assert 'clipmill_requests_total{route="/api/search",status="200"}' in counts
    assert "clipmill_table_rows 240.0" in counts
    assert "/api/search" in client.get("/openapi.json").json()["paths"]


def bomb(side_px: int = 60_000) -> bytes:
    """A PNG of a few kilobytes that says it has 3.6 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    data = packer.compress(bytes(1_000_000)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("question", "status", "words"),
    [
        ({"text": ["a"], "k": 10**9}, 422, "k"),
        ({"text": ["a"], "k": -1}, 422, "k"),
        ({"text": ["a"], "k": "5"}, 422, "k"),
        ({"text": ["a"], "offset": 10**18}, 422, "offset"),
        ({"text": [""]}, 422, "text"),
        ({"text": 5}, 422, "text"),
        ({"text": ["a" * 5000]}, 422, "text"),
        ({"text": ["a"] * 100}, 422, "text"),
        ({"nope": 1}, 422, "nope"),
        ({"min_score": 3}, 422, "min_score"),
        ({"where": "length(repeat('a', 10000000000)) > 1"}, 400, "repeat"),
        ({"where": "1=1; DROP TABLE x"}, 400, ";"),
        ({"where": "x" * 5000}, 422, "where"),
        ({"where": "widht > 1"}, 400, "widht"),
        ({"columns": ["vector"]}, 400, "vector"),
        ({"columns": ["nope"]}, 400, "nope"),
        ({"vector": "AAAA"}, 400, "64"),
        ({"vector": "A"}, 400, "base64"),
        ({"vector": base64.urlsafe_b64encode(b"\x00\x7c" * 64).decode().rstrip("=")}, 400, "finite"),
        ({"not_text": ["a"]}, 400, "negative"),
        ({"hybrid": True}, 400, "text"),
        ({"any_tags": ["a\x00b"]}, 400, "NUL"),
        ({"like": ["\x00"]}, 400, "NUL"),
    ],
)
def test_hostile_questions_get_a_sentence(client: httpx.Client, question: dict, status: int, words: str) -> None:
    assert words in problem(client.post("/api/search", json=question), status)


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": ["\\ud800"]}',
        b'{"any_tags": ["\\udfff"]}',
        b'{"where": "caption = \'\\ud800\'"}',
        b'{"text": ["a"], "min_score": NaN}',
        b'{"text": ["a"], "k": 1e400}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"null",
        b'"text"',
        b"",
        b'{"text": ["a"], "\\ud800": 1}',
    ],
)
def test_broken_bodies_are_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/api/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert set(answer.json()) == {"error", "hint"}


@pytest.mark.parametrize(
    "text",
    [
        "🙂" * 300,
        "\u202eright to left",
        "a\u0300" * 200,
        "<script>alert(1)</script>",
        "'; DROP TABLE x; --",
        "\x00\x01",
    ],
)
def test_unicode_soup_is_only_words(client: httpx.Client, text: str) -> None:
    assert len(client.post("/api/search", json={"text": [text], "k": 3}).json()["hits"]) == 3


def test_uploads_that_are_too_large_or_no_picture(client: httpx.Client) -> None:
    # It announces 50 MB and sends none of them: what the server says does not hang on who closes the connection first.
    headers = {"content-length": "50000000", "content-type": "multipart/form-data; boundary=x"}
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=30)
    connection.request("POST", "/api/encode", headers=headers)
    answer = connection.getresponse()
    assert (answer.status, "limit" in json.loads(answer.read())["error"]) == (413, True)
    connection.close()
    for data in (bomb(), b"no picture", b"", b"\x89PNG\r\n\x1a\n" + b"\x00" * 100):
        message = problem(client.post("/api/encode", files={"image": ("x.png", data, "image/png")}), 400)
        assert "query image" in message
    problem(client.post("/api/encode", data={"image": "text"}), 422)


def test_whoever_sends_too_much_is_told_so_and_not_cut_off(client: httpx.Client) -> None:
    """Clients that read and write at once, as browsers do, lose an answer behind which the connection ends."""

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=30) as own:
            for _ in range(8):
                answer = await own.post("/api/search", content=b" " * 4_000_000)
                assert "limit" in problem(answer, 413)

    asyncio.run(ask())


def test_a_body_without_a_length_is_counted_while_it_streams(client: httpx.Client) -> None:

    sent = []

    def pieces() -> Iterator[bytes]:
        for _ in range(500):
            sent.append(100_000)
            yield b" " * 100_000

    try:
        answer = client.post("/api/search", content=pieces(), headers={"content-type": "application/json"})
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        assert len(sent) < 500, "refused while sending, so not all of it was taken"
    else:
        problem(answer, 413)


def test_one_text_needs_no_list_and_a_mistyped_field_is_named(client: httpx.Client) -> None:
    one = client.post("/api/search", json={"text": "red shoe", "k": 3}).json()["hits"]
    assert one == client.post("/api/search", json={"text": ["red shoe"], "k": 3}).json()["hits"]
    refused = client.post("/api/search", json={"texts": ["red"]})
    assert "no field texts" in problem(refused, 422)
    assert refused.json()["hint"] == "did you mean text?"
    lone = client.post("/api/search", content=b'{"text": "\\ud800"}', headers={"content-type": "application/json"})
    assert problem(lone, 422).startswith("text: ")
    assert "unicode" in problem(lone, 422)
    assert "not JSON" in problem(
        client.post("/api/search", content=b'{"text":', headers={"content-type": "application/json"}), 422
    )


@pytest.mark.parametrize("path", ["/api/search", "/api/facets", "/api/encode"])
def test_a_body_of_another_kind_is_told_which_is_wanted(client: httpx.Client, path: str) -> None:
    """`curl -d` sends a form's kind if it is not told another."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", "image/jpeg", "application/json", ""):
        for body in (b"", b"[]"):
            refused = client.post(path, content=body, headers={"content-type": kind} if kind else {})
            said = problem(refused, 422)
            hint = refused.json()["hint"]
            if path == "/api/encode":
                assert (said, "curl -F image=@FILE" in hint) == ("there is no picture", True)
            elif not body:
                assert (said, "application/json" in hint) == ("there is no body", True)
            elif kind == "application/json":
                assert said == "the body is JSON, but no object"
            else:
                told = f"the body is not JSON but {kind}" if kind else "the body has no Content-Type"
                assert (said, "application/json" in hint) == (told, True)


def test_a_question_that_is_in_order_does_not_meet_fastapi_and_every_other_does(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways answer and refuse alike, and are counted as one route."""
    passed_on: list[dict[str, Any]] = []
    real = QuickSearch._pass_on

    async def pass_on(self: QuickSearch, scope: Any, *rest: Any) -> None:
        passed_on.append(scope)
        await real(self, scope, *rest)

    monkeypatch.setattr(QuickSearch, "_pass_on", pass_on)
    bodies = ({"text": "red shoe", "k": 3}, {"where": "widht > 1"}, {"k": "5"}, {"nope": 1}, {"text": 5}, [], None)
    kinds = ("application/json", "application/json; charset=utf-8", "application/vnd.mine+json")
    for n, body in enumerate(bodies):
        content = json.dumps(body).encode() if body is not None else b'{"text"'
        found = [client.post("/api/search", content=content, headers={"content-type": kind}) for kind in kinds]
        assert len({(one.status_code, re.sub('"took_ms":[0-9.]+', "", one.text)) for one in found}) == 1, body
        assert len(passed_on) == (2 if n < 2 else 3), body
        passed_on.clear()
        counted = f'clipmill_requests_total{{route="/api/search",status="{found[0].status_code}"}} '
        assert counted in client.get("/metrics").text, "both are one route"
    assert client.put("/api/search").status_code == 405


def test_a_question_before_the_model_is_there_is_told_so(uri: str) -> None:
    class Late(WordEngine):
        def encode_texts(self, texts):  # type: ignore[no-untyped-def]
            time.sleep(0.5)
            return super().encode_texts(texts)

    app = create_app(open_table(uri, engine=Late()), Settings(query_s=0.1))
    client = TestClient(app, base_url="http://localhost")  # without its context nothing is started, so nothing loads
    answer = client.post("/api/search", json={"text": "red"})
    assert "still loading" in problem(answer, 503)
    assert "retry-after" in answer.headers
    assert "still loading" in problem(client.post("/api/encode", files={"image": ("a.png", picture("red"))}), 503)
    patient = TestClient(create_app(open_table(uri, engine=Late()), Settings()), base_url="http://localhost")
    assert len(patient.post("/api/search", json={"any_tags": ["red"], "k": 3}).json()["hits"]) == 3


def test_what_is_not_answered_at_once_is_handed_to_a_thread(
    client: httpx.Client, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as among thousands of copies, all of which are as near."""
    monkeypatch.setattr(answering, "_QUICK_S", -1.0)
    tried: list[bytes | None] = []
    real = answering._at_once

    def at_once(work: Callable[[], bytes]) -> bytes | None:
        tried.append(real(work))
        return tried[-1]

    monkeypatch.setattr(answering, "_at_once", at_once)
    until = time.monotonic() + 60
    while not tried:  # until rows are at hand
        found = client.post("/api/search", json=ONES)
        assert time.monotonic() < until
    assert tried == [None]
    assert [hit["id"] for hit in found.json()["hits"]] == nearest_to_ones(uri)


def test_a_vector_of_ones_own_is_told_how_it_goes(client: httpx.Client) -> None:
    numbers = [0.5] * 64
    for wrong in (numbers, base64.b64encode(struct.pack("<64f", *numbers)).decode()):
        refused = client.post("/api/search", json={"vector": wrong})
        assert "base64url of float16" in problem(refused, 422)
        hint = refused.json()["hint"]
        assert hint.startswith("in Python: ")
    text = eval(hint.removeprefix("in Python: "), {"base64": base64, "numpy": np, "v": numbers})
    assert len(client.post("/api/search", json={"vector": text, "k": 3}).json()["hits"]) == 3


def test_queries_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    _share_cores(4)
    assert os.environ["OMP_NUM_THREADS"] == "7", "somebody's own number"
    for queries, threads in ((4, "4"), (32, "1")):
        monkeypatch.delenv("OMP_NUM_THREADS")
        _share_cores(queries)
        assert os.environ["OMP_NUM_THREADS"] == threads


def test_wrong_methods_paths_and_hosts(client: httpx.Client) -> None:
    assert client.get("/api/search").headers["allow"] == "POST"
    paths: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    for path, answers in {**paths, "/": ("get",), "/static/app.js": ("get",)}.items():
        for method in {"get", "post", "put", "delete", "patch", "options"} - set(answers):
            refused = client.request(method, path)
            assert problem(refused, 405) == f"{path} does not answer {method.upper()}"
            assert all(name.upper() in refused.json()["hint"] for name in answers)
            assert refused.json()["hint"].startswith("use ")
    assert client.post("/health").headers["allow"] == client.post("/static/app.js").headers["allow"] == "GET, HEAD"
    assert problem(client.get("/nowhere"), 404) == "there is nothing at /nowhere"
    assert client.get("/nowhere").json()["hint"] == "requests and their fields are described at /openapi.json"
    assert client.get("/api/serch").json()["hint"] == "did you mean POST /api/search?"
    assert len(client.get("/api/" + "x" * 5_000).content) < 300
    problem(client.get("/static/../serve.py"), 404)
    problem(client.get("/static/%2e%2e/%2e%2e/pyproject.toml"), 404)
    problem(client.get("/api/table", headers={"host": "evil.example"}), 421)


@pytest.mark.parametrize(
    "path", ["/health", "/", "/metrics", "/static/app.js", "/api/item?id=row-000060", "/api/image?id=row-000060"]
)
def test_head_says_what_get_would_and_no_more(base: str, path: str) -> None:
    """As load balancers and `curl -I` ask. Over one connection: a body would be taken for the next answer."""
    with contextlib.closing(http.client.HTTPConnection(base.removeprefix("http://"), timeout=30)) as connection:
        told = {}
        for method in ("GET", "HEAD", "GET"):
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200
            assert bool(body) == (method == "GET")
            told[method] = {name: value for name, value in answer.headers.items() if name != "date"}
    assert path == "/metrics" or told["HEAD"] == told["GET"]
    assert int(told["HEAD"]["content-length"]) > 0


def test_head_is_refused_as_get_would_be(client: httpx.Client) -> None:
    for path, status in {"/nowhere": 404, "/api/search": 405, "/api/item?id=nobody": 404, "/api/item": 422}.items():
        refused = client.head(path)
        assert (refused.status_code, refused.content) == (status, b""), path
    assert client.head("/api/search").headers["allow"] == "POST"


def test_the_page_may_only_load_from_here(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for other in ("http://", "https://", "//cdn"):
        assert other not in page.text.replace("http://www.w3.org/2000/svg", "")


def test_a_slow_query_gives_504_and_a_full_queue_503(uri: str, engine: WordEngine) -> None:
    enough = threading.Event()

    class Slow(WordEngine):
        def encode_texts(self, texts):  # type: ignore[no-untyped-def]
            if "slow" in texts[0]:
                enough.wait(60)
            return super().encode_texts(texts)

    settings = Settings(query_s=0.3, threads=1, queue=1, refresh_s=60)
    with running(open_table(uri, engine=Slow()), settings) as base, httpx.Client(base_url=base, timeout=60) as client:
        assert "too long" in problem(client.post("/api/search", json={"text": ["slow"]}), 504)
        problem(client.post("/api/search", json={"text": ["slow"]}), 504)
        assert "waiting" in problem(client.post("/api/search", json={"text": ["slow"]}), 503)
        health = client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["overdue"]) == (503, "stuck", 2)
        until = time.monotonic() + 60
        while (found := client.post("/api/search", json=ONES)).status_code != 200:  # until rows are at hand
            assert time.monotonic() < until, "what is answered at once needs no thread"
        assert [hit["id"] for hit in found.json()["hits"]] == nearest_to_ones(uri)
        for asks_table in ({"where": "views < 100"}, {"vector": ""}):
            problem(client.post("/api/search", json=ONES | asks_table), 503)
        enough.set()
        until = time.monotonic() + 60
        while client.post("/api/search", json={"text": ["red"]}).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        health = client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["overdue"]) == (200, "ok", 0)


def test_a_token_is_asked_of_everything_but_health(uri: str, engine: WordEngine) -> None:
    token = "0123456789abcdef-token"
    settings = Settings(token=token, refresh_s=60)
    with running(open_table(uri, engine=engine), settings) as base, httpx.Client(base_url=base) as client:
        for path in ("/", "/api/table", "/metrics", "/static/app.js", "/openapi.json"):
            assert "token" in problem(client.get(path), 401)
        assert client.get("/health").status_code == 200
        problem(client.get("/api/table", headers={"authorization": "Bearer wrong"}), 401)
        problem(client.get("/api/table", params={"token": token}), 401)
        assert client.get("/api/table", headers={"authorization": f"Bearer {token}"}).status_code == 200
        opened = client.get("/", params={"token": token})
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        assert "httponly" in opened.headers["set-cookie"].lower()
        assert client.get("/api/table").status_code == 200


def test_an_open_server_without_token_is_refused() -> None:
    check(Settings())
    for settings in (Settings(host="0.0.0.0"), Settings(host="0.0.0.0", token="short")):
        with pytest.raises(UserError, match="token"):
            check(settings)
    check(Settings(host="0.0.0.0", token="0123456789abcdef"))


def test_the_server_follows_live(tmp_path: Path, engine: WordEngine) -> None:
    uri = make_table(tmp_path, TableOptions(rows=60))
    lance.dataset(f"{uri}.lance").tags.create("live", 1)
    with running(open_table(uri, engine=engine)) as base, httpx.Client(base_url=base) as client:
        append(uri, TableOptions(rows=40, start=60))
        time.sleep(0.6)
        assert client.get("/health").json()["rows"] == 60
        lance.dataset(f"{uri}.lance").tags.update("live", 2)
        deadline = time.monotonic() + 60
        while client.get("/health").json()["rows"] != 100:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_without_its_model_a_table_can_still_be_browsed(tmp_path: Path) -> None:
    """The model that loads is another one; ids, filters and pictures do not need it."""
    uri = make_table(tmp_path, TableOptions(rows=60, thumbnails=True))
    with running(open_table(uri, engine=WordEngine(weights="other"))) as base, httpx.Client(base_url=base) as client:
        assert "unavailable" in client.get("/health").json()["encoder"]
        problem(client.post("/api/search", json={"text": ["red"]}), 400)
        assert len(client.post("/api/search", json={"any_tags": ["red"]}).json()["hits"]) == 10
        assert len(client.get("/api/similar", params={"id": "row-000006"}).json()["hits"]) == 20
        assert client.get("/api/image", params={"id": "row-000006"}).headers["content-type"] == "image/png"


def test_values_that_json_has_no_word_for(tmp_path: Path, engine: WordEngine) -> None:
    """NaN and times in kept columns, markup in captions: valid JSON, nothing changed."""
    import pyarrow as pa

    uri = make_table(tmp_path, TableOptions(rows=60))
    dataset = lance.dataset(f"{uri}.lance")
    dataset.add_columns({"ratio": "cast('NaN' as float)", "taken": "cast('2026-01-02T03:04:05' as timestamp)"})
    assert pa.types.is_floating(dataset.schema.field("ratio").type)
    with running(open_table(uri, engine=engine)) as base, httpx.Client(base_url=base) as client:
        item = json.loads(client.get("/api/item", params={"id": "row-000007"}).content)
        assert item["ratio"] is None
        assert item["taken"].startswith("2026-01-02T03:04:05")
        assert item["caption"].startswith("<script>")


def test_pictures_of_many_kinds_come_out_as_small_webp(tmp_path: Path, engine: WordEngine) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    uri = make_table(tmp_path, TableOptions(rows=10, images=tmp_path / "pictures"))
    for number, (kind, mode) in enumerate((("JPEG", "L"), ("PNG", "RGBA"), ("GIF", "P"), ("WEBP", "RGB"))):
        out = io.BytesIO()
        Image.new(mode, (1000, 500)).save(out, kind)
        (tmp_path / "pictures" / f"{number:06d}.png").write_bytes(out.getvalue())
        image_hash = xxhash.xxh3_128_hexdigest(out.getvalue())
        lance.dataset(f"{uri}.lance").update({"image_hash": f"'{image_hash}'"}, where=f"id = 'row-{number:06d}'")
    with running(open_table(uri, engine=engine)) as base, httpx.Client(base_url=base) as client:
        for number in range(4):
            small = client.get("/api/image", params={"id": f"row-{number:06d}"})
            assert Image.open(io.BytesIO(small.content)).size == (256, 128)


def test_columns_of_any_name_and_kind_that_others_added_are_counted_where_they_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What /api/table names for the page can be counted, or the page would show no facets at all."""
    uri = make_table(tmp_path, TableOptions(rows=40))
    dataset = lance.dataset(f"{uri}.lance")
    dataset.add_columns({"größe": "'L'", "a date": "cast('2026-01-01' as date)"})
    dataset.drop_columns(["tags", "tag_scores"])
    for column in ("größe", "a date", "license"):
        dataset.create_scalar_index(column, "BITMAP", name=f"{column}_idx")
    with running(open_table(uri, engine=WordEngine())) as base, httpx.Client(base_url=base, timeout=30) as client:
        known = client.get("/api/table").json()["facets"]
        assert known == ["license", "größe"]
        counted = client.post("/api/facets", json={"columns_counted": known, "where": "`größe` = 'L'"}).json()["facets"]
        assert counted[1]["values"] == [{"value": "L", "rows": 40}]
        (hit,) = client.post("/api/search", json={"k": 1, "columns": ["a date", "größe"]}).json()["hits"]
        assert hit == {"a date": "2026-01-01", "größe": "L", "score": None}
        problem(client.post("/api/search", json={"columns": ["\u0000"]}), 400)
        refused = client.post("/api/facets", json={"columns_counted": ["caption_score"]})
        assert "caption_score" in problem(refused, 400)
        assert "tag_scores" not in refused.json()["hint"]
    assert "the vocabulary of the tags cannot be looked for" not in caplog.text
