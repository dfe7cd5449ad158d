"""`clipmill select` as one types it: from a recipe to ids, a card and a tag, on to `export`; and every mistake in a
recipe as one sentence that names the step."""

import io
import json
import sys
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.maintaining.maintain import maintain_table
from clipmill.jobs.querying.lists import read_ids
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from tests.committed import make_tables
from tests.conftest import S3
from tests.tables import TableOptions, append, make_table

RECIPE = "name: cc\nsteps:\n- where: \"license = 'cc0'\"\n- sample: {n: 40, seed: 1}\n"


@pytest.fixture
def uri(tmp_path: Path) -> str:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return make_table(tmp_path, TableOptions(rows=300))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table that nobody writes to."""
    return make_table(tmp_path_factory.mktemp("untouched"), TableOptions(rows=20))


def test_from_a_recipe_to_an_export(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, ids = str(tmp_path / "recipe.yaml"), str(tmp_path / "ids.parquet")
    typed = ["select", uri, recipe, "--out", ids, "--card", str(tmp_path / "card.md"), "--tag", "cc-1", "--json"]
    assert cli.run(typed) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(s["before"], s["left"], s["after"]) for s in said["steps"]] == [(300, 200, 100), (100, 60, 40)]
    assert said["tag"] == "cc-1"
    version = lance.dataset(f"{uri}.lance").version
    assert lance.dataset(f"{uri}.lance").tags.list()["cc-1"]["version"] == version
    card = json.loads((tmp_path / "card.json").read_text())
    assert card == said
    assert "kept by the tag `cc-1`" in (tmp_path / "card.md").read_text()
    append(uri, TableOptions(rows=60, start=300))  # the newest version moves on
    for ending in ("csv", "txt", "parquet"):
        again = str(tmp_path / f"again.{ending}")
        assert cli.run(["select", uri, recipe, "--version", "cc-1", "--out", again]) == 0
        assert read_ids(again) == read_ids(ids)
        out = tmp_path / ending
        assert cli.run(["export", uri, "--to", str(out), "--ids", again]) == 0
        assert sorted(pq.read_table(out / "part-00000.parquet")["id"].to_pylist()) == list(read_ids(ids))
    assert Path(tmp_path / "again.parquet").read_bytes() == Path(ids).read_bytes()
    assert cli.run(["select", uri, recipe, "--out", ids, "--tag", "cc-1"]) == 2  # a tag does not move
    assert "does not move" in capsys.readouterr().err
    assert cli.run(["select", uri, recipe, "--version", "cc-1", "--out", ids, "--tag", "cc-1"]) == 0


def test_a_dry_run_writes_nothing_and_an_empty_result_is_told(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    typed = [str(tmp_path / "recipe.yaml"), "--dry-run", "--card", str(tmp_path / "c.md"), "--tag", "t"]
    assert cli.run(["select", uri, *typed]) == 0
    assert "40 of 300 rows" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert "t" not in lance.dataset(f"{uri}.lance").tags.list()
    (tmp_path / "none.yaml").write_text("- where: views < 0\n- sample: {n: 3}\n")
    assert cli.run(["select", uri, str(tmp_path / "none.yaml"), "--out", str(tmp_path / "none.txt")]) == 3
    assert "no row is left after step 1, where" in capsys.readouterr().err
    assert (tmp_path / "none.txt").read_text() == ""


def test_recipes_that_come_along_are_listed_and_shown(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["select", "--list"]) == 0
    assert "datacomp-clip-score" in capsys.readouterr().out
    assert cli.run(["select", "--show", "datacomp-clip-score"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert cli.run(["select", uri, str(tmp_path / "mine.yaml"), "--dry-run", "--json"]) == 0
    mine = json.loads(capsys.readouterr().out)
    assert cli.run(["select", uri, "datacomp-clip-score", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == mine


def test_maintenance_keeps_the_version_of_a_tag(tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    uri = f"{tables.database}/{tables.name}"
    (tmp_path / "all.yaml").write_text("- where: width > 0\n")
    version = tables.open().version
    assert cli.run(["select", uri, str(tmp_path / "all.yaml"), "--out", str(tmp_path / "i.csv"), "--tag", "kept"]) == 3
    for _ in range(3):
        maintain_table(uri, Storage(), say=lambda _: None, keep=timedelta(0))
    there = [one["version"] for one in tables.open().versions()]
    assert version in there
    assert Tables.at(uri).open(version=version).count_rows() == 0


# What is wrong -> the beginning of what is said after the file's name, and a part of the hint.
MISTAKES = {
    "": ("is not a recipe: it holds no keys", "start it with `steps:`"),
    "steps: []": ("has no steps", "- score:"),
    "stepz: []": ("line 1: 'stepz' is not a known key", "did you mean `steps`"),
    "score: {column: caption_score, top: 0.3}": ("line 1: 'score' is not a known key", "goes under `steps:`"),
    "- scor: {top: 0.3}": ("line 1, step 1: 'scor' is no operator", "did you mean `score`"),
    "- where: width > 5\n- 7": ("line 2, step 2 is 7; each has one", "- score:"),
    "- {where: width > 5, sample: {n: 1}}": ("line 1, step 1 has 2 operators", "- score:"),
    "- where: widht > 5": ("line 1, step 1 (where): the filter names widht", "did you mean width"),
    "- where: 5": ("line 1, step 1 (where): 'where' must be text, not 5", "where:"),
    "- where: repeat(caption, 10) = ''": ("line 1, step 1 (where): the filter calls repeat", "there is"),
    "- size: big": ("line 1, step 1 (size): must be a section", "min_side"),
    "- size: {}": ("line 1, step 1 (size): takes at least one of min_width", "min_side"),
    "- sample:\n    share: 1.5": ("line 2, step 1 (sample): 'share' must be at most 1, not 1.5", "share: 0.1"),
    "- sample: {n: 3, share: 0.1}": ("line 1, step 1 (sample): takes exactly one of n and share", "share"),
    "- sample: {n: true}": ("line 1, step 1 (sample): 'n' must be a whole number, not 'true'", "share"),
    "- score: {column: caption_score, topp: 0.3}": ("line 1, step 1 (score): 'topp' is not", "did you mean `top`"),
    "- score: {column: caption_scor, top: 0.3}": ("line 1, step 1 (score): caption_scor is no column", "caption_score"),
    "- score: {column: qqq, top: 0.3}": ("line 1, step 1 (score): qqq is no column", "shard (a head's column is"),
    "- score: {column: caption, top: 0.3}": ("line 1, step 1 (score): the column caption holds no", "caption_score"),
    "- score: {column: views}": ("line 1, step 1 (score): takes either top, or at_least", "top: 0.3"),
    "- score: {column: views, at_least: 2, at_most: 1}": ("(score): asks for at least 2 and at most 1,", "top: 0.3"),
    "- caption: {min_words: 5, max_words: 2}": ("(caption): asks for 5 words and more, and 2 at most", "min_words"),
    "- score: {column: views, at_least: .nan}": ("line 1, step 1 (score): 'at_least' must be", "top: 0.3"),
    "- score: {tag: dog, tags: tags__no, top: 1}": ("line 1, step 1 (score): tags__no is no column of tags", "tags"),
    "- tags: {any: dog, column: caption}": ("line 1, step 1 (tags): caption is no column of tags", "tags"),
    "- duplicates: {keep: bigger}": ("line 1, step 1 (duplicates): 'keep' must be one of largest", "keep: largest"),
    "- duplicates: {keep: best}": ("line 1, step 1 (duplicates): takes order_by where keep is best", "keep"),
    "- per_cluster: {clusters: 5}": ("line 1, step 1 (per_cluster): 'at_most' is missing", "at_most: 50"),
    "- diverse: {n: 5, column: caption}": ("line 1, step 1 (diverse): caption is no vector column", "vector"),
    "- near: {picture: nowhere.jpg, top: 0.1}": ("line 1, step 1 (near): there is no image file", "check the path"),
    "- near: {picture: 's3://me:hunter2@b/x', top: 1}": ("carries a user name and password", "AWS"),
    "- mirror: {}": ("line 1, step 1 (mirror): takes either top, or at_least", "top: 0.5"),
    "- colour: {at_least: 0.9}": ("line 1, step 1: 'colour' is no operator", "there is: where"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_recipe_is_one_sentence_that_names_the_step(
    text: str, untouched: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert cli.run(["select", untouched, str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "out.parquet")]) == 2
    error, hint = capsys.readouterr().err.strip().splitlines()[-2:]
    said, fix = MISTAKES[text]
    assert said in error
    assert "bad.yaml" in error
    assert fix in hint
    assert "hunter2" not in error + hint
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("TABLE datacomp-basik --dry-run", "there is no recipe 'datacomp-basik'"),
        ("TABLE nowhere.yaml --dry-run", "the recipe nowhere.yaml cannot be read"),
        ("TABLE dfn", "nothing says where the ids go"),
        ("TABLE dfn --out ids.json", "--out ids.json ends in none of .parquet"),
        ("TABLE dfn --out ids.txt --card card.html", "--card card.html is no .md file"),
        ("TABLE dfn --out ids.txt --tag live", "the tag 'live' is clipmill's own"),
        ("TABLE dfn --out ids.txt --tag clipmill-fence", "is clipmill's own"),
        ("TABLE dfn --out ids.txt --tag 12", "would be read as the number of a version"),
        ("TABLE dfn --out ids.txt --tag a/b", "'a/b' is no name of a tag"),
    ],
)
def test_a_mistake_on_the_command_line(
    typed: str,
    said: str,
    untouched: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["select", *typed.replace("TABLE", untouched).split()]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("ids.*"))


@pytest.mark.parametrize("typed", ["--out file/ids.csv", "--out folder.csv", "--out ids.csv --card file/card.md"])
def test_a_place_that_takes_no_file_is_named(
    typed: str, untouched: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("folder.csv").mkdir()
    Path("all.yaml").write_text("- where: width > 0\n")
    assert cli.run(["select", untouched, "all.yaml", *typed.split()]) == 2
    said = capsys.readouterr().err
    assert "cannot be written: " in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*.part"))


def test_without_the_extra_a_language_is_told_with_what_brings_it(
    untouched: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipmill.jobs.selecting import language

    language._library.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid", None)
    assert cli.run(["select", untouched, "datacomp-basic", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "step 2 (caption): the language of captions needs py3langid" in said
    assert "clipmill[languages]" in said


def test_lists_of_ids_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("a,b\nc\n")  # no header that names id: a line each, as ever
    assert read_ids(str(tmp_path / "plain.csv")) == ("a,b", "c")
    (tmp_path / "named.csv").write_text('uri,id\nx,"a,b"\ny,c\n')
    assert read_ids(str(tmp_path / "named.csv")) == ("a,b", "c")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        read_ids(str(tmp_path / "cut.parquet"))


@pytest.mark.s3
def test_a_table_in_s3_gives_its_list_its_card_and_its_tag_there(
    s3: S3, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.upload(Path(f"{uri}.lance"), "db/images.lance/")
    there, recipe = f"{s3.uri}/db/images", str(tmp_path / "recipe.yaml")
    out = ["--out", f"{s3.uri}/set/ids.parquet", "--card", f"{s3.uri}/set/card.md", "--tag", "cc-1"]
    assert cli.run(["select", there, recipe, *out]) == 0
    assert cli.run(["select", uri, recipe, "--out", str(tmp_path / "ids.parquet")]) == 0
    stored = pq.read_table(io.BytesIO(s3.get("set/ids.parquet")))
    assert stored.equals(pq.read_table(tmp_path / "ids.parquet"))  # but for the address in its metadata
    assert json.loads(s3.get("set/card.json"))["tag"] == "cc-1"
    assert "cc-1" in Tables.at(there, s3.storage).open().tags.list()
    ids = f"{s3.uri}/set/ids.parquet"
    assert cli.run(["export", there, "--ids", ids, "--to", str(tmp_path / "out")]) == 0
    written = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert sorted(written["id"].to_pylist()) == sorted(stored["id"].to_pylist())
    s3.client.delete_object(Bucket=s3.bucket, Key="set/ids.parquet")
    capsys.readouterr()
    assert cli.run(["export", there, "--ids", ids, "--to", str(tmp_path / "more")]) == 2
    assert "hint: check the spelling" in capsys.readouterr().err
    assert cli.run(["delete", there, "--ids", "s3://me:hunter2@b/ids.txt", "--dry-run"]) == 2
    assert "hunter2" not in capsys.readouterr().err
