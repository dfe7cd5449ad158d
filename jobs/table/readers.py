"""What readers see: the version that the tag `live` names, else the newest."""

from dataclasses import dataclass
from typing import Any

LIVE = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """What readers see who ask for no version: `live` where that tag is, else the newest."""

    newest: int
    newest_rows: int
    live: int | None = None
    live_rows: int | None = None

    @property
    def is_behind(self) -> bool:
        return self.live is not None and self.live != self.newest

    def describe(self) -> str:
        if self.live is None:
            return f"readers see the newest version {self.newest} with {self.newest_rows:,} rows"
        seen = f"readers see the published version {self.live} with {self.live_rows:,} rows"
        return seen + (f", not the newest {self.newest} with {self.newest_rows:,} rows" if self.is_behind else "")

    def notes(self, *, publish: bool, whole: bool, hint: str) -> list[str]:
        """What a person has to know of it at the end of a run; nothing where there is no tag `live`. `whole`: no unit
        failed and none is left, without which nothing is published."""
        if publish and not whole:
            return [f"not published, because units are missing: {self.describe()}"]
        if publish:
            return [f"published: {self.describe()}"]
        return [f"{self.describe()}; {hint}"] if self.is_behind else []


def readers(rows: Any) -> Readers:
    """`rows`: the table, opened at its newest version."""
    newest, count = int(rows.version), int(rows.count_rows())
    tags = rows.tags.list()
    if LIVE not in tags:
        return Readers(newest=newest, newest_rows=count)
    live = int(tags[LIVE]["version"])
    seen = count if live == newest else int(rows.checkout_version(live).count_rows())
    return Readers(newest=newest, newest_rows=count, live=live, live_rows=seen)
