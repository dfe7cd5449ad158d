"""Lance tables as a source: by version, a change costs what changed, and what a row names outside is not read."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
import xxhash

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.planning.listing import list_source
from clipmill.jobs.planning.plan import Plan, make_plan
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.running.collect import Collector
from clipmill.jobs.table import originals
from clipmill.jobs.table.ledger import read_ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import EmptySource, SourceChanged, UserError
from clipmill.schemas.job.config import Commit, JobFile, Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.bench import Bench
from clipmill.workers.read import again, read_unit
from clipmill.workers.read.census import Census
from clipmill.workers.read.tables import lance_table
from clipmill.workers.read.tables.lance_rows import row_values
from clipmill.workers.store.uri import escape, quote
from clipmill.workers.stub import StubEngine
from clipmill.workers.unit import UnitRun
from tests.build import noise, picture
from tests.committed import take_lease
from tests.conftest import S3
from tests.read.help import reasons
from tests.verifying.test_verify_census import check, embed

LOCAL = Storage()
BLOB = {"lance-encoding:blob": "true"}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 rows in three fragments, in slices of five rows."""
    monkeypatch.setattr(lance_table, "SLICE_ROWS", 5)
    path = tmp_path / "db" / "pictures.lance"
    lance.write_dataset(rows(range(30)), path, max_rows_per_file=10)
    return path


def rows(numbers: range, **more: Any) -> pa.Table:
    images = [noise(n, 300) for n in numbers]
    return pa.table({"id": [f"id {n}" for n in numbers], "image": images, "text": [f"t {n}" for n in numbers], **more})


def source_of(path: object, **options: Any) -> Source:
    return Source(format="lance", uri=str(path), caption="text", id="column:id", **options)


def units_of(path: Path, **options: Any) -> list[WorkUnit]:
    return list(survey(source_of(path, **options), LOCAL, Limits()))


def read(unit: WorkUnit, limits: Limits | None = None, **options: Any) -> list[Sample | Reject]:
    census = Census()
    source = source_of(unit.uri, **options)
    found = list(read_unit(unit, source, LOCAL, limits or Limits(), census))
    assert (census.missing(len(found)), len(found)) == (0, unit.num_samples)
    return found


def ids(units: list[WorkUnit]) -> list[str]:
    return [unit.unit_id for unit in units]


def test_a_night_over_an_unchanged_table_names_the_same_units(table: Path) -> None:
    units = units_of(table)
    assert [(unit.start, unit.num_samples) for unit in units][:3] == [("0:0", 5), ("0:5", 5), ("1:0", 5)]
    assert [one.id for unit in units for one in read(unit)] == [f"id {n}" for n in range(30)]
    dataset = lance.dataset(table)
    dataset.create_scalar_index("id", "BTREE")
    dataset.add_columns({"other": "1"})
    assert ids(units_of(table)) == ids(units), "an index and a column that nobody reads change nothing"
    assert ids(units_of(table, keep={"other": "int32"})) != ids(units)


def test_a_change_renames_what_changed_alone(table: Path) -> None:
    before = ids(units_of(table))
    lance.write_dataset(rows(range(30, 33)), table, mode="append")
    grown = units_of(table)
    assert ids(grown)[:6] == before
    assert [one.id for one in read(grown[6])] == ["id 30", "id 31", "id 32"]
    lance.dataset(table).delete("id IN ('id 7', 'id 8')")
    after = units_of(table)
    assert [a == b for a, b in zip(ids(after), ids(grown), strict=True)] == [True, False, *[True] * 5]
    assert [one.id for one in read(after[1])] == ["id 5", "id 6", "id 9"]
    lance.dataset(table).delete("id IN ('id 5', 'id 6', 'id 9')")
    assert ids(units_of(table)) == [*before[:1], *before[2:], *ids(grown)[6:]], "a slice without rows is no unit"
    lance.dataset(table).update({"text": "'new'"}, where="id = 'id 12'")
    changed = units_of(table)
    assert sum(name in before for name in ids(changed)) == 4
    assert [one.caption for unit in changed for one in read(unit) if one.id == "id 12"] == ["new"]  # type: ignore[union-attr]


def test_what_was_planned_is_read_though_the_table_goes_on(table: Path) -> None:
    unit = units_of(table)[1]
    dataset = lance.dataset(table)
    dataset.delete("id = 'id 20'")
    dataset.optimize.compact_files(target_rows_per_fragment=100)
    assert [one.id for one in read(unit)] == [f"id {n}" for n in range(5, 10)]
    lance.dataset(table).cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    with pytest.raises(SourceChanged):
        read(unit)
    assert sorted(str(one.id) for unit in units_of(table) for one in read(unit)) == sorted(
        f"id {n}" for n in range(30) if n != 20
    )


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2"])
def test_blobs_are_looked_at_before_they_are_read(tmp_path: Path, version: str) -> None:
    schema = pa.schema([pa.field("id", pa.string()), pa.field("image", pa.large_binary(), metadata=BLOB)])
    values = [noise(0, 500), None, b"", noise(3, 5000), noise(4, 500)]
    data = pa.table([pa.array([f"id {n}" for n in range(5)]), pa.array(values, pa.large_binary())], schema=schema)
    lance.write_dataset(data, tmp_path / "b.lance", data_storage_version=version)
    source = Source(format="lance", uri=f"{tmp_path}/b", id="column:id")
    (unit,) = survey(source, LOCAL, Limits())
    found = list(read_unit(unit, source, LOCAL, Limits(max_image_bytes=1000, worker_memory=16_000)))
    assert reasons(found) == {"ok": 2, "no_image": 1, "empty": 1, "too_many_bytes": 1}
    assert [one.image for one in found if isinstance(one, Sample)] == [values[0], values[4]]
    assert [one.uri.partition("#")[2] for one in found] == [f"fragment=0&row={n}" for n in range(5)]


def test_a_blob_that_names_a_file_outside_of_its_table_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "private.jpg").write_bytes(picture(1))
    schema = pa.schema([lance.blob_field("image")])
    blobs = lance.blob_array([picture(0), lance.Blob(uri=f"file://{tmp_path}/private.jpg"), picture(2)])
    lance.write_dataset(
        pa.table([blobs], schema=schema),
        tmp_path / "b.lance",
        data_storage_version="2.2",
        allow_external_blob_outside_bases=True,
    )
    source = Source(format="lance", uri=f"{tmp_path}/b.lance")
    (unit,) = survey(source, LOCAL, Limits())
    found = list(read_unit(unit, source, LOCAL, Limits()))
    assert reasons(found) == {"ok": 2, "bad_uri": 1}
    assert "outside of the table" in found[1].detail  # type: ignore[union-attr]
    row = again.Row(place=0, id="x", uri=found[1].uri, offset=None, size=None, image_hash=hash_of(picture(1)))
    (refused,) = again.read_again([row], LOCAL, Limits())
    assert isinstance(refused, Reject)


def test_the_next_plan_has_what_changed_and_replaces_it(table: Path) -> None:
    raw = table.parent.parent / "raw.lance"
    lance.write_dataset(pa.table({"image": [picture(n) for n in range(15)]}), raw, max_rows_per_file=10)
    made = {"format": "lance", "uri": str(raw)}
    tables = embed(table.parent.parent / "out", made)

    def plan() -> Plan:
        return make_plan(survey(Source.model_validate(made), LOCAL, Limits()), read_ledger(tables))

    assert (plan().todo, plan().replacements, plan().gone) == ((), (), ())
    lance.dataset(raw).delete(f"_rowid = 0 OR _rowid >= {1 << 32}")
    lance.write_dataset(pa.table({"image": [picture(15)]}), raw, mode="append")
    new = plan()
    assert [(unit.start, unit.num_samples) for unit in new.todo] == [("0:0", 4), ("2:0", 1)]
    (group,) = new.replacements
    assert (len(group.old), len(group.new), new.gone) == (2, 2, ())
    assert len(new.done) == 1


def hash_of(image: bytes) -> str:
    return str(xxhash.xxh3_128_hexdigest(image))


@pytest.mark.parametrize("blobs", [False, True])
def test_the_picture_of_a_row_is_read_again_from_its_table(tmp_path: Path, blobs: bool) -> None:
    field = pa.field("jpg", pa.large_binary(), metadata=BLOB if blobs else None)
    data = pa.table([pa.array([picture(n) for n in range(8)], pa.large_binary())], schema=pa.schema([field]))
    path = tmp_path / "raw" / "a.lance"
    lance.write_dataset(data, path, max_rows_per_file=4)
    lance.dataset(path).delete("_rowid = 1")
    tables = embed(tmp_path, {"format": "lance", "uri": str(path)})
    assert check(tables).problems == []
    found = tables.open().to_table(columns=list(originals.place_columns(tables.open().schema))).to_pylist()
    assert len(found) == 7
    reader = originals.Originals(tables)
    assert {reader.read(row) for row in found} == {picture(n) for n in range(8) if n != 1}
    wanted = [
        again.Row(place=n, id=row["id"], uri=row["uri"], offset=None, size=None, image_hash=row["image_hash"])
        for n, row in enumerate(found)
    ]
    assert sum(isinstance(one, Sample) for one in again.read_again(wanted, LOCAL, Limits())) == 7
    with pytest.raises(originals.NotOfSource):
        reader.read({**found[0], "uri": f"{tmp_path}/db/images.lance#fragment=0&row=0"})
    lance.dataset(path).delete("_rowid = 0")
    with pytest.raises(UserError, match="not there any more"):
        reader.read(found[0])


def test_rows_may_name_their_pictures(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.jpg").write_bytes(picture(n))
    data = pa.table({"url": ["0.jpg", "1.jpg", "nothing.jpg", "2.jpg"], "text": ["a", "b", "c", None]})
    lance.write_dataset(data, tmp_path / "list.lance")
    tables = embed(tmp_path, {"format": "lance", "uri": f"{tmp_path}/list.lance", "caption": "text"})
    found = tables.open().to_table(columns=[*originals.place_columns(tables.open().schema), "caption"]).to_pylist()
    assert [(Path(row["uri"]).name, row["caption"]) for row in found] == [
        ("0.jpg", "a"),
        ("1.jpg", "b"),
        ("2.jpg", None),
    ]
    assert originals.Originals(tables).read(found[0]) == picture(0)
    assert check(tables).problems == []


@pytest.mark.parametrize("damage", ["cut", "absent"])
def test_a_file_that_is_damaged_costs_its_rows_and_one_that_is_gone_is_a_change(table: Path, damage: str) -> None:
    unit = units_of(table)[3]
    (file,) = lance.dataset(table).get_fragment(1).data_files()
    path = table / "data" / file.path
    if damage == "absent":
        path.unlink()
        with pytest.raises(SourceChanged):
            read(unit)
        return
    path.write_bytes(path.read_bytes()[:-200] + bytes(200))
    found = read(unit)
    assert reasons(found) == {"corrupt": 5}
    assert [one.uri.partition("#")[2] for one in found] == [f"fragment=1&row={n}" for n in range(5, 10)]


def test_mistakes_are_one_sentence(table: Path, tmp_path: Path) -> None:
    with pytest.raises(EmptySource, match="is no Lance table"):
        units_of(tmp_path / "elsewhere")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(EmptySource, match="is no Lance table"):
        units_of(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a Lance table is named whole"):
        units_of(tmp_path / "db" / "*.lance")
    with pytest.raises(UserError, match=r"has no column nope, which source\.keep\.nope names"):
        units_of(table, keep={"nope": "string"})
    with pytest.raises(UserError, match="neither image bytes nor a URI"):
        lance.write_dataset(pa.table({"id": ["a"], "text": ["b"], "image": [1]}), tmp_path / "n.lance")
        units_of(tmp_path / "n.lance")
    lance.dataset(table).delete("true")
    with pytest.raises(EmptySource, match="holds no rows"):
        units_of(table)


SPELLINGS = ["{db}/pictures", "{db}/pictures.lance", "{db}/pictures/", "file://{db}/pictures.lance/", "{db}/./pictures"]


@pytest.mark.parametrize("spelled", [*SPELLINGS, "{db}/../{name}/pictures", "{link}/pictures", "{link}.lance"])
@pytest.mark.parametrize("name", ["db", "a%23b", "50% #1", "a%20b", "x[1]{2}"])
def test_a_table_is_not_made_of_itself_however_it_is_called(tmp_path: Path, name: str, spelled: str) -> None:
    lance.write_dataset(rows(range(2)), f"{tmp_path}/{name}/pictures.lance")
    (tmp_path / "link").symlink_to(tmp_path / name)
    (tmp_path / "link.lance").symlink_to(tmp_path / name / "pictures.lance")
    spelled = spelled.format(db=quote(f"{tmp_path}/{name}"), name=quote(name), link=tmp_path / "link")
    for table in (quote(f"{tmp_path}/{name}/pictures"), f"{tmp_path}/link/pictures"):
        with pytest.raises(UserError, match="the same table"):
            list_source(JobFile(table=table, source=source_of(escape(spelled))))
    other = JobFile(table=quote(f"{tmp_path}/{name}/others"), source=source_of(escape(spelled)))
    assert len(list_source(other).units) == 1


NAMES = ["a#b", "a%23b", "a%20b", "50% é", "a?b=c", "x[1]{2}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    lance.write_dataset(rows(range(3)), f"{tmp_path}/{name}/t.lance")
    (unit,) = units_of(Path(escape(quote(f"{tmp_path}/{name}/t.lance"))))
    uris = {sample.uri for sample in read(unit)}
    assert uris == {f"{tmp_path}/{quote(name)}/t.lance#fragment=0&row={n}" for n in range(3)}
    parts = [uri.partition("#")[2] for uri in uris]
    assert len(list(row_values(unit.uri, parts, LOCAL, 1_000_000))) == 3, "and read again by its uri"


@pytest.mark.s3
def test_a_table_of_any_name_in_a_bucket_is_read_and_is_not_made_of_itself(s3: S3, tmp_path: Path) -> None:
    lance.write_dataset(rows(range(3)), f"{tmp_path}/t.lance")
    for name in NAMES:
        s3.upload(tmp_path / "t.lance", f"{name}/t.lance/")
        uri = f"{s3.uri}/{escape(quote(name))}/t.lance"
        (unit,) = survey(source_of(uri), s3.storage, Limits())
        found = list(read_unit(unit, source_of(uri), s3.storage, Limits(), Census()))
        assert {sample.uri for sample in found} == {f"{unit.uri}#fragment=0&row={n}" for n in range(3)}, name
        with pytest.raises(UserError, match="the same table"):
            list_source(JobFile(table=f"{s3.uri}/{quote(name)}/t", source=source_of(f"{uri}/"), storage=s3.storage))


def test_after_a_compaction_what_is_known_of_a_picture_is_not_computed_again(table: Path) -> None:
    raw, made = table.parent.parent / "raw.lance", {"format": "lance", "id": "column:id", "caption": "text"}
    made["uri"] = str(raw)
    lance.write_dataset(pictures(range(30)), raw, max_rows_per_file=10)
    tables = embed(table.parent.parent / "out", made)
    before = {row["id"]: row["vector"] for row in tables.open().to_table().to_pylist()}
    lance.dataset(raw).delete("id IN ('id 3', 'id 12')")
    lance.dataset(raw).optimize.compact_files(target_rows_per_fragment=1000)
    lance.write_dataset(pictures(range(30, 33)), raw, mode="append")
    source = Source.model_validate(made)
    plan = make_plan(survey(source, LOCAL, Limits()), read_ledger(tables))
    assert (len(plan.todo), len(plan.done), len(plan.replacements)) == (7, 0, 1), "28 rows in slices of five, and three"
    assert sum(plan.again.values()) == 30, "nobody can tell yet that two were deleted and other ones came"
    computed: list[int] = []

    class Counting(StubEngine):
        def encode_images(self, pixels_BCHW: Any) -> Any:
            computed.append(len(pixels_BCHW))
            return super().encode_images(pixels_BCHW)

    context = context_of(tables, source)
    bench = Bench(engine=Counting(4), tagger=None, pool=None)
    lease = take_lease(tables, "b")
    collector = Collector(Committer(tables, lease), plan, Commit())
    collector.start()
    for unit in plan.todo:
        collector.offer(UnitRun(Task(unit=unit, attempt=1, kin=plan.kin.get(unit.unit_id, ())), context, bench).run())
    collector.close()
    lease.release()
    assert sum(computed) == 3, "those that were appended"
    after = {row["id"]: row["vector"] for row in tables.open().to_table().to_pylist()}
    assert len(after) == 31
    assert {name: vector for name, vector in after.items() if name in before} == {
        name: vector for name, vector in before.items() if name not in ("id 3", "id 12")
    }
    assert check(tables).problems == []


def pictures(numbers: range) -> pa.Table:
    images = [picture(n) for n in numbers]
    return pa.table({"id": [f"id {n}" for n in numbers], "image": images, "text": [f"t {n}" for n in numbers]})


def context_of(tables: Tables, source: Source) -> WorkContext:
    return WorkContext(
        run="b",
        rows_uri=tables.rows,
        rows_version=int(tables.open().version),
        rejects_uri=tables.uri("rejects"),
        source=source,
        storage=LOCAL,
        limits=Limits(),
        table_id=str(tables.id()),
    )
