"""What a reader never yields is in a sum: counted by other code than makes the samples, and named by its ending."""

import bz2
import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import UserError, WrongFormat
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit import left_out
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import read_unit
from clipmill.workers.read.census import Census
from clipmill.workers.read.fields import DEFAULT_IMAGE
from clipmill.workers.read.tars import webdataset
from tests.build import noise, parquet, picture, tar
from tests.examples import examples
from tests.read.help import read_tar, reasons, samples, unit_of

LOCAL = Storage()


def read(path: Path, **options: Any) -> tuple[list[Sample | Reject], Census]:
    source, census = Source(format="webdataset", uri=str(path), **options), Census()
    found = list(read_unit(unit_of(str(path), "webdataset"), source, LOCAL, Limits(), census))
    return found, census


def of_listing(uri: object, format: str, **options: Any) -> tuple[list[Any], dict[str, int]]:
    counted: dict[str, int] = {}
    source = Source(format=format, uri=uri, **options)
    units = list(survey(source, LOCAL, Limits(), left_out=counted))
    return [s for u in units for s in read_unit(u, source, LOCAL, Limits())], counted


# --- tars -------------------------------------------------------------------------------------------------------

MEMBERS = [
    ("a.jpg", b"A"),
    ("a.txt", b"t"),
    ("a.seg.png", b"mask"),
    ("a.cls", b"7"),
    ("b.heic", b"H"),
    ("b.txt", b"t"),
    ("c.JFIF", b"C"),
    ("c.aVif", b"second image of c"),
    ("README", b"x"),
    ("d/Makefile", b"x"),
    ("._a.jpg", b"x"),
    ("__MACOSX/a.jpg", b"x"),
    ("__key__", b"x"),
    ("d/.DS_Store", b"x"),
    ("trailing.", b"x"),
    ("e.\x1b[31m", b"x"),
]


def test_members_that_are_no_sample_are_counted_by_ending(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar(MEMBERS))
    found, census = read(path, caption="txt")
    assert list(samples(found)) == ["a.jpg", "c.JFIF"]
    assert reasons(found) == {"ok": 2, "no_image": 2, "duplicate_member": 1}
    assert census.left_out == {"*.png": 1, "cls": 1, "heic": 1, "no extension": 3, "hidden": 4, "other": 1}
    assert census.missing(len(found)) == 0
    without_caption = read(path)[1]
    assert without_caption.left_out["txt"] == 2, "texts that nobody asked for are told too"


def test_five_pictures_with_an_early_dot_are_five_and_the_dot_is_named(tmp_path: Path, real_data: Path) -> None:
    found, census = read(real_data / "reported" / "dotted-keys.tar")
    assert reasons(found) == {"no_image": 5}
    assert [item.uri.rpartition("#")[2] for item in found] == [f"v1.0-img{n}.jpg" for n in range(5)]
    assert all("first dot" in item.detail and "'v1'" in item.detail for item in found if isinstance(item, Reject))
    assert (census.pictures, census.left_out) == (5, {})


def test_dotted_pictures_of_one_key_are_not_all_remembered(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar([(f"v1.{n}.jpg", b"x") for n in range(2500)]))
    found, census = read(path)
    assert reasons(found) == {"no_image": 2500}
    assert len({item.uri for item in found}) == 2500
    assert census.missing(len(found)) == 0


_NAMES = st.sampled_from(["a", "b", "d/a", "v1.0-a", "v1.1-b", ".h", "__x__", "é", "c.left"])
_ENDINGS = st.sampled_from(["jpg", "png", "txt", "json", "heic", "JPE", "", "cls", "bak.jpg"])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("caption", ["txt", None])
def test_wherever_a_tar_is_cut_every_picture_that_was_met_is_there(
    caption: str | None, packed: bool, tmp_path: Path
) -> None:
    """Among them those of a key that has an image already, which waits for its caption or is of a lower rank."""
    names = ["b.png", "é.jpg", "é.jpg", "b.jpg", "b.txt", "c.webp", "c.jpg", "c.txt", "d.jpg"]
    data = tar((name, noise(name, 700)) for name in names)
    path = tmp_path / ("x.tar.gz" if packed else "x.tar")
    for cut in range(512, len(data), 256):
        path.write_bytes(gzip.compress(data[:cut], 1) if packed else data[:cut])
        found, census = read(path, caption=caption)
        assert census.pictures + census.of_none == len(found), cut


@examples(100)
@given(
    st.lists(st.tuples(_NAMES, _ENDINGS, st.sampled_from([b"", b"x", b"{}"])), max_size=25),
    st.none() | st.floats(0, 1),
)
def test_every_member_is_in_a_sum(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, str, bytes]], cut: float | None
) -> None:
    """Whatever lies in a tar, whole or cut: a picture is a sample, a reject or passed over by name, a text belongs to
    a key, and the rest is counted by ending."""
    path = tmp_path_factory.mktemp("t") / "x.tar"
    names = [f"{name}.{ending}" if ending else name for name, ending, _ in members]
    data = tar(zip(names, (data for *_, data in members), strict=True))
    path.write_bytes(data if cut is None else data[: int(len(data) * cut)])
    found, census = read(path, caption="txt")
    if path.stat().st_size:  # else the tar itself is the one reject
        assert census.pictures - census.passed_over + census.of_none == len(found)
    if cut is not None:
        return
    texts = sum(name.endswith(".txt") and not name.rpartition("/")[2].startswith(".") for name in names)
    dotted_texts = sum(name.endswith(".txt") and name.count(".") > 1 and not name.startswith(".") for name in names)
    passed = sum(number for ending, number in census.left_out.items() if ending.startswith("*."))
    left = sum(census.left_out.values()) - passed
    assert passed == census.passed_over
    assert census.pictures + left + texts - dotted_texts == len(names)
    pictures = [name for name in names if name.lower().endswith((".jpg", ".png", ".jpe")) and not name.startswith(".")]
    assert census.pictures == len(pictures)


@pytest.mark.parametrize("codec", ["zstd", "bz2", "lz4"])
def test_tars_compressed_otherwise_are_read(tmp_path: Path, codec: str) -> None:
    members = [(f"{i}.{e}", noise((i, e), 3000) if e == "jpg" else b"text") for i in range(40) for e in ("jpg", "txt")]
    (tmp_path / "plain.tar").write_bytes(tar(members))
    halves = [tar(members[:40]), tar(members[40:])]
    packed = b"".join(bz2.compress(h) if codec == "bz2" else pa.Codec(codec).compress(h, asbytes=True) for h in halves)
    (tmp_path / "x.tar").write_bytes(packed)
    found = read_tar(str(tmp_path / "x.tar"), caption="txt")
    plain = read_tar(str(tmp_path / "plain.tar"), caption="txt")
    assert [s.image for s in samples(found).values()] == [s.image for s in samples(plain).values()]
    assert len(found) == 40
    assert all(s.image_offset is None for s in samples(found).values()), "there is no range inside"
    (tmp_path / "x.tar").write_bytes(packed[: len(packed) // 4])
    assert reasons(read_tar(str(tmp_path / "x.tar"), caption="txt"))["truncated"] == 1


@pytest.mark.parametrize(
    ("magic", "named"),
    [(b"PK\x03\x04", "zip"), (b"\xfd7zXZ\0", "xz"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07", "rar")],
)
def test_another_archive_given_as_a_tar_fails_its_unit_by_name(tmp_path: Path, magic: bytes, named: str) -> None:
    (tmp_path / "x.tar").write_bytes(magic + bytes(2000))
    with pytest.raises(WrongFormat, match=named) as failure:
        read_tar(str(tmp_path / "x.tar"))
    assert str(tmp_path / "x.tar") in failure.value.message
    assert "zstd" in failure.value.hint


def test_an_archive_that_is_no_tar_by_its_name_is_refused_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar([("a.jpg", b"A")]))
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04")
    for pattern in ("a.zip", "*.zip"):
        with pytest.raises(UserError, match=r"a\.zip is no tar"):
            of_listing(f"{tmp_path}/{pattern}", "webdataset")
    found, counted = of_listing(f"{tmp_path}/a*", "webdataset")
    assert (len(found), counted) == (1, {"zip": 1})


def test_links_and_folders_of_a_tar(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind, name in ((tarfile.DIRTYPE, "d.jpg"), (tarfile.SYMTYPE, "s.jpg"), (tarfile.LNKTYPE, "l.heic")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            archive.addfile(info)
    (tmp_path / "x.tar").write_bytes(out.getvalue())
    found, census = read(tmp_path / "x.tar")
    assert reasons(found) == {"no_image": 2}
    assert (census.pictures, census.left_out) == (1, {"heic": 1})


# --- listings ---------------------------------------------------------------------------------------------------


def test_a_folder_with_odd_endings(real_data: Path) -> None:
    found, counted = of_listing(f"{real_data}/reported/odd-extensions/", "files", caption="txt")
    names = sorted(item.uri.rpartition("/")[2] for item in found)
    assert names == ["ok.jpg", "ok2.jpg", "photo.JPE", "photo.avif", "photo.jfif"]
    assert counted == {"heic": 1}
    captions = {item.uri.rpartition("/")[2]: item.caption for item in found}
    assert captions["ok2.jpg"], "its caption is called ok2.jpg.txt"


def test_what_a_folder_of_files_holds_beside_pictures(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.txt", "b.txt", "c.heic", "sub/d.png", "sub/e.md", "NOTES", ".DS_Store", "sub/f.jpg.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(1))
    found, counted = of_listing(f"{tmp_path}/", "files", caption="txt")
    assert len(found) == 2
    expected = {"txt without a picture": 2, "heic": 1, "md": 1, "no extension": 1, "hidden": 1}
    assert counted == expected
    twice = of_listing([f"{tmp_path}/sub/", f"{tmp_path}/"], "files", caption="txt")[1]
    assert twice == expected, "what two patterns show is counted once"
    assert of_listing(f"{tmp_path}/*.jpg", "files", caption="txt")[1] == {}, "a glob asks for no more than it says"


def test_what_lies_beside_tars_and_parquet_files(tmp_path: Path) -> None:
    for name, data in (
        ("a.tar", tar([("a.jpg", b"A")])),
        ("p.parquet", parquet({"image": [b"A"]})),
        ("p.parquet.crc", b""),
        ("_SUCCESS", b""),
        (".hidden", b""),
    ):
        (tmp_path / name).write_bytes(data)
    left = {"crc": 1, "no extension": 1, "hidden": 1}
    assert of_listing(f"{tmp_path}/", "webdataset")[1] == {"parquet": 1, **left}
    assert of_listing(f"{tmp_path}/", "parquet")[1] == {"tar": 1, **left}
    both = of_listing([f"{tmp_path}/", f"{tmp_path}/p.parq*"], "webdataset")[1]
    assert both == {"no extension": 1, "hidden": 1}, "what another pattern takes is not left out"


def test_a_folder_without_pictures_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    (tmp_path / "b.heic").write_bytes(b"x")
    with pytest.raises(UserError) as failure:
        of_listing(f"{tmp_path}/", "files")
    assert "heic 2" in failure.value.hint
    assert all(ending in failure.value.hint for ending in DEFAULT_IMAGE)


# --- counting ---------------------------------------------------------------------------------------------------


def test_names_that_end_in_anything_stay_few_and_printable() -> None:
    counted: dict[str, int] = {}
    for number in range(10_000):
        left_out.count(counted, left_out.ending_of(f"a.{number}x"))
    left_out.count(counted, left_out.ending_of("a.\x1b]0;x\x07"))
    left_out.count(counted, left_out.ending_of("a." + "z" * 500))
    assert len(counted) <= left_out.MAX_ENDINGS + 1
    assert sum(counted.values()) == 10_002
    assert all(key.isprintable() and len(key) < 30 for key in counted)


def test_as_text_most_first_and_as_json_both_ways() -> None:
    counted = {"hidden": 5, "heic": 12, "no extension": 3}
    assert left_out.to_text(counted) == "heic 12, hidden 5, no extension 3"
    assert left_out.from_json(left_out.to_json(counted)) == counted
    assert left_out.from_json("") == {}


# --- headers before a member ------------------------------------------------------------------------------------


def extended(kind: bytes, data: bytes) -> bytes:
    """A header of this kind with its data, as it stands before a member."""
    info = tarfile.TarInfo("ext")
    info.type, info.size = kind, len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def pax(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def test_some_extended_headers_before_a_member_are_read_and_no_more(tmp_path: Path) -> None:
    path, last = tmp_path / "x.tar", tar([("b.jpg", b"B")], format=tarfile.USTAR_FORMAT)
    first = tar([("a.jpg", b"A")], format=tarfile.USTAR_FORMAT)[:1024]
    comment = extended(b"x", pax("comment", "c" * 70_000))
    for number, expected in ((13, {"ok": 2}), (15, {"ok": 1, "corrupt": 1})):  # 15 are more than a megabyte
        path.write_bytes(first + number * comment + last)
        assert reasons(read_tar(str(path))) == expected
    small = extended(b"x", pax("path", "renamed.jpg"))
    path.write_bytes(first + 16 * small + last)
    assert list(samples(read_tar(str(path)))) == ["a.jpg", "renamed.jpg"]
    path.write_bytes(first + 17 * small + last)
    found = read_tar(str(path))
    assert reasons(found) == {"ok": 1, "corrupt": 1}
    assert "more than 16 extended headers before one member" in found[-1].detail  # type: ignore[union-attr]


def test_only_used_records_of_a_pax_header_are_kept() -> None:
    from clipmill.workers.read.tars.tar import _pax_records

    data = (
        b"".join(pax(f"SCHILY.xattr.{n}", "v" * 50) for n in range(1000)) + pax("path", "p") + pax("GNU.sparse.x", "1")
    )
    assert _pax_records(data) == {"path": "p", "GNU.sparse": "1"}


def test_keys_that_wait_are_counted_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names of keys that lack a member take memory too; the unit fails by name, the run goes on."""
    path = tmp_path / "x.tar"
    path.write_bytes(tar([(f"{'n' * 3000}{n}.jpg", b"x") for n in range(60)]))
    monkeypatch.setattr(webdataset, "_MIN_WAITING_BYTES", 0)
    limits = Limits(worker_memory=200_000)
    assert reasons(read_tar(str(path), limits=limits)) == {"ok": 60}, "complete keys do not wait"
    with pytest.raises(WrongFormat, match="keys that lack a member"):
        read_tar(str(path), limits=limits, caption="txt")
    assert len(read_tar(str(path), limits=Limits(worker_memory=1_000_000), caption="txt")) == 60
