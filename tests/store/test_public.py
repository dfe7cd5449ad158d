"""Buckets of others: read without credentials, at one's own cost, and addressed as their store asks for it."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import read_unit
from clipmill.workers.store.storage import lance_options
from tests.build import picture, tar
from tests.conftest import S3
from tests.fake_s3 import FakeS3

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeS3]:
    """With one tar in it, and no credentials on this machine."""
    for name in (*_KEYS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    with FakeS3().running() as running:
        running.objects["raw/x.tar"] = tar([("a.jpg", picture(1)), ("b.jpg", picture(2))])
        yield running


def read(storage: Storage, uri: str = "s3://b/raw/", form: str = "webdataset") -> list[Any]:
    source = Source(format=form, uri=uri)
    return [item for unit in survey(source, storage, Limits()) for item in read_unit(unit, source, storage, Limits())]


def test_a_public_bucket_is_read_without_credentials(store: FakeS3) -> None:
    storage = Storage(endpoint_url=store.endpoint, region="us-east-1")
    with pytest.raises(UserError, match="no usable credentials") as failure:
        read(storage)
    assert "storage.anonymous: true" in failure.value.hint
    found = read(storage.model_copy(update={"anonymous": True}))
    assert [item.image for item in found if isinstance(item, Sample)] == [picture(1), picture(2)]
    assert {command for command, _ in store.requests} == {"GET", "HEAD"}
    assert store.said["authorization"] == 0


def test_every_request_offers_to_pay_where_the_job_says_so(store: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _KEYS[:2]:
        monkeypatch.setenv(name, "testing")
    read(Storage(endpoint_url=store.endpoint, region="us-east-1"))
    assert store.said["x-amz-request-payer"] == 0
    store.said.clear()
    store.requests.clear()
    storage = Storage(endpoint_url=store.endpoint, region="us-east-1", requester_pays=True)
    assert len(read(storage)) == 2
    assert store.said["x-amz-request-payer"] == store.said["authorization"] == len(store.requests) >= 3


@pytest.mark.parametrize("how", ["anonymous", "requester_pays"])
def test_a_lance_table_of_others_is_read_as_other_sources_are(
    store: FakeS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Lance has a client of its own, which is told in words of its own."""
    for name in _KEYS[:2] if how == "requester_pays" else ():
        monkeypatch.setenv(name, "testing")
    lance.write_dataset(pa.table({"image": [picture(1), picture(2)]}), tmp_path / "p.lance")
    files = [path for path in (tmp_path / "p.lance").rglob("*") if path.is_file()]
    store.objects = {f"raw/{path.relative_to(tmp_path)}": path.read_bytes() for path in files}
    found = read(Storage(endpoint_url=store.endpoint, region="us-east-1", **{how: True}), "s3://b/raw/p", "lance")
    assert [item.image for item in found if isinstance(item, Sample)] == [picture(1), picture(2)]
    paid = len(store.requests) if how == "requester_pays" else 0
    assert (store.said["authorization"], store.said["x-amz-request-payer"]) == (paid, paid)


@pytest.mark.parametrize("addressing", ["auto", "path", "virtual"])
def test_the_bucket_is_in_the_path_or_in_the_hosts_name(
    store: FakeS3, monkeypatch: pytest.MonkeyPatch, addressing: str
) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: look_up("127.0.0.1" if "bucket." in str(host) else host, *rest, **more),
    )
    endpoint = store.endpoint.replace("127.0.0.1", "localhost")
    storage = Storage(endpoint_url=endpoint, region="us-east-1", anonymous=True, addressing=addressing)
    virtual = addressing == "virtual"
    assert len(read(storage, "s3://bucket/raw/" if virtual else "s3://b/raw/")) == 2  # a name of a letter is no host
    host = "bucket.localhost" if virtual else "localhost"
    assert store.said[host] == len(store.requests)


def test_a_table_is_reached_with_credentials_whatever_its_source_is() -> None:
    storage = Storage(endpoint_url="https://store.example", region="x", anonymous=True)
    tables = Tables.at("s3://lake/db/images", storage)
    assert tables.storage == Storage(endpoint_url="https://store.example", region="x")
    assert "aws_skip_signature" not in tables.options


def test_lance_addresses_the_bucket_as_the_readers_do() -> None:
    def options(**changes: Any) -> tuple[str | None, str | None]:
        found = lance_options("s3://lake/db", Storage(**changes))
        return found.get("aws_endpoint"), found.get("aws_virtual_hosted_style_request")

    here = {"endpoint_url": "https://store.example:9000"}
    assert options(**here) == ("https://store.example:9000", "false")
    assert options(**here, addressing="path") == ("https://store.example:9000", "false")
    assert options(**here, addressing="virtual") == ("https://lake.store.example:9000", "true")
    assert options() == (None, None)
    assert options(addressing="virtual") == (None, "true")


def test_who_pays_must_be_known() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        Storage(anonymous=True, requester_pays=True)


@pytest.mark.s3
def test_a_whole_server_answers_without_a_signature(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _KEYS:
        monkeypatch.delenv(name, raising=False)
    s3.put("raw/x.tar", tar([("a.jpg", picture(1))]))
    s3.client.put_bucket_acl(Bucket=s3.bucket, ACL="public-read")
    s3.client.put_object_acl(Bucket=s3.bucket, Key="raw/x.tar", ACL="public-read")
    storage = s3.storage.model_copy(update={"anonymous": True})
    assert len(read(storage, f"{s3.uri}/raw/")) == 1
