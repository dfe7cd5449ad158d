"""Opening a table: where it lies, by whatever name, and what a user's mistake looks like."""

from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.table import tables
from clipmill.schemas.config import Storage
from clipmill.schemas.errors import UserError
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
