"""Building: in one go, in segments, killed half way, over an older index, with deletes and new rows; nothing lost."""

import errno
import io
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

import clipmill.jobs.indexing.segments as segments
from clipmill.jobs.indexing import build, plan, vector
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.indexing.centroids import sample
from clipmill.jobs.indexing.kmeans import Hold, train
from clipmill.jobs.indexing.partitions import assigned
from clipmill.jobs.indexing.plan import VectorPlan
from clipmill.jobs.indexing.recall import brute_force
from clipmill.jobs.indexing.vector import existing_plan
from clipmill.jobs.maintaining.orphans import orphans
from clipmill.jobs.querying.curve import stored_report
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.querying.vectors import as_rows, normalise
from clipmill.jobs.table.errors import NoSpace
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.workers.store import lance_log
from clipmill.workers.store.uri import quote
from tests.tables import DIM, TableOptions, WordEngine, append, batch, make_table


@pytest.fixture(autouse=True)
def large_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tables of test size have one or two."""
    monkeypatch.setattr(plan, "ROWS_PER_PARTITION", 1024)


def test_kmeans_leaves_no_partition_empty_and_finds_clear_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = normalise(rng.standard_normal((20, 32)).astype(np.float32))
    points = normalise(np.repeat(centres, 100, axis=0) + 0.05 * rng.standard_normal((2000, 32)).astype(np.float32))
    found = train(points, 40)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    nearest = (points @ found.T).max(axis=1)
    assert nearest.mean() > 0.95
    assert len(np.unique((points @ found.T).argmax(axis=1))) > 30
    np.testing.assert_array_equal(found, train(points, 40))


def test_the_report_is_stored_with_the_recall_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1200))
    order: list[str] = []
    for name in ("ask", "measure_curve", "measure"):
        monkeypatch.setattr(build, name, noting(order, name))
    report = build_index(uri, IndexOptions(kind="ivf_rq"))
    assert order == ["ask", "measure_curve", "measure"], "the column is read before searches fill Lance's cache"
    vectors = report.vectors[0]
    assert (vectors.kind, vectors.done, vectors.rows) == ("IVF_RQ", "built", 1200)
    assert vectors.recall is not None
    assert vectors.recall.recall > 0.95
    assert report.scalar["tags"] == report.scalar["caption"] == "built"
    dataset = lance.dataset(f"{uri}.lance")
    assert stored_report(dataset)["recall"]["recall"] == vectors.recall.recall
    kinds = {i.field_names[0]: str(i.index_type).upper() for i in dataset.describe_indices()}
    assert kinds["id"] == "BTREE"
    assert kinds["license"] == "BITMAP"
    assert kinds["tags"].replace("_", "") == "LABELLIST"
    assert kinds["views"] == "BTREE"


def noting(order: list[str], name: str) -> Callable[..., object]:
    called = getattr(build, name)
    return lambda *given, **more: (order.append(name), called(*given, **more))[1]


def test_a_second_run_does_nothing_and_new_rows_are_added(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1200))
    first = build_index(uri, IndexOptions(kind="ivf_rq"))
    again = build_index(uri, IndexOptions(kind="ivf_rq"))
    assert again.version == first.version
    assert set(again.scalar.values()) == {"current"}
    append(uri, TableOptions(rows=100, start=1200))
    lance.dataset(f"{uri}.lance").delete("views = 17")
    extended = build_index(uri, IndexOptions(kind="ivf_rq"))
    assert extended.vectors[0].done == "extended"
    assert set(extended.scalar.values()) == {"extended"}
    dataset = lance.dataset(f"{uri}.lance")
    found = existing_plan(dataset, "vector")
    assert found is not None
    assert found[2] == 0, "no row is left unindexed"
    assert dataset.count_rows("id = 'row-001250'") == 1
    assert dataset.count_rows("id = 'row-000017'") == 0


def test_a_small_table_needs_no_vector_index(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=100))
    report = build_index(uri)
    assert (report.vectors[0].kind, report.vectors[0].done, report.vectors[0].recall) == ("", "none", None)


def test_copies_of_a_picture_in_an_hnsw_index_are_found(tmp_path: Path, engine: WordEngine) -> None:
    """Rows that tie are asked for again, several times as many: Lance refuses more than the breadth of the search."""
    uri = make_table(tmp_path, TableOptions(rows=6000, noise=0.0))  # 100 copies: with fewer nothing is asked again
    assert build_index(uri, IndexOptions(kind="hnsw_sq")).vectors[0].kind == "IVF_HNSW_SQ"
    opened = open_table(uri, engine=engine)
    pages = [opened.search("red shoe", k=7, offset=n, columns=("id",))["id"].to_pylist() for n in range(0, 70, 7)]
    assert len({row_id for page in pages for row_id in page}) == 70


def test_hnsw_where_asked_for(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1000))
    report = build_index(uri, IndexOptions(kind="hnsw_sq"))
    assert report.vectors[0].kind == "IVF_HNSW_SQ"
    assert report.vectors[0].recall is not None
    assert report.vectors[0].recall.recall > 0.95


@pytest.mark.parametrize(
    ("chosen", "shape"),
    [
        (IndexOptions(kind="hnsw_sq"), ("IVF_HNSW_SQ", 0)),
        (IndexOptions(kind="ivf_rq", memory_bytes=0), ("IVF_RQ", 1)),
        (IndexOptions(kind="ivf_rq"), ("IVF_RQ", 5)),
    ],
)
@pytest.mark.parametrize("small_bytes", [0, 16_000_000])
def test_the_index_that_somebody_chose_is_kept_and_extended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: IndexOptions, shape: tuple[str, int], small_bytes: int
) -> None:
    """As a run ends, and as `clipmill index` without options: whatever the size of the table would say."""
    monkeypatch.setattr(plan, "SMALL_BYTES", small_bytes)
    uri = make_table(tmp_path, TableOptions(rows=1200))
    build_index(uri, replace(chosen, columns=("vector", "caption_vector")))
    append(uri, TableOptions(rows=100, start=1200))
    report = build_index(uri, IndexOptions(measure_recall=False))
    assert [(v.column, v.done, (v.kind, v.bits)) for v in report.vectors] == [
        ("vector", "extended", shape),
        ("caption_vector", "extended", shape),
    ]
    for column in ("vector", "caption_vector"):
        found = existing_plan(lance.dataset(f"{uri}.lance"), column)
        assert found is not None
        assert ((found[1].kind, found[1].bits), found[2]) == (shape, 0)
    monkeypatch.setattr(plan, "ROWS_PER_PARTITION", 100)  # outgrown: trained anew, of the same kind
    append(uri, TableOptions(rows=100, start=1300))
    grown = build_index(uri, IndexOptions(measure_recall=False)).vectors[0]
    assert (grown.kind, grown.bits) == shape
    assert grown.done == ("built" if shape[0] == "IVF_RQ" else "extended")
    again = build_index(uri, IndexOptions(kind="ivf_rq", memory_bytes=10**9)).vectors[0]
    assert (again.kind, again.bits) == ("IVF_RQ", 5), "what is asked for is what is made"


def test_an_index_made_by_another_client_is_extended_and_not_replaced(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1200))
    lance.dataset(f"{uri}.lance").create_index("vector", "IVF_PQ", metric="cosine", num_partitions=2, num_sub_vectors=8)
    append(uri, TableOptions(rows=100, start=1200))
    report = build_index(uri).vectors[0]
    assert (report.kind, report.num_partitions, report.done) == ("IVF_PQ", 2, "extended")


@pytest.mark.slow
def test_lance_prints_nothing_of_empty_partitions(tmp_path: Path) -> None:
    """Of parts that have no rows of most partitions, from Python: as a notebook or a node of a cluster does it."""
    pieces = 6
    rng = np.random.default_rng(0)
    made = [batch(TableOptions(rows=300, start=300 * n)) for n in range(pieces)]
    for n, table in enumerate(made):
        values_ND = rng.standard_normal((300, DIM)) * 0.02
        values_ND[np.arange(300), n * 10 + np.arange(300) % 10] += 1
        flat = pa.array(values_ND.astype(np.float16).ravel())
        place, field = table.schema.get_field_index("vector"), table.schema.field("vector")
        made[n] = table.set_column(place, field, pa.FixedSizeListArray.from_arrays(flat, DIM))
    uri = f"{tmp_path}/images"
    lance.write_dataset(pa.concat_tables(made), f"{uri}.lance", max_rows_per_file=300, enable_stable_row_ids=True)
    build = (
        "import sys;"
        "from clipmill.jobs.indexing.build import IndexOptions, build_index;"
        "options = IndexOptions(kind='ivf_rq', rows_per_segment=300, measure_recall=False);"
        "build_index(sys.argv[1], options, tell=print);"
    )
    there = {name: value for name, value in os.environ.items() if name != "LANCE_LOG"}
    command = [sys.executable, "-c", build, uri]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=there)
    assert "segment 6 of 6 built" in done.stdout
    assert done.stderr == ""


def test_a_users_own_word_on_what_lance_prints_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_LOG", "debug")
    lance_log.quiet()
    assert os.environ["LANCE_LOG"] == "debug"
    monkeypatch.delenv("LANCE_LOG")
    lance_log.quiet()
    assert os.environ["LANCE_LOG"].startswith("warn,")


def test_an_index_of_other_distances_is_extended_by_lance_and_said_to_be_of_no_use(tmp_path: Path) -> None:
    """LanceDB's are of L2 unless it is told otherwise; a part of cosines is refused beside those."""
    uri = make_table(tmp_path, TableOptions(rows=1200))
    lance.dataset(f"{uri}.lance").create_index("vector", "IVF_RQ", metric="l2", num_partitions=1)
    append(uri, TableOptions(rows=100, start=1200))
    told: list[str] = []
    assert build_index(uri, tell=told.append).vectors[0].done == "extended"
    assert "vector: the index is of l2 distances, so no search uses it; --rebuild makes one of cosines" in told
    told.clear()
    build_index(uri, IndexOptions(kind="ivf_rq", rebuild=True), tell=told.append)
    assert not [line for line in told if "l2" in line]
    check_complete(uri)


def test_of_two_indices_on_one_column_none_is_left_where_none_is_asked_for(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=600))
    for name in ("mine", "yours"):
        lance.dataset(f"{uri}.lance").create_index("vector", "IVF_FLAT", name=name, metric="cosine", num_partitions=1)
    report = build_index(uri, IndexOptions(kind="none")).vectors[0]
    assert (report.kind, report.done) == ("", "none")
    assert existing_plan(lance.dataset(f"{uri}.lance"), "vector") is None


@pytest.mark.parametrize("kind", ["ivf_rq", "hnsw_sq"])
def test_a_column_without_a_vector_gets_no_index(tmp_path: Path, kind: plan.Kind) -> None:
    uri = make_table(tmp_path, TableOptions(rows=50))
    lance.dataset(f"{uri}.lance").update({"caption_vector": "NULL"})
    report = build_index(uri, IndexOptions(kind=kind, columns=("caption_vector",))).vectors[0]
    assert (report.kind, report.done, report.recall) == ("", "none", None)


def test_no_index_stays_none_where_that_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SMALL_BYTES", 0)
    uri = make_table(tmp_path, TableOptions(rows=1200))
    assert build_index(uri).vectors[0].kind == "IVF_RQ"
    assert build_index(uri, IndexOptions(kind="none")).vectors[0].kind == ""
    assert existing_plan(lance.dataset(f"{uri}.lance"), "vector") is None
    append(uri, TableOptions(rows=100, start=1200))
    assert build_index(uri).vectors[0].kind == "", "a run leaves it so"
    assert build_index(uri, IndexOptions(rebuild=True)).vectors[0].kind == "IVF_RQ"


def test_recall_is_measured_where_the_figure_is_missing_or_older_than_the_rows(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=1200))
    build_index(uri, IndexOptions(kind="ivf_rq", measure_recall=False))

    def measured() -> float:
        report = build_index(uri).vectors[0]
        stored = stored_report(lance.dataset(f"{uri}.lance"))
        assert report.recall is not None
        assert stored is not None
        assert stored["recall"]["recall"] == report.recall.recall
        assert stored["rows"] == report.rows
        assert stored["at"] == report.at
        return report.recall.p50_ms

    first = measured()
    assert measured() == first, "nothing changed, so the figure is the stored one"
    append(uri, TableOptions(rows=100, start=1200))
    build_index(uri, IndexOptions(measure_recall=False))  # as a run does at its end
    second = measured()
    assert second != first
    lance.dataset(f"{uri}.lance").delete("views = 17")
    assert measured() != second, "rows that left change what is nearest"


def test_captions_can_be_indexed_too_and_unknown_columns_not(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=500))
    report = build_index(uri, IndexOptions(kind="ivf_rq", columns=("vector", "caption_vector")))
    assert [v.column for v in report.vectors] == ["vector", "caption_vector"]
    with pytest.raises(UserError, match="no vector column"):
        build_index(uri, IndexOptions(columns=("caption",)))
    with pytest.raises(UserError, match="no table"):
        build_index(str(tmp_path / "absent"))


def several_fragments(folder: Path) -> str:
    uri = make_table(folder, TableOptions(rows=700))
    for start in (700, 1400, 2100):
        append(uri, TableOptions(rows=700, start=start))
    lance.dataset(f"{uri}.lance").delete("views IN (5, 1500)")
    return uri


IN_SEGMENTS = IndexOptions(kind="ivf_rq", rows_per_segment=800)


def check_complete(uri: str) -> None:
    """Every stored vector is found at its own place through the index."""
    dataset = lance.dataset(f"{uri}.lance")
    found = existing_plan(dataset, "vector")
    assert found is not None
    assert (found[1].kind, found[2], found[3]) == ("IVF_RQ", 0, 1)
    table = open_table(uri)
    queries = sample(dataset, "vector", 40, seed=9)[:40]
    truth = brute_force(dataset, "vector", queries, 1)
    for query, (expected,) in zip(queries, truth, strict=True):
        row = dataset._take_rows([expected], columns=["id"])["id"][0].as_py()
        assert table.search(vector=query, k=1)["id"][0].as_py() == row


def test_in_segments_over_several_fragments_with_deletes(tmp_path: Path) -> None:
    uri = several_fragments(tmp_path)
    report = build_index(uri, IN_SEGMENTS)
    assert report.vectors[0].recall is not None
    assert report.vectors[0].recall.recall > 0.95
    check_complete(uri)
    append(uri, TableOptions(rows=700, start=2800))
    build_index(uri, IndexOptions(kind="ivf_rq", rows_per_segment=800, rebuild=True))  # over the older one
    check_complete(uri)


@pytest.mark.parametrize("options", [IN_SEGMENTS, IndexOptions(kind="ivf_rq")])
def test_rows_without_a_direction_and_fragments_without_vectors(tmp_path: Path, options: IndexOptions) -> None:
    """Partitions are found here, for those rows that have a vector: all others are still rows of the table."""
    uri = several_fragments(tmp_path)
    rows = batch(TableOptions(rows=900, start=2800))
    vectors = rows["vector"].to_pylist()
    for values in ([*vectors[:-2], None, [0.0] * DIM], [None] * 900):  # the second: a whole segment of nothing
        place = rows.schema.get_field_index("vector")
        column = pa.array(values, rows.schema.field(place).type)
        part = rows.set_column(place, rows.schema.field(place), column)
        lance.write_dataset(part, f"{uri}.lance", mode="append")
    build_index(uri, options)
    check_complete(uri)
    dataset = lance.dataset(f"{uri}.lance")
    assert dataset.count_rows() == 2800 - 2 + 1800
    found = dataset.scanner(
        columns=["id"], nearest={"column": "vector", "q": vectors[0], "k": 5000, "metric": "cosine", "nprobes": 1000}
    ).to_table()["id"]
    with_vector = dataset.count_rows("vector IS NOT NULL")
    assert found.to_pylist()[0] == "row-002800"
    assert with_vector - 1 == len(found) == len(set(found.to_pylist()))


def test_a_vector_that_is_no_number_spoils_no_partition(tmp_path: Path) -> None:
    """Another tool may write one. It was in the sample that partitions are made from, and made all of them NaN."""
    uri = make_table(tmp_path, TableOptions(rows=2100))
    rows = batch(TableOptions(rows=2, start=2100))
    place = rows.schema.get_field_index("vector")
    odd = pa.array([[float("nan")] * DIM, [float("inf")] * DIM], rows.schema.field(place).type)
    lance.write_dataset(rows.set_column(place, rows.schema.field(place), odd), f"{uri}.lance", mode="append")
    report = build_index(uri, IndexOptions(kind="ivf_rq")).vectors[0]
    assert report.num_partitions == 2
    assert report.recall is not None
    assert report.recall.recall > 0.95


@pytest.mark.parametrize("value", [0.0, float("nan"), None])
@pytest.mark.parametrize("rows", [2, 600])
def test_where_hardly_a_vector_points_anywhere_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, value: float | None
) -> None:
    """Not in Lance's words, nor in Python's about a division. Among 600 one row has a direction, among two none."""
    monkeypatch.setattr(plan, "ROWS_PER_PARTITION", 256)
    uri = make_table(tmp_path, TableOptions(rows=rows))
    table = lance.dataset(f"{uri}.lance").to_table()
    place = table.schema.get_field_index("vector")
    vectors = [None if value is None else [value] * DIM for _ in range(rows - 1)]
    column = pa.array([*vectors, [float(rows > 2)] * DIM], table.schema.field(place).type)
    changed = table.set_column(place, table.schema.field(place), column)
    lance.write_dataset(changed, f"{uri}.lance", mode="overwrite")
    kinds: tuple[plan.Kind, ...] = ("ivf_rq", "hnsw_sq") if rows == 2 else ("ivf_rq",)  # Lance may find the one row
    for kind in kinds:
        with pytest.raises(UserError, match="too few rows have a vector that points anywhere"):
            build_index(uri, IndexOptions(kind=kind))
    assert build_index(uri, IndexOptions(kind="none")).vectors[0].done == "none"


def test_copies_of_a_picture_count_as_found_and_a_lonely_row_has_nothing_to_miss(tmp_path: Path) -> None:
    """Which ten of forty copies an index names is chance; one row has no other beside it."""
    rows = batch(TableOptions(rows=30))
    copies = pa.concat_tables([rows] * 40).combine_chunks()
    (tmp_path / "copies").mkdir()
    lance.write_dataset(copies, f"{tmp_path}/copies/images.lance")
    for uri in (f"{tmp_path}/copies/images", make_table(tmp_path / "one", TableOptions(rows=1))):
        recall = build_index(uri, IndexOptions(kind="ivf_rq")).vectors[0].recall
        assert recall is not None
        assert recall.recall > 0.95, uri


def test_partitions_are_those_of_the_nearest_centroids(tmp_path: Path) -> None:
    uri = several_fragments(tmp_path)
    dataset = lance.dataset(f"{uri}.lance")
    centroids_PD = normalise(np.random.default_rng(0).standard_normal((7, DIM)).astype(np.float32))
    with assigned(dataset, "vector", centroids_PD, (1, 3)) as options:
        placed = lance.dataset(options["precomputed_partition_dataset"]).to_table()
    stored = dataset.scanner(
        columns=["vector"],
        fragments=[dataset.get_fragment(1), dataset.get_fragment(3)],
        with_row_id=True,
        filter="vector IS NOT NULL",
    ).to_table()
    expected = np.argmax(as_rows(stored["vector"], DIM) @ centroids_PD.T, axis=1)
    assert placed["row_id"].to_pylist() == stored["_rowid"].to_pylist()
    assert placed["partition"].to_pylist() == expected.tolist()
    assert not Path(options["precomputed_partition_dataset"]).exists()


def check_all_in_the_index(uri: str, parts: int) -> None:
    """Every row finds itself first by the index alone, whichever part of it holds the row."""
    dataset = lance.dataset(f"{uri}.lance")
    found = existing_plan(dataset, "vector")
    assert found is not None
    assert found[2:] == (0, parts)
    for row in (
        dataset.scanner(columns=["vector"], with_row_id=True, filter="vector IS NOT NULL").to_table().to_pylist()[::40]
    ):
        nearest = {"column": "vector", "q": np.array(row["vector"], np.float32), "k": 5, "metric": "cosine"}
        hits = dataset.scanner(columns=[], nearest=nearest, with_row_id=True, fast_search=True).to_table()
        assert row["_rowid"] in hits["_rowid"].to_pylist()


def made_in_segments(uri: str) -> None:
    build_index(uri, IN_SEGMENTS)


def made_again_and_restored(uri: str) -> None:
    """What lies beside the table is then of another index than the one that lives: a rotation is drawn anew."""
    build_index(uri, IN_SEGMENTS)
    version = lance.dataset(f"{uri}.lance").version
    build_index(uri, replace(IN_SEGMENTS, rebuild=True))
    lance.dataset(f"{uri}.lance", version=version).restore()


def made_by_another(uri: str) -> None:
    lance.dataset(f"{uri}.lance").create_index("vector", "IVF_RQ", metric="cosine", num_partitions=2, num_bits=5)


@pytest.mark.parametrize("make", [made_in_segments, made_again_and_restored, made_by_another])
def test_new_rows_are_a_part_of_the_index_and_parts_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str], None]
) -> None:
    uri = several_fragments(tmp_path)
    make(uri)
    built: list[tuple[int, ...]] = []

    def noted(tasks: Sequence[segments.SegmentTask], hold: Hold) -> Iterator[tuple[int, str]]:
        built.extend(task.fragment_ids for task in tasks)
        yield from in_turn(tasks, hold)

    in_turn = segments.in_turn
    monkeypatch.setattr(segments, "in_turn", noted)
    for turn, parts in enumerate([2, 3, 4, 1]):
        append(uri, TableOptions(rows=120, start=2800 + 120 * turn))
        assert build_index(uri, IndexOptions(measure_recall=False)).vectors[0].done == "extended"
        check_all_in_the_index(uri, parts)
    assert built == [(4,), (5,), (6,), (7,)]


def test_a_compaction_while_new_rows_are_added_leaves_them_to_lance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = several_fragments(tmp_path)
    made_in_segments(uri)
    for start in (2800, 2920):
        append(uri, TableOptions(rows=120, start=start))

    def disturbed(tasks: Sequence[segments.SegmentTask], hold: Hold) -> Iterator[tuple[int, str]]:
        for built in list(in_turn(tasks, hold)):
            lance.dataset(f"{uri}.lance").optimize.compact_files(target_rows_per_fragment=10_000)
            yield built

    in_turn = segments.in_turn
    monkeypatch.setattr(segments, "in_turn", disturbed)
    assert build_index(uri, IndexOptions(measure_recall=False)).vectors[0].done == "extended"
    check_all_in_the_index(uri, 2)


def test_a_compaction_while_an_index_is_built_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = several_fragments(tmp_path)

    def disturbed(tasks: Sequence[segments.SegmentTask], hold: Hold) -> Iterator[tuple[int, str]]:
        yield from list(in_turn(tasks, hold))
        lance.dataset(f"{uri}.lance").optimize.compact_files(target_rows_per_fragment=10_000)

    in_turn = segments.in_turn
    monkeypatch.setattr(segments, "in_turn", disturbed)
    with pytest.raises(ClipmillError, match="another writer changed"):
        build_index(uri, IN_SEGMENTS)
    monkeypatch.setattr(segments, "in_turn", in_turn)
    build_index(uri, IN_SEGMENTS)
    check_complete(uri)


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b'{"key": ', b'{"key": "k"}', b'{"key": "k", "model": 1, "segments": {}}']
)
@pytest.mark.parametrize("numbers", ["as they were", "cut off", "pickled"])
def test_a_damaged_note_of_a_killed_build_means_that_it_begins_anew(
    tmp_path: Path, damage: bytes, numbers: str
) -> None:
    note, npy = Path(f"{tmp_path}/t.lance/_clipmill/index-vector.json"), io.BytesIO()
    np.save(npy, np.eye(3, dtype=object if numbers == "pickled" else np.float32))
    note.parent.mkdir(parents=True)
    note.with_suffix(".npy").write_bytes(npy.getvalue()[: -4 if numbers == "cut off" else None])
    note.write_bytes(damage)
    tables = Tables.at(make_table(tmp_path, TableOptions(rows=1), name="t"))
    assert segments.Checkpoint(tables, "vector", "k").centroids_PD is None
    assert orphans(tables, "", now_s=0.0, older_than_s=0.0, folders=("_indices",)) == []  # `maintain` reads it too
    note.write_bytes(b'{"key": "k", "model": "m", "segments": {"0": "{}"}}')
    assert segments.Checkpoint(tables, "vector", "k").centroids_PD is None
    note.write_bytes(b'{"key": "k", "model": "m", "segments": {}}')
    whole = segments.Checkpoint(tables, "vector", "k").centroids_PD
    assert (whole is not None) == (numbers == "as they were")


@pytest.mark.parametrize("kind", ["ivf_rq", "hnsw_sq"])
def test_no_temporary_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: plan.Kind) -> None:
    """Python would take another one than TMPDIR; Lance takes no other, and panicked."""
    uri = make_table(tmp_path, TableOptions(rows=300))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="temporary folder"):
        build_index(uri, IndexOptions(kind=kind))
    monkeypatch.delenv("TMPDIR")
    build_index(uri, IndexOptions(kind=kind))


def test_a_full_disk_is_one_sentence_that_names_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = make_table(tmp_path, TableOptions(rows=300))

    def full(*_: object, **__: object) -> None:
        raise OSError("LanceError(IO): No space left on device (os error 28), structural.rs:191:9")  # as Lance says it

    monkeypatch.setattr(vector, "_build_at_once", full)
    with pytest.raises(NoSpace, match=r"no space left for \S+images") as told:
        build_index(uri, IndexOptions(kind="ivf_rq"))
    assert "TMPDIR" in told.value.hint


def test_killed_half_way_only_the_missing_segments_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = several_fragments(tmp_path)
    built: list[tuple[int, ...]] = []

    def dying(tasks: Sequence[segments.SegmentTask], hold: Hold) -> Iterator[tuple[int, str]]:
        for place, task in enumerate(tasks):
            if len(built) == 2:
                raise KeyboardInterrupt
            built.append(task.fragment_ids)
            yield place, segments.build_segment(task)

    monkeypatch.setattr(segments, "in_turn", dying)
    with pytest.raises(KeyboardInterrupt):
        build_index(uri, IN_SEGMENTS)
    assert existing_plan(lance.dataset(f"{uri}.lance"), "vector") is None, "nothing is visible before the commit"
    done = list(built)

    def rest(tasks: Sequence[segments.SegmentTask], hold: Hold) -> Iterator[tuple[int, str]]:
        for place, task in enumerate(tasks):
            built.append(task.fragment_ids)
            yield place, segments.build_segment(task)

    monkeypatch.setattr(segments, "in_turn", rest)
    build_index(uri, IN_SEGMENTS)
    assert sorted(built) == [(0,), (1,), (2,), (3,)]
    assert len(built) == len(done) + 2
    check_complete(uri)


@pytest.mark.parametrize("merged", [False, True])
def test_segments_of_a_killed_build_are_not_taken_over_where_other_vectors_are_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merged: bool
) -> None:
    """As after `promote`: the same fragments, the same name, vectors of another model. `merged`: in the same files, as
    after compaction."""
    uri = several_fragments(tmp_path)
    dataset = lance.dataset(f"{uri}.lance")
    stored = dataset.to_table(columns=["vector"])["vector"].combine_chunks()
    other = normalise(np.random.default_rng(7).standard_normal((len(stored), DIM)).astype(np.float32))
    column = pa.FixedSizeListArray.from_arrays(pa.array(other.astype(np.float16).reshape(-1)), DIM)
    dataset.add_columns(pa.table({"vector__b": column}).to_reader())
    if merged:
        lance.write_dataset(dataset.to_table(), dataset.uri, mode="overwrite", max_rows_per_file=700)
    built: list[tuple[int, ...]] = []

    def counting(tasks: Sequence[segments.SegmentTask], hold: Hold) -> Iterator[tuple[int, str]]:
        for place, task in enumerate(tasks):
            if len(built) == 2:
                raise KeyboardInterrupt
            built.append(task.fragment_ids)
            yield place, segments.build_segment(task)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(segments, "in_turn", counting)
        build_index(uri, IN_SEGMENTS)
    dataset = lance.dataset(f"{uri}.lance")
    dataset.alter_columns({"path": "vector", "name": "vector__a"}, {"path": "vector__b", "name": "vector"})
    report = build_index(uri, IN_SEGMENTS).vectors[0]
    assert report.recall is not None
    assert report.recall.recall > 0.95
    check_complete(uri)


@pytest.mark.parametrize("folder", ["a%23b", "a#b%20c"])
def test_what_a_killed_build_made_lies_with_the_table_and_is_no_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    name = make_table(tmp_path / folder, TableOptions(rows=300))
    append(name, TableOptions(rows=300, start=300))

    def dying(tasks: Sequence[segments.SegmentTask], hold: Hold) -> Iterator[tuple[int, str]]:
        yield 0, segments.build_segment(tasks[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(segments, "in_turn", dying)
    tables = Tables.at(quote(name))
    with pytest.raises(KeyboardInterrupt):
        build_index(quote(name), IndexOptions(kind="ivf_rq", rows_per_segment=300))
    assert os.listdir(tmp_path) == [folder]
    assert (tmp_path / folder / "images.lance" / "_clipmill" / "index-vector.json").is_file()
    young = orphans(tables, "", now_s=0.0, older_than_s=-math.inf, folders=("_indices",))
    assert young == [], "the segment that is done is needed by whoever goes on"


def test_a_checkpoint_of_another_shape_is_not_used(tmp_path: Path) -> None:
    uri = several_fragments(tmp_path)
    dataset = lance.dataset(f"{uri}.lance")
    plan = VectorPlan(kind="IVF_RQ", num_partitions=2, bits=5)
    state = segments.Checkpoint(Tables.at(uri), "vector", "another key")
    state.begin(np.zeros((2, 64), np.float32), "{}")
    state.add("0", json.dumps({}))
    builder = segments.Builder(tables=Tables.at(uri), rows_per_segment=800, run=segments.in_turn, tell=lambda _: None)
    assert segments.build_in_segments(dataset, "vector", plan, builder) == 4
    check_complete(uri)


@pytest.mark.ray
@pytest.mark.slow
def test_on_the_nodes_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of a node whose disk is full the sentence is the one of this machine's."""
    from ray.cluster_utils import Cluster

    from clipmill.jobs.cluster.connect import patient_start
    from clipmill.jobs.indexing import cluster as on_cluster

    def full(task: segments.SegmentTask) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    uri = several_fragments(tmp_path)
    with patient_start():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        with patient_start():
            cluster.add_node(num_cpus=1)
        options = IndexOptions(kind="ivf_rq", address=cluster.address, rows_per_segment=800)
        report = build_index(uri, options)
        check_complete(uri)
        monkeypatch.setattr(on_cluster, "build_segment", full)
        with pytest.raises(UserError, match=r"no space left for \S+images"):
            build_index(uri, replace(options, rebuild=True))
    finally:
        cluster.shutdown()
    assert report.vectors[0].done == "built"


def test_columns_of_which_lance_has_no_index_are_left_out_and_the_others_indexed(tmp_path: Path) -> None:
    """As other clients add them; the end of each run builds what is missing, and so ended with pyarrow's error."""
    rows = batch(TableOptions(rows=40))
    odd = {
        "struct": pa.array([{"a": 1}] * 40),
        "structs": pa.array([[{"a": 1}]] * 40),
        "dictionary": pa.array(["a", "b"] * 20).dictionary_encode(),
        "nothing": pa.nulls(40),
        "long_lists": pa.array([["a"], ["b"]] * 20, pa.large_list(pa.string())),
        "größe": pa.array(["S", "L"] * 20),
    }
    for name, values in odd.items():
        rows = rows.append_column(name, values)
    lance.write_dataset(rows, tmp_path / "images.lance", enable_stable_row_ids=True, data_storage_version="2.2")
    done = build_index(str(tmp_path / "images")).scalar
    assert {name: done.get(name) for name in odd} == dict.fromkeys(odd) | {"long_lists": "built", "größe": "built"}
    table = open_table(str(tmp_path / "images"))
    assert table.count("array_has(long_lists, 'a')") == table.count("`größe` = 'S'") == 20
