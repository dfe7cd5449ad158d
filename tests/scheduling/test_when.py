"""A time of the day that comes exactly once on each day."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.scheduling.when import daily
from clipmill.schemas.errors import UserError

TODAY = date(2026, 11, 28)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo")


@pytest.mark.parametrize(
    ("at", "zone", "word", "day"),
    [
        ("02:30", "Europe/Berlin", "does not exist", "2027-03-28"),
        ("02:00", "Europe/Berlin", "does not exist", "2027-03-28"),
        ("01:30", "America/New_York", "comes twice", "2027-11-07"),
        ("1:45", "Australia/Lord_Howe", "comes twice", "2027-04-04"),  # its summer time is half an hour
        ("00:30", "Africa/Cairo", "does not exist", "2027-04-30"),
    ],
)
def test_a_time_that_is_skipped_or_doubled_is_refused_with_one_that_is_not(at: str, zone: str, word: str, day: str):
    with pytest.raises(UserError, match=f"{word} on {day}") as caught:
        daily(at, zone, today=TODAY)
    proposed = caught.value.hint.partition("--at ")[2][:5]
    assert daily(proposed, zone, today=TODAY).clock == proposed


@pytest.mark.parametrize(
    ("at", "zone"), [("25:00", "UTC"), ("4", "UTC"), ("04:00", "Europe/Brlin"), ("04:00", "../etc")]
)
def test_what_is_no_time_and_no_zone_is_refused(at: str, zone: str):
    with pytest.raises(UserError) as caught:
        daily(at, zone)
    assert caught.value.hint


@pytest.mark.parametrize("at", ["03:00", "01:59", "04:00"])
def test_beside_the_hour_that_changes_all_is_well(at: str):
    assert daily(at, "Europe/Berlin", today=TODAY).cron == f"{int(at[3:])} {int(at[:2])} * * *"


@given(minutes=st.integers(0, 24 * 60 - 1), zone=st.sampled_from(ZONES))
def test_what_is_taken_comes_once_a_day_counted_minute_by_minute_at_the_changes(minutes: int, zone: str):
    """The oracle walks through UTC, where every minute comes once, and reads the zone's clock."""
    at = f"{minutes // 60:02d}:{minutes % 60:02d}"
    try:
        daily(at, zone, today=TODAY)
    except UserError:
        assert minutes not in once(zone)
    else:
        assert minutes in once(zone)


@cache
def once(zone: str) -> set[int]:
    """Minutes of the day that come exactly once on every day of two years."""
    here, good = ZoneInfo(zone), set(range(24 * 60))
    for days in range(2 * 366):
        day = TODAY + timedelta(days=days)
        noons = [
            datetime(d.year, d.month, d.day, 12, tzinfo=here)
            for d in (day - timedelta(days=1), day + timedelta(days=1))
        ]
        if noons[0].utcoffset() == noons[1].utcoffset():
            continue  # no change near this day
        start = noons[0].astimezone(UTC)
        clocks = [(start + timedelta(minutes=minute)).astimezone(here) for minute in range(49 * 60)]
        shown = Counter(clock.hour * 60 + clock.minute for clock in clocks if clock.date() == day)
        good = {minute for minute in good if shown[minute] == 1}
    return good
