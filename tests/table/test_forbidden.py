"""An object that may not be read: what the reader raises is of its unit alone, and is not tried again."""

from collections.abc import Iterator

import pytest

from clipmill.jobs.running.actors.attempts import Attempts, Fate
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.workers.read import read_unit
from clipmill.workers.store.storage import head
from tests.build import picture, tar
from tests.committed import unit
from tests.fake_s3 import FakeS3


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    with FakeS3().running() as fake:
        yield fake


def test_a_tar_that_may_not_be_read_is_no_mistake_in_the_job(store: FakeS3) -> None:
    """A UserError would end the whole run."""
    storage = Storage(endpoint_url=store.endpoint, region="us-east-1")
    store.objects["a.tar"] = tar([("1.jpg", picture(1))])
    seen = head("s3://b/a.tar", storage)
    one = unit("u", seen.uri, etag=seen.etag, size_bytes=seen.size_bytes)
    source = Source.model_validate({"format": "webdataset", "uri": seen.uri})
    store.before = lambda method, key: (403, "AccessDenied") if key == "a.tar" else None
    with pytest.raises(PermissionError, match=r"no permission to read s3://b/a.tar"):
        list(read_unit(one, source, storage, Limits()))
    store.before = lambda method, key: None
    assert len(list(read_unit(one, source, storage, Limits()))) == 1


def test_it_is_given_up_at_once_and_the_others_go_on() -> None:
    attempts = Attempts((unit("a"), unit("b")), max_attempts=3)
    item = attempts.take(idle_worker=True)
    assert item is not None
    attempts.ended(item, Fate.FORBIDDEN, "no permission to read s3://b/a.tar")
    assert [(f.unit.unit_id, f.reason) for f in attempts.failed] == [("a", "no permission to read s3://b/a.tar")]
    left = attempts.take(idle_worker=True)
    assert left is not None
    assert left.unit.unit_id == "b"
