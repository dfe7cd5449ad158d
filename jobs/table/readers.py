"""What readers see: the version that the tag `live` names, else the newest."""

from dataclasses import dataclass
from typing import Any

from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from clipmill.schemas.text.words import counted

LIVE = "live"
FENCE_TAG = "clipmill-fence"  # what commits keep there for themselves: docs/decisions/fence.md


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
            return f"readers see the newest version {self.newest} with {counted(self.newest_rows, 'row')}"
        seen = f"readers see the published version {self.live} with {counted(self.live_rows or 0, 'row')}"
        rows = counted(self.newest_rows, "row")
        return seen + (f", not the newest {self.newest} with {rows}" if self.is_behind else "")

    def behind(self, table: str) -> str:
        """In a sentence what they see and what lets them on; empty where they see the newest."""
        return f"{self.describe()}: `clipmill publish {table}` publishes the newest" if self.is_behind else ""

    def notes(self, *, publish: bool, whole: bool, hint: str) -> list[str]:
        """What a person has to know of it at the end of a run; nothing where there is no tag `live`. `whole`: no unit
        failed and none is left, without which nothing is published."""
        if publish and not whole:
            return [f"not published, because units are missing: {self.describe()}"]
        if publish:
            return [f"published: {self.describe()}"]
        return [f"{self.describe()}; {hint}"] if self.is_behind else []


def _is_torn(error: BaseException) -> bool:
    return isinstance(error, RuntimeError | ValueError | OSError) and "refs.rs" in str(error)


@retry(
    retry=retry_if_exception(_is_torn),
    stop=stop_after_attempt(8),
    wait=wait_random_exponential(multiplier=0.02, max=0.5),
    reraise=True,
)
def tags_of(rows: Any) -> dict[str, Any]:
    """The tags of a dataset, by name.

    Lance asks for the length of a tag's file and then for so many of its bytes. A tag that moves between the two is
    cut off where its file has become longer, and a reader gets "EOF while parsing" (pylance 13): it is read again.
    """
    found: dict[str, Any] = rows.tags.list()
    return found


def readers(rows: Any) -> Readers:
    """`rows`: the table, opened at its newest version."""
    newest, count = int(rows.version), int(rows.count_rows())
    tags = tags_of(rows)
    if LIVE not in tags:
        return Readers(newest=newest, newest_rows=count)
    live = int(tags[LIVE]["version"])
    seen = count if live == newest else int(rows.checkout_version(live).count_rows())
    return Readers(newest=newest, newest_rows=count, live=live, live_rows=seen)
