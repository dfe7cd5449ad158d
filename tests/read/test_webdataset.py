"""Tars in any order, of any size, cut anywhere: every sample once, in bounded memory."""

import io
import json
import random
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem
from hypothesis import given
from hypothesis import strategies as st

from clipmill.schemas.errors import SourceChanged, UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import read_unit
from tests.build import noise, tar
from tests.conftest import S3
from tests.examples import examples
from tests.read.help import read_tar, reasons, samples, unit_of


def write(folder: Path, members: list[tuple[str, bytes]], **options: Any) -> str:
    path = folder / "x.tar"
    path.write_bytes(tar(members, **options))
    return str(path)


# --- what a sample is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_key_meet_whatever_lies_between(tmp_path: Path, compress: bool, format: int) -> None:
    long = "d/" * 40 + "é" * 20 if format == tarfile.USTAR_FORMAT else "ordner/" * 30 + "ä#%ö" * 20
    uri = write(
        tmp_path,
        [
            ("./a.jpg", b"A"),
            (f"{long}.txt", "blå".encode()),
            ("b.JPG", b"B"),
            ("a.txt", b"first\n"),
            ("b.json", json.dumps({"n": "7", "deep": {"list": ["x", "y"]}}).encode()),
            (f"{long}.png", b"C"),
        ],
        compress=compress,
        format=format,
    )
    found = samples(read_tar(uri, caption="txt", keep={"n": "int32", "tag": {"type": "string", "from": "deep.list.1"}}))
    assert {s.image: (s.caption, s.metadata["n"], s.metadata["tag"]) for s in found.values()} == {
        b"A": ("first", None, None),
        b"B": (None, 7, "y"),
        b"C": ("blå", None, None),
    }
    assert "a.jpg" in found
    raw = Path(uri).read_bytes()
    for sample in found.values():
        if compress:
            assert sample.image_offset is None
            assert sample.image_size is None
        else:
            assert sample.image_offset is not None
            assert sample.image_size is not None
            assert raw[sample.image_offset : sample.image_offset + sample.image_size] == sample.image


def test_what_is_no_sample_is_ignored_and_what_is_one_is_counted(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind, name in ((tarfile.DIRTYPE, "d"), (tarfile.FIFOTYPE, "f.jpg")):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
        for name in ("._a.jpg", "d/.DS_Store", "__MACOSX/a.jpg", "LICENSE", "__key__"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        hard, soft = tarfile.TarInfo("l.jpg"), tarfile.TarInfo("s.jpg")
        hard.type, hard.linkname, soft.type, soft.linkname = tarfile.LNKTYPE, "a.jpg", tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(hard)
        archive.addfile(soft)
        for name, data in (("a.jpg", b"A"), ("only.txt", b"t"), ("z.jpg", b""), ("big.jpg", b"x" * 101)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (tmp_path / "x.tar").write_bytes(out.getvalue())
    found = read_tar(str(tmp_path / "x.tar"), limits=Limits(max_image_bytes=100), caption="txt")
    assert reasons(found) == {"ok": 1, "no_image": 3, "empty": 1, "too_many_bytes": 1}
    details = {item.uri.partition("#")[2]: item.detail for item in found if isinstance(item, Reject)}
    assert details["only"] == "has txt"
    assert "/etc/passwd" in details["s.jpg"]


def test_a_member_of_a_type_that_nobody_defined_is_a_file_and_what_archivers_note_is_none(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind, name in ((b"Z", "a.jpg"), (b"8", "b.jpg"), (b"V", "volume.jpg"), (b"D", "listed.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, 3
            archive.addfile(info, io.BytesIO(name[:1].encode() * 3))
    (tmp_path / "x.tar").write_bytes(out.getvalue())
    found = samples(read_tar(str(tmp_path / "x.tar")))
    assert {name: s.image for name, s in found.items()} == {"a.jpg": b"aaa", "b.jpg": b"bbb"}


def test_a_key_has_one_image_and_the_first_named_extension_wins(tmp_path: Path) -> None:
    members = [
        ("a.png", b"P"),
        ("a.jpg", b"J"),
        ("a.jpg", b"J2"),
        ("b.jpg", b"B"),
        ("a.jpg", b"late"),
        ("c.webp", b"W"),
    ]
    found = read_tar(write(tmp_path, members), image="jpg;png")
    assert {name: s.image for name, s in samples(found).items()} == {"a.jpg": b"J", "b.jpg": b"B"}
    assert reasons(found) == {"ok": 2, "duplicate_member": 3, "no_image": 1}


def test_ids(tmp_path: Path) -> None:
    uri = write(tmp_path, [("d/a.jpg", b"A"), ("d/a.json", b'{"n": 5}'), ("b.jpg", b"B")])
    assert [s.id for s in read_tar(uri, id="key")] == ["d/a", "b"]
    assert [s.id for s in read_tar(uri, id="content")] == ["", ""]
    assert [s.id for s in read_tar(uri)] == [f"{uri}#d/a.jpg", f"{uri}#b.jpg"]
    by_column = read_tar(uri, id="column:n")
    assert by_column[0].id == "5"
    assert isinstance(by_column[1], Reject)
    assert by_column[1].reason is Reason.BAD_METADATA


@pytest.mark.parametrize(
    ("member", "options", "detail"),
    [
        (("a.txt", b"\xff\xfe"), {"caption": "txt"}, "caption is not UTF-8 at byte 0"),
        (("a.txt", b"x" * 1_000_001), {"caption": "txt"}, "1,000,001 bytes"),
        (("a.json", b"[1]"), {"caption": "json:c"}, "a list, not an object"),
        (("a.json", b"[" * 100_000), {"caption": "json:c"}, "json cannot be read"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(
    tmp_path: Path, member: tuple[str, bytes], options: dict[str, Any], detail: str
) -> None:
    found = read_tar(write(tmp_path, [("a.jpg", b"A"), member, ("b.jpg", b"B")]), **options)
    (reject,) = [item for item in found if isinstance(item, Reject)]
    assert reject.reason is Reason.BAD_METADATA
    assert detail in reject.detail
    assert list(samples(found)) == ["b.jpg"]


@pytest.mark.parametrize(
    ("json", "options", "sentence"),
    [
        (b'{"c": ["x", 3]}', {"caption": "json:c"}, "caption = ['x', 3] is not string"),
        (b'{"c": "\\ud800"}', {"caption": "json:c"}, "is not string"),
        (b'{"w": 3000000000}', {"keep": {"w": "int32"}}, "w = 3000000000 is not int32"),
        (b'{"w": 1.5}', {"keep": {"w": "int64"}}, "w = 1.5 is not int64"),
        (b'{"w": "yes?"}', {"keep": {"w": "bool"}}, "w = 'yes?' is not bool"),
        (b'{"w": "gestern"}', {"keep": {"w": "timestamp"}}, "is not timestamp"),
        (b'{"w": 1e39}', {"keep": {"w": "float32"}}, "is not float32"),
        (b'{"w": [1, {}]}', {"keep": {"w": "list<string>"}}, "is not list<string>"),
    ],
)
def test_a_value_that_cannot_be_read_as_its_type_costs_the_value(
    tmp_path: Path, json: bytes, options: dict[str, Any], sentence: str
) -> None:
    uri = write(tmp_path, [("a.jpg", b"A"), ("a.json", json), ("b.jpg", b"B")])
    first, second = read_tar(uri, **options)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    (said,) = first.unread.values()
    assert sentence in said
    assert not second.unread
    assert first.caption is None
    assert first.metadata == dict.fromkeys(options.get("keep", {}))
    if "keep" in options:
        required = {"w": {"type": options["keep"]["w"], "required": True}}
        rejects = read_tar(uri, keep=required)
        assert reasons(rejects) == {"bad_metadata": 2}
        assert sentence in rejects[0].detail  # type: ignore[union-attr]
        assert "w is missing, and source.keep.w is required" in rejects[1].detail  # type: ignore[union-attr]


def test_a_kept_field_may_be_named_as_a_caption_is(tmp_path: Path) -> None:
    uri = write(tmp_path, [("a.jpg", b"A"), ("a.json", b'{"label": "cat", "deep": {"n": 3}, "who": "x"}')])
    keep = {"label": {"type": "string", "from": "json:label"}, "n": {"type": "int32", "from": "json:deep.n"}}
    (found,) = read_tar(uri, keep=keep, id="column:json:who")
    assert isinstance(found, Sample)
    assert (found.id, found.metadata) == ("x", {"label": "cat", "n": 3})


# --- every sample once ------------------------------------------------------------------------------------------

_KEYS = st.sampled_from(["a", "b", "d/a", "é", "d.x/c", "#%"])
_EXTENSIONS = st.sampled_from(["jpg", "png", "txt", "json", "cls", "JPG"])
_DATA = st.sampled_from([b"", b"{}", b"x", b'{"n": 1}', b"y" * 600])
_MEMBERS = st.lists(st.tuples(_KEYS, _EXTENSIONS, _DATA), max_size=25)


@examples(120)
@given(_MEMBERS, st.booleans(), st.sampled_from([1600, 10**9]))
def test_every_key_and_every_further_image_is_accounted_once(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, str, bytes]], compress: bool, memory: int
) -> None:
    """For random order, duplicates, missing captions and empties; with memory for everything and for next to nothing
    (a budget of 100 bytes: all that waits is read again by range, or spilled)."""
    uri = write(tmp_path_factory.mktemp("t"), [(f"{k}.{e}", d) for k, e, d in members], compress=compress)
    limits = Limits(worker_memory=memory if not compress else 10**6)
    found = read_tar(uri, limits=limits, caption="txt", keep={"n": "int32"})
    keys = {k for k, _, _ in members}
    images = [(k, e) for k, e, _ in members if e.lower() in ("jpg", "png")]
    with_image = {k for k, _ in images}
    expected = len(images) + len(keys - with_image)
    assert len(found) == expected
    assert reasons(found)["no_image"] == len(keys - with_image)
    assert reasons(found)["duplicate_member"] == len(images) - len(with_image)
    generous = read_tar(uri, limits=Limits(), caption="txt", keep={"n": "int32"})
    assert found == generous, "the outcome depends on the memory bound"


@examples(60)
@given(st.integers(0, 10**9), st.booleans())
def test_a_tar_cut_anywhere_keeps_what_lies_before_and_says_where(
    tmp_path_factory: pytest.TempPathFactory, seed: int, compress: bool
) -> None:
    members = [(f"{i:02d}.{e}", noise((seed, i, e), 700)) for i in range(6) for e in ("jpg", "cls")]
    whole = tar(members, compress=compress)
    end_of_data = len(members) * (512 + 1024)
    size = random.Random(seed).randrange(1, len(whole) - 8 if compress else end_of_data + 512)
    path = tmp_path_factory.mktemp("t") / "x.tar"
    path.write_bytes(whole[:size])
    found = read_tar(str(path))
    kept = {name: s.image for name, s in samples(found).items()}
    assert kept == {name: data for name, data in members if name in kept}
    assert list(kept) == [name for name, _ in members if name.endswith("jpg")][: len(kept)]
    cut = [item for item in found if isinstance(item, Reject)]
    assert len(cut) == 1
    assert cut[0].reason is Reason.TRUNCATED
    assert "byte" in cut[0].detail
    if not compress:
        complete = sum(1 for i in range(6) if size >= 1024 + 512 + i * (2 * 1536))  # header, padded data, next header
        assert len(kept) >= complete - 1


def test_a_header_damaged_in_the_middle_is_said_and_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(tar([(f"{i}.jpg", b"x" * 100) for i in range(5)]))
    data[2 * 1024 + 10] ^= 1
    (tmp_path / "x.tar").write_bytes(data)
    found = read_tar(str(tmp_path / "x.tar"))
    assert reasons(found) == {"ok": 2, "corrupt": 1}
    assert "byte 2048" in found[-1].detail  # type: ignore[union-attr]


def test_archives_put_one_after_the_other_are_all_read(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar([("a.jpg", b"A")]) + tar([("b.jpg", b"B")]))
    assert list(samples(read_tar(str(tmp_path / "x.tar")))) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", {"empty": 1}),
        (tar([]), {}),
        (tar([], compress=True), {}),
        (b"\x28\xb5\x2f\xfd" + bytes(600), {"truncated": 1}),
        (noise(1, 5000), {"unknown_format": 1}),
        # gzip's checksum comes last, after the bytes have been handed on; that it is wrong is still said.
        (tar([("a.jpg", noise(1, 9000))], compress=True)[:-5000] + bytes(5000), {"ok": 1, "corrupt": 1}),
    ],
    ids=["no bytes", "empty", "empty gzip", "zstd", "noise", "damaged gzip"],
)
def test_shards_that_are_empty_or_no_tars(tmp_path: Path, data: bytes, expected: dict[str, int]) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    assert reasons(read_tar(str(tmp_path / "x.tar"))) == expected


@pytest.mark.realdata
def test_real_tars(real_data: Path) -> None:
    counts = {}
    for path in sorted((real_data / "clip_retrieval" / "test_tars").glob("*.tar")):
        found = samples(read_tar(str(path)))
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                file = archive.extractfile(member)
                assert file is not None
                assert found[member.name].image == file.read()
                assert found[member.name].image_offset == member.offset_data
        counts[path.stem] = len(found)
    assert counts == {"image1": 4, "image2": 3, "image3": 2, "image4": 2}


@pytest.mark.s3
def test_the_same_on_s3_and_a_shard_replaced_since_the_plan_is_source_changed(s3: S3) -> None:
    members = [(f"{i}.{e}", noise(i, 2000)) for e in ("jpg", "txt") for i in range(50)]
    members = [(name, data if name.endswith("jpg") else name.encode()) for name, data in members]
    uri = s3.put("d/ö #1.tar", tar(members)).replace("#", "%23")
    found = samples(read_tar(uri, s3.storage, Limits(worker_memory=160_000), caption="txt"))
    assert {s.caption for s in found.values()} == {f"{i}.txt" for i in range(50)}
    assert {s.uri.partition("#")[0] for s in found.values()} == {uri}
    unit = unit_of(uri, "webdataset", s3.storage)
    s3.put("d/ö #1.tar", tar(members[:10]))
    with pytest.raises(SourceChanged):
        list(read_unit(unit, Source(format="webdataset", uri=uri), s3.storage, Limits()))


# --- memory -----------------------------------------------------------------------------------------------------


class Generated(AbstractFileSystem):  # type: ignore[misc]
    """`gen://<samples>-<order>`: a tar of 1 MB images and small captions that exists only while it is read.

    Order `pairs` keeps a key's members side by side; `apart` has all images first.
    """

    protocol = "gen"
    cachable = False
    image_bytes = 1 << 20

    def _layout(self, path: str) -> tuple[int, bool]:
        count, _, order = path.rpartition("/")[2].partition("-")
        return int(count), order == "pairs"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        count, _pairs = self._layout(path)
        return {"name": path, "type": "file", "size": count * (self.image_bytes + 3 * 512) + 1024, "ETag": "e"}

    def _member(self, name: str, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.USTAR_FORMAT)

    def _pieces(self, path: str, start: int) -> Any:
        """(offset, bytes) of headers and data from the member that holds `start`."""
        count, pairs = self._layout(path)
        image = 512 + self.image_bytes
        body = b"\xff\xd8" + bytes(self.image_bytes - 2)
        if pairs:
            for i in range(min(start // (image + 1024), count), count):
                at = i * (image + 1024)
                yield at, self._member(f"{i:06d}.jpg", self.image_bytes) + body
                yield at + image, self._member(f"{i:06d}.txt", 6) + b"%06d" % i + bytes(506)
        else:
            for i in range(min(start // image, count), count):
                yield i * image, self._member(f"{i:06d}.jpg", self.image_bytes) + body
            for i in range(max(0, start - count * image) // 1024, count):
                yield count * image + i * 1024, self._member(f"{i:06d}.txt", 6) + b"%06d" % i + bytes(506)
        yield count * (image + 1024), bytes(1024)

    def cat_file(self, path: str, start: int = 0, end: int | None = None, **_: Any) -> bytes:
        end = min(end or 1 << 62, self.info(path)["size"])
        out = bytearray()
        for at, piece in self._pieces(path, start):
            if at >= end:
                break
            out += piece[max(0, start - at) : end - at]
        return bytes(out)


@pytest.mark.counted
@pytest.mark.parametrize(
    ("count", "order"), [(700, "pairs"), (150, "apart"), pytest.param(10_000, "pairs", marks=pytest.mark.slow)]
)
def test_a_tar_of_many_gigabytes_passes_through_little_memory(count: int, order: str) -> None:
    """10 GB (700 MB in the quick suite) side by side, and 150 MB with every caption behind the last image while 20 MB
    may wait."""
    fsspec.register_implementation("gen", Generated, clobber=True)
    limits = Limits(worker_memory=320_000_000)
    uri = f"gen://{count}-{order}"
    unit = unit_of(uri, "webdataset")
    seen = 0
    tracemalloc.start()
    try:
        for item in read_unit(unit, Source(format="webdataset", uri=uri, caption="txt"), Storage(), limits):
            assert isinstance(item, Sample)
            assert item.caption == item.uri[-10:-4]
            seen += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == count
    assert peak < 110_000_000, f"{peak:,} bytes"


def test_a_gzipped_tar_that_would_need_too_much_room_is_said(tmp_path: Path) -> None:
    members = [(f"{i}.jpg", noise(i, 3000)) for i in range(40)] + [(f"{i}.txt", b"t") for i in range(40)]
    uri = write(tmp_path, members, compress=True)
    assert reasons(read_tar(uri, limits=Limits(worker_memory=120_000), caption="txt")) == {"ok": 40}
    with pytest.raises(UserError, match="too far apart") as caught:
        read_tar(uri, limits=Limits(worker_memory=60_000), caption="txt")
    assert "without gzip" in caught.value.hint
