"""COCO's JSON is a list of pictures: each a row with its captions and categories, however large the document."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import SourceChanged, UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.left_out import LeftOut
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import read_unit
from clipmill.workers.read.lists import coco
from clipmill.workers.read.lists.links import linked_uris
from tests.conftest import S3
from tests.read.help import reasons

LOCAL = Storage()
CAPTIONS = {7: ["a dog ", "two dogs"], 9: [], 4: ["ein Hund, größer"]}


def document(**more: Any) -> dict[str, Any]:
    """Three pictures with captions and boxes, and an annotation of a picture that is not listed."""
    return {
        "info": {"year": 2017, "note": {"deep": [[1], [2]]}},
        "licenses": [],
        "images": [
            {"id": n, "file_name": f"{n:012d}.jpg", "width": 640, "height": 480, "coco_url": f"http://x.test/{n}.jpg"}
            for n in CAPTIONS
        ],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 18, "bbox": [1.5, 2, 3, 4], "segmentation": [[1, 2, 3, 4]]},
            *[
                {"id": 10 * n + i, "image_id": n, "caption": c}
                for n, some in CAPTIONS.items()
                for i, c in enumerate(some)
            ],
            {"id": 2, "image_id": 4, "category_id": 1, "iscrowd": 0},
            {"id": 3, "image_id": 4, "category_id": 18},
            {"id": 4, "image_id": 1234, "caption": "of nobody"},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in CAPTIONS:
        path = tmp_path / "train2017" / f"{n:012d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"picture %d" % n)
    (tmp_path / "annotations").mkdir()
    write(tmp_path, json.dumps(document()))
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "annotations" / "all.json").write_text(text, "utf-8")


def source_of(place: Path | str, **options: Any) -> Source:
    keep = {"captions": "list<string>", "labels": "list<string>", "coco_id": {"type": "int64", "from": "id"}}
    given = {"images": f"{place}/train2017/", "caption": "captions", "keep": keep, **options}
    return Source(format="manifest", uri=f"{place}/annotations/all.json", **given)


def read(source: Source, storage: Storage = LOCAL, left_out: LeftOut | None = None) -> list[Sample | Reject]:
    units = list(survey(source, storage, Limits(), left_out=left_out))
    return [found for unit in units for found in read_unit(unit, source, storage, Limits())]


def check(found: list[Sample | Reject]) -> None:
    samples = {one.metadata["coco_id"]: one for one in found if isinstance(one, Sample)}
    assert list(samples) == [7, 9, 4]
    assert [one.caption for one in samples.values()] == ["a dog", None, "ein Hund, größer"]
    assert [one.metadata["captions"] for one in samples.values()] == [["a dog", "two dogs"], [], ["ein Hund, größer"]]
    assert [one.metadata["labels"] for one in samples.values()] == [[], [], ["dog", "person"]]
    assert [one.image for one in samples.values()] == [b"picture 7", b"picture 9", b"picture 4"]
    (lost,) = [one for one in found if isinstance(one, Reject)]
    assert (lost.reason, lost.uri.partition("#")[2]) == ("no_image", "row=3")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_each_picture_has_its_captions_and_categories_in_any_order(
    folder: Path, indent: int | None, turned: bool
) -> None:
    items = list(document().items())
    write(folder, json.dumps(dict(items[::-1] if turned else items), indent=indent, ensure_ascii=turned))
    check(read(source_of(folder)))


def test_numbers_with_a_point_are_the_same_pictures(folder: Path) -> None:
    changed = document()
    for one in changed["annotations"]:
        one |= {name: float(one[name]) for name in ("image_id", "category_id") if name in one}
    write(folder, json.dumps(changed))
    check(read(source_of(folder)))


@pytest.mark.parametrize("name", ["all.json", "all.jsonl"])
def test_half_a_character_in_a_name_costs_that_picture_alone(folder: Path, name: str) -> None:
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in CAPTIONS] + [{"id": 1, "file_name": "\ud800/x.jpg"}]
    lines = [json.dumps({"uri": one["file_name"]}) for one in images]
    (folder / "annotations" / name).write_text(
        json.dumps({"images": images}) if name == "all.json" else "\n".join(lines)
    )
    source = Source(format="manifest", uri=f"{folder}/annotations/{name}", images=f"{folder}/train2017/")
    found = read(source)
    assert reasons(found) == {"ok": 3, "bad_uri": 1}
    (bad,) = [one for one in found if isinstance(one, Reject)]
    assert bad.detail.encode().startswith(rb"\ud800/x.jpg")
    (keyed, *_) = [one for one in read(source.model_copy(update={"id": "key"})) if isinstance(one, Reject)]
    assert keyed.id.encode() == rb"\ud800/x.jpg"


def test_what_is_missing_on_either_side_is_counted(folder: Path) -> None:
    (folder / "train2017" / "000000000009.jpg").unlink()
    (folder / "train2017" / "unnamed.png").write_bytes(b"x")
    left_out: LeftOut = {}
    found = read(source_of(folder), left_out=left_out)
    assert reasons(found) == {"ok": 2, "not_found": 1, "no_image": 1}
    assert left_out == {"png without a row": 1}


@pytest.mark.s3
def test_a_document_in_s3_reads_pictures_of_the_folder_that_the_job_names(folder: Path, s3: S3) -> None:
    s3.upload(folder, "coco/")
    place = f"{s3.uri}/coco"
    check(read(source_of(place), s3.storage))
    beside = read(source_of(place, images=None), s3.storage)
    assert reasons(beside) == {"not_found": 3, "no_image": 1}


def test_names_do_not_leave_that_folder(folder: Path) -> None:
    (folder / "secret.jpg").write_bytes(b"secret")
    write(folder, json.dumps({"images": [{"id": 1, "file_name": "../secret.jpg"}], "annotations": []}))
    (found,) = read(source_of(folder))
    assert isinstance(found, Reject)
    assert (found.reason, "leaves the folder" in found.detail) == ("bad_uri", True)


def test_the_web_addresses_of_the_document_may_be_asked_for(folder: Path) -> None:
    source = source_of(folder, image="coco_url")
    (unit,) = survey(source, LOCAL, Limits())
    assert "http://x.test/7.jpg" in set(linked_uris(unit, source, LOCAL))


def test_slices_stay_the_same_where_pictures_are_added_behind(folder: Path) -> None:
    def units(count: int) -> list[str]:
        images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(count)]
        write(folder, json.dumps({"images": images, "annotations": [{"image_id": 3, "caption": "x"}]}))
        return [unit.unit_id for unit in survey(source_of(folder, images=None), LOCAL, Limits())]

    few, many = units(6_000), units(6_500)
    assert len(few) > 3
    assert many[: len(few) - 1] == few[:-1]


def test_a_slice_has_the_bytes_of_its_rows_and_not_their_number(folder: Path) -> None:
    """`plan` shows their sum as `bytes`, and the metrics of a run count by it."""
    names = [f"{n:012d}.jpg" for n in range(100)]
    write(folder, json.dumps({"images": [{"id": n, "file_name": name} for n, name in enumerate(names)]}))
    found = sum(unit.size_bytes for unit in survey(source_of(folder, images=None), LOCAL, Limits()))
    assert found > sum(map(len, names))


def test_a_document_that_changed_since_it_was_listed_is_planned_again(folder: Path) -> None:
    source = source_of(folder)
    (unit,) = survey(source, LOCAL, Limits())
    changed = document()
    changed["annotations"][1]["caption"] = "another"
    write(folder, json.dumps(changed))
    with pytest.raises(SourceChanged):
        list(read_unit(unit, source, LOCAL, Limits()))


def test_a_column_that_no_picture_has_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no column caption, which source\.caption names") as caught:
        read(source_of(folder, caption="caption"))
    assert "captions, labels" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (json.dumps(document())[:-40], "ends in the middle"),
        ('{"images": [' + "[" * 100_000, "nests too deep"),
        ('{"images": [{"file_name": "a.jpg"} {"x": 1}]}', "is no JSON"),
        ('{"images": [], "info": nobody}', "no JSON"),
    ],
)
def test_what_is_no_whole_document_is_refused_in_one_sentence(folder: Path, text: str, why: str) -> None:
    write(folder, text)
    with pytest.raises(UserError, match=why):
        read(source_of(folder))


def test_odd_items_cost_themselves_alone(folder: Path) -> None:
    images = [7, {"file_name": 8}, {"id": [1], "file_name": "000000000007.jpg"}, {"id": 1.5}]
    notes = [None, {"image_id": {}}, {"image_id": 7, "caption": 3, "category_id": 55}]
    write(folder, json.dumps({"images": images, "annotations": notes, "categories": ["dog", {"id": 5}]}))
    found = read(source_of(folder, keep={"labels": "list<string>"}))
    assert reasons(found) == {"ok": 1, "no_image": 4, "bad_metadata": 1}


def test_a_list_of_objects_called_json_is_still_one_object_a_line(folder: Path) -> None:
    lines = [{"images": [1], "uri": "../train2017/000000000007.jpg"}, {"uri": "../train2017/000000000009.jpg"}]
    write(folder, "".join(json.dumps(one) + "\n" for one in lines))
    assert reasons(read(Source(format="manifest", uri=f"{folder}/annotations/all.json"))) == {"ok": 2}


def test_memory_is_that_of_the_rows_and_not_of_the_outlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 MB of outlines of 50 pictures; as Python's objects they would be some 20 MB."""
    outline = json.dumps([[float(n) for n in range(900)]])
    notes = [f'{{"image_id": {n % 50}, "category_id": 1, "segmentation": {outline}}}' for n in range(600)]
    images = [f'{{"id": {n}, "file_name": "{n}.jpg"}}' for n in range(50)]
    path = tmp_path / "instances.json"
    named = '"categories": [{"id": 1, "name": "dog"}]'
    path.write_text(f'{{"annotations": [{", ".join(notes)}], "images": [{", ".join(images)}], {named}}}')
    assert path.stat().st_size > 3_500_000
    monkeypatch.setattr(coco, "_last", None)
    monkeypatch.setattr(coco, "_PIECE_BYTES", 1 << 16)
    monkeypatch.setattr(coco, "open_stream", lambda *_, **__: path.open("rb"))  # without its block of 16 MB
    tracemalloc.start()
    found = coco.open_coco(str(path), LOCAL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [json.loads(row)["labels"] for row in found.rows] == [["dog"]] * 50
    assert peak < 1_500_000
    monkeypatch.setattr(coco, "_last", None)
    monkeypatch.setattr(coco, "MAX_KEPT_BYTES", 5_000)
    with pytest.raises(UserError, match="more than 5,000 bytes"):
        coco.open_coco(str(path), LOCAL)
