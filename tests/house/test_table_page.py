"""docs/table.md is what strangers read the table by: it has every column with its type, and every reason."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from clipmill.schemas import columns
from clipmill.schemas.unit.rejects import Reason

PAGE = (Path(__file__).parents[2] / "docs" / "table.md").read_text()
SECTIONS = dict(zip(re.findall(r"^## `(.*?)`", PAGE, re.M), re.split(r"^## ", PAGE, flags=re.M)[1:], strict=True))

MORE = pa.schema([columns.ORIENTATION_FIELD, columns.PHASH])
ROWS = columns.rows_schema(dim=512, keep={}, fingerprint_json="{}", vocabulary_json=None, thumbnails=True, more=MORE)
TABLES = {
    "<name>": ROWS,
    "<name>__units": columns.UNITS,
    "<name>__rejects": columns.REJECTS,
    "<name>__deleted": columns.DELETED,
    "<name>__runs": columns.RUNS,
}


def _type(field: pa.Field) -> str:
    text = str(field.type).replace("item: ", "").replace("[512]", "[D]")
    return text if field.nullable else f"{text}, not null"


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_there_with_its_type_and_none_besides(name: str) -> None:
    listed = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", SECTIONS[name], re.M)
    named = {column: kind for column, kind in listed if name != "<name>__rejects" or column not in set(Reason)}
    assert named == {field.name: _type(field) for field in TABLES[name]}


def test_every_reason_is_there_with_what_to_do() -> None:
    listed = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", SECTIONS["<name>__rejects"], re.M)
    assert [reason for reason in listed if reason in set(Reason)] == list(Reason)
