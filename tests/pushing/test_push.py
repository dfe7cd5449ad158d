"""`clipmill push` to a folder: what is in it, that others load it, and that nothing of this machine is."""

import errno
import json
import os
import shlex
import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.importing.request import ImportOptions, Names
from clipmill.jobs.importing.sources import find
from clipmill.jobs.planning.models import by_tag, license_of
from clipmill.jobs.pushing import files
from clipmill.jobs.pushing.push import push
from clipmill.jobs.pushing.request import PushOptions, parse_target
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table.proof import UNPROVEN, marked, metadata
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Model, Storage
from tests.pushing.tables import ROWS, make_pushed
from tests.tables import TableOptions, WordEngine, append, fingerprint, make_table


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table that nobody writes to."""
    return make_pushed(tmp_path_factory.mktemp("pushed"))


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.run(["push", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def card_of(folder: Path) -> Any:
    hub = pytest.importorskip("huggingface_hub")
    return hub.DatasetCard.load(folder / "README.md")


def read(folder: Path, config: str) -> pa.Table:
    """As the card says that a configuration is read."""
    (found,) = [one for one in card_of(folder).data.configs if one["config_name"] == config]
    (split,) = found["data_files"]
    assert split["split"] == "train"
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob(split["path"]))])


def test_a_folder_has_rows_rejects_and_a_card(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    code, printed, told = call(capsys, uri, str(out), "--shard-rows", "25", "--json")
    assert code == 0, told
    assert "25 of 60 rows\n50 of 60 rows\n60 rows and 2 rejects written" in told
    report = json.loads(printed)
    assert (report["rows"], report["rejects"], report["files"], report["license"]) == (60, 2, 6, "other")
    assert sorted(p.name for p in (out / "data").iterdir()) == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    rows, table = read(out, "default"), lance.dataset(f"{uri}.lance").to_table()
    assert rows["vector"].to_pylist() == table["vector"].to_pylist()
    assert rows["caption"].to_pylist() == table["caption"].to_pylist()
    assert rows["uri"].to_pylist() == rows["id"].to_pylist() == [os.path.basename(u) for u in table["uri"].to_pylist()]
    assert {"unit_id", "image_hash", "license"} <= set(rows.column_names)
    assert not {"source_etag", "thumbnail"} & set(rows.column_names)
    rejects = {one["reason"]: one for one in read(out, "rejects").to_pylist()}
    assert rejects["corrupt"] == {"id": "b d.jpg", "uri": "b d.jpg", "reason": "corrupt", "detail": "as a.jpg"}
    assert rejects["bad_uri"]["uri"] == "…/secret"
    assert rejects["bad_uri"]["detail"] == "…/secret is no picture"
    assert os.stat(out).st_mode & 0o777 == os.stat(tmp_path).st_mode & 0o777 | 0o755 & ~_umask()
    assert [p.name for p in out.parent.iterdir()] == ["out"], "and nothing half-written beside it"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_in_it_names_this_machine(uri: str, tmp_path: Path) -> None:
    for form in ("parquet", "lance"):
        out = tmp_path / form
        push(open_table(uri), PushOptions(folder=str(out), form=form))  # type: ignore[arg-type]
        home = str(Path(uri).parent).encode()
        for name, data in contents(out).items():
            assert not [one for one in (home, b"/mine/", b"/etc/") if one in data], name
        for name in (out / "data").rglob("*.parquet"):  # compressed, so read
            text = json.dumps(pq.read_table(name).to_pylist(), default=str)
            assert "/mine/" not in text


def test_the_card_is_one_that_the_hub_takes_and_says_what_the_ledger_says(uri: str, tmp_path: Path) -> None:
    push(open_table(uri), PushOptions(folder=str(tmp_path / "out"), where="license = 'cc0'"))
    card = card_of(tmp_path / "out")
    assert card.data.license == "cc0-1.0"
    assert card.data.size_categories == ["n<1K"]
    assert [one["config_name"] for one in card.data.configs] == ["default", "rejects"]
    text = card.text
    for said in (
        "20 pictures",
        "of whose 60 rows those for which `license = 'cc0'` holds",
        fingerprint().weights_sha256,
        "Of the whole table, as are the rejects: the filter chose among its rows.",
        "| samples read | 62 |",
        "| rows | 60 |",
        "| of them in this data set | 20 |",
        "| rejected | 2 |",
        "| `corrupt` | 1 |",
        "heic 3",
        "| cc0 | 20 |",
        "The weights of words none: a licence of their own, which is not known here.",
        "load_dataset(",
    ):
        assert said in text, said
    assert "does not add up" not in text
    facts = json.loads((tmp_path / "out" / "clipmill.json").read_text())
    assert facts["sums"]["seen"] == facts["sums"]["rows"] + facts["sums"]["rejected"]
    assert (facts["rows"], facts["licenses"], sum(facts["rejects"].values())) == (20, {"cc0": 20}, 2)
    assert pq.read_table(tmp_path / "out" / "data").num_rows == 20
    assert facts["models"]["vector"]["weights_sha256"] == fingerprint().weights_sha256


@pytest.mark.parametrize("form", ["parquet", "lance"])
def test_a_folder_and_all_in_it_may_be_read_by_whom_the_umask_lets(
    uri: str, tmp_path: Path, form: Any, as_umask: Callable[[int], None]
) -> None:
    for mask in (0o022, 0o007):
        as_umask(mask)
        out = tmp_path / f"{mask:o}"
        report = push(open_table(uri), PushOptions(folder=str(out), form=form, shard_rows=25))
        modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (out, *out.rglob("*"))}
        assert modes == {(True, 0o777 & ~mask), (False, 0o666 & ~mask)}
        sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
        assert (report.files, report.size_bytes) == (len(sizes), sum(sizes))
        facts = json.loads((out / "clipmill.json").read_text())
        assert facts["files"] == len(list((out / "data").rglob(f"*.{form}"))) - (form == "lance"), (
            "and the folder's name"
        )


@pytest.fixture
def as_umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda mask: os.umask(mask)
    os.umask(before)


def test_the_programs_of_the_card_run(uri: str, tmp_path: Path) -> None:
    """Those of lance, whose reader is at hand: what they find is what a search finds."""
    out = tmp_path / "out"
    push(open_table(uri), PushOptions(folder=str(out), form="lance"))
    program = (out / "README.md").read_text()
    search = next(line for line in program.splitlines() if line.startswith("best = "))
    words_D = WordEngine().encode_texts(["red shoe"])[0]
    known: dict[str, Any] = {"rows": lance.dataset(str(out / "data" / "train.lance")), "words_D": words_D}
    exec(search, known)
    expected = open_table(uri, engine=WordEngine()).search("red shoe", k=10)
    assert known["best"]["caption"].to_pylist() == expected["caption"].to_pylist()
    again = open_table(str(out / "data" / "train"), engine=WordEngine()).search("red shoe", k=10)
    assert again["caption"].to_pylist() == expected["caption"].to_pylist(), "clipmill search takes it as it is"
    assert lance.dataset(str(out / "rejects" / "train.lance")).count_rows() == 2


@pytest.mark.parametrize("form", ["parquet", "lance"])
@pytest.mark.parametrize("names", [("caption_vector", "vector", "uri", "id"), ("caption_vector", "caption")])
def test_the_commands_of_the_card_run_whatever_columns_were_asked_for(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, names: tuple[str, ...]
) -> None:
    """clipmill opens no data set of fewer columns than its own tables have, so there it says how to import one."""
    push(open_table(uri), PushOptions(folder=str(tmp_path / "images"), form=form, columns=names, license="cc0-1.0"))  # type: ignore[arg-type]
    lines = (tmp_path / "images" / "README.md").read_text().splitlines()
    (command,) = [one for one in lines if one.startswith("clipmill import")]
    assert not [one for one in lines if one.startswith("clipmill search images/data/train")]
    said = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    asked = dict(zip(said[3::2], said[4::2], strict=True))
    named = Names(id=asked.get("--id", ""), vector=asked.get("--vector", ""))
    options = ImportOptions(vectors=said[2], model=Model(name=asked["--model"]), names=named)
    chosen = find(options, Storage()).chosen
    assert (chosen.vector, chosen.id) == (("vector", "id") if "vector" in names else ("caption_vector", ""))


def test_one_version_gives_the_same_bytes_whatever_came_after(tmp_path: Path) -> None:
    uri = make_pushed(tmp_path)
    version = open_table(uri).version
    push(open_table(uri), PushOptions(folder=str(tmp_path / "one"), shard_rows=7))
    lance.dataset(f"{uri}.lance").tags.create("v1", version)
    append(uri, TableOptions(rows=5, start=1000))
    push(open_table(uri, version="v1"), PushOptions(folder=str(tmp_path / "two"), shard_rows=7))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    push(open_table(uri), PushOptions(folder=str(tmp_path / "new"), root=str(tmp_path / "mine" / "pictures")))
    assert read(tmp_path / "new", "default").num_rows == ROWS + 5
    assert "does not add up" in (tmp_path / "new" / "README.md").read_text(), "nobody told the ledger of these five"


def test_vectors_of_which_nobody_knows_the_model_are_told_so(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=10))
    said = marked(fingerprint(), "parquet", UNPROVEN, "no picture could be read")
    rows = lance.dataset(f"{uri}.lance").to_table()
    field = rows.schema.field("vector").with_metadata(metadata(said))
    rows = rows.set_column(rows.schema.get_field_index("vector"), field, rows["vector"])
    lance.write_dataset(rows, f"{uri}.lance", mode="overwrite")
    push(open_table(uri), PushOptions(folder=str(tmp_path / "out")))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "**Unproven.** These vectors were imported as those of words none" in text
    assert "no picture could be read" in text
    assert "Addresses are those of the source." in text
    assert "rejects" not in [one["config_name"] for one in card_of(tmp_path / "out").data.configs]


def test_the_licence_of_weights_is_what_their_card_says() -> None:
    assert license_of("ViT-B-16", "dfn2b") == "apple-amlr"
    own = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["license"]
    (tiny,) = by_tag("clipmill-tiny")
    assert license_of("clipmill-tiny", "") == tiny.license == own.lower() == "apache-2.0"
    assert license_of("ViT-B-16", "nobody") == license_of("nobody", "") == ""


def test_metadata_of_a_checkpoint_a_vocabulary_and_a_head_loses_its_paths(tmp_path: Path) -> None:
    from clipmill.jobs.pushing.facts import published
    from clipmill.schemas.columns import VOCABULARY_KEY, head_field

    mine = json.loads(fingerprint().to_json())
    mine |= {"pretrained": "/srv/me/weights/b32.pt", "provenance": {"preprocess_from": "/srv/me/weights/x.json"}}
    schema = pa.schema(
        [
            pa.field("vector", pa.list_(pa.float16(), 4), metadata={b"clipmill.fingerprint": json.dumps(mine)}),
            pa.field(
                "tags", pa.list_(pa.string()), metadata={VOCABULARY_KEY: '{"name": "v", "file": "/srv/me/v.yaml"}'}
            ),
            head_field("red", '{"hash": "1", "file": "s3://mine/red.pt", "given": {"head": "/srv/me/red.pt"}}'),
        ]
    )
    text = str([dict(field.metadata) for field in published(schema)])
    assert not [one for one in ("b32.pt", "red.pt", '"name": "v"') if one not in text]
    assert not [one for one in ("/srv/me", "s3://mine") if one in text]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--license", "CC BY 4.0"], "is no licence as the Hub names them"),
        (["--column", "id", "--column", "uri"], "nothing says under which licence this is published"),
        (["--license-column", "nobody"], "--license-column nobody is no column that is pushed"),
        (["--license-column", "views"], "--license-column views is int64, not text"),
        (["--where", "views > 1000"], "no row passes --where views > 1000"),
        (["--column", "nobody"], "nobody is no column of the table"),
        (["--version", "77"], "has no version 77"),
        (["--root", "/nowhere"], "holds a path of this machine"),
        (["--base", "https://u:p@example.org/"], "--base carries"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    code, _, told = call(capsys, uri, str(tmp_path / "out"), *options)
    assert code == 2
    assert said in told
    assert "hint:" in told
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_and_a_table_without_rows_are_refused(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, _, told = call(capsys, uri, str(tmp_path / "out"))
    assert (code, "is there already, and not empty" in told) == (2, True)
    (tmp_path / "out" / "mine.txt").unlink()
    assert call(capsys, uri, str(tmp_path / "out"))[0] == 0, "an empty one is taken"
    empty = make_table(tmp_path, TableOptions(rows=5), name="empty")
    lance.dataset(f"{empty}.lance").delete("true")
    code, _, told = call(capsys, empty, str(tmp_path / "two"))
    assert (code, "has no rows, so there is nothing to push" in told) == (2, True)
    assert not (tmp_path / "two").exists()


def test_a_link_is_followed_and_what_cannot_give_way_is_refused_before_the_work(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far" / "empty").mkdir(parents=True)
    for link, leads_to in (("one", "far/empty"), ("two", "far/new")):
        (tmp_path / link).symlink_to(tmp_path / leads_to)
        assert call(capsys, uri, str(tmp_path / link))[0] == 0
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / leads_to / "README.md").exists()
    assert sorted(one.name for one in (tmp_path / "far").iterdir()) == ["empty", "new"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(files, "write_rows", None)
    assert "is where this command runs" in call(capsys, uri, ".")[2]
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "here")
    assert "is the root of a file system" in call(capsys, uri, str(tmp_path / "here"))[2]


def test_an_interrupted_push_leaves_nothing(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_rejects", interrupted)
    with pytest.raises(KeyboardInterrupt):
        push(open_table(uri), PushOptions(folder=str(tmp_path / "out")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["parquet", "lance"])
def test_what_is_wrong_with_a_row_is_told_by_either_format(uri: str, tmp_path: Path, form: Any) -> None:
    with pytest.raises(UserError, match=r"^the column uri holds a path of this machine, \S+.png \(hint: "):
        push(open_table(uri), PushOptions(folder=str(tmp_path / "out"), form=form, root="/nowhere"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_sentence(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    monkeypatch.setattr(pq.ParquetWriter, "close", lambda _: None)
    with pytest.raises(UserError, match=r"cannot be written in .*: No space left on device"):
        push(open_table(uri), PushOptions(folder=str(tmp_path / "out")))
    assert not list(tmp_path.iterdir())


def test_addresses_get_another_beginning_and_lose_their_signatures(tmp_path: Path) -> None:
    uri = make_pushed(tmp_path)
    base = "https://example.org/open"
    push(open_table(uri), PushOptions(folder=str(tmp_path / "out"), base=base, columns=("id", "uri", "license", "id")))
    rows = pq.read_table(tmp_path / "out" / "data")
    assert rows["uri"][0].as_py() == f"{base}/000000.png"
    assert f"below {base}/" in (tmp_path / "out" / "README.md").read_text()
    signed = "https://b.s3.amazonaws.com/1.jpg?X-Amz-Signature=abc"
    lance.dataset(f"{uri}.lance").update({"uri": f"'{signed}'"}, where="views = 3")
    report = push(open_table(uri), PushOptions(folder=str(tmp_path / "signed")))
    assert report.masked == 1
    assert pq.read_table(tmp_path / "signed" / "data")["uri"].to_pylist().count(signed.replace("abc", "***")) == 1


def test_credentials_in_lists_are_written_over(tmp_path: Path) -> None:
    uri = make_pushed(tmp_path)
    links = [[f"https://me:secret@example.org/{n}", "plain", None] if n % 3 == 0 else None for n in range(ROWS)]
    stored = lance.dataset(f"{uri}.lance")
    stored.add_columns(pa.table({"links": pa.array(links, pa.list_(pa.string()))}).to_reader())
    report = push(open_table(uri), PushOptions(folder=str(tmp_path / "out")))
    assert report.masked == ROWS // 3
    found = pq.read_table(tmp_path / "out" / "data")["links"].to_pylist()
    assert found == [one and [one[0].replace("me:secret", "***"), *one[1:]] for one in links]


def test_the_filter_on_the_card_names_nothing_of_this_machine(tmp_path: Path) -> None:
    uri = make_pushed(tmp_path)
    pictures = tmp_path / "mine" / "pictures"
    where = (
        f"uri LIKE '{pictures}/%' AND uri LIKE '{tmp_path}/mi%' AND uri != 'file://{tmp_path}/x' "
        "AND uri != 'https://me:secret@example.org/1.jpg'"
    )
    report = push(open_table(uri), PushOptions(folder=str(tmp_path / "out"), where=where))
    assert report.rows == ROWS
    shown = "uri LIKE '%' AND uri LIKE '…/mi%' AND uri != '…/x' AND uri != 'https://***@example.org/1.jpg'"
    assert json.loads((tmp_path / "out" / "clipmill.json").read_text())["where"] == shown
    card = (tmp_path / "out" / "README.md").read_text()
    assert shown in card
    assert str(tmp_path) not in card


def test_folders_with_nothing_in_common_are_not_published(tmp_path: Path) -> None:
    uri = make_pushed(tmp_path)
    lance.dataset(f"{uri}.lance").update({"uri": "'/elsewhere/1.jpg'"}, where="views = 3")
    with pytest.raises(UserError, match="folders of this machine that have nothing in common"):
        push(open_table(uri), PushOptions(folder=str(tmp_path / "out")))


def test_thumbnails_go_along_where_they_are_named(tmp_path: Path) -> None:
    uri = make_table(tmp_path, TableOptions(rows=10, thumbnails=True))
    push(open_table(uri), PushOptions(folder=str(tmp_path / "out"), columns=("id", "thumbnail"), license="other"))
    assert pq.read_table(tmp_path / "out" / "data").column_names == ["id", "thumbnail"]
    text = (tmp_path / "out" / "README.md").read_text()
    assert "It holds what is known of them; thumbnails of them are in it." in text
    assert 'rows = rows.cast_column("thumbnail", Image())' in text


@pytest.mark.parametrize(("kind", "said"), [("bigint", "perceptual hash of the upright picture"), ("string", "kept")])
def test_the_card_says_what_phash_is_and_takes_no_kept_column_for_it(tmp_path: Path, kind: str, said: str) -> None:
    uri = make_table(tmp_path, TableOptions(rows=10))
    lance.dataset(f"{uri}.lance").add_columns({"phash": f"cast(7 as {kind})"})
    push(open_table(uri), PushOptions(folder=str(tmp_path / "out"), columns=("id", "phash"), license="other"))
    (told,) = [
        line for line in (tmp_path / "out" / "README.md").read_text().splitlines() if line.startswith("| `phash`")
    ]
    assert said in told


def test_vectors_are_as_wide_as_asked(uri: str, tmp_path: Path) -> None:
    push(open_table(uri), PushOptions(folder=str(tmp_path / "out"), float32=True))
    rows = pq.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    assert rows.schema.field("vector").type == pa.list_(pa.float32(), 64)
    stored = lance.dataset(f"{uri}.lance").to_table()["vector"]
    assert np.array_equal(rows["vector"][0].as_py(), np.array(stored[0].as_py(), np.float32))


@pytest.mark.parametrize(
    ("to", "found"),
    [
        ("hf://me/x", ("me/x", "")),
        ("hf://datasets/me/x/", ("me/x", "")),
        ("out/x", ("", "out/x")),
    ],
)
def test_where_to(to: str, found: tuple[str, str]) -> None:
    assert parse_target(to) == found


@pytest.mark.parametrize(
    "to", ["", "hf://x", "hf://models/me/x", "hf://me/x@v1", "hf://me/../x", "s3://b/x", "hf://me/-x"]
)
def test_where_not_to(to: str) -> None:
    with pytest.raises(UserError) as told:
        parse_target(to)
    assert told.value.hint


@pytest.mark.parametrize("folder", ["", "s3://b/x"])
def test_a_dry_run_into_no_folder_sends_nothing(uri: str, capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, _, told = call(capsys, uri, "hf://me/x", "--dry-run", folder)
    said = f"--dry-run '{folder}' is no folder" if folder else "--dry-run was given nothing"
    assert (code, said in told) == (2, True)


@pytest.mark.parametrize("form", ["parquet", "lance"])
def test_datasets_loads_both_configurations(uri: str, tmp_path: Path, form: Any) -> None:
    datasets = pytest.importorskip("datasets")
    push(open_table(uri), PushOptions(folder=str(tmp_path / "out"), form=form))
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == ROWS
    assert rows.features["vector"].length == 64
    rejects = datasets.load_dataset(str(tmp_path / "out"), "rejects", split="train", cache_dir=str(tmp_path / "cache"))
    assert set(rejects["reason"]) == {"corrupt", "bad_uri"}
