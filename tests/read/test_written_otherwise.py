"""Lists that are written otherwise than one reads them: a sentence that says what is wrong, not a reject a row."""

import base64
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.workers.read.remote import BadUri, allowed_uri
from tests.build import picture


def test_a_picture_written_as_text_is_no_address() -> None:
    for text in (
        "data:image/png;base64,iVBORw0KGgo=",
        base64.b64encode(picture(1)).decode(),
        base64.urlsafe_b64encode(picture(1, kind="PNG")).decode(),
    ):
        with pytest.raises(BadUri, match="a picture written as text, and no address"):
            allowed_uri(text, "/lists/l.csv")
    assert allowed_uri("/9j/x.jpg", "/lists/l.csv") == "/9j/x.jpg"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "path;caption\na.jpg;x\n", "parts its columns by ;, and a .csv is read by ,"),
        ("a.csv", "path\tcaption\na.jpg\tx\n", "parts its columns by a tab, and a .csv is read by ,"),
        ("a.tsv", "path,caption\na.jpg,x\n", "parts its columns by ,, and a .tsv is read by a tab"),
    ],
)
def test_columns_that_are_parted_otherwise_are_told(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(said)):
        list(survey(Source(format="manifest", uri=str(tmp_path / name)), Storage(), Limits()))


def test_pictures_inside_a_list_are_another_format(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": picture(1), "path": "a.jpg"}]}), tmp_path / "a.parquet")
    source = Source(format="manifest", uri=f"{tmp_path}/a.parquet")
    with pytest.raises(UserError, match=r"column image of .* holds pictures") as told:
        list(survey(source, Storage(), Limits()))
    assert told.value.hint == "set source.format: parquet"
