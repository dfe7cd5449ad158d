"""A time of the day in a time zone, and whether it comes exactly once on each day."""

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from clipmill.schemas.errors import UserError

_DAYS = 2 * 366  # ahead; rules of time zones are known that far, and each summer time comes twice in it
_STEP_MINUTES = 15  # of the hint's search


@dataclass(frozen=True, slots=True, kw_only=True)
class Daily:
    """Every day at this hour and minute of `timezone`'s clocks."""

    hour: int
    minute: int
    timezone: str

    @property
    def cron(self) -> str:
        """The five fields of a crontab."""
        return f"{self.minute} {self.hour} * * *"

    @property
    def clock(self) -> str:
        return f"{self.hour:02d}:{self.minute:02d}"


def daily(at: str, timezone: str, *, today: date | None = None) -> Daily:
    """Raises UserError where `at` is no time, `timezone` no zone, or its clocks skip or double the time within two
    years: schedulers then leave a night out, or run two."""
    found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", at)
    if found is None:
        raise UserError(f"--at '{at}' is no time of the day", "write hours and minutes, such as --at 04:00")
    names = available_timezones() - {"localtime", "Factory"}
    if timezone not in names:
        near = difflib.get_close_matches(timezone, sorted(names), n=3)
        raise UserError(
            f"--timezone '{timezone}' is no time zone",
            f"did you mean {', '.join(near)}?" if near else "write one such as Europe/Berlin or UTC",
        )
    wanted = Daily(hour=int(found[1]), minute=int(found[2]), timezone=timezone)
    start = today or datetime.now(UTC).date()
    if wrong := _wrong_day(wanted, start):
        day, what = wrong
        raise UserError(
            f"{wanted.clock} in {timezone} {what} on {day}, when the clocks change, so that night would "
            + ("not run" if "not" in what else "run twice"),
            f"choose another time, such as --at {_good_near(wanted, start)}, or --timezone UTC, without summer time",
        )
    return wanted


def _wrong_day(wanted: Daily, start: date) -> tuple[date, str] | None:
    zone = ZoneInfo(wanted.timezone)
    for days in range(_DAYS):
        day = start + timedelta(days=days)
        local = datetime(day.year, day.month, day.day, wanted.hour, wanted.minute, tzinfo=zone)
        there = local.astimezone(UTC).astimezone(zone)
        if (there.hour, there.minute) != (wanted.hour, wanted.minute):
            return day, "does not exist"
        if local.utcoffset() != local.replace(fold=1).utcoffset():
            return day, "comes twice"
    return None


def _good_near(wanted: Daily, start: date) -> str:
    """The nearest later time that comes once on each day."""
    minutes = wanted.hour * 60 + wanted.minute
    for more in range(_STEP_MINUTES, 24 * 60, _STEP_MINUTES):
        hour, minute = divmod((minutes + more) % (24 * 60), 60)
        tried = Daily(hour=hour, minute=minute, timezone=wanted.timezone)
        if _wrong_day(tried, start) is None:
            return tried.clock
    return "12:00"
