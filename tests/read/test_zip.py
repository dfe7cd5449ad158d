"""Zip archives: read by their directory, each member bounded, and what cannot be read named."""

import stat
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.planning.surveying import zips as survey_zips
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.table import originals
from clipmill.schemas.errors import SourceChanged, UserError, WrongFormat
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import again, read_unit
from clipmill.workers.read.census import Census
from clipmill.workers.read.folders import archive as zip
from clipmill.workers.read.folders import zipped
from clipmill.workers.read.original import Place, fetch_image
from clipmill.workers.store import storage as store
from tests.build import noise, picture
from tests.examples import examples
from tests.read.help import reasons, samples, unit_of
from tests.verifying.test_verify_census import embed

LOCAL = Storage()
Change = Callable[[dict[str, zipfile.ZipInfo]], None]


def packed(path: Path, members: list[tuple[str, bytes]], change: Change = lambda by_name: None) -> Path:
    """Stored members; `change` is given the directory's entries before they are written."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
        change(archive.NameToInfo)
    return path


def read(path: Path, limits: Limits | None = None, **options: Any) -> tuple[list[Sample | Reject], Census]:
    census = Census()
    source = Source(format="zip", uri=str(path), **options)
    found = list(read_unit(unit_of(str(path), "zip"), source, LOCAL, limits or Limits(), census))
    assert census.missing(len(found)) == 0
    return found, census


MEMBERS = [
    ("set/", b""),
    ("set/a.jpg", b"A"),
    ("set/a.txt", b"of a"),
    ("set/v1.0-b.jpg", b"B"),
    ("set/c.JFIF", b"C"),
    ("set/c.JFIF.txt", b"of c"),
    ("set/d.heic", b"D"),
    ("set/inner.zip", b"PK\3\4"),
    ("set/lonely.txt", b"x"),
    ("README", b"x"),
    ("set/._a.jpg", b"x"),
    ("__MACOSX/set/e.jpg", b"x"),
    ("set/.DS_Store", b"x"),
    ("set/f.jpg", b""),
]


def test_an_archive_is_read_as_the_folder_it_was_made_from(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", MEMBERS)
    found, census = read(path, caption="txt", keep={"label": {"type": "string", "from": "path:folder"}}, id="key")
    assert {name: (one.image, one.caption, one.id) for name, one in samples(found).items()} == {
        "set/a.jpg": (b"A", "of a", "set/a"),
        "set/v1.0-b.jpg": (b"B", None, "set/v1.0-b"),
        "set/c.JFIF": (b"C", "of c", "set/c"),
    }
    assert {one.metadata["label"] for one in samples(found).values()} == {"set"}
    assert reasons(found) == {"ok": 3, "empty": 1}
    assert census.left_out == {"heic": 1, "zip": 1, "txt without a picture": 1, "no extension": 1, "hidden": 3}
    assert read(path)[1].left_out["txt"] == 3, "texts that nobody asked for are told too"


def test_bytes_are_found_again_by_range_or_by_name(tmp_path: Path) -> None:
    images = {name: noise(name, 5000) for name in ("a.jpg", "d/b%#.jpg", "c.jpg")}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in images.items():
            deflated = name == "c.jpg"
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    found = samples(read(tmp_path / "a.zip")[0])
    raw = (tmp_path / "a.zip").read_bytes()
    assert list(found) == ["a.jpg", "d/b%25%23.jpg", "c.jpg"]
    for name in ("a.jpg", "d/b%25%23.jpg"):
        offset, size = found[name].image_offset, found[name].image_size
        assert offset is not None
        assert size is not None
        assert raw[offset : offset + size] == found[name].image
    assert (found["c.jpg"].image_offset, found["c.jpg"].image_size) == (None, None)
    rows = []
    for n, one in enumerate(found.values()):
        place = Place(
            uri=one.uri,
            offset=one.image_offset,
            size=one.image_size,
            image_hash=xxhash.xxh3_128_hexdigest(one.image),
        )
        assert fetch_image(place, LOCAL) == one.image
        rows.append(
            again.Row(
                place=n, id=one.id, uri=one.uri, offset=place.offset, size=place.size, image_hash=place.image_hash
            )
        )
    assert [one.image for one in again.read_again(rows, LOCAL, Limits()) if isinstance(one, Sample)] == [
        one.image for one in found.values()
    ]
    with pytest.raises(UserError, match="not there any more"):
        fetch_image(Place(uri=f"{tmp_path}/a.zip#d.jpg", offset=None, size=None, image_hash="0"), LOCAL)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_picture_of_a_row_is_read_again_from_its_archive_alone(tmp_path: Path, method: int) -> None:
    (tmp_path / "raw").mkdir()
    with zipfile.ZipFile(tmp_path / "raw" / "a.zip", "w", method) as archive:
        for n in range(3):
            archive.writestr(f"{n}.jpg", picture(n))
    tables = embed(tmp_path, {"format": "zip", "uri": f"{tmp_path}/raw/"})
    rows = tables.open().to_table(columns=list(originals.place_columns(tables.open().schema))).to_pylist()
    assert {originals.Originals(tables).read(row) for row in rows} == {picture(n) for n in range(3)}
    packed(tmp_path / "raw" / "b.zip", [("0.jpg", picture(0))])
    with pytest.raises(originals.NotOfSource):
        originals.Originals(tables).read({**rows[0], "uri": f"{tmp_path}/raw/b.zip#0.jpg"})


def link(by_name: dict[str, zipfile.ZipInfo]) -> None:
    by_name["bad.jpg"].external_attr = (stat.S_IFLNK | 0o777) << 16


def setting(**values: Any) -> Change:
    def change(by_name: dict[str, zipfile.ZipInfo]) -> None:
        for name, value in values.items():
            setattr(by_name["bad.jpg"], name, value)

    return change


@pytest.mark.parametrize(
    ("change", "reason", "said"),
    [
        (link, "no_image", "a link"),
        (setting(flag_bits=1), "unknown_format", "encrypted"),
        (setting(compress_type=9), "unknown_format", "packed with deflate64"),
        (setting(compress_type=14), "unknown_format", "packed with lzma"),
        (setting(compress_type=77), "unknown_format", "packed with method 77"),
        (setting(CRC=1), "corrupt", "CRC-32"),
        (setting(file_size=900), "corrupt", "CRC-32"),
        (setting(file_size=1100), "corrupt", "1,000 bytes where the directory says 1,100"),
        (setting(file_size=10**9), "too_many_bytes", "the limit is 10,000"),
        (setting(compress_size=10**9), "too_many_bytes", "the limit is 10,000"),
        (setting(header_offset=7110), "corrupt", "magic number"),
        (setting(filename="bax.jpg"), "corrupt", "differ"),
    ],
)
def test_a_member_that_cannot_be_read_costs_itself_alone(
    tmp_path: Path, change: Change, reason: str, said: str
) -> None:
    members = [("a.jpg", b"A" * 3000), ("bad.jpg", b"B" * 1000), ("c.jpg", b"C" * 3000)]
    found, _ = read(packed(tmp_path / "a.zip", members, change), Limits(max_image_bytes=10_000))
    assert reasons(found) == {"ok": 2, reason: 1}
    (bad,) = [one for one in found if isinstance(one, Reject)]
    assert said in bad.detail


def test_members_that_share_bytes_are_unpacked_once(tmp_path: Path) -> None:
    """As an archive has them that shall be unpacked to a thousand times what deflate alone gives."""

    def share(by_name: dict[str, zipfile.ZipInfo]) -> None:
        for n in range(9):
            by_name[f"{n}.jpg"].compress_size = by_name[f"{n}.jpg"].file_size = 3000

    found, _ = read(packed(tmp_path / "a.zip", [(f"{n}.jpg", bytes(300)) for n in range(10)], share))
    assert reasons(found) == {"ok": 1, "corrupt": 9}
    assert all("overlap" in one.detail for one in found if isinstance(one, Reject))


def test_what_is_unpacked_is_bounded_by_what_comes_and_not_by_what_the_header_says(tmp_path: Path) -> None:
    """Zeros deflate to a thousandth. A header that says less than there is does not get more unpacked either."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("honest.jpg", "liar.jpg"):
            archive.writestr(name, bytes(30_000_000))
        archive.writestr("a.jpg", b"A")
        archive.NameToInfo["liar.jpg"].file_size = 1000
    assert (tmp_path / "a.zip").stat().st_size < 100_000
    found, _ = read(tmp_path / "a.zip", Limits(max_image_bytes=1_000_000))
    assert reasons(found) == {"ok": 1, "too_many_bytes": 1, "corrupt": 1}


def test_a_text_that_cannot_be_read_rejects_its_picture_by_name(tmp_path: Path) -> None:
    members = [("a.jpg", b"A"), ("a.txt", b"x" * 1_000_001), ("b.jpg", b"B"), ("b.txt", b"fine")]
    found, _ = read(packed(tmp_path / "a.zip", members), caption="txt")
    assert reasons(found) == {"ok": 1, "bad_metadata": 1}
    assert found[0].detail == "a.txt: 1,000,001 bytes, the limit is 1,000,000"  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_a_reject(tmp_path: Path) -> None:
    found, _ = read(packed(tmp_path / "a.zip", [("a.jpg", b"1"), ("./a.jpg", b"2"), ("a.jpg", b"3")]))
    assert reasons(found) == {"ok": 1, "duplicate_member": 2}
    assert [one.image for one in found if isinstance(one, Sample)] == [b"1"]


@pytest.mark.parametrize("damage", ["cut", "begin", "directory"])
def test_an_archive_without_a_directory_fails_its_unit_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = packed(tmp_path / "a.zip", [(f"{n}.jpg", b"x") for n in range(50)])
    data = path.read_bytes()
    if damage == "directory":
        monkeypatch.setattr(zip, "MAX_DIRECTORY_BYTES", 2000)
    path.write_bytes(data[:-40] if damage == "cut" else b"#!/bin/sh\n" + data if damage == "begin" else data)
    (unit,) = survey(Source(format="zip", uri=str(path)), LOCAL, Limits())
    assert unit.num_samples is None
    with pytest.raises(WrongFormat, match="is no readable zip archive") as failure:
        read(path)
    assert damage != "directory" or "directory takes" in failure.value.message


def test_an_archive_without_a_byte_is_one_reject_and_a_replaced_one_is_planned_again(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    assert reasons(read(tmp_path / "a.zip")[0]) == {"empty": 1}
    unit = unit_of(str(packed(tmp_path / "a.zip", MEMBERS)), "zip")
    packed(tmp_path / "a.zip", MEMBERS[:3])
    with pytest.raises(SourceChanged):
        list(read_unit(unit, Source(format="zip", uri=unit.uri), LOCAL, Limits()))


def test_a_large_archive_is_cut_and_texts_are_found_across_the_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [(f"{n:03}.jpg", noise(n, 3000)) for n in range(100)]
    members += [(f"{n:03}.txt", b"caption %d" % n) for n in range(0, 100, 3)]  # behind all of the pictures
    members += [("x.txt", b"lonely"), ("NOTES", b"")]
    path = packed(tmp_path / "a.zip", members)
    monkeypatch.setattr(survey_zips, "SLICE_BYTES", 40_000)
    monkeypatch.setattr(zipped, "NEAR_BYTES", 10_000)
    source = Source(format="zip", uri=f"{tmp_path}/", caption="txt")
    units = list(survey(source, LOCAL, Limits()))
    assert len(units) == 8
    assert len({unit.unit_id for unit in units}) == 8
    assert sum(unit.size_bytes for unit in units) == path.stat().st_size
    found: list[Sample | Reject] = []
    left: Counter[str] = Counter()
    for unit in units:
        census = Census()
        here = list(read_unit(unit, source, LOCAL, Limits(), census))
        assert (len(here), census.missing(len(here))) == (unit.num_samples, 0)
        found += here
        left.update(census.left_out)
    assert [(one.image, one.caption) for one in found if isinstance(one, Sample)] == [
        (noise(n, 3000), f"caption {n}" if n % 3 == 0 else None) for n in range(100)
    ]
    assert left == {"txt without a picture": 1, "no extension": 1}


def test_only_what_is_asked_for_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large member that nobody wants is passed over, and so is all that lies behind a trial."""
    path = packed(tmp_path / "a.zip", [("a.jpg", b"A"), ("model.bin", bytes(40_000_000)), ("b.jpg", b"B")])
    fetched = 0
    fetch = store._fetch_block

    def counting(uri: str, storage: Storage, etag: str, start: int, stop: int) -> bytes:
        nonlocal fetched
        fetched += stop - start
        return fetch(uri, storage, etag, start, stop)

    monkeypatch.setattr(store, "_fetch_block", counting)
    found, census = read(path)
    assert reasons(found) == {"ok": 2}
    assert census.left_out == {"bin": 1}
    assert fetched < 5_000_000


def test_another_archive_under_the_name_and_a_zip_given_as_a_tar_say_what_to_do(tmp_path: Path) -> None:
    packed(tmp_path / "a.zip", MEMBERS)
    with pytest.raises(UserError, match="no tar by its name") as failure:
        list(survey(Source(format="webdataset", uri=f"{tmp_path}/a.zip"), LOCAL, Limits()))
    assert "source.format: zip" in failure.value.hint
    (tmp_path / "b.zip").write_bytes(b"Rar!\x1a\x07" + bytes(3000))
    with pytest.raises(WrongFormat, match="does not begin as one"):
        read(tmp_path / "b.zip")


_NAMES = st.sampled_from(["a", "b", "d/a", "v1.0-a", ".h", "__x__", "é", "__MACOSX/a", "d/"])
_ENDINGS = st.sampled_from(["jpg", "png", "txt", "jpg.txt", "json", "heic", "JPE", "", "jpg/"])


@examples(60)
@given(st.lists(st.tuples(_NAMES, _ENDINGS, st.sampled_from([b"", b"x", b"{}"])), max_size=20))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_every_member_is_in_a_sum(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("z") / "a.zip"
    names = [(f"{name}.{ending}" if ending else name, data) for name, ending, data in members]
    packed(path, names)
    found, census = read(path, caption="txt")
    folders = sum(name.endswith("/") and not data for name, data in names)
    used = len(names) - folders - len(found) - sum(census.left_out.values())
    assert 0 <= used <= len(found), "what is in no other sum is the caption of a picture"
    # `a.jpg` and `a.png` share `a.txt`, as they would in a folder.
    captioned = {one.uri.rpartition(".")[0] for one in found if isinstance(one, Sample) and one.caption}
    assert len(captioned) <= used


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_pictures_of_one_name_share_its_text(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", [("a.jpg", b"1"), ("a.png", b"2"), ("a.txt", b"both"), ("b.jpg", b"3")])
    found, census = read(path, caption="txt")
    assert [one.caption for one in found if isinstance(one, Sample)] == ["both", "both", None]
    assert not census.left_out
