"""Rows whose ledger, rejects or runs somebody removed: no command says that there is no table, and upkeep goes on."""

import shutil
from pathlib import Path

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.table.tables import SIDE_TABLES, Tables
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.config import Storage
from tests.tables import TableOptions, make_table

COMMANDS = {
    "rejects HERE": "but not images__rejects, which lay beside it",
    "publish HERE": "nothing is published yet",
    "rollback HERE --to 1": "nothing of HERE is published",
    "promote HERE x": "has no set 'x'",
    "drop HERE --set x": "has no set 'x'",
    "delete HERE --ids IDS --yes": "deleted",
    "maintain HERE": "20 rows in 1 fragment",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_rows_alone_are_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    uri = make_table(tmp_path, TableOptions(rows=20))
    ids = tmp_path / "ids.txt"
    ids.write_text("row-000001\n")
    cli.run(command.replace("HERE", uri).replace("IDS", str(ids)).split())
    told = "".join(capsys.readouterr())
    assert COMMANDS[command].replace("HERE", uri) in told
    assert "there is no table" not in told


@pytest.mark.parametrize("part", SIDE_TABLES)
def test_what_lies_beside_the_rows_is_made_again_by_upkeep(tmp_path: Path, part: str) -> None:
    uri = make_table(tmp_path, TableOptions(rows=20))
    tables = Tables.at(uri)
    assert cli.run(["maintain", uri]) == 0
    shutil.rmtree(tables.place(part))
    gone = f"the table images__{part} is gone"
    assert gone in verify(uri, Storage()).problems
    assert cli.run(["maintain", uri]) == 0
    assert gone not in verify(uri, Storage()).problems
