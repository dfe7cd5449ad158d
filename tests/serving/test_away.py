"""A table that cannot be read for a while under a server: queries are told so, and it is looked at again."""

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import lance
import pytest

from clipmill.jobs.querying.open import Table, open_table
from clipmill.jobs.serving.settings import Settings
from clipmill.schemas.errors import VersionGone
from clipmill.schemas.job.config import Storage
from clipmill.workers.store.errors import StoreRefuses
from tests.conftest import S3
from tests.served import running
from tests.tables import TableOptions, WordEngine, make_table
from tests.throttling import DENIED, EXPIRED, Throttle


@pytest.fixture
def throttle(s3_by_options: S3) -> Iterator[Throttle]:
    """Lets everything pass until its share is raised."""
    with Throttle(s3_by_options.endpoint, 0.0, in_a_row=10**9).running() as found:
        yield found


@pytest.fixture
def table(s3_by_options: S3, throttle: Throttle, tmp_path: Path) -> Table:
    make_table(tmp_path, TableOptions(rows=20))
    s3_by_options.upload(tmp_path, "db/")
    storage = Storage(endpoint_url=throttle.endpoint, region="us-east-1")
    return open_table(f"{s3_by_options.uri}/db/images", storage=storage, engine=WordEngine())


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_removed_under_a_server_is_told_until_it_has_seen_it(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    table = open_table(make_table(folder, TableOptions(rows=20)), engine=WordEngine())
    with running(table, Settings(refresh_s=3600)) as base, httpx.Client(base_url=base, timeout=30) as client:
        shutil.rmtree(folder / "images.lance" / "data")
        for path in ("/api/item", "/api/similar", "/api/image"):
            answer = client.get(path, params={"id": "row-000004"})
            assert (answer.status_code, answer.json()["error"]) == (503, "the table cannot be read just now"), path
    for search in (
        lambda: table.search(like="row-000004"),
        lambda: table.get("row-000004"),
        lambda: table.count("views > 1 OR shard = 3"),  # of whole numbers with AND alone the rows at hand tell
    ):
        with pytest.raises(VersionGone, match="are gone"):
            search()


def newer_without(uri: str) -> int:
    """A newer version, whose number is returned, and none of the files of the one before."""
    dataset = lance.dataset(f"{uri}.lance")
    dataset.optimize.compact_files(target_rows_per_fragment=1_000)
    dataset.delete("id = 'row-000019'")
    lance.dataset(f"{uri}.lance").optimize.compact_files(materialize_deletions_threshold=0.0)
    newest = lance.dataset(f"{uri}.lance")
    newest.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    return int(newest.version)


@pytest.mark.parametrize("path", ["/api/item", "/api/similar", "/api/image"])
def test_where_the_files_went_with_an_old_version_the_newer_one_answers_at_once(tmp_path: Path, path: str) -> None:
    uri = make_table(tmp_path, TableOptions(rows=20, thumbnails=True))
    table = open_table(uri, engine=WordEngine())
    with running(table, Settings(refresh_s=3600)) as base, httpx.Client(base_url=base, timeout=30) as client:
        before, newest = client.get("/health").json()["version"], newer_without(uri)
        answer = client.get(path, params={"id": "row-000004"})
        assert answer.status_code == 200, answer.text
        assert client.get("/health").json()["version"] == newest > before


def test_what_is_gone_for_good_is_looked_for_now_and_then_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, renew = [], Table.renew
    monkeypatch.setattr(Table, "renew", lambda table: looks.append(1) or renew(table))
    table = open_table(make_table(tmp_path, TableOptions(rows=20)), engine=WordEngine())
    with running(table, Settings(refresh_s=3600)) as base, httpx.Client(base_url=base, timeout=30) as client:
        shutil.rmtree(tmp_path / "images.lance" / "data")
        began = time.monotonic()
        answers = [client.get("/api/item", params={"id": "row-000004"}).status_code for _ in range(20)]
        assert answers == [503] * 20
        assert 1 <= len(looks) <= 1 + (time.monotonic() - began) // 2


@pytest.mark.s3
def test_what_a_store_refuses_is_refused_in_a_sentence_and_looked_at_again(table: Table, throttle: Throttle) -> None:
    with running(table, Settings(refresh_s=0.2)) as base, httpx.Client(base_url=base, timeout=30) as client:

        def asked() -> set[int]:
            answers = [client.post("/api/search", json={"where": "views > 3"}), client.get("/api/item?id=row-000004")]
            assert all(a.is_success or a.json()["error"] == "the table cannot be read just now" for a in answers)
            return {answer.status_code for answer in answers}

        for answer in (DENIED, EXPIRED):
            assert asked() == {200}
            throttle.answer, throttle.share = answer, 1.0
            assert asked() == {503}  # also before the server has noticed by itself
            until(lambda: client.get("/health").json()["status"] == "away")
            health = client.get("/health")
            assert health.status_code == 200
            assert "store" in health.json()["detail"]
            assert asked() == {503}
            throttle.share = 0.0
            until(lambda: client.get("/health").json()["status"] == "ok")
    throttle.answer, throttle.share = DENIED, 1.0
    with pytest.raises(StoreRefuses, match="no permission"):
        table.search(where="views > 4")
