"""The commands from the shell: JSON alone on stdout, mistakes as one sentence and a hint."""

import json
from pathlib import Path

import lance
import numpy as np
import pytest

from clipmill.jobs.cli.main import run
from tests.conftest import S3
from tests.tables import TableOptions, make_table


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return make_table(tmp_path, TableOptions(rows=240))


def ask(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict:
    assert run([*words, "--json"]) == code, capsys.readouterr().err
    answer: dict = json.loads(capsys.readouterr().out)
    return answer


def test_index_tags_and_dedup(uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    built = ask(capsys, "index", uri)
    assert built["vectors"][0]["done"] == "none"
    assert built["scalar"]["tags"] == "built"
    counted = ask(capsys, "tags", uri, "--where", "license = 'cc0'", "--column", "tags", "--column", "license")
    assert counted["license"]["values"] == [["cc0", 80]]
    found = ask(capsys, "dedup", uri, "--exact", "--keep-list", str(tmp_path / "keep.txt"))
    assert found["surplus"] == 0
    assert len((tmp_path / "keep.txt").read_text().splitlines()) == 240
    exported = ask(capsys, "export", uri, "--to", str(tmp_path / "out"), "--ids", str(tmp_path / "keep.txt"))
    assert exported["rows"] == 240


@pytest.mark.s3
def test_a_list_to_keep_is_written_by_its_name_here_or_in_a_store(
    s3: S3, uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lists = [f"{s3.uri}/lists/keep.parquet", str(tmp_path / "keep.csv")]
    lance.dataset(f"{uri}.lance").update({"image_hash": "'of both'"}, where="id IN ('row-000003', 'row-000007')")
    for number, to in enumerate(lists):
        assert ask(capsys, "dedup", uri, "--exact", "--keep-list", to)["surplus"] == 1
        exported = ask(capsys, "export", uri, "--to", str(tmp_path / f"out{number}"), "--ids", to)
        assert (exported["rows"], exported["unknown_ids"]) == (239, 0)
    assert (tmp_path / "keep.csv").read_text().splitlines()[0] == '"id"'
    lance.dataset(f"{uri}.lance").update({"id": "'two\nlines'"}, where="id = 'row-000009'")
    assert run(["dedup", uri, "--exact", "--keep-list", str(tmp_path / "k.txt")]) == 2
    assert "does not fit on a line" in capsys.readouterr().err
    assert run(["dedup", uri, "--exact", "--keep-list", "s3://me:hunter2@b/k.txt"]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_what_a_tag_names_is_counted_searched_for_copies_and_exported(
    uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lance.dataset(f"{uri}.lance").tags.create("clean", 1)
    lance.dataset(f"{uri}.lance").delete("id > 'row-000200'")
    for version, rows in (("clean", 240), ("1", 240), ("2", 201)):
        asked = ("--version", version)
        assert ask(capsys, "dedup", uri, "--exact", *asked)["rows"] == rows
        assert ask(capsys, "tags", uri, *asked)["tags"]["rows"] == rows
        assert ask(capsys, "export", uri, "--to", str(tmp_path / version), *asked)["rows"] == rows


def test_evaluate_and_score(uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    judged = ask(capsys, "evaluate", uri, "--plot", str(tmp_path / "plot.svg"))
    assert judged["retrieval"]["text_to_image"]["recall"]["10"] > 0.9
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    lance.dataset(f"{uri}.lance").delete("id > 'row-000200'")
    now, before = (ask(capsys, "evaluate", uri, *more) for more in ((), ("--version", str(judged["version"]))))
    assert now["rows"] < judged["rows"]
    assert before == judged
    lance.dataset(f"{uri}.lance").checkout_version(judged["version"]).restore()
    np.savez(tmp_path / "head.npz", weight=np.ones((1, 64), np.float32))
    scored = ask(capsys, "score", uri, "--head", str(tmp_path / "head.npz"), "--column", "beauty")
    assert (scored["rows"], scored["with_score"], scored["without_vector"]) == (240, 237, 3)
    assert lance.dataset(f"{uri}.lance").count_rows("beauty IS NOT NULL") == 237


def test_search_takes_what_python_takes(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    liked = ("search", uri, "--like", "row-000060", "-k", "3")
    by_vector = ask(capsys, *liked, "--exact")
    assert "tags" in by_vector[0]
    # Captions of red shoes have one vector, so all that is like this one is exactly like it.
    by_caption = ask(capsys, *liked, "--column", "caption_vector", "--columns", "id, caption", "--columns", "views")
    assert [set(row) for row in by_caption] == [{"id", "caption", "views", "score"}] * 3
    assert all("red shoe" in (row["caption"] or "red shoe") and row["score"] > 0.99 for row in by_caption)
    away = ask(capsys, *liked, "--not-like", "row-000061", "--columns", "id")
    assert [row["score"] for row in away] != [row["score"] for row in by_vector]
    assert run([*liked, "--columns", "id,views"]) == 0
    head = capsys.readouterr().out.splitlines()[0].split()
    assert head == ["score", "id", "views"]
    assert run([*liked, "--columns", "captoin"]) == 2
    assert "captoin is no column" in capsys.readouterr().err
    assert run([*liked, "--column", "caption"]) == 2
    assert "no vector column" in capsys.readouterr().err


def test_people_read_tables(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", uri]) == 0
    assert "searched exactly" in capsys.readouterr().out
    assert run(["tags", uri, "--top", "2"]) == 0
    assert "black" in capsys.readouterr().out
    assert run(["dedup", uri, "--exact"]) == 0
    assert "240 rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["index", "TABLE", "--memory", "lots"], "lots"),
        (["tags", "TABLE", "--where", "widht > 3"], "widht"),
        (["tags", "TABLE", "--column", "vector"], "vector"),
        (["dedup", "TABLE", "--threshold", "7"], "threshold"),
        (["export", "TABLE", "--to", "HERE"], "already holds"),
        (["evaluate", "TABLE", "--labels", "absent.csv"], "absent.csv"),
        (["score", "TABLE", "--head", "absent.pth"], "absent.pth"),
        (["serve", "TABLE", "--host", "0.0.0.0"], "token"),
        (["serve", "TABLE", "--version", "nope"], "nope"),
        (["index", "HERE/absent"], "absent"),
    ],
)
def test_mistakes_exit_with_2(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    named = [w.replace("TABLE", uri).replace("HERE", str(tmp_path)) for w in words]
    assert run(named) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "hint:" in err
