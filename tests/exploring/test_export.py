"""Exports are complete, in the layout their readers expect, and never mix with what was there."""

import io
import json
import tarfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.exploring.export import ExportOptions, export
from clipmill.jobs.querying.open import Examples, Query, Table, open_table
from clipmill.schemas.errors import UserError
from tests.conftest import S3
from tests.tables import TableOptions, WordEngine, make_table, picture


@pytest.fixture
def table(tmp_path: Path, engine: WordEngine) -> Table:
    (tmp_path / "pictures").mkdir()
    return open_table(make_table(tmp_path, TableOptions(rows=250, images=tmp_path / "pictures")), engine=engine)


def test_parquet_holds_exactly_the_filtered_rows(table: Table, tmp_path: Path) -> None:
    to = str(tmp_path / "out")
    options = ExportOptions(
        to=to, query=Query(where="license = 'cc0'"), columns=("id", "tags", "vector"), rows_per_file=30
    )
    report = export(table, options)
    parts = sorted(Path(to).glob("part-*.parquet"))
    assert [pq.read_metadata(p).num_rows for p in parts] == [30, 30, 24]
    rows = [row for p in parts for row in pq.read_table(p).to_pylist()]
    expected = table.snapshot.dataset.to_table(columns=["id", "license"]).to_pylist()
    assert [r["id"] for r in rows] == [r["id"] for r in expected if r["license"] == "cc0"]
    assert json.loads((tmp_path / "out" / "_export.json").read_text())["rows"] == report.rows == 84


def test_the_best_hits_of_a_search_in_order(table: Table, tmp_path: Path) -> None:
    query = Query(positive=Examples(texts=("red shoe",)), k=12)
    export(table, ExportOptions(to=str(tmp_path / "out"), query=query))
    found = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert found["id"].to_pylist() == table.search("red shoe", k=12)["id"].to_pylist()
    assert found["score"].to_pylist() == table.search("red shoe", k=12)["score"].to_pylist()


def test_only_the_ids_of_a_list(table: Table, tmp_path: Path) -> None:
    ids = tuple(f"row-{n:06d}" for n in (3, 77, 200))
    export(table, ExportOptions(to=str(tmp_path / "out"), ids=(*ids, "nobody")))
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet")["id"].to_pylist() == list(ids)


def test_an_id_that_is_named_twice_is_one_row_and_one_that_a_filter_leaves_out_is_known(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipmill.jobs.exploring.export._IDS_AT_A_TIME", 2)
    (tmp_path / "ids").write_text("row-000003\nrow-000004\n\nrow-000003\nnobody\n")
    options = ["--ids", str(tmp_path / "ids"), "--where", "views = 3", "--json"]
    assert cli.run(["export", table.uri, "--to", str(tmp_path / "out"), *options]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["unknown_ids"]) == (1, 1)
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet")["id"].to_pylist() == ["row-000003"]


def test_best_hits_among_a_list_of_ids_are_not_offered(table: Table, tmp_path: Path) -> None:
    query = Query(positive=Examples(texts=("red shoe",)), k=3)
    with pytest.raises(UserError, match="not of both"):
        export(table, ExportOptions(to=str(tmp_path / "out"), query=query, ids=("row-000003",)))
    assert not (tmp_path / "out").exists()


def test_a_webdataset_has_the_images_captions_and_rows(table: Table, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "000010.png").unlink()
    report = export(table, ExportOptions(to=str(tmp_path / "out"), format="webdataset", rows_per_file=100))
    assert (report.rows, report.files, report.missing) == (249, 3, 1)
    (rejected,) = [json.loads(line) for line in (tmp_path / "out" / "_rejects.jsonl").read_text().splitlines()]
    assert rejected["id"] == "row-000010"
    seen = {}
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                seen.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    assert len(seen) == 249
    samples = {json.loads(s["json"])["id"]: s for s in seen.values()}
    assert samples["row-000001"]["png"] == picture("green")
    assert samples["row-000007"]["txt"].decode().startswith("<script>")
    assert "txt" not in samples["row-000005"]


def test_what_is_not_of_the_source_is_left_out_and_counted(table: Table, tmp_path: Path, engine: WordEngine) -> None:
    """A row that names a file of this machine, of which whoever wrote the row knows the bytes."""
    (tmp_path / "secret.png").write_bytes(picture("red"))
    lance.dataset(f"{table.uri}.lance").update({"uri": f"'{tmp_path}/secret.png'"}, where="id = 'row-000006'")
    (tmp_path / "pictures" / "000010.png").write_bytes(picture("red"))
    (tmp_path / "pictures" / "000011.png").unlink()
    opened = open_table(table.uri, engine=engine)
    report = export(opened, ExportOptions(to=str(tmp_path / "out"), format="webdataset"))
    assert (report.rows, report.missing) == (247, 3)
    assert report.missing_by_reason == {
        "not of this table's source": 1,
        "no longer the bytes it was made from": 1,
        "cannot be read": 1,
    }
    assert "1 image is not of this table's source" in report.left_out
    allowed = ExportOptions(to=str(tmp_path / "more"), format="webdataset", allow_sources=(str(tmp_path),))
    assert export(opened, allowed).rows == 248


def test_an_export_of_nothing_or_of_fewer_says_so_and_ends_with_3(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(to: str, *options: str) -> tuple[int, str]:
        code = cli.run(["export", table.uri, "--to", str(tmp_path / to), *options])
        return code, capsys.readouterr().err

    (tmp_path / "ids").write_text("row-000001\nnobody\n")
    assert run("a", "--where", "license = 'cc0'")[0] == 0
    code, said = run("b", "--where", "width > 9000")
    assert (code, "left out: no row passes" in said) == (3, True)
    code, said = run("c", "--ids", str(tmp_path / "ids"))
    assert (code, "1 of the ids asked for are in no row" in said) == (3, True)
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    code, said = run("d", "--format", "webdataset")
    assert (code, "250 images cannot be read" in said) == (3, True)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["_rejects.jsonl"], (
        "not `_export.json`: it is no export"
    )
    assert not (tmp_path / "b").exists()


def test_a_limit_is_of_the_rows_that_pass_and_of_a_search_of_its_hits(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ids(to: str, *options: str) -> list[str]:
        assert cli.run(["export", table.uri, "--to", str(tmp_path / to), "--column", "id,views", *options]) == 0
        found = pq.read_table(tmp_path / to / "part-00000.parquet")
        assert found.column_names[:2] == ["id", "views"]
        names: list[str] = found["id"].to_pylist()
        return names

    everything = table.snapshot.dataset.to_table(columns=["id"])["id"].to_pylist()
    assert ids("a") == everything
    assert ids("b", "--limit", "7") == everything[:7]
    assert ids("c", "--limit", "12000") == everything
    (tmp_path / "ids").write_text("\n".join(everything[100:120]))
    assert ids("d", "--ids", str(tmp_path / "ids"), "--limit", "5") == everything[100:105]
    assert cli.run(["export", table.uri, "--to", str(tmp_path / "e"), "--near", "a shoe", "--limit", "10001"]) == 2
    assert "at most 10000 hits are ranked" in capsys.readouterr().err
    query = Query(positive=Examples(texts=("red shoe",)), k=3)
    with pytest.raises(UserError, match="limit is of rows without an example"):
        export(table, ExportOptions(to=str(tmp_path / "f"), query=query, limit=2))


def test_clip_retrievals_layout_lines_up_by_position(table: Table, tmp_path: Path) -> None:
    export(table, ExportOptions(to=str(tmp_path / "out"), format="clip-retrieval", rows_per_file=200))
    rows = table.snapshot.dataset.to_table(columns=["id", "vector", "caption_vector"]).to_pylist()
    start = 0
    for number in (0, 1):
        images = np.load(tmp_path / f"out/img_emb/img_emb_{number}.npy", allow_pickle=False)
        texts = np.load(tmp_path / f"out/text_emb/text_emb_{number}.npy", allow_pickle=False)
        metadata = pq.read_table(tmp_path / f"out/metadata/metadata_{number}.parquet")
        assert images.dtype == np.float16
        assert {"image_path", "caption"} <= set(metadata.column_names)
        for place, row_id in enumerate(metadata["id"].to_pylist()):
            row = rows[start + place]
            assert row["id"] == row_id
            stored = np.zeros(64) if row["vector"] is None else row["vector"]
            np.testing.assert_array_equal(images[place], np.asarray(stored, np.float16))
            np.testing.assert_array_equal(texts[place], np.asarray(row["caption_vector"], np.float16))
        start += len(metadata)
    assert start == 250


def test_vectors_in_float32_are_the_same_numbers(table: Table, tmp_path: Path) -> None:
    names = ["id", "vector", "caption_vector"]
    dataset = lance.dataset(f"{table.uri}.lance")
    dataset.update({"caption_vector": "NULL"}, where="id = 'row-000003'")  # as of a row without a caption
    table = open_table(table.uri, engine=WordEngine())
    stored = table.snapshot.dataset.to_table(columns=names)
    assert stored["caption_vector"].null_count == 1
    for form, columns in (("parquet", tuple(names)), ("clip-retrieval", None)):
        export(table, ExportOptions(to=str(tmp_path / form), format=form, columns=columns, float32=True))  # type: ignore[arg-type]
    wide = pq.read_table(tmp_path / "parquet" / "part-00000.parquet")
    for name in names[1:]:
        assert wide.schema.field(name).type == pa.list_(pa.float32(), stored.schema.field(name).type.list_size)
        assert wide[name].to_pylist() == stored[name].to_pylist()
    array_ND = np.load(tmp_path / "clip-retrieval" / "img_emb" / "img_emb_0.npy")
    assert array_ND.dtype == np.float32
    given = [at for at, vector in enumerate(stored["vector"].to_pylist()) if vector is not None]
    assert array_ND[given].tolist() == stored["vector"].take(given).to_pylist()


def test_float32_where_no_vector_is_exported_is_refused(table: Table, tmp_path: Path) -> None:
    for form in ("parquet", "webdataset"):
        with pytest.raises(UserError, match="none is exported") as caught:
            export(table, ExportOptions(to=str(tmp_path / form), format=form, float32=True))  # type: ignore[arg-type]
        assert "--column vector" in caught.value.hint
        assert not (tmp_path / form).exists()


@pytest.mark.parametrize(("name", "typed"), [("out", "out"), ("50% #1", "50%25 %231"), ("50% #1", "50% #1")])
def test_a_place_that_holds_something_is_left_alone(table: Table, tmp_path: Path, name: str, typed: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match=r"precious\.txt"):
        export(table, ExportOptions(to=f"{tmp_path}/{typed}"))
    assert [p.name for p in (tmp_path / name).iterdir()] == ["precious.txt"]


@pytest.mark.s3
def test_a_table_in_s3_is_searched_indexed_and_exported_there(s3: S3, tmp_path: Path, engine: WordEngine) -> None:
    from clipmill.jobs.exploring.facets import facets
    from clipmill.jobs.indexing.build import IndexOptions, build_index
    from clipmill.jobs.migrating.score import score
    from tests.migrating.test_score import head_file, load_head

    make_table(tmp_path, TableOptions(rows=300))
    s3.upload(tmp_path / "images.lance", "db/images.lance/")
    uri = f"{s3.uri}/db/images"
    build_index(uri, IndexOptions(kind="ivf_rq"), s3.storage)
    score(uri, load_head(str(head_file(tmp_path))), s3.storage)
    opened = open_table(uri, storage=s3.storage, engine=engine)
    assert opened.snapshot.vector_index("vector") is not None
    found = opened.search("red shoe", where="aesthetic > -100", k=5)
    assert len(found) == 5
    assert all("red" in tags or "shoe" in tags for tags in found["tags"].to_pylist())
    assert facets(opened)[0].rows == 300
    report = export(opened, ExportOptions(to=f"{s3.uri}/out", format="parquet"), s3.storage)
    assert report.rows == 300
    assert pq.read_table(io.BytesIO(s3.get("out/part-00000.parquet"))).num_rows == 300
    with pytest.raises(UserError, match="already holds"):
        export(opened, ExportOptions(to=f"{s3.uri}/out"), s3.storage)
    with pytest.raises(UserError, match="no table"):
        open_table(f"{s3.uri}/db/absent", storage=s3.storage)
