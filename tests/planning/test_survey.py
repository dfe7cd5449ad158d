"""Cutting sources into units: everything once, the same names tomorrow, little memory."""

import hashlib
import json
import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.planning import listing
from clipmill.jobs.planning.listing import list_source
from clipmill.jobs.planning.surveying import slices as survey_slices
from clipmill.jobs.planning.surveying import survey as survey_module
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import EmptySource, SourceChanged, UserError
from clipmill.schemas.job.config import JobFile, Limits, Source, Storage
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit, make_unit_id
from clipmill.workers.read import read_unit
from clipmill.workers.read.fields import Wanted
from clipmill.workers.read.folders import keys
from clipmill.workers.store.listing import Key
from clipmill.workers.store.storage import head
from tests.build import noise, parquet, tar
from tests.conftest import S3
from tests.fake_s3 import FakeS3
from tests.read.help import reasons

LOCAL = Storage()


def units(uri: Any, format: str, storage: Storage = LOCAL, **options: Any) -> list[WorkUnit]:
    return list(survey(Source(format=format, uri=uri, **options), storage, Limits()))


def read_all(uri: Any, format: str, storage: Storage = LOCAL, **options: Any) -> list[Any]:
    source = Source(format=format, uri=uri, **options)
    return [s for u in survey(source, storage, Limits()) for s in read_unit(u, source, storage, Limits())]


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of about 20 samples."""
    monkeypatch.setattr(survey_slices, "MIN_SAMPLES", 5)
    monkeypatch.setattr(survey_slices, "MODULUS", 15)
    monkeypatch.setattr(survey_slices, "MAX_SAMPLES", 60)


# --- slices of folders ------------------------------------------------------------------------------------------


def cut(names: list[str]) -> list[WorkUnit]:
    slices = survey_slices._Slices("s3://b/", Wanted.of(Source(format="files", uri="s3://b/", caption="txt")), {})
    found = [slices.add(Key(name, "e", 1)) for name in sorted(names, key=str.encode)]
    return [unit for unit in [*found, slices.finish()] if unit is not None]


def test_one_key_more_changes_its_own_slice_and_at_most_the_next() -> None:
    keys = [f"{n:012x}.jpg" for n in random.Random(1).sample(range(16**12), 40_000)]
    before = {unit.unit_id for unit in cut(keys)}
    assert 25 < len(before) < 60
    for extra in ("000000000000.jpg", "7fffffffffff.jpg", "ffffffffffff.jpg"):
        after = {unit.unit_id for unit in cut([*keys, extra])}
        assert len(after - before) <= 2
        assert len(before - after) <= 2


_STEMS = st.sampled_from(["a", "b", "a.b", "a-b", "d/a", "d/a.x", "z", "é", "a.b.c"])
_NAMES = st.lists(st.builds("{}{}".format, _STEMS, st.sampled_from([".jpg", ".txt", ".png", "1.jpg", ""])), unique=True)


_PAIRED = st.sampled_from(["a", "a.b", "a-b", "a.jpg", "a.jpg-", "a.jpg.c", "d/a", "b"])


@given(st.lists(st.builds("{}{}".format, _PAIRED, st.sampled_from([".jpg", ".txt", ".png"])), unique=True))
def test_texts_without_a_picture_are_those_whose_picture_is_not_in_the_folder(names: list[str]) -> None:
    lonely: list[str] = []
    wanted = Wanted.of(Source(format="files", uri="s3://b/", caption="txt"))
    slices = survey_slices._Slices("s3://b/", wanted, {}, lonely.append)
    for name in sorted(names, key=str.encode):
        slices.add(Key(name, "e", 1))
    slices.finish()
    images = {n for n in names if not n.endswith(".txt")}
    paired = {n[:-4] for n in images} | images
    assert sorted(lonely) == sorted(n for n in names if n not in images and n[:-4] not in paired)


def test_texts_whose_names_differ_in_case_alone_cost_their_slice_nothing(tmp_path: Path) -> None:
    for name in ("a.TXT", "a.Txt", "a.txt", "b.jpg", "b.txt", "c.TXT"):
        (tmp_path / name).write_bytes(b"words")
    counted: dict[str, int] = {}
    source = Source(format="files", uri=f"{tmp_path}/", caption="txt")
    (unit,) = survey(source, LOCAL, Limits(), left_out=counted)
    (found,) = read_unit(unit, source, LOCAL, Limits())
    assert isinstance(found, Sample)
    assert (found.uri, found.caption) == (f"{tmp_path}/b.jpg", "words")
    assert sum(counted.values()) == 4


def test_any_number_of_texts_without_a_picture_takes_no_memory_while_planning() -> None:
    slices = survey_slices._Slices("s3://b/", Wanted.of(Source(format="files", uri="s3://b/", caption="txt")), {})
    tracemalloc.start()
    try:
        for number in range(20_000):
            slices.add(Key(f"{number:06d}.txt", "e", 1))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_worker_holds_no_text_without_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slice of the first picture begins at the first of all the texts before it."""
    (tmp_path / "9.jpg").write_bytes(noise(1, 50))
    (tmp_path / "9.txt").write_text("nine")
    for number in range(500):
        (tmp_path / f"{number:04d}.txt").touch()
    held: list[int] = []

    def text_of(image: str, extension: str, texts: dict[tuple[str, str], Key]) -> Key | None:
        held.append(len(texts))
        return keys.text_of(image, extension, texts)

    monkeypatch.setattr("clipmill.workers.read.folders.files.text_of", text_of)
    (sample,) = read_all(f"{tmp_path}/", "files", caption="txt")
    assert (sample.caption, held) == ("nine", [1])


@given(_NAMES)
def test_slices_cover_every_image_once_and_never_part_it_from_its_caption(names: list[str]) -> None:
    old = survey_slices.MIN_SAMPLES, survey_slices.MODULUS, survey_slices.MAX_SAMPLES
    survey_slices.MIN_SAMPLES, survey_slices.MODULUS, survey_slices.MAX_SAMPLES = 1, 1, 1
    try:
        found = cut(names)
    finally:
        survey_slices.MIN_SAMPLES, survey_slices.MODULUS, survey_slices.MAX_SAMPLES = old

    def slice_of(name: str) -> int | None:
        raw = name.encode()
        hits = [i for i, u in enumerate(found) if u.start.encode() < raw and raw <= u.end.encode()]
        assert len(hits) <= 1
        return hits[0] if hits else None

    images = [n for n in names if n.endswith((".jpg", ".png"))]
    assert sum(unit.num_samples or 0 for unit in found) == len(images)
    for image in images:
        assert slice_of(image) is not None
        sidecar = image[:-4] + ".txt"
        if sidecar in names:
            assert slice_of(sidecar) == slice_of(image)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.s3
def test_files_on_disk_and_s3_hold_the_same_samples(s3: S3, tmp_path: Path) -> None:
    for i in range(40):
        name = f"d{i % 3}/ö {i:02d}#%"
        (tmp_path / f"d{i % 3}").mkdir(exist_ok=True)
        (tmp_path / f"{name}.jpg").write_bytes(noise(i, 50) if i else b"")
        if i % 2:
            (tmp_path / f"{name}.txt").write_text(f"Bild {i}", encoding="utf-8")
        if i % 5 == 0:
            (tmp_path / f"{name}.json").write_text(f'{{"n": {i}}}')
    (tmp_path / "README.txt").write_text("no image, no sample")
    s3.upload(tmp_path, "raw/")
    options: dict[str, Any] = {"caption": "txt", "keep": {"n": "int32"}, "id": "key"}
    local = read_all(str(tmp_path), "files", **options)
    remote = read_all(f"{s3.uri}/raw/", "files", s3.storage, **options)
    assert len(units(f"{s3.uri}/raw/", "files", s3.storage, **options)) > 2
    assert reasons(local) == reasons(remote) == {"ok": 39, "empty": 1}

    def content(found: list[Any]) -> list[Any]:
        return [(s.id, s.image, s.caption, s.metadata) for s in found if isinstance(s, Sample)]

    assert content(local) == content(remote)
    assert sum(s.caption is not None for s in local if isinstance(s, Sample)) == 20
    assert sum(s.metadata["n"] is not None for s in local if isinstance(s, Sample)) == 7


@pytest.mark.usefixtures("small_slices")
def test_a_folder_that_changed_since_the_plan_is_source_changed(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i:03d}.jpg").write_bytes(b"x")
    source = Source(format="files", uri=str(tmp_path), caption="txt")
    planned = list(survey(source, LOCAL, Limits()))
    (tmp_path / "050.txt").write_text("a caption came")
    results = []
    for unit in planned:
        try:
            results.append(len(list(read_unit(unit, source, LOCAL, Limits()))))
        except SourceChanged:
            results.append(-1)
    assert results.count(-1) == 1
    assert {u.unit_id for u in survey(source, LOCAL, Limits())} & {u.unit_id for u in planned} == {
        u.unit_id for u, n in zip(planned, results, strict=True) if n >= 0
    }


def test_overlapping_patterns_give_each_image_once(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.png", "b/3.jpg", "b/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    uris = [f"{tmp_path}/a/*.jpg", f"{tmp_path}/{{a,b}}/", str(tmp_path), f"{tmp_path}/b/3.jpg"]
    found = read_all(uris, "files", caption="txt")
    assert sorted(s.uri.removeprefix(f"{tmp_path}/") for s in found) == ["a/1.jpg", "a/2.png", "b/3.jpg"]
    (only,) = read_all(f"{tmp_path}/b/*.jpg", "files", caption="txt")
    assert only.caption == "x", "a glob for images hid the sidecar"


@pytest.mark.s3
def test_a_key_that_looks_like_a_version_is_read_whole(s3: S3) -> None:
    for name in ("a?versionId=1.jpg", "a?versionId=1?versionId=2.jpg", "b.jpg"):
        s3.put(f"raw/{name}", name.encode())
    found = read_all(f"{s3.uri}/raw/", "files", s3.storage)
    assert [s.image.decode() for s in found] == ["a?versionId=1.jpg", "a?versionId=1?versionId=2.jpg", "b.jpg"]
    assert head(f"{s3.uri}/raw/a?versionId=1.jpg", s3.storage).size_bytes == 17


def _hundred_thousand(store: FakeS3, count: int) -> Iterator[WorkUnit]:
    store.listing = [f"raw/{n:08d}.jpg" for n in range(count)]
    return survey(Source(format="files", uri="s3://b/raw/"), Storage(endpoint_url=store.endpoint), Limits())


@pytest.mark.counted
@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_prefix_of_many_keys_is_cut_with_flat_memory(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    with FakeS3().running() as store:
        found = list(_hundred_thousand(store, count))
        assert sum(unit.num_samples or 0 for unit in found) == count
        assert found[0].start == ""
        assert [u.start for u in found[1:]] == [u.end for u in found[:-1]]
        assert len(store.requests) == count // 1000
        seen = 0
        tracemalloc.start()
        try:
            for unit in _hundred_thousand(store, count):
                if seen == 0:
                    tracemalloc.reset_peak()  # the server's own list and the client's start are not the survey's
                    base = tracemalloc.get_traced_memory()[0]
                seen += unit.num_samples or 0
            peak = tracemalloc.get_traced_memory()[1] - base
        finally:
            tracemalloc.stop()
    assert peak < 25_000_000, f"{peak:,} bytes"


# --- tars, parquet, manifests -----------------------------------------------------------------------------------


def linked(folder: Path, names: tuple[str, ...], links: dict[str, str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name, target in links.items():
        (folder / name).symlink_to(target)
    return folder


@pytest.mark.parametrize(
    ("names", "links", "below", "expected"),
    [
        (("d/1.jpg",), {"d/up": "..", "other": "d"}, "/", ["d/1.jpg"]),
        (("a/1.jpg", "b/2.jpg"), {"a/x": "../b", "b/y": "../a"}, "/", ["a/1.jpg", "b/2.jpg"]),
        (("a/1.jpg", "b/2.jpg"), {"a/x": "../b", "b/y": "../a"}, "/**/*.jpg", ["a/1.jpg", "b/2.jpg"]),
        (("a/1.jpg", "b/2.jpg"), {"a/x": "../b", "b/y": "../a"}, "/a/", ["a/1.jpg", "a/x/2.jpg"]),
        (("a/1.jpg", "b/2.jpg"), {"a/x": "../b", "b/y": "../a"}, "/a/**/*.jpg", ["a/1.jpg", "a/x/2.jpg"]),
        (("train2/1.jpg", "train/2.jpg"), {"train2/b": "../train"}, "/train2/", ["train2/1.jpg", "train2/b/2.jpg"]),
        (("v3/1.jpg", "v3/2.jpg"), {"now": "v3"}, "/n*/*.jpg", ["now/1.jpg", "now/2.jpg"]),
        (("v3/1.jpg", "v3/2.jpg"), {"v4": "v3"}, "/*4/*.jpg", ["v4/1.jpg", "v4/2.jpg"]),
        (("a/1.jpg",), {"a/self": "self", "a/one": "two", "a/two": "one", "a/gone.jpg": "none.jpg"}, "/", ["a/1.jpg"]),
        (("a/1.jpg",), {"a/2.jpg": "1.jpg"}, "/", ["a/1.jpg", "a/2.jpg"]),
    ],
    ids=["up", "circle", "circle by name", "from a", "glob from a", "prefix", "glob", "suffix", "to itself", "file"],
)  # fmt: skip
def test_links_between_folders_give_each_picture_once(
    tmp_path: Path, names: tuple[str, ...], links: dict[str, str], below: str, expected: list[str]
) -> None:
    folder = linked(tmp_path / "source", names, links)
    found = read_all(f"{folder}{below}", "files")
    assert [s.uri.removeprefix(f"{folder}/") for s in found] == expected


def test_a_link_to_a_folder_elsewhere_is_followed_and_ends(tmp_path: Path) -> None:
    linked(tmp_path, ("source/1.jpg", "elsewhere/2.jpg"), {"source/out": "../elsewhere", "elsewhere/in": "../source"})
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path)
    found = read_all(f"{tmp_path}/source/", "files")
    assert [s.uri.removeprefix(f"{tmp_path}/source/") for s in found] == ["1.jpg", "out/2.jpg"]


def test_tars_once_each_with_names_that_new_shards_do_not_change(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.tar").write_bytes(tar([("a.jpg", b"x" * i)]))
    (tmp_path / "notes.md").write_text("x")
    first = units([f"{tmp_path}/", f"{tmp_path}/*.tar", f"{tmp_path}/{{0..1}}.tar"], "webdataset")
    assert [u.uri for u in first] == [f"{tmp_path}/{i}.tar" for i in range(4)]
    (tmp_path / "00.tar").write_bytes(tar([]))
    (tmp_path / "2.tar").write_bytes(tar([("b.jpg", b"y")]))
    second = units(f"{tmp_path}/*.tar", "webdataset")
    assert len({u.unit_id for u in second} - {u.unit_id for u in first}) == 2
    assert {u.unit_id for u in units(f"{tmp_path}/*.tar", "webdataset", caption="txt")}.isdisjoint(
        u.unit_id for u in second
    )


@pytest.mark.parametrize(("order", "cuttable"), [("pairs", True), ("apart", False), ("gzip", False)])
def test_a_huge_tar_is_cut_where_no_sample_is_parted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, cuttable: bool
) -> None:
    monkeypatch.setattr(survey_module, "HUGE_TAR_BYTES", 50_000)
    monkeypatch.setattr(survey_module, "TAR_SLICE_BYTES", 60_000)
    long = "d/" * 60  # so that every member has a PAX header before its own
    members = [
        (f"{long}{i}.{e}", noise(i, 3000) if e == "jpg" else b"t%d" % i) for i in range(40) for e in ("jpg", "txt")
    ]
    if order == "apart":
        members.sort(key=lambda member: member[0].endswith("txt"))
    (tmp_path / "x.tar").write_bytes(tar(members, compress=order == "gzip"))
    found = units(f"{tmp_path}/x.tar", "webdataset", caption="txt")
    assert (len(found) > 2) == cuttable
    assert sum(u.size_bytes for u in found) == (tmp_path / "x.tar").stat().st_size
    read = read_all(f"{tmp_path}/x.tar", "webdataset", caption="txt")
    assert [s.caption for s in read] == [f"t{i}" for i in range(40)]
    assert [s.image for s in read] == [noise(i, 3000) for i in range(40)]


def test_small_row_groups_share_a_unit_and_damaged_files_get_one(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet({"image": [b"x"] * 5000}, rows_per_group=300))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more")
    found = units(f"{tmp_path}/", "parquet")
    assert [(u.start, u.end, u.num_samples) for u in found] == [
        ("0", "7", 2100),
        ("7", "14", 2100),
        ("14", "17", 800),
        ("", "", None),
    ]


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt", "parquet"])
def test_a_manifest_with_lines_added_renames_only_their_slices(tmp_path: Path, kind: str) -> None:
    for i in range(200):
        (tmp_path / f"{i:03d}.jpg").write_bytes(b"%d" % i)
    path = tmp_path / f"m.{kind}"

    def write(numbers: list[int]) -> list[WorkUnit]:
        names = [f"{i:03d}.jpg" for i in numbers]
        if kind == "csv":
            path.write_text("uri,text\n" + "".join(f'{n},"Zeile\n""{n}"" ü"\n' for n in names), encoding="utf-8")
        elif kind == "jsonl":
            path.write_text("".join(f'{{"uri": "{n}", "text": "t"}}\n' for n in names))
        elif kind == "txt":
            path.write_text("\n".join(names))
        else:
            path.write_bytes(parquet({"uri": names, "text": ["t"] * len(names)}, rows_per_group=17))
        return units(str(path), "manifest", caption=None if kind == "txt" else "text")

    before = write(list(range(150)))
    after = write([199, *range(90), 198, *range(90, 150), *range(30)])
    assert len(before) > 4
    assert len({u.unit_id for u in before} - {u.unit_id for u in after}) <= 4
    found = read_all(str(path), "manifest", caption=None if kind == "txt" else "text")
    assert [s.image for s in found] == [b"%d" % i for i in [199, *range(90), 198, *range(90, 150), *range(30)]]
    if kind == "csv":
        assert found[0].caption == 'Zeile\n"199.jpg" ü'
    assert len({u.unit_id for u in after}) == len(after)


def test_equal_slices_of_a_manifest_are_told_apart(tmp_path: Path, small_slices: None) -> None:
    (tmp_path / "m.txt").write_text("a.jpg\n" * 240)
    found = units(f"{tmp_path}/m.txt", "manifest")
    assert len(found) == 240 // 60 or len(found) > 4
    assert len({u.unit_id for u in found}) == len(found)


@pytest.mark.parametrize(
    ("format", "make", "sentence"),
    [
        ("webdataset", lambda folder: f"{folder}/*.tar", "matches nothing of format webdataset"),
        ("webdataset", lambda folder: f"{folder}/", "matches nothing of format webdataset"),
        ("files", lambda folder: f"{folder}/", "holds no image"),
        ("files", lambda folder: f"{folder}/none/", "does not exist"),
        ("parquet", lambda folder: f"{folder}/p.parquet", "has no column photo"),
        ("manifest", lambda folder: f"{folder}/m.csv", "has no column photo"),
        ("manifest", lambda folder: f"{folder}/m.csv.gz", "is compressed"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, format: str, make: Any, sentence: str) -> None:
    (tmp_path / "p.parquet").write_bytes(parquet({"image": [b"x"]}))
    (tmp_path / "m.csv").write_text("url\nx.jpg\n")
    (tmp_path / "m.csv.gz").write_bytes(b"x")
    with pytest.raises(UserError, match=sentence) as caught:
        units(make(tmp_path), format, **({"image": "photo"} if "photo" in sentence else {}))
    assert caught.value.hint


def test_a_long_listing_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 30 s; here at every unit. It was silent to its end, which may be hours."""
    monkeypatch.setattr(listing, "TOLD_EVERY_S", 0.0)
    (tmp_path / "list.csv").write_text("url\n" + "".join(f"{n}.jpg\n" for n in range(5000)))
    for number in range(2):
        (tmp_path / f"{number}.tar").write_bytes(tar([("a.jpg", b"x")]))
    said: list[str] = []
    for source in ({"format": "manifest", "uri": f"{tmp_path}/list.csv", "image": "url"}, {"uri": f"{tmp_path}/*.tar"}):
        job = {"table": f"{tmp_path}/db/t", "source": {"format": "webdataset", **source}, "model": {"name": "stub"}}
        found = list_source(JobFile.model_validate(job), say=said.append)
    assert said[-2:] == ["listed so far: 1 unit", "listed so far: 2 units"]
    assert said[0].startswith("listed so far: 1 unit with ")
    assert said[-3].endswith("units with 5,000 samples")
    assert len(found.units) == 2


@pytest.mark.parametrize("text", ["", "\n\n", "url,caption\n"])
def test_a_list_without_a_line_is_nothing_to_embed_for_a_plan_too(tmp_path: Path, text: str) -> None:
    """A plan of 0 units, and an exit code of 0, would send somebody's nightly list on that was not written."""
    (tmp_path / "list.csv").write_text(text or "url\n")
    source = {"format": "manifest", "uri": f"{tmp_path}/list.csv", "image": "url"}
    job = {"table": f"{tmp_path}/db/t", "source": source, "model": {"name": "stub"}}
    with pytest.raises(EmptySource, match=r"list.csv (names nothing|holds no)") as caught:
        list_source(JobFile.model_validate(job))
    assert caught.value.hint


@pytest.mark.realdata
def test_real_folders(real_data: Path) -> None:
    found = read_all(f"{real_data}/clothing/", "files", id="key")
    on_disk = {p for p in (real_data / "clothing").rglob("*.jpg")}
    assert {s.uri for s in found} == {str(p) for p in on_disk}
    assert all(Path(s.uri).read_bytes() == s.image for s in found[:20])
    assert len(read_all(f"{real_data}/emoji_captions.csv", "manifest", caption="caption", image="file")) > 300


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_folder_whose_name_holds_characters_of_a_glob(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    """It is the folder that is called so; a glob behind it is one, and `[[]` still stands for a bracket."""
    s3: S3 | None = request.getfixturevalue("s3") if where == "s3" else None
    root = f"s3://{s3.bucket}" if s3 else str(tmp_path)
    files = {"a.jpg": b"A", "a.txt": b"text", "b/c [1].jpg": b"C", "x.tar": tar([("k.jpg", b"K")])}
    for folder in ("p [2024]", "p 2", "w?y"):
        for name, data in files.items():
            if s3:
                s3.put(f"{folder}/{name}", data)
            else:
                (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / folder / name).write_bytes(data)
    storage = s3.storage if s3 else Storage()

    def read(uri: str | list[str], format: str = "files") -> list[str]:
        source = Source(format=format, uri=uri, caption="txt")
        units = list(survey(source, storage, Limits()))
        found = [s for u in units for s in read_unit(u, source, storage, Limits())]
        assert all(isinstance(s, Sample) for s in found)
        return [s.uri.removeprefix(root + "/") for s in found]

    for folder in ("p [2024]", "w?y"):
        both = [f"{folder}/a.jpg", f"{folder}/b/c [1].jpg"]
        for typed in (f"{folder}/", folder, f"{folder}/**", folder.replace("[", "[[]").replace("?", "[?]") + "/"):
            assert read(f"{root}/{typed}") == both, typed
        assert read(f"{root}/{folder}/*.jpg") == both[:1]
        assert read(f"{root}/{folder}/b/c [1].jpg") == both[1:]
        assert read([f"{root}/{folder}/a.jpg", f"{root}/{folder}/"]) == both
        assert read(f"{root}/{folder}/", "webdataset") == read(f"{root}/{folder}/*.tar", "webdataset")
        assert read(f"{root}/{folder}/", "webdataset") == [f"{folder}/x.tar#k.jpg"]
    assert read(f"{root}/p [2]/*.jpg") == ["p 2/a.jpg"], "no folder is called so: it is a glob"


@pytest.mark.parametrize("format", ["files", "webdataset"])
def test_links_to_nothing_and_pipes_are_counted(tmp_path: Path, format: str) -> None:
    """A folder of links whose disk is not there must not look like an empty one."""
    ending = "jpg" if format == "files" else "tar"
    (tmp_path / f"a.{ending}").write_bytes(tar([("a.jpg", b"A")]))
    (tmp_path / f"gone.{ending}").symlink_to(tmp_path / "mount" / "x")
    (tmp_path / f"self.{ending}").symlink_to(f"self.{ending}")
    os.mkfifo(tmp_path / f"pipe.{ending}")
    counted: dict[str, int] = {}
    units = list(survey(Source(format=format, uri=f"{tmp_path}/"), Storage(), Limits(), left_out=counted))
    assert (len(units), counted) == (1, {"broken link": 2, "no file": 1})
    counted.clear()
    both = [f"{tmp_path}/*.{ending}", f"{tmp_path}/"]
    list(survey(Source(format=format, uri=both), Storage(), Limits(), left_out=counted))
    assert counted == {"broken link": 2, "no file": 1}, "each once"
    (tmp_path / f"a.{ending}").unlink()
    with pytest.raises(UserError) as failure:
        list(survey(Source(format=format, uri=f"{tmp_path}/"), Storage(), Limits()))
    assert "broken link 2" in failure.value.hint


def test_the_name_of_a_unit_is_the_hash_of_one_json_text() -> None:
    """A change here would name every unit of every table anew."""
    options = {"format": "webdataset", "b": [1, None], "a": 'é "q"'}
    for uri in ("s3://b/x.tar", 'a"b\\c\n\t\x00\x1f/é/日本/🎈.tar', ""):
        text = json.dumps([uri, "e-1", "0-5", options], sort_keys=True, ensure_ascii=False)
        assert make_unit_id(uri, "e-1", "0-5", options) == hashlib.sha256(text.encode()).hexdigest()[:24]
    assert make_unit_id("s3://b/x.tar", "e", "", {"a": 1}) == "764e0baa5f8339985055e28f"
