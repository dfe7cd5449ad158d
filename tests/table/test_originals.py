"""A row's address is somebody else's word: what its table's source does not hold is not opened, and what is opened is
the picture that was embedded or nothing."""

import bz2
import gzip
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from clipmill.jobs.table import ledger
from clipmill.jobs.table.originals import NotOfSource, Originals, source_storage, why
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read import read_unit
from clipmill.workers.read.original import NotTheBytes
from clipmill.workers.store.fs import read_range
from clipmill.workers.store.storage import head
from tests.build import picture, tar
from tests.committed import make_tables
from tests.conftest import S3
from tests.tables import ledger_entry

SECRET = picture(99)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return make_tables(tmp_path)


def row(uri: str, data: bytes, *, unit_id: str = "u", offset: int | None = None) -> dict[str, Any]:
    size = None if offset is None else len(data)
    found = {"id": uri, "uri": uri, "unit_id": unit_id, "image_offset": offset, "image_size": size}
    return found | {"image_hash": xxhash.xxh3_128_hexdigest(data)}


def source(tables: Tables, uri: str, form: str, **changes: Any) -> None:
    ledger.append(tables, [replace(ledger_entry("u", uri, form=form), **changes)])


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("spelled", ["a b.jpg", "./a b.jpg", "/a b.jpg", "x/100%#.jpg"])
def test_members_are_found_as_the_reader_names_them(tables: Tables, tmp_path: Path, packed: str, spelled: str) -> None:
    """By their byte range, and, inside a compressed tar, by their name."""
    path = tmp_path / f"s.{packed}"
    path.write_bytes(PACKERS[packed](tar([(spelled, picture(1)), ("other.jpg", picture(2))])))
    unit = WorkUnit(unit_id="u", format="webdataset", uri=str(path), etag="", size_bytes=path.stat().st_size)
    unit = replace(unit, etag=head(str(path), Storage()).etag)
    samples = list(read_unit(unit, Source(format="webdataset", uri=(str(path),)), Storage(), Limits()))
    assert len(samples) == 2
    source(tables, str(path), "webdataset")
    for sample in samples:
        assert isinstance(sample, Sample)
        found = row(sample.uri, sample.image, offset=sample.image_offset)
        assert Originals(tables).read(found) == sample.image


@pytest.mark.parametrize("names", [("photo",), ("thumb", "photo"), ("photo", "image"), ("bytes", "photo", "url")])
@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "struct"])
def test_pictures_inside_parquet_are_found_whatever_their_column_is_called(
    tables: Tables, tmp_path: Path, names: tuple[str, ...], kind: str
) -> None:
    """`photo` holds them; other columns of bytes hold other pictures, and the row's hash tells which is meant."""
    pictures = {name: [picture(10 * place + n) for n in range(5)] for place, name in enumerate(names)}
    arrays = {}
    for name, values in pictures.items():
        if kind == "struct":
            arrays[name] = pa.array([{"bytes": v, "path": "x.jpg"} for v in values])
        else:
            arrays[name] = pa.array(values, getattr(pa, kind)())
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table(arrays), path, row_group_size=2)
    source(tables, str(path), "parquet")
    for number, data in enumerate(pictures["photo"]):
        assert Originals(tables).read(row(f"{path}#row={number}", data)) == data
    with pytest.raises(UserError, match="not there any more"):
        Originals(tables).read(row(f"{path}#row=5", SECRET))
    with pytest.raises(NotTheBytes):
        Originals(tables).read(row(f"{path}#row=0", SECRET))


def refused(tables: Tables, one: dict[str, Any], *allow: str) -> str:
    with pytest.raises(NotOfSource) as found:
        Originals(tables, allow).read(one)
    assert why(found.value) == "not of this table's source"
    assert "not of this table's source" in found.value.message
    return found.value.message


def test_only_what_the_unit_covers_is_read(tables: Tables, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for path in (folder / "a.png", folder / "deep" / "b.png", tmp_path / "secret.png", tmp_path / "pictures.png"):
        path.write_bytes(SECRET)
    source(tables, f"{folder}/", "files")
    read = Originals(tables).read
    assert read(row(f"{folder}/a.png", SECRET)) == read(row(f"{folder}/deep/b.png", SECRET)) == SECRET
    for uri in (
        f"{tmp_path}/secret.png",
        f"{tmp_path}/pictures.png",
        f"{folder}/../secret.png",
        f"file://{tmp_path}/secret.png",
        f"{folder}/a.png#member",
        "/etc/hostname",
        "s3://somebodys/bucket.png",
        "http://127.0.0.1:1/a.png",
        "memory://a.png",
        "simplecache::file:///etc/hostname",
        "unknown://a.png",
        "",
    ):
        refused(tables, row(uri, SECRET))
    refused(tables, row(f"{folder}/a.png", SECRET, unit_id="stranger"))


def test_a_glob_covers_what_it_matches(tables: Tables, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(SECRET)
    source(tables, f"{tmp_path}/*.png", "files")
    assert Originals(tables).read(row(f"{tmp_path}/a.png", SECRET)) == SECRET
    refused(tables, row(f"{tmp_path}/b.jpg", SECRET))
    refused(tables, row(f"{tmp_path}/sub/c.png", SECRET))


def test_a_tar_is_read_itself_and_not_its_neighbours(tables: Tables, tmp_path: Path) -> None:
    for name in ("a.tar", "a.tar2"):
        (tmp_path / name).write_bytes(tar([("0.jpg", SECRET)]))
    source(tables, f"{tmp_path}/a.tar", "webdataset")
    assert Originals(tables).read(row(f"{tmp_path}/a.tar#0.jpg", SECRET)) == SECRET
    refused(tables, row(f"{tmp_path}/a.tar2#0.jpg", SECRET))
    refused(tables, row(f"{tmp_path}/a.tar", SECRET))


def test_a_list_covers_the_links_that_it_holds(tables: Tables, tmp_path: Path) -> None:
    """Exactly those of the unit's own slice, not everything that a list may name."""
    for name in ("a.png", "b.png", "secret.png"):
        (tmp_path / name).write_bytes(SECRET)
    lines = [f"{tmp_path}/a.png\n", "b.png\n"]
    (tmp_path / "list.txt").write_text("".join(lines) + "secret.png\n")
    end = sum(map(len, lines))
    source(tables, f"{tmp_path}/list.txt", "manifest", start="0", end=str(end))
    read = Originals(tables).read
    assert read(row(f"{tmp_path}/a.png", SECRET)) == read(row(f"{tmp_path}/b.png", SECRET, offset=0)) == SECRET
    refused(tables, row(f"{tmp_path}/secret.png", SECRET))
    (tmp_path / "list.txt").unlink()
    refused(tables, row(f"{tmp_path}/a.png", SECRET))


def test_links_in_a_parquet_column_are_covered(tables: Tables, tmp_path: Path) -> None:
    for name in ("a.png", "secret.png"):
        (tmp_path / name).write_bytes(SECRET)
    pq.write_table(pa.table({"where": [f"{tmp_path}/a.png"], "n": [1]}), tmp_path / "p.parquet")
    source(tables, f"{tmp_path}/p.parquet", "parquet", start="0", end="1")
    assert Originals(tables).read(row(f"{tmp_path}/a.png", SECRET)) == SECRET
    refused(tables, row(f"{tmp_path}/secret.png", SECRET))


def test_a_table_in_a_store_names_no_file_of_this_machine(tables: Tables, tmp_path: Path) -> None:
    """Its ledger came with it, so it is a stranger's word as much as the row."""
    (tmp_path / "a.png").write_bytes(SECRET)
    source(tables, f"{tmp_path}/", "files")
    one = row(f"{tmp_path}/a.png", SECRET)
    originals = Originals(tables)
    originals.check(one)
    originals._is_local = False  # as `Tables` of s3://… say; no store is needed to see what is refused
    with pytest.raises(NotOfSource, match="does not reach files of this machine"):
        originals.check(one)
    assert not Originals(replace(tables, database="s3://b/db"))._is_local


def test_more_places_can_be_allowed(tables: Tables, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "a.png").write_bytes(SECRET)
    (tmp_path / "otherwise.png").write_bytes(SECRET)
    one = row(f"{folder}/a.png", SECRET)
    for place in (str(folder), f"{folder}/", f"{folder}/a.png", f"file://{folder}", f"{tmp_path}/*/*.png"):
        assert Originals(tables, (place,)).read(one) == SECRET
    refused(tables, row(f"{tmp_path}/otherwise.png", SECRET), str(folder))
    refused(tables, one, f"{folder}/a", "https://example.org/")


def test_bytes_that_are_not_the_rows_never_leave(tables: Tables, tmp_path: Path) -> None:
    """Also where the place is allowed: whoever wrote the row cannot know the hash of what they never saw."""
    (tmp_path / "a.png").write_bytes(SECRET)
    source(tables, f"{tmp_path}/", "files")
    with pytest.raises(NotTheBytes) as found:
        Originals(tables).read(row(f"{tmp_path}/a.png", picture(1)))
    assert why(found.value) == "no longer the bytes it was made from"


@pytest.mark.parametrize("device", ["fifo", "/dev/zero", "folder"])
def test_pipes_and_devices_are_not_opened(tables: Tables, tmp_path: Path, device: str) -> None:
    """A pipe nobody writes to would be waited for, for ever; /dev/zero never ends."""
    path = tmp_path / "a.png"
    if device == "fifo":
        os.mkfifo(path)
    elif device == "folder":
        path.mkdir()
    else:
        path.symlink_to(device)
    source(tables, f"{tmp_path}/", "files")
    start = time.monotonic()
    with pytest.raises(UserError, match="does not exist"):
        Originals(tables).read(row(str(path), SECRET))
    import fsspec

    with pytest.raises(FileNotFoundError):
        read_range(fsspec.filesystem("file"), str(path), 0, None, max_bytes=1000)
    assert time.monotonic() - start < 60


@pytest.fixture
def inside() -> Iterator[tuple[str, list[str]]]:
    """A web server of this machine: its address and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-length", str(len(SECRET)))
            self.end_headers()
            self.wfile.write(SECRET)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_internal_addresses_are_not_asked_even_where_a_list_names_them(
    tables: Tables, tmp_path: Path, inside: tuple[str, list[str]]
) -> None:
    address, asked = inside
    (tmp_path / "list.txt").write_text(f"{address}/a.png\n")
    source(tables, f"{tmp_path}/list.txt", "manifest", start="0", end="100")
    one = row(f"{address}/a.png", SECRET)
    assert "private network" in refused(tables, one)
    assert asked == []
    assert Originals(tables, (f"{address}/",)).read(one) == SECRET


def test_a_served_table_that_grows_is_known_without_a_restart(tables: Tables, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(SECRET)
    originals = Originals(tables)
    one = row(f"{tmp_path}/a.png", SECRET)
    with pytest.raises(NotOfSource):
        originals.check(one)
    source(tables, f"{tmp_path}/", "files")
    assert originals.read(one) == SECRET


def test_a_picture_that_is_too_large_is_said(tables: Tables, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(SECRET)
    (tmp_path / "a.tar").write_bytes(tar([("0.jpg", SECRET)]))
    pq.write_table(pa.table({"x": [SECRET]}), tmp_path / "p.parquet")
    everywhere = Originals(tables, (str(tmp_path),))
    for name in ("a.png", "a.tar#0.jpg", "p.parquet#row=0"):
        with pytest.raises(UserError, match="bytes are more than the 10 allowed"):
            everywhere.read(row(f"{tmp_path}/{name}", SECRET), max_bytes=10)
        assert everywhere.read(row(f"{tmp_path}/{name}", SECRET)) == SECRET


@pytest.mark.s3
def test_the_server_of_the_source_is_known_where_the_table_is_ones_own(
    tables: Tables, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job named it; a table in a store may not, because a reader's signed requests would follow its word."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    s3.put("raw/a.png", SECRET)
    source(tables, f"{s3.uri}/raw/", "files")
    job = {"storage": s3.storage.model_dump(mode="json")}
    tables.log_run("a", "embed", "started", json.dumps(job), table_id=tables.id())
    assert Originals(tables).read(row(f"{s3.uri}/raw/a.png", SECRET)) == SECRET
    assert source_storage(replace(tables, database="s3://b/db")) == Storage()
