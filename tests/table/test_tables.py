"""Opening a table: what a user's mistake looks like."""

from typing import Any

import pytest

from clipmill.jobs.table import tables
from clipmill.schemas.config import Storage
from clipmill.schemas.errors import UserError


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
