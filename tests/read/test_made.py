"""Files that other tools wrote (tests/read/made), read as they are: the same pictures from each, and what they say."""

import csv
import json
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lance
import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import EmptySource
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import read_unit
from clipmill.workers.read.census import Census
from clipmill.workers.read.lists.links import linked_uris
from clipmill.workers.read.tables.columns import link_names
from clipmill.workers.stub import StubEngine
from tests.build import parquet
from tests.conftest import S3
from tests.read.help import reasons
from tests.read.made.draw import NUMBER, draw

MADE = Path(__file__).parent / "made"
LABELS = ["cat", "dog", "a red shoe", None, None, "dog"]
IMG2DATASET = ("webdataset", "parquet", "files")
HASHES = [xxhash.xxh3_128_hexdigest(draw(n)) for n in range(NUMBER)]


def read_all(source: Source, storage: Storage) -> list[Sample | Reject]:
    """Everything that the source holds; no reader drops a picture."""
    found: list[Sample | Reject] = []
    for unit in survey(source, storage, Limits()):
        census = Census()
        here = list(read_unit(unit, source, storage, Limits(), census))
        assert census.missing(len(here)) == 0
        found += here
    return found


def copied(folder: Path, *names: str) -> Path:
    """These files of `made`, and the pictures that one of them names by path."""
    (folder / "set" / "pictures").mkdir(parents=True)
    for name in names:
        shutil.copy(MADE / name, folder / "set" / name)
    for n in range(NUMBER - 1):
        (folder / "set" / "pictures" / f"{n}.png").write_bytes(draw(n))
    (folder / "outside.png").write_bytes(draw(NUMBER - 1))
    return folder / "set"


def by_datasets(folder: Path) -> dict[str, Any]:
    copied(folder, "datasets-embedded.parquet")
    return {"format": "parquet", "uri": "set/", "caption": "captions", "keep": {"label": "string"}}


def by_datasets_with_paths(folder: Path) -> dict[str, Any]:
    copied(folder, "datasets-by-path.parquet")
    return {"format": "parquet", "uri": "set/", "caption": "captions", "keep": {"label": "string"}}


def class_folders(folder: Path) -> dict[str, Any]:
    """As `datasets.load_dataset("imagefolder")` takes them: the folder's name is the class."""
    for n, label in enumerate(LABELS):
        path = folder / "set" / (label or "none of them") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(n))
        path.with_suffix(".txt").write_text("" if n == 3 else f"picture {n}")
    keep = {"label": {"type": "string", "from": "path:folder"}}
    return {"format": "files", "uri": "set/", "caption": "txt", "keep": keep}


def metadata(folder: Path, ending: str) -> dict[str, Any]:
    """A list in each of two folders, with names relative to it, as `imagefolder` has them."""
    rows = [
        {"file_name": f"deep/{n}.png", "label": LABELS[n], "text": None if n == 3 else f"picture {n}"}
        for n in range(NUMBER)
    ]
    for part, here in (("a", rows[:4]), ("b", rows[4:])):
        (folder / "set" / part / "deep").mkdir(parents=True)
        for row in here:
            name = str(row["file_name"])
            (folder / "set" / part / name).write_bytes(draw(int(Path(name).stem)))
        path = folder / "set" / part / f"metadata.{ending}"
        if ending == "parquet":
            pq.write_table(pa.Table.from_pylist(here), path)
        elif ending == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in here))
        else:
            with path.open("w", newline="") as file:
                lines = csv.DictWriter(file, list(rows[0]))
                lines.writeheader()
                lines.writerows(here)
    keep = {"label": "string"}
    return {"format": "manifest", "uri": f"set/**/metadata.{ending}", "caption": "text", "keep": keep}


def by_img2dataset(folder: Path, form: str) -> dict[str, Any]:
    shutil.copytree(MADE / "img2dataset" / form, folder / "set")
    caption = "caption" if form == "parquet" else "txt"
    return {"format": form, "uri": "set/", "caption": caption, "keep": {"label": "string"}}


def by_info_zip(folder: Path) -> dict[str, Any]:
    """Of pictures that do not shrink, so that it stored them."""
    copied(folder, "info-zip.zip")
    keep = {"label": {"type": "string", "from": "path:folder"}}
    return {"format": "zip", "uri": "set/*.zip", "caption": "txt", "keep": keep}


def deflated(folder: Path) -> dict[str, Any]:
    options = class_folders(folder)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "set").rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    return {**options, "format": "zip", "uri": "a.zip"}


def lance_table(folder: Path, how: str) -> dict[str, Any]:
    """As lance and lancedb write them; `how` the picture is kept."""
    kind = pa.binary() if how == "lancedb" else pa.large_binary()
    blob = {"lance-encoding:blob": "true"} if how == "blobs" else None
    picture = lance.blob_field("image") if how == "blobs v2" else pa.field("image", kind, metadata=blob)
    schema = pa.schema([pa.field("text", pa.string()), pa.field("label", pa.string()), picture])
    pictures = [draw(n) for n in range(NUMBER)]
    columns = [
        pa.array([None if n == 3 else f"picture {n}" for n in range(NUMBER)]),
        pa.array(LABELS),
        lance.blob_array(pictures) if how == "blobs v2" else pa.array(pictures, kind),
    ]
    rows = pa.table(columns, schema=schema)
    if how == "lancedb":
        lancedb.connect(folder / "set").create_table("pictures", rows)
    else:
        version = "2.2" if how == "blobs v2" else "2.0" if how == "blobs" else None
        lance.write_dataset(rows, folder / "set/pictures.lance", max_rows_per_file=4, data_storage_version=version)
    uri = "set/pictures" if how == "lancedb" else "set/pictures.lance/"
    return {"format": "lance", "uri": uri, "caption": "text", "keep": {"label": "string"}}


SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "datasets": by_datasets,
    "datasets by path": by_datasets_with_paths,
    "class folders": class_folders,
    "zip by Info-ZIP": by_info_zip,
    "zip, deflated": deflated,
    **{f"lance, {how}": partial(lance_table, how=how) for how in ("plain", "blobs", "blobs v2", "lancedb")},
    **{f"img2dataset {form}": partial(by_img2dataset, form=form) for form in IMG2DATASET},
    "metadata.csv": partial(metadata, ending="csv"),
    "metadata.jsonl": partial(metadata, ending="jsonl"),
    "metadata.parquet": partial(metadata, ending="parquet"),
}


@pytest.mark.parametrize("place", ["disk", pytest.param("s3", marks=pytest.mark.s3)])
@pytest.mark.parametrize("name", SOURCES)
def test_the_same_pictures_from_every_tool(
    name: str, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    options = SOURCES[name](tmp_path)
    root, storage = str(tmp_path), Storage()
    if place == "s3":
        s3: S3 = request.getfixturevalue("s3")
        s3.upload(tmp_path)
        root, storage = s3.uri, s3.storage
    found = read_all(Source(**{**options, "uri": f"{root}/{options['uri']}"}), storage)
    pictures = [item for item in found if isinstance(item, Sample) and item.image[:4] == b"\x89PNG"]
    pictures.sort(key=lambda item: HASHES.index(xxhash.xxh3_128_hexdigest(item.image)))
    hashes = [xxhash.xxh3_128_hexdigest(item.image) for item in pictures]
    if place == "s3" and name == "datasets by path":  # the last one lies above the file's folder
        assert reasons(found) == {"ok": NUMBER - 1, "bad_uri": 1}
        assert "../outside.png: leaves the folder" in found[-1].detail  # type: ignore[union-attr]
    elif name.startswith("img2dataset"):  # one was no picture, and one never came
        assert reasons(found) == {"ok": NUMBER + 1, "no_image": 1}
    else:
        assert len(found) == NUMBER
    assert hashes == HASHES[: len(pictures)]
    engine = StubEngine.from_name("stub:4")
    for n, item in enumerate(pictures):
        vectors = [
            engine.encode_images(engine.prepare(data, Limits()).pixels_CHW[None]) for data in (item.image, draw(n))
        ]
        assert (vectors[0] == vectors[1]).all()
    said = [item.metadata["label"] or None for item in pictures]  # a CSV has no null
    nothing = "none of them" if name.startswith(("class folders", "zip")) else None
    assert said == [label or nothing for label in LABELS[: len(pictures)]]
    assert [item.caption for item in pictures] == [None if n == 3 else f"picture {n}" for n in range(len(pictures))]
    assert not any(item.unread for item in pictures)


# --- Hugging Face datasets --------------------------------------------------------------------------------------


def test_columns_of_datasets_are_read_as_what_they_mean() -> None:
    keep = {
        "label": "string",
        "number": {"type": "int32", "from": "label"},
        "parts": "list<string>",
        "captions": "list<string>",
        "first_box": {"type": "string", "from": "boxes.0.category"},
        "price": "string",
        "euros": {"type": "float64", "from": "price"},
        "title": "string",
        "license": "string",
    }
    source = Source(
        format="parquet", uri=str(MADE / "datasets-embedded.parquet"), caption="label", keep=keep, id="column:title"
    )
    found = [item for item in read_all(source, Storage()) if isinstance(item, Sample)]
    assert [item.caption for item in found] == LABELS, "a class name is a text"
    assert [item.metadata["label"] for item in found] == LABELS
    assert [item.metadata["number"] for item in found] == [0, 1, 2, -1, None, 1], "a column of numbers has numbers"
    assert [item.id for item in found] == [f"title {n}" for n in range(NUMBER)]
    expected = {
        "parts": ["tail", "head"],
        "captions": ["picture 1", "the same, number 1"],
        "first_box": "large",
        "price": "0.25",
        "euros": 0.25,
        "license": "CC0",
    }
    assert {name: found[1].metadata[name] for name in expected} == expected
    assert not any(item.unread for item in found)


def written(path: Path, table: pa.Table, features: Any) -> Path:
    metadata = {"huggingface": features if isinstance(features, str) else json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def labels_of(path: Path, **options: Any) -> list[Sample]:
    source = Source(format="parquet", uri=str(path), keep={"label": "string"}, **options)
    found = read_all(source, Storage())
    assert all(isinstance(item, Sample) for item in found)
    return found  # type: ignore[return-value]


CLASSES = {"_type": "ClassLabel", "names": ["cat", "dog"]}


def test_a_class_number_without_a_name_costs_itself_alone(tmp_path: Path) -> None:
    table = pa.table({"img": [b"a", b"b", b"c"], "label": [1, 2, -2]})
    found = labels_of(written(tmp_path / "a.parquet", table, {"label": CLASSES}))
    assert [item.metadata["label"] for item in found] == ["dog", None, None]
    assert found[1].unread == {"label": "label = 2 (of 2 classes) is not string"}


@pytest.mark.parametrize(
    "features",
    [
        "{",
        "[]",
        '{"info": 3}',
        "[" * 100_000,
        {"label": {"_type": "ClassLabel", "names": 5}},
        {"label": {"_type": "ClassLabel", "names": [1, 2]}},
        {"label": {"_type": "ClassLabel", "num_classes": 2}},
    ],
)
def test_what_says_nothing_of_the_classes_leaves_numbers(tmp_path: Path, features: Any) -> None:
    table = pa.table({"img": [b"a", b"b"], "label": [0, 1]})
    found = labels_of(written(tmp_path / "a.parquet", table, features))
    assert [item.metadata["label"] for item in found] == ["0", "1"]


def test_lists_of_classes_of_older_releases(tmp_path: Path) -> None:
    """`Sequence` of a struct was written as a struct of lists; a list as `[feature]`."""
    table = pa.table({"img": [b"a"], "old": [{"kind": [1, 0]}], "older": [[0, 1]]})
    features = {"old": {"_type": "Sequence", "feature": {"kind": CLASSES}}, "older": [CLASSES]}
    source = Source(
        format="parquet",
        uri=str(written(tmp_path / "a.parquet", table, features)),
        keep={"kind": {"type": "list<string>", "from": "old.kind"}, "older": "list<string>"},
    )
    (found,) = read_all(source, Storage())
    assert isinstance(found, Sample)
    assert found.metadata == {"kind": ["dog", "cat"], "older": ["cat", "dog"]}


def test_the_picture_column_is_the_one_that_datasets_says(tmp_path: Path) -> None:
    struct = [{"bytes": draw(n), "path": None} for n in range(2)]
    table = pa.table({"file": ["x", "y"], "scan": struct, "label": [0, 1]})
    features = {"file": {"_type": "Value", "dtype": "string"}, "scan": {"_type": "Image"}, "label": CLASSES}
    found = labels_of(written(tmp_path / "a.parquet", table, features))
    assert [item.image for item in found] == [draw(0), draw(1)]


def test_rows_with_bytes_and_rows_by_path_keep_their_order(tmp_path: Path) -> None:
    values = []
    for n in range(100):
        by_path = n % 3 == 1
        if by_path:
            (tmp_path / f"{n}.bin").write_bytes(b"file %d" % n)
        values.append({"bytes": None if by_path or n == 50 else b"row %d" % n, "path": None if n == 50 else f"{n}.bin"})
    values[98] = {"bytes": None, "path": "hf://datasets/a/b@main/c.png"}
    values[97] = {"bytes": None, "path": "absent.png"}
    pq.write_table(pa.table({"image": values}), tmp_path / "a.parquet", row_group_size=40)
    found = read_all(Source(format="parquet", uri=f"{tmp_path}/a.parquet"), Storage())
    assert [item.image for item in found if isinstance(item, Sample)] == [
        b"file %d" % n if n % 3 == 1 else b"row %d" % n for n in range(100) if n not in (50, 97, 98)
    ]
    assert reasons(found) == {"ok": 97, "no_image": 1, "not_found": 1, "bad_uri": 1}
    assert "hf://" in found[98].detail  # type: ignore[union-attr]


def test_pictures_by_path_may_be_read_again() -> None:
    source = Source(format="parquet", uri=str(MADE / "datasets-by-path.parquet"))
    (unit,) = survey(source, Storage(), Limits())
    assert f"{MADE}/pictures/0.png" in set(linked_uris(unit, source, Storage()))


@pytest.mark.parametrize("kind", ["string", "int32"])
def test_a_list_as_parquet_has_class_names_too(tmp_path: Path, kind: str) -> None:
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(draw(n))
    path = written(tmp_path / "l.parquet", pa.table({"uri": ["0.png", "1.png"], "label": [1, 0]}), {"label": CLASSES})
    source = Source(format="manifest", uri=str(path), keep={"label": kind})
    units = list(survey(source, Storage(), Limits()))
    found = read_all(source, Storage())
    wanted = ["dog", "cat"] if kind == "string" else [1, 0]
    assert [item.metadata["label"] for item in found if isinstance(item, Sample)] == wanted
    other = {"_type": "ClassLabel", "names": ["dog", "cat"]}
    written(path, pa.table({"uri": ["0.png", "1.png"], "label": [1, 0]}), {"label": other})
    assert [u.unit_id for u in survey(source, Storage(), Limits())] != [u.unit_id for u in units], "other names, redone"


# --- imagefolder ------------------------------------------------------------------------------------------------


def counted(source: Source, storage: Storage | None = None) -> dict[str, int]:
    left_out: dict[str, int] = {}
    list(survey(source, storage or Storage(), Limits(), left_out=left_out))
    return left_out


@pytest.mark.parametrize("uri", ["set/", "set/**/metadata.csv", "set/*/metadata.csv"])
def test_pictures_that_no_row_names_are_counted_and_rows_without_one_rejected(tmp_path: Path, uri: str) -> None:
    options = {**metadata(tmp_path, "csv"), "uri": f"{tmp_path}/{uri}"}
    assert counted(Source(**options)) == {}
    (tmp_path / "set/a/deep/0.png").rename(tmp_path / "set/a/deep/moved.PNG")
    (tmp_path / "set/b/new.jpg").write_bytes(draw(0))
    (tmp_path / "set/b/photo.heic").write_bytes(b"x")
    (tmp_path / "set/b/.hidden").write_bytes(b"x")
    assert counted(Source(**options)) == {
        "png without a row": 1,
        "jpg without a row": 1,
        "heic": 1,
        "hidden": 1,
    }
    found = read_all(Source(**options), Storage())
    assert reasons(found) == {"ok": NUMBER - 1, "not_found": 1}
    assert found[0].uri == f"{tmp_path}/set/a/deep/0.png"


def test_a_list_inside_another_lists_folder(tmp_path: Path) -> None:
    """What the inner list names is named; the outer one may name it too."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "in/b.png", "in/c.png", "in/d.png"):
        (tmp_path / name).write_bytes(draw(1))
    (tmp_path / "metadata.csv").write_text("file_name\na.png\nin/c.png\n")
    (tmp_path / "in" / "metadata.csv").write_text("file_name\nb.png\nc.png\n")
    source = Source(format="manifest", uri=[f"{tmp_path}/metadata.csv", f"{tmp_path}/in/metadata.csv"])
    assert counted(source) == {"png without a row": 1}
    assert counted(source.model_copy(update={"uri": (f"{tmp_path}/metadata.csv",)})) == {
        "png without a row": 2,
        "csv": 1,
    }


def test_a_list_of_another_name_asks_for_no_listing(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file_name\na.png\n")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(draw(1))
    source = Source(format="manifest", uri=f"{tmp_path}/list.csv")
    assert counted(source) == {}
    assert reasons(read_all(source, Storage())) == {"ok": 1}


def test_a_metadata_list_prefers_file_name_and_other_lists_the_address(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(draw(1))
    text = "url,file_name\nhttp://127.0.0.1:1/x.png,a.png\n"
    (tmp_path / "metadata.csv").write_text(text)
    (found,) = read_all(Source(format="manifest", uri=f"{tmp_path}/metadata.csv"), Storage())
    assert found.uri == f"{tmp_path}/a.png"
    assert link_names("s3://b/list.csv").index("url") < link_names("s3://b/list.csv").index("file_name")


def test_folders_and_json_beside_the_picture(tmp_path: Path) -> None:
    (tmp_path / "cats" / "sub").mkdir(parents=True)
    (tmp_path / "cats" / "a.png").write_bytes(draw(1))
    (tmp_path / "cats" / "sub" / "b.png").write_bytes(draw(2))
    (tmp_path / "cats" / "a.json").write_text('{"license": "CC0"}')
    keep = {"label": {"type": "string", "from": "path:folder"}}
    both = Source(format="files", uri=f"{tmp_path}/cats/", keep={**keep, "license": "string"})
    found = [item.metadata for item in read_all(both, Storage()) if isinstance(item, Sample)]
    assert found == [{"label": "cats", "license": "CC0"}, {"label": "sub", "license": None}]
    assert counted(Source(format="files", uri=f"{tmp_path}/cats/", keep=keep)) == {"json": 1}
    with pytest.raises(ValueError, match="only sources of format files"):
        Source(format="webdataset", uri="a.tar", keep=keep)


# --- img2dataset ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", IMG2DATASET)
def test_what_img2dataset_could_not_download_is_a_reject_by_name(tmp_path: Path, form: str) -> None:
    options = by_img2dataset(tmp_path, form)
    source = Source(**{**options, "uri": f"{tmp_path}/set/", "id": "key"})
    (failed,) = [item for item in read_all(source, Storage()) if isinstance(item, Reject)]
    assert failed.reason == "no_image"
    assert failed.id == (failed.uri if form == "parquet" else "000002")
    assert failed.uri == f"{tmp_path}/set/00000.parquet#row=2"
    assert failed.detail.startswith("img2dataset says failed_to_download: HTTP Error 404: File not found")
    left = counted(source)
    assert left == {"webdataset": {"json": 2}, "parquet": {"json": 2}, "files": {"json without a picture": 2}}[form]


def test_logs_that_tell_of_no_failure_or_are_none(tmp_path: Path) -> None:
    """00001.parquet has nothing to tell; a table with other columns, or none, is left out as it was."""
    options = by_img2dataset(tmp_path, "webdataset")
    source = Source(**{**options, "uri": f"{tmp_path}/set/"})
    assert [Path(u.uri).name for u in survey(source, Storage(), Limits())] == [
        "00000.tar",
        "00001.tar",
        "00000.parquet",
    ]
    pq.write_table(pa.table({"key": ["1"]}), tmp_path / "set/00000.parquet")
    (tmp_path / "set/00001.parquet").write_bytes(b"PAR1 cut off")
    assert counted(source) == {"json": 2, "parquet": 2}
    tars = Source(**{**options, "uri": f"{tmp_path}/set/*.tar"})
    assert len(list(survey(tars, Storage(), Limits()))) == 2, "a glob asks for no more than it says"
    both = Source(**{**options, "uri": [f"{tmp_path}/set/*.tar", f"{tmp_path}/set/*.parquet"]})
    shutil.copy(MADE / "img2dataset" / "webdataset" / "00000.parquet", tmp_path / "set")
    assert reasons(read_all(both, Storage())) == {"ok": NUMBER + 1, "no_image": 1}


@pytest.mark.parametrize(("form", "said"), [("webdataset", "matches nothing of format"), ("files", "holds no image")])
def test_logs_alone_are_no_source(tmp_path: Path, form: str, said: str) -> None:
    """A wrong format, or a bucket that lost what is embedded."""
    shutil.copytree(MADE / "img2dataset" / form, tmp_path / "set", ignore=shutil.ignore_patterns("*.tar", "*.png"))
    with pytest.raises(EmptySource, match=said):
        counted(Source(format=form, uri=f"{tmp_path}/set/"))


def test_statuses_of_every_kind(tmp_path: Path) -> None:
    shutil.copy(MADE / "img2dataset" / "webdataset" / "00000.tar", tmp_path)
    status = ["success", "failed_to_resize", None, "success"] * 3
    columns = {"key": [str(n) for n in range(12)], "url": ["http://x/"] * 12, "status": status}
    (tmp_path / "00000.parquet").write_bytes(parquet({**columns, "error_message": ["e"] * 12}, rows_per_group=5))
    found = read_all(Source(format="webdataset", uri=f"{tmp_path}/"), Storage())
    rows = [int(item.uri.rpartition("=")[2]) for item in found if isinstance(item, Reject)]
    assert rows == [n for n in range(12) if status[n] != "success"]
    trial = list(survey(Source(format="webdataset", uri=f"{tmp_path}/", limit=2), Storage(), Limits()))
    assert [unit.format for unit in trial] == ["webdataset"], "a trial ends within the first tar"
