"""Opening a table: where it lies, by whatever name, and what a user's mistake looks like."""

from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.table import tables
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.secrets import named, one_line
from clipmill.workers.store.storage import list_objects
from tests.committed import make_tables
from tests.conftest import S3


def test_a_bucket_that_nobody_knows_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the one that lance 13 raises, with its source line left out."""

    class Lance:
        @staticmethod
        def dataset(*_: Any, **__: Any) -> None:
            raise ValueError("LanceError(IO): Generic S3 error: Failed to resolve region for bucket 'nowhere'")

    monkeypatch.setattr(tables, "lance_module", lambda: Lance)
    with pytest.raises(UserError, match=r"s3://nowhere/db: no S3 server says in which region") as caught:
        tables.Tables.at("s3://nowhere/db/images", Storage()).open(missing_ok=True)
    assert "storage.region" in caught.value.hint


@pytest.mark.parametrize(
    ("typed", "database", "name"),
    [
        ("s3://lake/db/images/", "s3://lake/db", "images"),
        ("s3a://lake/100%/images.lance", "s3://lake/100%25", "images"),
        ("s3://lake/a%23b/c#d", "s3://lake/a%23b", "c%23d"),
        ("file:///db/./x/../images", "/db", "images"),
        ("/db/50%25 off/images", "/db/50%25 off", "images"),
    ],
)
def test_one_place_has_one_spelling(typed: str, database: str, name: str) -> None:
    found = tables.Tables.at(typed)
    assert (found.database, found.name, found.place("units")) == (database, name, f"{database}/{name}__units.lance")
    assert tables.Tables.at(f"{found.database}/{found.name}") == found


@pytest.mark.parametrize("typed", ["images", "/images", "file:///images", "s3://lake", "s3://lake/", "db/..", "."])
def test_what_is_no_table_is_not_taken_for_one(typed: str) -> None:
    with pytest.raises(UserError, match="is not a table"):
        tables.Tables.at(typed)


@pytest.mark.parametrize("typed", ["s3://lake/db//images", "s3://lake/db/../images", "/db/caf%E9/images"])
def test_what_lance_cannot_be_told_is_one_sentence(typed: str) -> None:
    with pytest.raises(UserError, match="no Lance table can be at"):
        tables.Tables.at(typed).exists()


@pytest.mark.s3
@pytest.mark.parametrize("folder", ["a#b", "a%23b", "a%20b", "50% é?"])
def test_in_a_bucket_lance_and_the_readers_look_into_the_same_folder(s3: S3, folder: str) -> None:
    at = f"{s3.uri}/{folder.replace('%', '%25').replace('#', '%23')}"
    made = make_tables(at, storage=s3.storage)
    assert {Path(key).parts[:2] for key in s3.keys(folder)} == {(folder, "db")}
    for part in ("", "units"):
        assert made.exists(part)
        assert list(list_objects(f"{made.place(part)}/_versions/", s3.storage))


def test_a_change_is_tried_again_while_other_commits_are_in_the_way_and_not_for_ever(tmp_path: Path) -> None:
    made = make_tables(tmp_path)
    tries: list[int] = []

    def change(rows: Any) -> str:
        tries.append(int(rows.version))
        made.open().update_config({"mine": str(len(tries))})  # another driver, a moment before
        if len(tries) < 3:
            raise OSError("Incompatible transaction: there was another")
        return "done"

    assert made.change(change, what="it could not be done") == "done"
    assert tries == [tries[0], tries[0] + 1, tries[0] + 2], "each on the newest version"

    def in_the_way(rows: Any) -> None:
        raise OSError("Commit conflict for version 3")

    with pytest.raises(ClipmillError, match="it could not be done: 50 tries met other commits"):
        made.change(in_the_way, what="it could not be done")
    with pytest.raises(FileNotFoundError):
        made.change(lambda rows: (tmp_path / "none").read_bytes(), what="it could not be done")


def test_what_another_program_says_is_shown_on_a_line_and_without_credentials() -> None:
    url = f"https://bucket.s3.amazonaws.com/a?X-Amz-Credential={'AKIA' + 16 * 'X'}&X-Amz-Signature=abcdef&x=1"
    said = one_line(OSError(f"403 Forbidden\nfor url: {url} by http://me@host/ or s3://me:mine@host/"))
    assert not any(secret in said for secret in ("AKIA", "abcdef", "me@", "mine"))
    assert said.startswith("403 Forbidden for url: https://bucket.s3.amazonaws.com/a?")
    assert one_line(TimeoutError()) == "TimeoutError"
    assert len(one_line("x" * 1000, 300)) == 300
    assert "mine" not in named(OSError("x" * 480 + " s3://me:mine-and-nobodys@host/"))
