"""What a person sees of a night: a few lines, without empty fields and zeros."""

from dataclasses import replace

import pytest

from clipmill.jobs.cli.night import _exit_where_refused
from clipmill.jobs.publishing.night import Gate, Night
from clipmill.jobs.publishing.sync import empty_gate, gone_gate, unseen_gate
from clipmill.jobs.publishing.words import night_in_words

PASSED = Gate(name="rejects", passed=True, value=0.0, threshold=0.01)
NIGHT = Night(
    run="r1",
    table="/db/images",
    at="",
    status="published",
    seconds=12.3,
    units=12,
    came=1,
    changed=1,
    seen=110,
    rows=108,
    rows_new=30,
    rows_changed=2,
    rejects={"corrupt": 2},
    rows_before=80,
    rows_after=108,
    samples_per_s=40.25,
    limited_by="decode",
    versions={"rows": 14},
    live_before=9,
    live_after=14,
    gates=(PASSED, replace(PASSED, name="coverage")),
    maintained={"fragments_before": 12, "fragments": 1, "versions_removed": 0, "orphans": 0, "notes": []},
)


def test_a_night_is_told_in_a_few_lines() -> None:
    assert night_in_words(NIGHT).splitlines() == [
        "published: readers see version 14 with 108 rows, before that version 9",
        "rows: 30 new, 2 changed, 2 gone, 76 read again with their unit (units: 1 new, 1 changed)",
        "2 rejects (corrupt 2)",
        "gates: rejects, coverage passed",
        "files: 12 fragments became 1",
        "12.3 s, 40.2 samples/s, limited by decode; run r1",
        "next: `clipmill rejects /db/images` names what has no row",
    ]


def test_a_night_with_nothing_new_is_one_line() -> None:
    idle = Night(run="", table="/db/images", at="", units=12, rows_after=36, live_after=9, versions={"rows": 9})
    assert night_in_words(idle) == "nothing to do: all 12 units are in the table; readers see version 9 with 36 rows"
    one = replace(idle, units=1, rows_after=1)
    assert night_in_words(one) == "nothing to do: the 1 unit is in the table; readers see version 9 with 1 row"
    kept = night_in_words(replace(idle, gone=1, gone_samples=3))
    assert kept.splitlines()[1:] == ["gone from the source, and kept: 1 unit with 3 samples"]


def test_a_night_that_a_gate_refused_says_what_readers_see() -> None:
    gates = (PASSED, Gate(name="coverage", passed=False, value=0.5, threshold=0.999, sentence="50 of 100"))
    text = night_in_words(replace(NIGHT, status="refused", gates=gates, live_after=9, rejects={}, maintained={}))
    assert text.startswith("not published: readers see version 9, the newest is 14 with 108 rows\n")
    assert "gates: coverage refused; rejects passed" in text
    assert len(text.splitlines()) == 4
    first = replace(NIGHT, status="refused", gates=gates, live_before=None, live_after=None)
    assert "no version is published yet, so readers see the newest, with 108 rows" in night_in_words(first)


def test_a_source_that_is_all_new_is_let_through_by_max_gone_and_an_empty_listing_by_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    one_of_two = unseen_gate("b.tar does not exist")
    for gate, what in (
        (gone_gate(36, 36, 0.1), "raise nightly.max_gone once"),
        (empty_gate(36), "check source.uri"),
        (one_of_two, "has to leave source.uri"),
    ):
        with pytest.raises(SystemExit):
            _exit_where_refused("db/images", [gate], 7)
        said = capsys.readouterr().err
        assert "hint: nothing was deleted, and readers still see version 7; " in said
        assert what in said


def test_a_gate_may_know_a_better_way_on_than_to_force_it(capsys: pytest.CaptureFixture[str]) -> None:
    gate = Gate(name="vectors", passed=False, value=1.0, threshold=0.0, hint="promote again")
    with pytest.raises(SystemExit):
        _exit_where_refused("db/images", [gate], 7)
    told = capsys.readouterr().err
    assert "hint: readers still see version 7; promote again" in told
    assert "--force" not in told


@pytest.mark.parametrize("name", ["held", "rows"])
def test_what_lets_readers_on_names_the_table(capsys: pytest.CaptureFixture[str], name: str) -> None:
    gate = Gate(name=name, passed=False, value=1.0, threshold=0.0)
    with pytest.raises(SystemExit):
        _exit_where_refused("db/images", [gate], 7)
    assert "hint: readers still see version 7; `clipmill publish db/images" in capsys.readouterr().err
