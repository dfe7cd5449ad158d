"""What a check of a table found."""

from collections import Counter
from dataclasses import dataclass, field

MAX_NAMED = 20  # problems of one kind that are spelled out


@dataclass(kw_only=True)
class Report:
    """`problems` is empty for a table that can be trusted. `seed` draws the same sample again. `not_checked`: what was
    to be checked and could not be, and why; `sample_not_checked` counts its rows. `recall`: of the vector index,
    against brute force; None without one. `proof`: of vectors that were imported, whether they were shown to be of the
    model; else empty. `source_units`: those whose source was counted again, `source_new_units`:
    those that the source shows and the ledger does not have; None where the source was not looked at. `missing`:
    columns of scores, and of tags beside those in use, that rows lack: no damage, a night or the command that made them
    fills them.
    """

    table: str
    version: int = 0
    units: int = 0
    seen: int = 0
    rows: int = 0
    rejects: int = 0
    deleted: int = 0
    proof: str = ""
    recall: float | None = None
    seed: int | None = None
    sampled: int = 0
    sample_not_checked: int = 0
    sample_min_cosine: float | None = None
    source_units: int | None = None
    source_new_units: int | None = None
    not_checked: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Problems:
    """Names the first few of each kind and counts the rest."""

    def __init__(self, into: list[str]) -> None:
        self.into = into
        self.counts: Counter[str] = Counter()

    def __call__(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= MAX_NAMED:
            self.into.append(text)

    def close(self) -> None:
        self.into.extend(f"... and {n - MAX_NAMED} more: {kind}" for kind, n in self.counts.items() if n > MAX_NAMED)
