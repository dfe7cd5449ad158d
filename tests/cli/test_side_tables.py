"""Rows whose ledger, rejects or runs somebody removed: no command says that there is no table, and upkeep goes on."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.table.tables import SIDE_TABLES, Tables
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.job.config import Storage
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


def test_without_the_ledger_and_the_versions_that_tell_the_same_no_row_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = make_table(tmp_path, TableOptions(rows=20))
    tables = Tables.at(uri)
    assert cli.run(["maintain", uri]) == 0
    tables.open().update_config({"one": "more version"})
    tables.open().cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
    shutil.rmtree(tables.place("units"))
    for command in (["maintain", uri], ["publish", uri], ["maintain", uri]):
        assert cli.run(command) == 1
        assert "images__units.lance, the ledger, is gone" in capsys.readouterr().err
    assert tables.open().count_rows() == 20


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
