"""A reader, a lister or a splitter that drops something is found by `verify`, for every kind of source."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.planning.plan import make_plan
from clipmill.jobs.planning.surveying import slices as survey_slices
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.running.collect import Collector
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying import census
from clipmill.jobs.verifying import coco as coco_count
from clipmill.jobs.verifying.verify import Report, verify
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.job.config import Commit, Limits, Source, Storage
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.workers.bench import Bench
from clipmill.workers.read.census import Census
from clipmill.workers.read.folders import files, keys, zipped
from clipmill.workers.read.lists import coco, lines
from clipmill.workers.read.tables import lance_rows
from clipmill.workers.read.tables import parquet as parquet_reader
from clipmill.workers.read.tars import webdataset
from clipmill.workers.stub import StubEngine
from clipmill.workers.unit import UnitRun
from tests.build import parquet, picture, tar
from tests.committed import take_lease

FORMATS = ("webdataset", "zip", "files", "parquet", "lance", "manifest", "coco")
STORAGE = Storage()


def make_source(folder: Path, format: str) -> dict[str, Any]:
    """Six pictures with captions."""
    pictures = {f"{n}.jpg": picture(n) for n in range(6)}
    raw = folder / "raw"
    raw.mkdir()
    if format == "webdataset":
        (raw / "a.tar").write_bytes(
            tar([*pictures.items(), ("x.y.jpg", picture(7)), ("x.jpg", picture(8)), ("y.cls", b"3")])
        )
        return {"format": format, "uri": f"{raw}/"}
    if format == "zip":
        with zipfile.ZipFile(raw / "a.zip", "w") as packed:
            for name, data in [*pictures.items(), ("3.txt", b"a caption"), ("notes", b"x")]:
                packed.writestr(name, data)
        return {"format": format, "uri": f"{raw}/", "caption": "txt"}
    if format == "parquet":
        (raw / "a.parquet").write_bytes(parquet({"image": list(pictures.values())}, rows_per_group=2))
        return {"format": format, "uri": f"{raw}/*.parquet"}
    if format == "lance":
        lance.write_dataset(pa.table({"image": list(pictures.values())}), raw / "a.lance")
        return {"format": format, "uri": f"{raw}/a"}
    for name, data in pictures.items():
        (raw / name).write_bytes(data)
        (raw / name.replace("jpg", "txt")).write_bytes(b"a caption")
    if format == "files":
        return {"format": format, "uri": f"{raw}/", "caption": "txt"}
    if format == "coco":
        write_coco(raw, list(pictures))
        return {"format": "manifest", "uri": f"{raw}/list.json", "image": "uri", "caption": "captions"}
    (raw / "list.csv").write_text(
        "uri,caption\n" + "".join(f'{name},"two\nlines of {name}"\n' for name in pictures) + "\n"
    )
    return {"format": format, "uri": f"{raw}/list.csv", "caption": "caption"}


def write_coco(raw: Path, names: list[str]) -> None:
    """With braces and quotes inside texts, nested items, and a caption of a picture that is not listed."""
    images = [{"id": n, "file_name": name, "note": '{"images": [{\\'} for n, name in enumerate(names)]
    said = [{"id": n, "image_id": n, "caption": f'a "{n}" ü [', "bbox": [[1, {"x": []}]]} for n in range(7)]
    document = {"info": {"images": [{}, {}]}, "type": "images", "other": [{}], "images": images, "annotations": said}
    (raw / "list.json").write_text(json.dumps(document, ensure_ascii=False), "utf-8")


def embed(folder: Path, made: dict[str, Any], ran_in: str = "") -> Tables:
    """Survey, read and commit with the stub model; no Ray."""
    source = Source.model_validate(made)
    tables, engine = Tables.at(f"{folder}/db/images", STORAGE), StubEngine.from_name("stub:4")
    tables.ensure_side_tables()
    fingerprint = engine.fingerprint.to_json()
    schema = rows_schema(dim=4, keep={}, fingerprint_json=fingerprint, vocabulary_json=None, thumbnails=False)
    rows = tables.create("", schema)
    tables.log_run("a", "embed", "started", json.dumps({"source": made, "folder": ran_in}), table_id=tables.id())
    context = WorkContext(
        run="a",
        rows_uri=tables.rows,
        rows_version=int(rows.version),
        rejects_uri=tables.uri("rejects"),
        source=source,
        storage=STORAGE,
        limits=Limits(),
        table_id=str(tables.id()),
    )
    plan = make_plan(survey(source, STORAGE, Limits()), {})
    lease = take_lease(tables, "a")
    collector = Collector(Committer(tables, lease), plan, Commit())
    collector.start()
    bench = Bench(engine=engine, tagger=None, pool=None)
    for unit in plan.todo:
        collector.offer(UnitRun(Task(unit=unit, attempt=1), context, bench).run())
    collector.close()
    lease.release()
    return tables


def check(tables: Tables, *, source: bool | None = None) -> Report:
    return verify(f"{tables.database}/{tables.name}", STORAGE, source=source)


def of_source(report: Report) -> list[str]:
    return [problem for problem in report.problems if "holds" in problem or "is in no unit" in problem]


@pytest.mark.parametrize("format", FORMATS)
def test_a_sound_table_agrees_with_its_source(tmp_path: Path, format: str) -> None:
    report = check(embed(tmp_path, make_source(tmp_path, format)))
    assert (report.problems, report.not_checked) == ([], [])
    assert report.source_units is not None
    assert report.source_units > 0
    assert report.source_new_units == 0


def forgets_a_member(patch: pytest.MonkeyPatch) -> None:
    take = webdataset._Assembly._take
    patch.setattr(webdataset._Assembly, "_take", lambda self, m: iter(()) if m.name == "3.jpg" else take(self, m))


def forgets_an_entry(patch: pytest.MonkeyPatch) -> None:
    """Of the directory, in the survey and in the reader."""
    is_image = zipped._is_image
    patch.setattr(zipped, "_is_image", lambda info, wanted: info.filename != "3.jpg" and is_image(info, wanted))


def lists_only(patch: pytest.MonkeyPatch, is_listed: Callable[[str], bool]) -> None:
    """A defect of the one function that the survey and the reader list with, so that the two agree."""
    listed = keys.wanted_keys
    for module in (survey_slices, files, census):
        patch.setattr(module, "wanted_keys", lambda *a, **o: (k for k in listed(*a, **o) if is_listed(k.name)))


def forgets_a_key(patch: pytest.MonkeyPatch) -> None:
    lists_only(patch, lambda name: name != "3.jpg")


def forgets_the_last_key(patch: pytest.MonkeyPatch) -> None:
    lists_only(patch, lambda name: name < "5.")


def forgets_a_row(patch: pytest.MonkeyPatch) -> None:
    records = parquet_reader._records
    patch.setattr(parquet_reader, "_records", lambda *a, **o: (r for r in records(*a, **o) if not r[0].endswith("=3")))


def forgets_a_row_of_lance(patch: pytest.MonkeyPatch) -> None:
    records = lance_rows._Rows.of
    patch.setattr(lance_rows._Rows, "of", lambda *a, **o: (r for r in records(*a, **o) if not r[0].endswith("=3")))


def swallows_a_line(patch: pytest.MonkeyPatch) -> None:
    """As a splitter did that took a quote for the beginning of a field."""
    rows = lines._TextRows._rows
    patch.setattr(lines._TextRows, "_rows", lambda self, p: (r for r in rows(self, p) if not r[0].startswith(b"3.jpg")))


def forgets_a_picture(patch: pytest.MonkeyPatch) -> None:
    add = coco._Kept._add_image
    patch.setattr(coco._Kept, "_add_image", lambda self, i: None if i["file_name"] == "3.jpg" else add(self, i))


@pytest.mark.parametrize(
    ("format", "defect", "said"),
    [
        ("webdataset", forgets_a_member, "a.tar holds 8 pictures, the ledger accounts for 7"),
        ("zip", forgets_an_entry, "a.zip holds 6 pictures, the ledger accounts for 5"),
        ("files", forgets_a_key, "raw/ [, 5.txt] holds 6 pictures, the ledger accounts for 5"),
        ("files", forgets_the_last_key, "raw/: 5.jpg is in no unit"),
        ("parquet", forgets_a_row, "a.parquet [0, 3] holds 6 pictures, the ledger accounts for 5"),
        ("lance", forgets_a_row_of_lance, "a.lance [0:0, 6@1] holds 6 pictures, the ledger accounts for 5"),
        ("manifest", swallows_a_line, "list.csv holds 14 lines, and 13 of them were read"),
        ("coco", forgets_a_picture, "list.json holds 6 pictures, and 5 of them were read"),
    ],
)
def test_what_a_defect_drops_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, defect: Any, said: str
) -> None:
    monkeypatch.setattr(Census, "missing", lambda self, seen: 0)  # or the unit would have failed already
    made = make_source(tmp_path, format)
    defect(monkeypatch)
    tables = embed(tmp_path, made)
    found = check(tables)
    assert [said in problem for problem in of_source(found)] == [True], found.problems
    assert of_source(check(tables, source=False)) == []


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20])
def test_pictures_of_a_document_are_counted_by_its_brackets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(coco_count, "_PIECE_BYTES", piece_bytes)
    write_coco(tmp_path, [f"{n}.jpg" for n in range(6)])
    with (tmp_path / "list.json").open("rb") as document:
        assert coco_count.pictures_of(document) == 6


def test_tars_are_read_when_they_are_small_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Census, "missing", lambda self, seen: 0)
    made = make_source(tmp_path, "webdataset")
    forgets_a_member(monkeypatch)
    tables = embed(tmp_path, made)
    monkeypatch.setattr(census, "SMALL_BYTES", 1000)
    report = check(tables)
    assert of_source(report) == []
    assert report.not_checked == ["what lies in 1 tar: --source reads them"]
    assert len(of_source(check(tables, source=True))) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_a_source_that_grew_or_is_gone_is_no_damage(tmp_path: Path, format: str) -> None:
    made = make_source(tmp_path, format)
    tables = embed(tmp_path, made)
    raw = tmp_path / "raw"
    if format == "manifest":
        with open(raw / "list.csv", "a") as text:
            text.write("9.jpg,new\n")
    elif format == "coco":
        write_coco(raw, [f"{n}.jpg" for n in range(10)])
    elif format == "lance":
        lance.write_dataset(pa.table({"image": [picture(9)]}), raw / "a.lance", mode="append")
    elif format == "files":
        (raw / "9.jpg").write_bytes(picture(9))
    else:
        name = {"webdataset": "a.tar", "zip": "a.zip", "parquet": "a.parquet"}[format]
        shutil.copy(raw / name, raw / f"b{name}")
    report = check(tables)
    assert report.problems == []
    assert report.source_new_units == 1
    shutil.rmtree(raw)
    report = check(tables)
    assert report.problems == []
    assert report.source_units is None
    (why,) = report.not_checked
    assert why.startswith("the source: ")


def test_a_relative_source_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_source(tmp_path, "files")
    monkeypatch.chdir(tmp_path)
    tables = embed(tmp_path, {**made, "uri": "raw/"}, ran_in=str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    report = check(tables)
    assert (report.problems, report.source_units) == ([], 1)


def test_a_table_in_a_store_reaches_no_file_of_this_machine(tmp_path: Path) -> None:
    from clipmill.jobs.table.ledger import read_ledger
    from clipmill.jobs.verifying.census import check_source
    from clipmill.jobs.verifying.report import Problems

    tables = embed(tmp_path, make_source(tmp_path, "files"))
    report = Report(table="x")

    class Remote(Tables):
        """The same tables, as if they stood in a store."""

        def uri(self, part: str = "") -> str:
            return tables.uri(part)

    remote = Remote(database="s3://b/db", name=tables.name)
    check_source(remote, read_ledger(remote), report, Problems(report.problems))
    assert report.not_checked == ["the source: a table in a store does not reach files of this machine"]
    assert report.source_units is None
