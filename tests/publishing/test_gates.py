"""Each gate on a small real table: it passes where nothing is wrong, and else refuses with both numbers."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.dataset import Tags

from clipmill.jobs.committing.lease import Lease
from clipmill.jobs.maintaining.delete import Options, Which, delete
from clipmill.jobs.publishing.gates import Judged, check_gates, total_variation
from clipmill.jobs.publishing.golden import check_golden, golden_options
from clipmill.jobs.publishing.night import Gate
from clipmill.jobs.publishing.publish import held_back, publish, rollback
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table import ledger
from clipmill.jobs.table import tables as tables_module
from clipmill.jobs.table.live import PREVIOUS
from clipmill.jobs.table.readers import LIVE
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import VOCABULARY_KEY
from clipmill.schemas.errors import LeaseHeld, UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.job.nightly import Nightly
from tests.committed import make_tables
from tests.tables import DIM, TableOptions, append, batch, ledger_entry, make_table

SAID: list[str] = []
ROWS = 600


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """600 rows of four units, published."""
    made = Tables.at(make_table(tmp_path, TableOptions(rows=ROWS)))
    made.ensure_side_tables()
    for number in range(4):
        enter(made, ROWS // 4, 0, f"unit{number}")
    done = publish(made.rows.removesuffix(".lance"), made.storage, force=False, say=SAID.append)
    assert (done.refused, done.rows, done.before) == ((), ROWS, None)
    return made


def enter(tables: Tables, written: int, rejected: int, unit: str = "unit0") -> None:
    entry = ledger_entry(unit, f"file:///{unit}/", rows=written)
    entry = replace(entry, seen=written + rejected, rejected=rejected, table_version=int(tables.open().version))
    ledger.append(tables, [entry])


def gates(tables: Tables, **section: Any) -> dict[str, Gate]:
    judged = Judged(nightly=Nightly.model_validate(section))
    return {gate.name: gate for gate in check_gates(tables, judged, say=SAID.append)}


def add(tables: Tables, *, tags: list[str] | None = None, scale: float = 1.0, count: int = 600) -> None:
    """Rows of a unit more."""
    table = batch(TableOptions(rows=count, start=10_000))
    if tags is not None:
        where = table.schema.get_field_index("tags")
        table = table.set_column(where, table.schema.field(where), pa.array([tags] * count, table["tags"].type))
    if scale != 1.0:
        where = table.schema.get_field_index("vector")
        values = [
            None if v is None else (np.asarray(v) * scale).astype(np.float16) for v in table["vector"].to_pylist()
        ]
        table = table.set_column(where, table.schema.field(where), pa.array(values, table["vector"].type))
    lance.write_dataset(table, tables.rows, mode="append")
    enter(tables, count, 0, "added")


def test_more_of_the_same_passes(tables: Tables) -> None:
    add(tables)
    found = gates(tables)
    assert all(gate.passed for gate in found.values()), found
    assert set(found) == {"rows", "coverage", "rejects", "vectors", "tag_drift"}


def test_units_that_failed_count_by_hand_too_until_they_are_there(tables: Tables) -> None:
    """Nobody knows how many samples they have: as many as the others on average."""
    add(tables, count=ROWS // 4)
    uri, units = tables.rows.removesuffix(".lance"), [{"unit_id": "lost", "uri": "file:///lost.tar", "reason": "gone"}]
    tables.log_run("night", "nightly", "finished", json.dumps({"failed_units": units}), table_id=tables.id())
    found = publish(uri, Storage(), force=False, say=SAID.append)
    assert [gate.name for gate in found.refused] == ["coverage"]
    assert "750 of 900 samples have a row (1 unit failed)" in found.refused[0].sentence
    lance.write_dataset(batch(TableOptions(rows=ROWS // 4, start=20_000)), tables.rows, mode="append")
    enter(tables, ROWS // 4, 0, "lost")
    of_another = json.dumps({"failed_units": [{**units[0], "unit_id": "elsewhere"}]})  # dropped, and made again since
    tables.log_run("old", "embed", "finished", of_another, table_id="0123456789abcdef")
    assert publish(uri, Storage(), force=False, say=SAID.append).refused == ()


@pytest.mark.parametrize(
    ("end", "said"), [(None, "did not end"), ("failed", "failed"), ("drained", "was interrupted"), ("finished", "")]
)
def test_publish_by_hand_says_that_a_run_had_more_to_do(tables: Tables, end: str | None, said: str) -> None:
    tables.log_run("earlier", "nightly", "finished", "{}", table_id=tables.id())
    tables.log_run("last", "nightly", "started", "{}", table_id=tables.id())
    if end:
        tables.log_run("last", "nightly", end, json.dumps({"failed_units": []}), table_id=tables.id())
    add(tables, count=ROWS // 4)
    found = publish(tables.rows.removesuffix(".lance"), Storage(), force=False, say=SAID.append)
    assert (found.refused, found.version) == ((), int(tables.open().version))
    assert found.note.startswith(f"the last run, last, {said}:" if said else "")
    assert bool(found.note) == bool(said)


def test_a_table_without_a_row_is_not_published(tmp_path: Path) -> None:
    uri = make_tables(tmp_path).rows.removesuffix(".lance")
    found = publish(uri, Storage(), force=False, say=SAID.append)
    assert ([gate.name for gate in found.refused], found.version) == (["coverage"], None)
    assert "the table has no row" in found.refused[0].sentence
    assert publish(uri, Storage(), force=True, say=SAID.append).rows == 0


def test_a_golden_set_that_knows_no_picture_is_named_as_the_job_names_it(tables: Tables, tmp_path: Path) -> None:
    golden = tmp_path / "my golden.csv"
    golden.write_text("id,label\nno such picture,cat\n")
    found = gates(tables, golden=str(golden))["golden"]
    assert not found.passed
    assert f"none of {golden} is in the table" in found.sentence


def test_rows_that_vanish_are_seen(tables: Tables) -> None:
    tables.open().delete("shard = 3")
    found = gates(tables)
    assert {name for name, gate in found.items() if not gate.passed} == {"rows", "coverage"}
    assert "515 rows where readers see 600" in found["rows"].sentence or "514 rows" in found["rows"].sentence
    assert all(gate.passed for gate in gates(tables, max_gone=0.2, min_coverage=0.8).values())


def test_rows_that_a_person_had_deleted_are_no_loss(tables: Tables) -> None:
    uri, which = tables.rows.removesuffix(".lance"), Which(where="shard < 4")
    first = open_table(uri).version
    done = delete(uri, Storage(), which, Options(), confirm=lambda seen: None, say=SAID.append)
    assert done.rows > ROWS / 2
    found = gates(tables)
    assert all(gate.passed for gate in found.values()), found
    told = f"{ROWS - done.rows:,} rows where readers see {ROWS:,}: 0.00% fewer, not counting {done.rows:,} that were"
    assert told in found["rows"].sentence
    publish(uri, Storage(), force=False, say=SAID.append)
    assert open_table(uri).count() == ROWS - done.rows
    back = rollback(uri, Storage(), to="previous", say=SAID.append)
    assert back.version == first
    assert f"{done.rows:,} rows that were deleted on request since are seen again" in back.note


def test_rejects_are_compared_with_what_readers_see(tables: Tables) -> None:
    add(tables, count=5)
    enter(tables, ROWS // 4, 60)
    found = gates(tables, min_coverage=0.5)["rejects"]
    assert not found.passed
    assert (found.before, round(found.value or 0, 4)) == (0.0, round(60 / 665, 4))
    assert "9.02%" in found.sentence
    assert "0.00% in what readers see" in found.sentence


@pytest.mark.parametrize("scale", [0.5, float("nan")])
def test_vectors_that_are_not_of_unit_length_are_seen(tables: Tables, scale: float) -> None:
    add(tables, scale=scale, count=200)
    found = gates(tables)["vectors"]
    assert not found.passed
    assert found.value == 1.0  # only what is new was looked at


def test_another_models_vectors_are_seen(tables: Tables) -> None:
    from clipmill.schemas.columns import FINGERPRINT_KEY
    from tests.tables import fingerprint

    other = fingerprint(DIM, weights="others").to_json()
    rows = tables.open()
    rows.update_field_metadata({"vector": {FINGERPRINT_KEY.decode(): other}})
    gate = gates(tables)["vectors"]
    assert "another fingerprint; `clipmill promote TABLE words_none` ends a promotion that was cut off" in gate.sentence
    assert gate.hint.startswith("promote again"), "force leaves plain clients without words"
    assert gates(tables)["tag_drift"].sentence.endswith("that readers see of words: not compared")


def test_tags_that_drift_are_seen(tables: Tables) -> None:
    add(tables, tags=["sunset", "sea"])
    found = gates(tables)["tag_drift"]
    assert not found.passed
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert gates(tables, max_tag_drift=0.6)["tag_drift"].passed


def test_few_tags_say_little(tmp_path: Path) -> None:
    small = Tables.at(make_table(tmp_path, TableOptions(rows=20)))
    small.ensure_side_tables()
    enter(small, 20, 0)
    publish(f"{tmp_path}/images", Storage(), force=False, say=SAID.append)
    add(small, tags=["sunset"], count=10)
    assert "says little" in gates(small)["tag_drift"].sentence


def test_total_variation() -> None:
    assert total_variation({"a": 1, "b": 1}, {"a": 10, "b": 10}) == 0
    assert total_variation({"a": 5}, {"b": 7}) == 1
    assert total_variation({"a": 1, "b": 1}, {"a": 1}) == 0.5
    assert (total_variation({}, {}), total_variation({}, {"a": 1})) == (0, 1)


def test_golden_files_are_read_and_mistakes_told(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pa.table({"uri": ["u1", "u2"], "label": ["cat", 'a "dog", big'], "more": [1, 2]})
    pq.write_table(table, tmp_path / "golden.parquet")
    with golden_options(f"{tmp_path}/golden.parquet", Storage()) as options:
        assert options.labels is not None
        assert Path(options.labels).read_text().splitlines() == ["uri,label", "u1,cat", 'u2,"a ""dog"", big"']
    (tmp_path / "captions.csv").write_text("id,caption\n0001,a cat\n")
    with golden_options(f"{tmp_path}/captions.csv", Storage()) as options:
        assert options.captions is not None
        assert "0001,a cat" in Path(options.captions).read_text()
    for name, text, said in (
        ("none.csv", None, "cannot be read"),
        ("other.csv", "name,label\na,b\n", "has the columns name, label"),
        ("empty.csv", "id,label\n", "is empty"),
        ("torn.parquet", "PAR1 torn", "neither CSV nor parquet"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(UserError) as caught:
            check_golden(f"{tmp_path}/{name}", Storage())
        assert said in caught.value.message, name


def test_publish_rollback_and_what_readers_see(tables: Tables) -> None:
    uri = tables.rows.removesuffix(".lance")
    first = open_table(uri).version
    assert publish(uri, Storage(), force=False, say=SAID.append).note.startswith("nothing to do")
    append(uri, TableOptions(rows=50, start=20_000))
    assert open_table(uri).count() == ROWS
    refused = publish(uri, Storage(), force=False, say=SAID.append)
    assert (refused.version, [gate.name for gate in refused.refused]) == (first, ["coverage"])
    assert "650 rows for 600 samples" in refused.refused[0].sentence  # a plain client's, of no unit
    with pytest.raises(UserError, match="never published"):  # going back is no way past the gates
        rollback(uri, Storage(), to=str(tables.open().version), say=SAID.append)
    assert open_table(uri).version == first
    forced = publish(uri, Storage(), force=True, say=SAID.append)
    assert open_table(uri).count() == ROWS + 50
    back = rollback(uri, Storage(), to="previous", say=SAID.append)
    assert (back.version, back.before) == (first, forced.version)
    assert open_table(uri).count() == ROWS
    assert held_back(tables) == (forced.version, first)
    with pytest.raises(UserError, match="taken back already") as twice:  # the same command again does not lead on
        rollback(uri, Storage(), to="previous", say=SAID.append)
    assert open_table(uri).version == first
    assert f"--to {forced.version}" in twice.value.hint
    tables.open().cleanup_old_versions(retain_versions=1, error_if_tagged_old_versions=False)
    on = rollback(uri, Storage(), to=str(forced.version), say=SAID.append)  # the tag kept it, and they saw it before
    assert open_table(uri).version == forced.version
    assert f"version {forced.version} is newer than {first}" in on.note
    events = tables.open("runs").to_table().sort_by("at").to_pylist()
    told = [json.loads(row["detail"])["version"] for row in events if row["event"] in ("published", "rolled_back")]
    assert told == [first, forced.version, first, forced.version]


def test_going_back_to_a_version_of_the_middle_of_a_run_is_told(tables: Tables) -> None:
    uri = tables.rows.removesuffix(".lance")
    for start in (20_000, 30_000):
        append(uri, TableOptions(rows=50, start=start))
    newest = publish(uri, Storage(), force=True, say=SAID.append)
    between = newest.version - 1
    back = rollback(uri, Storage(), to=str(between), say=SAID.append)
    assert (back.version, back.note) == (
        between,
        f"version {between} was not published before: a run may have been in the middle of it",
    )
    assert rollback(uri, Storage(), to=str(newest.before), say=SAID.append).note == ""


def test_killed_between_the_two_tags_the_next_publish_still_keeps_what_was_seen(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tables.rows.removesuffix(".lance")
    first = open_table(uri).version
    add(tables)
    moved: list[str] = []

    def once(name: str) -> Any:
        real = getattr(Tags, name)

        def change(self: Tags, tag: str, *args: Any) -> None:
            if tag in (LIVE, PREVIOUS):
                moved.append(tag)
                if len(moved) == 2:
                    raise KeyboardInterrupt
            real(self, tag, *args)

        return change

    with monkeypatch.context() as patch:
        for name in ("create", "update"):
            patch.setattr(Tags, name, once(name))
        with pytest.raises(KeyboardInterrupt):
            publish(uri, Storage(), force=False, say=SAID.append)
    assert open_table(uri).version == first
    done = publish(uri, Storage(), force=False, say=SAID.append)
    assert (open_table(uri).version, done.before) == (done.version, first)
    assert rollback(uri, Storage(), to="previous", say=SAID.append).version == first


def test_rollback_needs_something_published_and_a_version_that_is_there(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=5))
    Tables.at(uri).ensure_side_tables()
    with pytest.raises(UserError, match="nothing to go back from"):
        rollback(uri, Storage(), to="previous", say=SAID.append)
    publish(uri, Storage(), force=True, say=SAID.append)
    with pytest.raises(UserError, match="no version was published before") as refused:
        rollback(uri, Storage(), to="previous", say=SAID.append)
    assert str(open_table(uri).version) in refused.value.hint
    with pytest.raises(UserError, match="no version '77'"):
        rollback(uri, Storage(), to="77", say=SAID.append)


def test_a_table_that_somebody_holds_is_left_alone(tables: Tables) -> None:
    append(tables.rows.removesuffix(".lance"), TableOptions(rows=5, start=20_000))
    other = Lease(tables, "other", "embed", ttl_s=1.5)
    other.take()
    other.keep()
    try:
        with pytest.raises(LeaseHeld):
            publish(tables.rows.removesuffix(".lance"), Storage(), force=True, say=SAID.append)
    finally:
        other.release()


def test_a_way_back_by_hand_counts_also_after_a_night_whose_clock_was_ahead(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tables.rows.removesuffix(".lance")
    first = open_table(uri).version

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=1)

    append(uri, TableOptions(rows=50, start=20_000))
    with monkeypatch.context() as patch:
        patch.setattr(tables_module, "datetime", Ahead)
        forced = publish(uri, Storage(), force=True, say=SAID.append)
    rollback(uri, Storage(), to="previous", say=SAID.append)
    assert held_back(tables) == (forced.version, first)


def test_tags_of_another_vocabulary_are_not_compared(tables: Tables) -> None:
    """`retag` was asked for, and would else be refused by each night after it."""
    add(tables, tags=["one tag alone"])
    assert not gates(tables)["tag_drift"].passed
    about = {"name": "animals", "hash": "abc", "top_k": 5, "min_score": 0.1}
    tables.open().update_field_metadata({"tags": {VOCABULARY_KEY.decode(): json.dumps(about)}})
    found = gates(tables)["tag_drift"]
    assert found.passed
    assert "'animals'" in found.sentence
    assert "not compared" in found.sentence


@pytest.mark.parametrize(
    ("rows", "misses", "section", "passed"),
    [
        (81, 1, {}, True),  # the first night of a small folder with one broken picture
        (81, 4, {}, True),
        (81, 5, {}, False),
        (30, 4, {}, False),  # few, and more than a tenth
        (81, 1, {"min_misses": 1}, False),
        (81, 1, {"min_coverage": 1}, False),
        (4_990, 5, {}, False),  # as the share alone says
        (5_995, 5, {}, True),
    ],
)
def test_few_misses_are_no_share(tmp_path: Path, rows: int, misses: int, section: dict[str, Any], passed: bool) -> None:
    tables = Tables.at(make_table(tmp_path, TableOptions(rows=rows)))
    tables.ensure_side_tables()
    enter(tables, rows, misses, "unit0")
    found = gates(tables, **section)["coverage"]
    assert found.passed is passed, found
    assert f"{rows:,} of {rows + misses:,} samples have a row" in found.sentence
    assert ("too few to judge" in found.sentence) == (passed and rows < 5_000)


def test_few_more_rejects_are_no_share_either(tables: Tables) -> None:
    add(tables, count=1)
    enter(tables, ROWS // 4, 4)
    few = gates(tables, max_more_rejects=0.001)["rejects"]
    assert few.passed
    assert "4 more are too few to judge a share by" in few.sentence
    enter(tables, ROWS // 4, 5)
    assert not gates(tables, max_more_rejects=0.001)["rejects"].passed


def test_an_index_that_misses_neighbours_is_seen(tables: Tables) -> None:
    """Vectors without any order in many small cells, of which a search looks into some; and all in one cell."""
    assert "recall" not in gates(tables)
    table = batch(TableOptions(rows=3_000, start=10_000))
    drawn_ND = np.random.default_rng(0).standard_normal((3_000, DIM)).astype(np.float32)
    values = pa.array((drawn_ND / np.linalg.norm(drawn_ND, axis=1, keepdims=True)).astype(np.float16).reshape(-1))
    for name in ("vector", "caption_vector"):
        where = table.schema.get_field_index(name)
        vectors = pa.FixedSizeListArray.from_arrays(values, DIM).cast(table.schema.field(where).type)
        table = table.set_column(where, table.schema.field(where), vectors)
    rows = lance.write_dataset(table, tables.rows, mode="overwrite", schema=tables.open().schema)
    rows.create_index("vector", "IVF_FLAT", name="vector_idx", metric="cosine", num_partitions=500)
    bad = gates(tables, min_recall=1.0)["recall"]
    assert not bad.passed
    assert bad.value is not None
    assert 0.05 < bad.value < 1.0
    assert f"the index finds {bad.value:.4f} of the true 10 nearest" in bad.sentence
    assert gates(tables, min_recall=bad.value)["recall"].passed
    rows = tables.open()
    rows.create_index("vector", "IVF_FLAT", name="vector_idx", metric="cosine", num_partitions=1, replace=True)
    good = gates(tables, min_recall=1.0)["recall"]
    assert (good.passed, good.value) == (True, 1.0)
