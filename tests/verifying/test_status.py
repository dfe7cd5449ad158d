"""What a table says of itself, and which rejects count."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.committing.lease import KEY, Lease
from clipmill.jobs.publishing.night import Gate, Night, remember
from clipmill.jobs.table import ledger
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import LAST_RUNS, Status, count_rejects, rejects, status
from clipmill.schemas.errors import BeingMade, UserError
from clipmill.schemas.job.config import Storage
from tests.committed import entry, make_tables, receipt, take_lease


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    made = make_tables(tmp_path)
    lease = take_lease(made, "a")
    committer = Committer(made, lease)
    for name, names, bad in (("u1", ["1", "2", "3"], 2), ("u2", ["4"], 0)):
        done = receipt(made, "a", name, names, bad=bad)
        one = replace(entry(name, "a", done.written), seen=done.seen, rejected=bad)
        committer.commit([one], done.fragments, reject_fragments=done.reject_fragments)
    lease.release()
    return made


def name_of(tables: Tables) -> str:
    return f"{tables.database}/{tables.name}"


def look(tables: Tables) -> Status:
    return status(name_of(tables), Storage())


def test_counts_model_and_balance(tables: Tables) -> None:
    found = look(tables)
    assert (found.rows, found.units, found.seen, found.rejects) == (4, 2, 6, {"corrupt": 2})
    assert found.balanced
    assert (found.model, found.dim, found.vocabulary, found.live) == ("stub:4", 4, None, None)
    assert found.fragments == 2
    assert found.version == tables.open().version


def test_a_lost_row_unbalances_it(tables: Tables) -> None:
    tables.open().delete("id = '1'")
    assert not look(tables).balanced


def test_rejects_of_an_attempt_that_never_landed_do_not_count(tables: Tables) -> None:
    """A driver died after it wrote rejects and before it committed rows; the unit was done again."""
    lost = receipt(tables, "dead", "u2", [], bad=5)
    lease = take_lease(tables, "dead")
    Committer(tables, lease)._append_rejects(lost.reject_fragments)
    lease.release()
    assert tables.open("rejects").count_rows() == 7
    assert count_rejects(tables) == {"corrupt": 2}
    assert look(tables).rejects == {"corrupt": 2}
    assert rejects(name_of(tables), Storage()).num_rows == 2


def test_rejects_are_limited_filtered_and_named(tables: Tables) -> None:
    found = rejects(name_of(tables), Storage(), reason="corrupt", limit=1)
    assert found.to_pylist() == [{"reason": "corrupt", "id": "bad0", "uri": "file:///u1/bad0", "detail": ""}]
    assert rejects(name_of(tables), Storage(), reason="empty").num_rows == 0
    with pytest.raises(UserError, match="'rotten' is no reason") as error:
        rejects(name_of(tables), Storage(), reason="rotten")
    assert "corrupt" in error.value.hint


def test_the_holder_is_named_while_it_holds(tables: Tables) -> None:
    assert look(tables).held_by is None
    lease = take_lease(tables, "b")
    assert "run b" in (look(tables).held_by or "")
    lease.release()
    assert look(tables).held_by is None


def test_a_dead_holder_is_none(tables: Tables) -> None:
    take_lease(tables, "b", ttl_s=3600)
    runs = tables.open("runs")
    holder = json.loads(runs.config()[KEY])
    runs.update_config({KEY: json.dumps({**holder, "pid": 2**22 + 1})})
    assert look(tables).held_by is None


def test_the_last_word_of_each_of_the_last_runs(tables: Tables) -> None:
    for number in range(LAST_RUNS + 2):
        tables.log_run(f"r{number}", "embed", "started", "{}", table_id=tables.id())
        if number % 2:
            tables.log_run(f"r{number}", "embed", "finished", "{}", table_id=tables.id())
    tables.log_run("r6", "self-check", "reference", "{}", table_id=tables.id())
    runs = look(tables).last_runs
    assert [(r["run"], r["event"]) for r in runs] == [
        ("r2", "started"),
        ("r3", "finished"),
        ("r4", "started"),
        ("r5", "finished"),
        ("r6", "started"),
    ]


def test_a_night_that_was_refused_is_no_run_and_is_told(tables: Tables) -> None:
    assert look(tables).last_night is None
    gates = (
        Gate(name="rows", passed=True, value=0.0, threshold=0.1),
        Gate(name="gone", passed=False, value=1.0, threshold=0.1, sentence="9 of 9 samples are gone"),
    )
    night = Night(run="r9", table="t", at="2026-11-29T04:00:01+00:00", status="refused", gates=gates)
    remember(tables, night)
    assert look(tables).last_night == "refused, begun at 2026-11-29T04:00:01+00:00: gate gone: 9 of 9 samples are gone"
    remember(tables, replace(night, status="failed", gates=(), error="the store is away"))
    assert look(tables).last_night == "failed, begun at 2026-11-29T04:00:01+00:00: the store is away"
    remember(tables, replace(night, status="published", gates=gates[:1]))
    assert look(tables).last_night == "published, begun at 2026-11-29T04:00:01+00:00"


def test_live_is_the_version_readers_see(tables: Tables) -> None:
    rows = tables.open()
    rows.tags.create("live", 2)
    assert look(tables).live == 2


def test_no_table_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no table"):
        status(f"{tmp_path}/db/nothing", Storage())


def test_a_table_that_a_run_begins_to_make_is_not_there_yet(tables: Tables) -> None:
    shutil.rmtree(tables.place())
    with pytest.raises(UserError, match="there is no table"):
        look(tables)  # what an earlier run left beside it is no run
    lease = Lease(tables, "b", "embed")
    lease.take()
    with pytest.raises(BeingMade, match="not there yet: it is being made by `clipmill embed`"):
        look(tables)
    lease.release()


def test_retired_units_and_their_rejects_are_gone(tables: Tables) -> None:
    committer = Committer(tables, take_lease(tables, "b"))
    old = ledger.read_ledger(tables)["u1"]
    retired = replace(old, state=type(old.state).RETIRED)
    done = receipt(tables, "b", "u3", ["1"])
    committer.commit([retired, entry("u3", "b", 1)], done.fragments, remove_units=["u1"])
    found = look(tables)
    assert (found.rows, found.units, found.seen, found.rejects, found.balanced) == (2, 2, 2, {}, True)


def test_what_was_left_out_of_the_units_and_of_the_listing(tables: Tables) -> None:
    assert look(tables).left_out == {}, "an older clipmill's entries say nothing"
    now = ledger.read_ledger(tables)
    more = [replace(now[u], table_version=now[u].table_version + 1, left_out='{"heic": 2}') for u in ("u1", "u2")]
    ledger.append(tables, more)
    tables.log_run(
        "a", "embed", "finished", json.dumps({"left_out_listed": {"heic": 1, "md": 1}}), table_id=tables.id()
    )
    tables.log_run("b", "embed", "failed", "RuntimeError: x", table_id=tables.id())
    assert look(tables).left_out == {"heic": 5, "md": 1}


def test_each_index_is_told_once_however_many_parts_it_has_and_so_is_what_publishes(tables: Tables) -> None:
    tables.open().create_scalar_index("id", "BTREE", name="id_idx")
    before = int(tables.open().version)
    tables.open().tags.create("live", before)
    done = receipt(tables, "b", "u3", ["5"])
    lease = take_lease(tables, "b")
    Committer(tables, lease).commit([entry("u3", "b", done.written)], done.fragments)
    lease.release()
    tables.open().optimize.optimize_indices(num_indices_to_merge=0)
    with warnings.catch_warnings(action="error"):  # Lance's, of what it will take away
        found = look(tables)
    assert found.indices == ["id_idx (BTree)"]
    assert found.readers.endswith(f": `clipmill publish {name_of(tables)}` publishes the newest")
