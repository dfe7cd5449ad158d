"""Files of indices that are damaged or gone: which index it is, and what is answered all the same."""

import shutil
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from clipmill.jobs.cli.main import run as clipmill
from clipmill.jobs.exploring.facets import facets
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying import nearest
from clipmill.jobs.querying.open import Query, open_table
from clipmill.schemas.errors import DamagedIndex
from tests.tables import TableOptions, WordEngine, make_table

LANCES = "views < 100 OR views > 1000"  # rows at hand tell no OR


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = make_table(tmp_path_factory.mktemp("damaged"), TableOptions(rows=600))
    build_index(uri, IndexOptions(kind="ivf_rq"))
    return uri


def damage(whole: str, folder: Path, column: str, how: str, file: str = "") -> str:
    """A copy of the table with the files of the column's index, or that one of them, damaged."""
    shutil.copytree(f"{whole}.lance", folder / "images.lance")
    indices = lance.dataset(f"{whole}.lance").describe_indices()
    (index,) = [index for index in indices if index.field_names == [column]]
    for segment in index.segments:
        for path in (folder / "images.lance" / "_indices" / str(segment.uuid)).rglob(file or "*"):
            content = path.read_bytes()
            half, piece = len(content) // 2, len(content) // 20
            made = {
                "cut": content[:half],
                "zeros": bytes(len(content)),
                "stretch": content[: len(content) // 4] + bytes(half - len(content) // 4) + content[half:],
                "hole": content[: -4 * piece] + bytes(2 * piece) + content[-2 * piece :],
            }
            path.unlink()
            if how != "gone":
                path.write_bytes(made[how])
    return str(folder / "images")


@pytest.mark.parametrize("how", ["zeros", "cut", "gone"])
@pytest.mark.parametrize(
    ("column", "asked"),
    [
        ("tags", {"any_tags": "red"}),
        ("views", {"where": LANCES}),
        ("caption", {"hybrid": True}),
    ],
)
def test_an_index_that_a_search_needs_is_named(
    whole: str, tmp_path: Path, column: str, asked: dict[str, object], how: str
) -> None:
    table = open_table(damage(whole, tmp_path, column, how), engine=WordEngine())
    assert column == "tags" or table.warm(rows=True)
    with pytest.raises(DamagedIndex, match=f"the index {column}_idx of {column} is damaged, or files") as told:
        table.search("red shoe", **asked)  # type: ignore[arg-type]
    assert "`clipmill index TABLE --rebuild`" in told.value.hint
    if column == "views":
        for ask in (lambda: table.count(LANCES), lambda: facets(table, Query(where=LANCES))):
            with pytest.raises(DamagedIndex, match="views_idx"):
                ask()
        assert len(table.search("red shoe", where="views < 100")) == 10, "rows at hand need no index"
    if column == "tags":
        assert table.warm(rows=True)
        assert len(table.search("red shoe", any_tags="red")) == 10, "tags at hand need no index"
    assert len(table.search("red shoe")) == 10


@pytest.mark.parametrize(
    "command", ["export HERE --to OUT", "dedup HERE", "tags HERE", "search HERE --like row-000004", "delete HERE --yes"]
)
def test_every_command_that_a_damaged_index_ends_names_it(
    whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    uri = damage(whole, tmp_path, "views", "zeros")
    words = [word.replace("HERE", uri).replace("OUT", str(tmp_path / "out")) for word in command.split()]
    assert clipmill([*words, "--where", "views < 100"]) == 1
    assert "error: the index views_idx of views is damaged, or files of it are gone" in capsys.readouterr().err


def test_an_index_of_ids_is_named(whole: str, tmp_path: Path) -> None:
    table = open_table(damage(whole, tmp_path, "id", "zeros"), engine=WordEngine())
    for ask in (lambda: table.get("row-000004"), lambda: table.search(like="row-000004")):
        with pytest.raises(DamagedIndex, match="id_idx"):
            ask()


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("how", ["zeros", "cut", "gone"])
def test_without_its_vector_index_a_table_is_compared_row_by_row(
    whole: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, at_hand: bool
) -> None:
    exact = open_table(whole, engine=WordEngine()).search("red shoe", exact=True)["id"].to_pylist()
    table = open_table(damage(whole, tmp_path, "vector", how), engine=WordEngine())
    assert not at_hand or table.warm()
    for _ in range(2):
        assert table.search("red shoe")["id"].to_pylist() == exact
    (line,) = caplog.messages
    assert "the index vector_idx of vector is damaged" in line


def test_a_hole_that_only_a_search_meets_is_told_and_a_server_leaves_the_index_out(
    whole: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script, server = (
        open_table(damage(whole, tmp_path / name, "vector", "hole", "auxiliary.idx"), engine=WordEngine())
        for name in ("a", "b")
    )
    with pytest.raises(DamagedIndex, match="vector_idx"):
        script.search("red shoe")
    assert server.warm()
    assert len(server.search("red shoe")) == 10
    assert any("vector_idx of vector is damaged" in line for line in caplog.messages)


def test_where_a_damaged_graph_leads_nowhere_every_row_is_compared(tmp_path: Path) -> None:
    """Lance finds nothing then, and says so to nobody but stderr."""
    (tmp_path / "copy").mkdir()
    uri = make_table(tmp_path, TableOptions(rows=300))
    build_index(uri, IndexOptions(kind="hnsw_sq", measure_recall=False))
    table = open_table(damage(uri, tmp_path / "copy", "vector", "stretch", "index.idx"), engine=WordEngine())
    assert table.snapshot.vector_index("vector") is not None
    for asked in ({}, {"where": "views < 250"}):
        exact = table.search("red shoe", exact=True, **asked)["id"].to_pylist()
        assert table.search("red shoe", **asked)["id"].to_pylist() == exact
        assert len(exact) == 10


def test_that_rows_without_a_vector_are_none_that_an_index_misses_is_found_once(
    whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bool] = []
    scan = nearest._scan

    def scanned(*asked: Any) -> pa.Table:
        compared.append(not asked[-1].use_index)
        return scan(*asked)

    monkeypatch.setattr(nearest, "_scan", scanned)
    table = open_table(whole, engine=WordEngine())
    for _ in range(2):  # 7 of 600 have none
        assert table.search("red shoe", k=600).num_rows == table.count("vector IS NOT NULL") == 593
    assert compared.count(True) == 1 < compared.count(False)


def test_of_an_index_of_other_distances_one_line_is_said_and_none_by_lance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """As LanceDB makes them unless it is told otherwise."""
    uri = make_table(tmp_path, TableOptions(rows=300))
    lance.dataset(f"{uri}.lance").create_index("vector", "IVF_FLAT", metric="l2", num_partitions=2)
    table = open_table(uri, engine=WordEngine())
    found = [table.search("red shoe", k=5)["id"].to_pylist() for _ in range(3)]
    assert found == [table.search("red shoe", k=5, exact=True)["id"].to_pylist()] * 3
    (line,) = [one for one in caplog.messages if "index" in one and "create" not in one]
    assert "the index vector_idx of vector is of l2 distances: every row is compared instead" in line
    assert "WARN" not in capfd.readouterr().err


def test_a_damaged_index_is_told_and_built_anew_where_that_is_asked_for(
    whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = damage(whole, tmp_path, "vector", "gone")
    assert clipmill(["index", uri]) == 1
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error == "error: the index vector_idx of vector is damaged, or files of it are gone"
    assert "--rebuild" in hint
    assert clipmill(["index", uri, "--rebuild", "--kind", "ivf_rq"]) == 0
    assert open_table(uri).snapshot.vector_index("vector") is not None
