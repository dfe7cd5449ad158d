"""Columns that everybody calls the same are known, and those that are not read are said."""

import json
import re
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.planning import column_names
from clipmill.jobs.planning.column_names import said_of_columns
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import read_unit
from clipmill.workers.store.storage import StoreUnavailable
from tests.build import picture

LOCAL = Storage()
PAGE = Path(__file__).parents[2] / "docs" / "shards.md"
LAION = {
    "SAMPLE_ID": [1, 2],
    "URL": ["0.jpg", "1.jpg"],
    "TEXT": ["a red shoe", None],
    "HEIGHT": [24, 24],
    "WIDTH": [32, 32],
    "similarity": [0.3, 0.4],
    "punsafe": [0.01, 0.02],
}


def read(source: Source) -> tuple[list[Sample | Reject], str | None]:
    units = list(survey(source, LOCAL, Limits()))
    found = [one for unit in units for one in read_unit(unit, source, LOCAL, Limits())]
    return found, said_of_columns(units[0], source, LOCAL)


def write(folder: Path, kind: str, columns: dict[str, Any]) -> Source:
    for n in range(2):
        (folder / f"{n}.jpg").write_bytes(picture(n))
    table = pa.table(columns)
    if kind == "csv":
        rows = [",".join("" if v is None else str(v) for v in row.values()) for row in table.to_pylist()]
        (folder / "list.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
        return Source(format="manifest", uri=f"{folder}/list.csv")
    if kind == "lance":
        lance.write_dataset(table, folder / "list.lance")
        return Source(format="lance", uri=f"{folder}/list.lance")
    pq.write_table(table, folder / "list.parquet")
    return Source(format="parquet" if kind == "parquet" else "manifest", uri=f"{folder}/list.parquet")


@pytest.mark.parametrize("kind", ["csv", "list", "parquet", "lance"])
def test_a_list_of_laion_is_read_without_a_word_about_it(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path, kind, LAION)
    found, said = read(source)
    assert [(one.image, one.caption) for one in found if isinstance(one, Sample)] == [
        (picture(0), "a red shoe"),
        (picture(1), None),
    ]
    assert said == (
        "URL is read as the address and TEXT as the caption, as LAION's lists have them; "
        "source.keep: {similarity: float32, punsafe: float32} would carry more of its columns"
    )
    keep = {"similarity": "float32", "punsafe": "float32"}
    kept, said = read(Source(**{**source.model_dump(exclude={"keep"}), "keep": keep}))
    assert [round(one.metadata["similarity"], 1) for one in kept if isinstance(one, Sample)] == [0.3, 0.4]
    assert said is not None
    assert "source.keep" not in said


@pytest.mark.parametrize("kind", ["csv", "list", "parquet", "lance"])
def test_what_a_job_did_not_ask_for_is_not_read_but_said(tmp_path: Path, kind: str) -> None:
    """Lists in small letters were read before, without captions; they still are."""
    source = write(tmp_path, kind, {"url": LAION["URL"], "text": LAION["TEXT"], "URL": ["x", "y"], "TEXT": ["x", "y"]})
    found, said = read(source)
    assert [one.caption for one in found if isinstance(one, Sample)] == [None, None]
    assert said == "no caption is read: source.caption: text takes it from that column"
    named = Source(**{**source.model_dump(), "image": "url", "caption": "text"})
    found, said = read(named)
    assert [one.caption for one in found if isinstance(one, Sample)] == ["a red shoe", None]
    assert said is None


def coco(folder: Path) -> None:
    images = [{"file_name": f"{n}.jpg", "id": 100 + n, "height": 24, "width": 32} for n in range(2)]
    texts = [{"image_id": 100, "caption": "a shoe\n"}, {"image_id": 100, "caption": "one shoe"}]
    (folder / "annotations").mkdir()
    (folder / "train2017").mkdir()
    for n in range(2):
        (folder / "train2017" / f"{n}.jpg").write_bytes(picture(n))
    whole = {"info": {"year": 2017}, "images": images, "licenses": [], "annotations": texts}
    (folder / "annotations" / "captions_train2017.json").write_text(json.dumps(whole))


def test_cocos_annotations_are_read_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path)
    plain = Source(format="manifest", uri=f"{tmp_path}/annotations/captions_train2017.json")
    assert read(plain)[1] == "no caption is read: source.caption: captions takes it from that column"
    section = PAGE.read_text().partition("## COCO")[2].partition("\n## ")[0]
    (job,) = re.findall(r"```\w+\n(.*?)```", section, re.S)
    monkeypatch.chdir(tmp_path)
    import yaml

    found, _ = read(Source(**yaml.safe_load(job)["source"]))
    assert [(one.image, one.caption, one.metadata) for one in found if isinstance(one, Sample)] == [
        (picture(0), "a shoe", {"captions": ["a shoe", "one shoe"], "coco_id": 100}),
        (picture(1), None, {"captions": [], "coco_id": 101}),
    ]


def test_a_store_that_is_silent_keeps_no_plan_from_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, "csv", LAION)
    unit = next(iter(survey(source, LOCAL, Limits())))

    def silent(*_: object) -> None:
        raise StoreUnavailable("the store did not answer", "")

    assert said_of_columns(unit, source, LOCAL)
    monkeypatch.setattr(column_names, "open_rows", silent)
    assert said_of_columns(unit, source, LOCAL) is None
