"""The server while another model takes over, and goes again: each answer is that of the version it names."""

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from clipmill.jobs.migrating.promote import back, promote
from clipmill.jobs.querying.open import Table, open_table
from clipmill.jobs.serving.settings import Settings
from tests.build import tar
from tests.migrating.filling import SLUG, STORAGE, World, members
from tests.migrating.test_promote import LOOSE, how
from tests.served import running
from tests.tables import picture

ASKED = {"text": ["picture 3"], "k": 3, "columns": ["id"]}


@pytest.fixture
def uri(tmp_path: Path) -> str:
    world = World(tmp_path)
    world.embed("a", tar(members(range(24))))
    world.fill()
    rows = world.tables.open()
    rows.tags.create("live", rows.version)
    return f"{world.tables.database}/images"


def told(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(hit["id"], hit["score"]) for hit in answer["hits"]]


def expected(uri: str, version: int) -> list[tuple[str, Any]]:
    found = open_table(uri, version=version).search("picture 3", k=3, columns=("id",)).to_pylist()
    return [(row["id"], pytest.approx(row["score"], abs=1e-3)) for row in found]


def test_every_answer_is_of_the_model_of_its_version(uri: str) -> None:
    seen: dict[int, list[tuple[str, float]]] = {}
    wrong: list[str] = []
    stop = threading.Event()

    def ask(base: str) -> None:
        with httpx.Client(base_url=base, timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/api/search", json=ASKED)
                if answer.status_code != 200:
                    wrong.append(answer.text)
                    return
                body = answer.json()
                if seen.setdefault(body["version"], told(body)) != told(body):
                    wrong.append(f"version {body['version']} answers in two ways")

    def wait_for(version: int) -> None:
        until = time.monotonic() + 120
        while version not in seen and not wrong:
            assert time.monotonic() < until, f"the server never came to version {version}"
            time.sleep(0.01)

    with running(open_table(uri), Settings(refresh_s=0.05)) as base:
        thread = threading.Thread(target=ask, args=(base,))
        thread.start()
        try:
            for move in (lambda: promote(uri, SLUG, STORAGE, LOOSE, how()), lambda: back(uri, STORAGE, how())):
                live = move().live
                assert live is not None
                wait_for(live)
        finally:
            stop.set()
            thread.join()
    assert not wrong, wrong[:3]
    assert seen == {version: expected(uri, version) for version in seen}


def test_an_answer_beside_which_the_model_changed_is_given_again(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found with the old model's vectors, and about to be called the new version's."""
    table = open_table(uri)
    before, real, moved = table.version, Table.run, []

    def run(self: Table, query: Any) -> Any:
        found = real(self, query)
        if self is table and not moved:
            moved.append(promote(uri, SLUG, STORAGE, LOOSE, how()).live)
            assert self.refresh()
        return found

    monkeypatch.setattr(Table, "run", run)
    with running(table, Settings(refresh_s=600)) as base:
        body = httpx.post(f"{base}/api/search", json=ASKED, timeout=60).json()
    assert before < body["version"] == moved[0]
    assert told(body) == expected(uri, body["version"])
    assert told(body) != expected(uri, before)


def test_a_picture_embedded_before_another_model_took_over_is_not_compared_with_its_vectors(uri: str) -> None:
    table = open_table(uri)
    with running(table, Settings(refresh_s=600)) as base, httpx.Client(base_url=base, timeout=60) as client:
        image = {"image": ("a.png", picture("red"), "image/png")}
        asked = {"vector": client.post("/api/encode", files=image).json()["vector"], "k": 3}
        plain = {**asked, "vector": asked["vector"].rpartition(".")[2]}
        first = told(client.post("/api/search", json=asked).json())
        assert first == told(client.post("/api/search", json=plain).json())
        promote(uri, SLUG, STORAGE, LOOSE, how())
        assert table.refresh()
        for route in ("search", "facets"):
            answer = client.post(
                f"/api/{route}",
                json={"vector": asked["vector"], "columns_counted": ["tags"]} if route == "facets" else asked,
            )
            assert answer.status_code == 400, answer.text
            assert "of another model" in answer.json()["error"]
        again = {"vector": client.post("/api/encode", files=image).json()["vector"], "k": 3}
        assert len(told(client.post("/api/search", json=again).json())) == 3
