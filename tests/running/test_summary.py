"""What limited a run: the stage that was busy for the largest share of the time it had."""

from clipmill.jobs.running.actors.attempts import Failed
from clipmill.jobs.running.summary import StageClock, Summary, describe, failed_units, rate
from clipmill.schemas.unit.receipts import Outcome, Receipt
from tests.committed import unit


def receipt(peak: int = 0, **seconds: float) -> Receipt:
    return Receipt(unit_id="u", run="r", attempt=1, outcome=Outcome.DONE, seconds=seconds, peak_rss_bytes=peak)


def test_the_model_runs_one_batch_at_a_time_and_decoding_has_its_threads() -> None:
    """Eight seconds of decoding on eight threads are less of a load than five of the model."""
    clock = StageClock(threads=8, units_in_flight=2)
    clock.add(receipt(decode=8.0, embed=5.0, read=3.0, write=1.0, tag=0.1))
    loads = clock.loads(10.0)
    assert {stage: round(load, 3) for stage, load in loads.items()} == {
        "read": 0.15,
        "decode": 0.1,
        "embed": 0.5,
        "tag": 0.005,
        "write": 0.05,
    }
    assert clock.limited_by(10.0) == "embed"


def test_loads_add_up_over_units_and_actors() -> None:
    clock = StageClock(threads=2, units_in_flight=2)
    for _ in range(4):
        clock.add(receipt(decode=16.0, embed=5.0))
    loads = clock.loads(4 * 10.0)
    assert loads["decode"] == 64 / (8 * 10)
    assert loads["embed"] == 20 / (4 * 10)
    assert clock.limited_by(4 * 10.0) == "decode"


def test_before_the_first_receipt_nothing_limits() -> None:
    clock = StageClock(threads=1, units_in_flight=1)
    assert clock.limited_by(0.0) == clock.limited_by(5.0) == ""


def test_the_largest_worker_is_remembered() -> None:
    clock = StageClock(threads=1, units_in_flight=1)
    for peak in (5, 9, 7):
        clock.add(receipt(peak))
    assert clock.peak_rss_bytes == 9


def test_a_rate_of_no_time_is_no_rate() -> None:
    assert (rate(10, 0.0), rate(10, 4.0), rate(0, 4.0)) == (0.0, 2.5, 0.0)


def test_failed_units_are_named_with_their_slice() -> None:
    failed = [
        Failed(unit("u1", "s3://b/x.tar"), "the worker died"),
        Failed(unit("u2", "s3://b/p/", start="a", end="k"), "it stood still for limits.unit_deadline_s"),
    ]
    assert failed_units(failed) == [
        {"unit_id": "u1", "uri": "s3://b/x.tar", "reason": "the worker died"},
        {"unit_id": "u2", "uri": "s3://b/p/ [a, k]", "reason": "it stood still for limits.unit_deadline_s"},
    ]


def test_values_that_could_not_be_read_are_told_by_column_with_the_first() -> None:
    unread = {"taken": 1200, "n": 1}
    first = {"taken": "taken = 'x' is not timestamp, at a.tar#1.jpg"}
    told = describe(Summary(run="r", table="t", seen=1300, rows=1300, unread=unread, unread_first=first))
    assert "1,200 values of taken could not be read and are null; the first: taken = 'x' is not timestamp" in told
    assert "1 values of n" not in told
    assert "1 value of n could not be read and is null" in told


def test_what_was_left_out_is_said_by_ending_and_what_matched_nothing_by_name() -> None:
    said = describe(
        Summary(
            run="r",
            table="db/images",
            units=2,
            seen=42,
            rows=38,
            rejects={"corrupt": 2, "duplicate_id": 2},
            left_out={"hidden": 5, "heic": 1200, "no extension": 3},
            filled={"caption": 0, "tags": 38, "license": 0, "width_px": 38},
        )
    ).splitlines()
    assert said[1] == "left out: heic 1,200, hidden 5, no extension 3"
    assert said[2].startswith("to read them: pip install 'clipmill[heic]'")
    assert said[3] == "captions in 0 of 38 rows; tags in 38 of 38 rows"
    assert said[4].startswith("nothing was found for caption, license: null in all 38 rows")


def test_a_run_without_a_row_says_so() -> None:
    one = Summary(run="r", table="db/images", units=2, seen=3, rejects={"corrupt": 3})
    assert "no row was added: all 3 samples were rejected; `clipmill rejects db/images` names them" in describe(one)
    assert "no sample was found in 2 units" in describe(Summary(run="r", table="db/images", units=2))
    assert "no sample" not in describe(Summary(run="r", table="db/images", units=2, aliases=2))
    idle = Summary(run="", table="db/images", note="nothing to do", left_out={"heic": 2})
    assert describe(idle).splitlines()[1] == "left out: heic 2"
