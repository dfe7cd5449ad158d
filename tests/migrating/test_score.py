"""A linear head as a column: LAION's own head on LAION's own vectors, new rows, and files that are no head."""

import json
import pickle
import tempfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from clipmill.jobs.migrating.score import score
from clipmill.jobs.querying.open import open_table
from clipmill.schemas.columns import HEAD_KEY
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.heads import Head, HeadFile
from clipmill.workers import heads
from tests.tables import TableOptions, append, batch, fingerprint, make_table


def load_head(path: str, name: str = "aesthetic") -> Head:
    return heads.load_head(name, HeadFile(file=path))


def exact(head: Head, vector: np.ndarray) -> float:
    return float(vector @ head.layers[0].weight_OI[0] + head.layers[0].bias_O[0])


def head_file(folder: Path, dim: int = 64) -> Path:
    rng = np.random.default_rng(0)
    np.savez(folder / "head.npz", weight=rng.standard_normal((1, dim)).astype(np.float32), bias=np.float32([2.5]))
    return folder / "head.npz"


def test_the_aesthetic_head_reproduces_its_known_ordering(real_data: Path, tmp_path: Path) -> None:
    """LAION's ten vectors, one per rating: the head's scores must rise with them, to Spearman's rank correlation."""
    vectors = [np.load(real_data / "aesthetic_head/vit_b_32_embeddings" / f"rating{i}.npy")[0] for i in range(10)]
    options = TableOptions(rows=10, dim=512)
    table = batch(options)
    column = pa.array([v.astype(np.float16) for v in vectors], table.schema.field("vector").type)
    table = table.set_column(table.schema.get_field_index("vector"), table.schema.field("vector"), column)
    lance.write_dataset(table, tmp_path / "images.lance", enable_stable_row_ids=True)
    head = load_head(str(real_data / "aesthetic_head/sa_0_4_vit_b_32_linear.pth"))
    report = score(str(tmp_path / "images"), head)
    assert report.written == 10
    scored = open_table(str(tmp_path / "images")).get([f"row-{i:06d}" for i in range(10)], ("aesthetic",))
    values = np.array(scored["aesthetic"].to_pylist())
    known = np.array([exact(head, v) for v in vectors])
    np.testing.assert_allclose(values, known, atol=0.02)
    ranks = np.argsort(np.argsort(values))
    assert 1 - 6 * np.sum((ranks - np.arange(10)) ** 2) / 990 > 0.9


def test_scores_survive_deletes_and_new_rows_are_filled_in_later(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=200))
    append(uri, TableOptions(rows=100, start=200))
    lance.dataset(f"{uri}.lance").delete("views IN (10, 250)")
    head = load_head(str(head_file(tmp_path)))
    assert score(uri, head).written == 298 - 4  # every 97th vector, from 3, is null
    append(uri, TableOptions(rows=50, start=300))
    lance.dataset(f"{uri}.lance").tags.create("live", 1)
    again = score(uri, head)
    assert again.note.endswith(f": `clipmill publish {uri}` publishes the newest")
    assert (again.rows, again.with_score, again.without_vector, again.written) == (348, 344, 4, 50)
    assert score(uri, head).written == 0
    table = lance.dataset(f"{uri}.lance").to_table(columns=["views", "vector", "aesthetic"]).to_pylist()
    assert len(table) == 348
    for row in table:
        if row["vector"] is None:
            assert row["aesthetic"] is None
        else:
            stored = np.asarray(row["vector"], np.float64)
            expected = exact(head, stored / np.linalg.norm(stored))
            assert row["aesthetic"] == pytest.approx(expected, abs=1e-4)
    newest = lance.dataset(f"{uri}.lance").version
    assert len(open_table(uri, version=newest).search(where="aesthetic > 2.5", k=400)) == sum(
        r["aesthetic"] is not None and r["aesthetic"] > 2.5 for r in table
    )


def test_a_head_that_does_not_fit_or_a_taken_column_is_refused(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=20))
    with pytest.raises(UserError, match="512"):
        score(uri, load_head(str(head_file(tmp_path, dim=512))))
    head = load_head(str(head_file(tmp_path)))
    for column, word in (("caption", "already"), ("a b", "name"), ("a__b", "name")):
        with pytest.raises(UserError, match=word):
            score(uri, load_head(head.file, column))
    lance.dataset(f"{uri}.lance").add_columns(pa.field("own", pa.list_(pa.float32(), 64)))  # by another program
    for source in ("own", "caption", "absent"):
        with pytest.raises(UserError, match=f"{source} is no vector column"):
            score(uri, head, source=source)


def test_a_changed_head_is_computed_anew_and_readers_see_one_or_the_other(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=200))
    lance.dataset(f"{uri}.lance").create_scalar_index("views", "BTREE")
    head = load_head(str(head_file(tmp_path)))
    score(uri, head)
    lance.dataset(f"{uri}.lance").create_scalar_index("aesthetic", "BTREE", name="aesthetic_idx")
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other/head.npz", weight=np.ones((1, 64), np.float32))
    other = load_head(str(tmp_path / "other/head.npz"))
    seen: list[tuple[str, bool]] = []

    def look(step: str) -> None:
        table = lance.dataset(f"{uri}.lance").to_table(columns=["vector", "aesthetic"]).to_pylist()
        row = next(r for r in table if r["vector"] is not None)
        unit = np.asarray(row["vector"], np.float64)
        seen.append(
            (step.split()[0], row["aesthetic"] == pytest.approx(exact(other, unit / np.linalg.norm(unit)), abs=1e-4))
        )

    said: list[str] = []
    report = score(uri, other, say=said.append, step=look)
    assert (report.written, report.head) == (197, other.hash)
    assert any("head.npz" in line for line in said)
    assert seen == [("begin", False), ("fill", False), ("switch", False), ("index", True), ("drop", True)]
    rows = lance.dataset(f"{uri}.lance")
    assert not [name for name in rows.schema.names if "__" in name]
    assert {"aesthetic", "views"} == {name for index in rows.describe_indices() for name in index.field_names}
    about = json.loads(rows.schema.field("aesthetic").metadata[HEAD_KEY])
    assert (about["hash"], about["weights_sha256"]) == (other.hash, fingerprint(64).weights_sha256)
    assert score(uri, other).written == 0


MARK = Path(tempfile.gettempdir()) / "clipmill-was-here"


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(MARK), "w"))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "text.pth").write_text("hello")
    np.savez(tmp_path / "two.npz", a=np.ones((4, 4)), b=np.ones((1, 4)))
    np.savez(tmp_path / "nan.npz", weight=np.full((1, 4), np.nan))
    for name in ("evil.pth", "text.pth", "two.npz", "nan.npz", "absent.pth"):
        with pytest.raises(UserError):
            load_head(str(tmp_path / name))
    assert not MARK.exists()
