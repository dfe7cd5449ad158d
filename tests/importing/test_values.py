"""What stands in somebody's columns: of the wrong kind it is refused before anything is written, and a value that
cannot be what it should is one bad row."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.importing.request import Imported, ImportOptions, Names
from clipmill.jobs.importing.run import import_vectors
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import rejects
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from tests.importing.files import DIM, MODEL


def columns(ids: range, **more: Any) -> dict[str, Any]:
    vectors_ND = np.random.default_rng(len(ids)).normal(size=(len(ids), DIM))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return {"id": [f"k{n}" for n in ids], "vector": pa.array(list(vectors_ND.astype("f4"))), **more}


def write(folder: Path, name: str = "a", *, ids: range = range(4), group: int = 1000, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table(columns(ids, **more)), path, row_group_size=group)
    return path


def bring(tmp_path: Path, **changes: Any) -> Imported:
    options = ImportOptions(vectors=str(tmp_path / "out"), model=MODEL, prove=0, **changes)
    return import_vectors(str(tmp_path / "db" / "images"), options, Storage())


def rows_of(tmp_path: Path) -> list[dict[str, Any]]:
    found = Tables.at(str(tmp_path / "db" / "images")).open().to_table().to_pylist()
    return sorted(found, key=lambda row: str(row["id"]))


def test_a_value_that_is_none_of_its_kind_is_one_bad_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(
        out,
        url=pa.array([b"s3://b/0", b"\xff\xfe", b"s3://b/2", None]),
        seen=pa.array([0, 1, 2**62, None], pa.timestamp("ms")),
        part=[1, 2, 3, 4],
        width=[3 * 10**9, 5, -5, None],
        height=[7, 7, 7, 7],
    )
    # Of a file without one value of a column parquet knows no kind; of some, pandas makes numbers with a point.
    write(out, "b", ids=range(4, 8), url=pa.nulls(4, pa.binary()), seen=pa.nulls(4), part=[None, 1.5, 2.0, 3.0],
          width=pa.nulls(4), height=pa.nulls(4))  # fmt: skip
    done = bring(tmp_path, names=Names(keep=("seen", "part")))
    assert (done.rows, done.rejects) == (5, {"bad_metadata": 3})
    said = rejects(str(tmp_path / "db" / "images"), Storage())
    why = dict(zip(said["id"].to_pylist(), said["detail"].to_pylist(), strict=True))
    assert {name: text.split(" cannot be ")[0] for name, text in why.items()} == {
        "k1": "its url",
        "k2": "its seen",
        "k5": "its part",
    }
    found = {row["id"]: (row["part"], row["width"]) for row in rows_of(tmp_path)}
    assert found == {"k0": (1, 0), "k3": (4, 0), "k4": (None, 0), "k6": (2, 0), "k7": (3, 0)}


@pytest.mark.parametrize(
    ("more", "names", "said"),
    [
        ({"caption": [["a"]] * 4}, Names(), r"column caption of .*a\.parquet holds list<.*text is wanted"),
        ({"key": [[1]] * 4}, Names(id="key"), r"column key of .*a\.parquet holds list<.*text is wanted"),
        ({"caption": ["a"] * 4}, Names(caption_vector="caption"), r"column caption of .*a\.parquet holds string"),
        ({"a.b": [1] * 4}, Names(keep=("a.b",)), r"--keep: 'a\.b' cannot be a column name"),
        ({"tags__x": [1] * 4}, Names(keep=("tags__x",)), "--keep: 'tags__x' is how the columns of a second model"),
    ],
)
def test_columns_of_the_wrong_kind_are_refused_before_anything_is_written(
    tmp_path: Path, more: dict[str, Any], names: Names, said: str
) -> None:
    write(tmp_path / "out", **more)
    with pytest.raises(UserError, match=said):
        bring(tmp_path, names=names)
    assert not (tmp_path / "db").exists()


def test_a_tables_own_scores_of_tags_are_not_taken_for_vectors(tmp_path: Path) -> None:
    """What `export` writes without --column: all but the vectors. All nulls, they made an empty table of rejects."""
    file = write(tmp_path / "out", tag_scores=pa.nulls(4, pa.list_(pa.float32())))
    whole = pq.read_table(file)
    pq.write_table(whole.drop_columns("vector"), file)
    with pytest.raises(UserError, match=r"a\.parquet has no column of vectors"):
        bring(tmp_path)
    assert not (tmp_path / "db").exists()
    pq.write_table(whole.rename_columns({"vector": "mine"}), file)
    assert bring(tmp_path).rows == 4  # nor are those one column of vectors too many


def test_a_later_file_with_another_kind_is_refused_too(tmp_path: Path) -> None:
    write(tmp_path / "out", part=[1, 2, 3, 4])
    write(tmp_path / "out", "b", ids=range(4, 8), part=["x"] * 4)
    with pytest.raises(UserError, match=r"column part of .*b\.parquet holds string, and int64 is wanted"):
        bring(tmp_path, names=Names(keep=("part",)))
    assert not (tmp_path / "db").exists()


def test_damaged_pages_are_named_with_their_file(tmp_path: Path) -> None:
    path = write(tmp_path / "out", ids=range(400), group=50)  # the first rows, which are looked at, are whole
    data = path.read_bytes()
    at = len(data) * 8 // 10
    path.write_bytes(data[:at] + b"\xff" * 300 + data[at + 300 :])
    for dry_run in (True, False):
        with pytest.raises(UserError, match=r"a\.parquet cannot be read: .") as told:
            bring(tmp_path, dry_run=dry_run)
        assert "copy it again" in told.value.hint
    assert rows_of(tmp_path) == []


def test_a_vocabulary_that_the_table_has_not_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "out")
    bring(tmp_path)
    with pytest.raises(UserError, match="made with no vocabulary, the job names vocabulary 'scenes'") as told:
        bring(tmp_path, vocabulary="scenes")
    assert "clipmill retag" in told.value.hint


def test_a_table_is_not_imported_into_itself(tmp_path: Path) -> None:
    write(tmp_path / "out")
    assert bring(tmp_path).rows == 4
    table = str(tmp_path / "db" / "images")
    (tmp_path / "link").symlink_to(f"{table}.lance")
    for name in (table, f"{table}.lance", f"file://{table}.lance/", f"{tmp_path}/./db/images", f"{tmp_path}/link"):
        with pytest.raises(UserError, match="is the table to be filled"):
            import_vectors(table, ImportOptions(vectors=name, model=MODEL, prove=0), Storage())
    assert len(rows_of(tmp_path)) == 4


@pytest.mark.parametrize(("names", "told"), [(Names(), True), (Names(id="#row"), False), (Names(id="key"), False)])
def test_rows_without_a_column_of_ids_are_said_to_be_called_by_their_place(
    tmp_path: Path, names: Names, told: bool
) -> None:
    path = write(tmp_path / "out")
    table = pq.read_table(path).rename_columns({"id": "key"})
    pq.write_table(table, path)
    said: list[str] = []
    options = ImportOptions(vectors=str(tmp_path / "out"), model=MODEL, prove=0, names=names, dry_run=True)
    import_vectors(str(tmp_path / "db" / "images"), options, Storage(), say=said.append)
    assert told == any("--id names a column" in text for text in said)
