"""A night is a day: what removes old versions and files takes a night that began before for one of the day before.

Everything else keeps the real clock. What is put in between stands at two places: the age that Lance is asked to
remove versions by, and the store's clock by which a file in no version is old enough.
"""

import time
from datetime import timedelta
from typing import Any

import lance
import pytest

from clipmill.jobs.maintaining import maintain
from clipmill.jobs.maintaining.orphans import DAY_S


class Calendar:
    """Days begin at `tomorrow`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.began_s: list[float] = [time.time()]
        real = lance.LanceDataset.cleanup_old_versions

        def cleanup_old_versions(dataset: Any, older_than: timedelta, **more: Any) -> Any:
            return real(dataset, self.scaled(older_than), **more)

        patch.setattr(lance.LanceDataset, "cleanup_old_versions", cleanup_old_versions)
        patch.setattr(maintain, "store_clock_s", lambda tables: self.began_s[-1] + DAY_S)

    def tomorrow(self) -> None:
        self.began_s.append(time.time())

    def scaled(self, age: timedelta) -> timedelta:
        """How long ago the day began that is so many days before this one."""
        days = round(age / timedelta(days=1))
        if days >= len(self.began_s):
            return age
        return timedelta(seconds=time.time() - self.began_s[-1 - days])
