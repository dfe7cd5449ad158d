"""Exports for other programs hold what the table holds, in the form that those programs read, and name what they lack.

The programs themselves were run by hand: docs/interop.md says which, when, and with what result.
"""

import base64
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from PIL import Image

from clipmill.jobs.cli import main as cli
from clipmill.jobs.exploring.export import ExportOptions, export
from clipmill.jobs.querying.open import Query, Table, open_table
from tests.tables import TableOptions, WordEngine, make_table, picture

WITH_PICTURES = ("webdataset", "embedding-atlas", "fiftyone", "coco")
FEW = Query(where="views < 20")


def written(name: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 200, 90)).save(out, name)
    return out.getvalue()


@pytest.fixture
def table(tmp_path: Path, engine: WordEngine) -> Table:
    """40 rows; the picture of row 2 is a JPEG that is called .png, that of row 4 a BMP."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    uri = make_table(tmp_path, TableOptions(rows=40, images=folder))
    for at, name in ((2, "JPEG"), (4, "BMP")):
        (folder / f"{at:06d}.png").write_bytes(written(name))
        lance.dataset(f"{uri}.lance").update(
            {"image_hash": f"'{xxhash.xxh3_128_hexdigest(written(name))}'"}, where=f"views = {at}"
        )
    return open_table(uri, engine=engine)


def rows_of(table: Table) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in table.snapshot.dataset.to_table(filter=FEW.where).to_pylist()}


def saved(to: Path, form: str) -> dict[str, str]:
    """The name of each row's picture in the export."""
    if form == "fiftyone":
        samples = json.loads((to / "samples.json").read_text())["samples"]
        return {one["row_id"]: one["filepath"] for one in samples}
    if form == "coco":
        document = json.loads((to / "annotations" / "labels_default.json").read_text())
        return {one["row"]["id"]: f"images/{one['file_name']}" for one in document["images"]}
    found = {}
    for path in to.glob("*.tar"):
        with tarfile.open(path) as tar:
            (to / "unpacked").mkdir(exist_ok=True)
            tar.extractall(to / "unpacked", filter="data")
            for name in tar.getnames():
                if name.endswith(".json"):
                    row = json.loads((to / "unpacked" / name).read_text())
                    (image,) = [n for n in tar.getnames() if n[:10] == name[:10] and not n.endswith((".json", ".txt"))]
                    found[row["id"]] = f"unpacked/{image}"
    return found


@pytest.mark.parametrize("form", ["webdataset", "fiftyone", "coco"])
def test_pictures_are_the_originals_and_end_as_their_bytes_are(table: Table, tmp_path: Path, form: Any) -> None:
    to = tmp_path / "out"
    export(table, ExportOptions(to=str(to), format=form, query=FEW, rows_per_file=7))
    names = saved(to, form)
    assert set(names) == set(rows_of(table))
    for row_id, name in names.items():
        at = int(row_id[-6:])
        assert Path(name).suffix == {2: ".jpg", 4: ".bmp"}.get(at, ".png")
        assert (to / name).read_bytes() == (tmp_path / "pictures" / f"{at:06d}.png").read_bytes()


def test_fiftyone_has_the_tags_scores_vectors_and_columns(table: Table, tmp_path: Path) -> None:
    to, rows = tmp_path / "out", rows_of(table)
    export(table, ExportOptions(to=str(to), format="fiftyone", query=FEW))
    samples = json.loads((to / "samples.json").read_text())["samples"]
    fields = json.loads((to / "metadata.json").read_text())["sample_fields"]
    for sample in samples:
        row = rows[sample["row_id"]]
        assert (sample["tags"], sample["caption"], sample["license"]) == ([], row["caption"], row["license"])
        assert (sample["uri"], sample["views"]) == (row["uri"], row["views"])
        assert [one["label"] for one in sample["clip_tags"]["classifications"]] == row["tags"]
        assert [one["confidence"] for one in sample["clip_tags"]["classifications"]] == row["tag_scores"]
        for name in ("vector", "caption_vector"):
            if row[name] is None:
                assert sample[name] is None
                continue
            packed = zlib.decompress(base64.b64decode(sample[name]["$binary"]["base64"]))
            array_D = np.load(io.BytesIO(packed), allow_pickle=False)
            assert (array_D.dtype, array_D.tolist()) == (np.float32, row[name])
        assert set(fields) == set(sample) - {"filepath", "tags", "metadata"}
    assert fields["vector"] == "fiftyone.core.fields.VectorField"
    assert fields["views"] == "fiftyone.core.fields.IntField"
    (turned,) = [one["metadata"] for one in samples if one["views"] == 2]
    assert (turned["size_bytes"], turned["mime_type"]) == (len(written("JPEG")), "image/jpeg")


def test_columns_that_fiftyone_has_already_get_a_name_of_their_own(table: Table, tmp_path: Path) -> None:
    lance.dataset(f"{table.uri}.lance").add_columns({"metadata": "'mine'"})
    again = open_table(table.uri, engine=WordEngine())
    export(again, ExportOptions(to=str(tmp_path / "out"), format="fiftyone", query=FEW))
    sample = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"][0]
    assert (sample["row_metadata"], sample["metadata"]["_cls"]) == ("mine", "ImageMetadata")


def test_no_two_columns_become_one_for_fiftyone(table: Table, tmp_path: Path) -> None:
    named = {"row_id": "'my row'", "clip_tags": "'my tags'", "row_row_id": "'deep'", "row_views": "'plain'"}
    lance.dataset(f"{table.uri}.lance").add_columns(named)
    again = open_table(table.uri, engine=WordEngine())
    export(again, ExportOptions(to=str(tmp_path / "out"), format="fiftyone", query=FEW))
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    fields = json.loads((tmp_path / "out" / "metadata.json").read_text())["sample_fields"]
    assert {one["row_id"] for one in samples} == set(rows_of(again))
    assert samples[0]["clip_tags"]["_cls"] == "Classifications"
    new = {"row_row_id": "my row", "row_clip_tags": "my tags", "row_row_row_id": "deep", "row_views": "plain"}
    assert {name: samples[0][name] for name in new} == new
    assert set(fields) == set(samples[0]) - {"filepath", "tags", "metadata"}


def test_coco_has_captions_and_tags_as_categories(table: Table, tmp_path: Path) -> None:
    to, rows = tmp_path / "out", rows_of(table)
    export(table, ExportOptions(to=str(to), format="coco", query=FEW, rows_per_file=7))
    captions, labels = (
        json.loads((to / "annotations" / f"{n}_default.json").read_text()) for n in ("captions", "labels")
    )
    assert captions["images"] == labels["images"]
    assert "categories" not in captions  # pycocotools then looks for a category in each caption
    images = {one["id"]: one for one in labels["images"]}
    assert sorted(images) == list(range(1, 21))
    said = {images[one["image_id"]]["row"]["id"]: one["caption"] for one in captions["annotations"]}
    assert said == {row["id"]: row["caption"] for row in rows.values() if row["caption"] is not None}
    names = {one["id"]: one["name"] for one in labels["categories"]}
    assert len(set(names.values())) == len(names)
    for number, image in images.items():
        row = rows[image["row"]["id"]]
        found = [one for one in labels["annotations"] if one["image_id"] == number]
        assert [(names[one["category_id"]], one["score"]) for one in found] == list(
            zip(row["tags"], row["tag_scores"], strict=True)
        )
        assert (image["width"], image["row"]["license"]) == (row["width"], row["license"])
    for document in (captions, labels):
        numbers = [one["id"] for one in document["annotations"]]
        assert numbers == list(range(1, len(numbers) + 1))


def test_an_atlas_has_float32_vectors_and_small_pictures(table: Table, tmp_path: Path) -> None:
    rows = rows_of(table)
    report = export(table, ExportOptions(to=str(tmp_path / "out"), format="embedding-atlas", query=FEW))
    found = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert (report.rows, report.missing_by_reason) == (19, {"without a vector": 1})
    assert pa.types.is_float32(found.schema.field("vector").type.value_type)
    for row in found.to_pylist():
        assert row["vector"] == rows[row["id"]]["vector"]
        assert (row["image"]["path"], row["caption"]) == (row["uri"], rows[row["id"]]["caption"])
        with Image.open(io.BytesIO(row["image"]["bytes"])) as small:
            assert (small.format, max(small.size)) == ("WEBP", 40 if row["views"] in (2, 4) else 48)


def test_an_atlas_takes_the_thumbnails_that_the_table_has(tmp_path: Path, engine: WordEngine) -> None:
    table = open_table(make_table(tmp_path, TableOptions(rows=20, thumbnails=True)), engine=engine)
    export(table, ExportOptions(to=str(tmp_path / "out"), format="embedding-atlas"))
    found = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert found["image"].to_pylist()[1]["bytes"] == picture("green", 16)
    assert "thumbnail" not in found.column_names


@pytest.mark.parametrize("form", ["parquet", "clip-retrieval", *WITH_PICTURES])
def test_what_is_left_out_is_named_and_ends_with_3(
    table: Table, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures" / "000010.png").unlink()
    (tmp_path / "pictures" / "000011.png").write_bytes(b"another picture")
    (tmp_path / "ids").write_text("".join(f"row-{n:06d}\n" for n in (3, 10, 11, 12)) + "nobody\n")
    options = ["--format", form, "--ids", str(tmp_path / "ids"), "--json"]
    assert cli.run(["export", table.uri, "--to", str(tmp_path / "out"), *options]) == 3
    said = capsys.readouterr()
    named = [json.loads(line) for line in (tmp_path / "out" / "_rejects.jsonl").read_text().splitlines()]
    expected = {"nobody": "in no row"}
    if form in WITH_PICTURES:
        expected |= {"row-000010": "cannot be read", "row-000011": "no longer the bytes it was made from"}
    if form == "embedding-atlas":
        expected |= {"row-000003": "without a vector"}
    assert {one["id"]: one["reason"] for one in named} == expected
    assert json.loads(said.out)["rows"] == 5 - len(expected)
    assert "1 of the ids asked for are in no row; they are named in" in said.err


@pytest.mark.parametrize("form", ["fiftyone", "coco"])
def test_an_export_of_no_row_has_no_document(table: Table, tmp_path: Path, form: Any) -> None:
    export(table, ExportOptions(to=str(tmp_path / "out"), format=form, query=Query(where="views < 0")))
    assert not (tmp_path / "out").exists(), "so the same command may be typed again"
