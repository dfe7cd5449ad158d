"""What a recipe selected: the rows, and how it came to them. Frozen values; nothing is read here."""

from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """before - left = after. `left`: rows that left the selection in this step; `without_value`: those of them that
    have no score, caption or vector to go by, where that can be. `least`: the lowest score of a row that stayed."""

    step: int
    operator: str
    does: str
    before: int
    left: int
    after: int
    without_value: int | None = None
    least: float | None = None
    seed: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`rows`: of the table at `version`. `model`, `weights_sha256`: of its vectors. `recipe_hash`: sha256 of
    `recipe_text`, the file as it was."""

    table: str
    version: int
    table_id: str
    tag: str | None = None
    rows: int
    selected: int
    recipe: str
    description: str
    recipe_hash: str
    recipe_text: str = field(repr=False)
    model: str
    weights_sha256: str
    clipmill: str
    steps: tuple[StepReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """`rows`: id, uri and each score that a step used, by id."""

    report: Report
    rows: pa.Table = field(repr=False)

    @property
    def ids(self) -> list[str]:
        found: list[str] = self.rows["id"].to_pylist()
        return found

    @property
    def steps(self) -> tuple[StepReport, ...]:
        return self.report.steps
