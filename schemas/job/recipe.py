"""A recipe for a data set: an ordered list of steps, each with one operator, as frozen values.

Reading a file is `jobs.selecting.recipe`'s; here is what a step may say, and what each key means.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from clipmill.schemas.job.strict import Strict

MAX_CLUSTERS = 10_000


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_several)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Where(Strict):
    """A SQL predicate over the table's columns, as `search --where` takes it."""

    sql: str


class Size(Strict):
    """Pixels of the original. `min_side`: of the shorter side. `max_aspect`: longer side / shorter side."""

    min_width: int | None = Field(default=None, ge=1)
    min_height: int | None = Field(default=None, ge=1)
    min_side: int | None = Field(default=None, ge=1)
    max_aspect: float | None = Field(default=None, ge=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _something(self) -> "Size":
        _at_least_one(self, "min_width", "min_height", "min_side", "max_aspect")
        return self


class Tags(Strict):
    """Labels of `column`: any of these, all of those, none of the others."""

    any: Texts = ()
    all: Texts = ()
    none: Texts = ()
    column: str = "tags"

    @model_validator(mode="after")
    def _something(self) -> "Tags":
        _at_least_one(self, "any", "all", "none")
        return self


class Bounds(Strict):
    """What of a score stays: between two values, or the best share of the rows that have one."""

    at_least: Number | None = None
    at_most: Number | None = None
    top: Share | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Bounds":
        between = self.at_least is not None or self.at_most is not None
        if between == (self.top is not None):
            raise ValueError("takes either top, or at_least and at_most or one of them")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"asks for at least {self.at_least:g} and at most {self.at_most:g}, which nothing is")
        return self


class Score(Bounds):
    """Of `column`, a column of numbers, or of `tag`: the score that the row's tag has in `tags`."""

    column: str | None = None
    tag: str | None = Field(default=None, min_length=1)
    tags: str = "tags"

    @model_validator(mode="after")
    def _one_source(self) -> "Score":
        if (self.column is None) == (self.tag is None):
            raise ValueError("takes exactly one of column and tag")
        return self


class Near(Bounds):
    """Of the cosine of `column` with what the table's model makes of `words`, or of a `picture`, a file or URI."""

    words: str | None = Field(default=None, min_length=1)
    picture: str | None = Field(default=None, min_length=1)
    column: str = "vector"

    @model_validator(mode="after")
    def _one_source(self) -> "Near":
        if (self.words is None) == (self.picture is None):
            raise ValueError("takes exactly one of words and picture")
        return self


class Mirror(Bounds):
    """Of the cosine of the caption with the picture turned left to right, which reads all pictures again."""


class Caption(Strict):
    """Words are what spaces separate. `language`: ISO 639-1 codes, of which one is the likeliest of the caption."""

    min_words: int | None = Field(default=None, ge=1)
    max_words: int | None = Field(default=None, ge=1)
    min_chars: int | None = Field(default=None, ge=1)
    language: Texts = ()

    @model_validator(mode="after")
    def _something(self) -> "Caption":
        _at_least_one(self, "min_words", "max_words", "min_chars", "language")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"asks for {self.min_words} words and more, and {self.max_words} at most: nothing is both")
        return self


class Duplicates(Strict):
    """Of pictures with the same bytes, or with a cosine of `threshold` and more, one stays: the largest, that with the
    lowest id, or with `best` that with the greatest `order_by`. `exact`: the same bytes only. `phash`: instead of the
    cosine, perceptual hashes that differ in at most so many bits."""

    threshold: float = Field(default=0.95, ge=0.5, le=1)
    exact: bool = False
    phash: int | None = Field(default=None, ge=0, le=10)
    keep: Literal["largest", "lowest_id", "best"] = "largest"
    order_by: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Duplicates":
        if (self.keep == "best") != (self.order_by is not None):
            raise ValueError("takes order_by where keep is best, and only there")
        if self.phash is not None and (self.exact or "threshold" in self.model_fields_set):
            raise ValueError("takes one of threshold, exact and phash")
        return self


class PerCluster(Strict):
    """At most so many rows of each k-means cluster of the vectors: those with the greatest `order_by`, or without it
    some by chance, the same for the same seed."""

    clusters: int = Field(ge=1, le=MAX_CLUSTERS)
    at_most: int = Field(ge=1)
    order_by: str | None = None
    seed: Seed = 0
    column: str = "vector"


class Diverse(Strict):
    """`n` rows that lie as far from each other as clusters and farthest-point sampling make them."""

    n: int = Field(ge=1)
    seed: Seed = 0
    column: str = "vector"


class Sample(Strict):
    """By a hash of the id: a row that is drawn stays drawn when others come. `n`: those with the lowest hash."""

    n: int | None = Field(default=None, ge=1)
    share: Share | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_kind(self) -> "Sample":
        if (self.n is None) == (self.share is None):
            raise ValueError("takes exactly one of n and share")
        return self


Operator = Where | Size | Tags | Score | Near | Mirror | Caption | Duplicates | PerCluster | Diverse | Sample
OPERATORS: dict[str, type[Strict]] = {
    "where": Where,
    "size": Size,
    "tags": Tags,
    "caption": Caption,
    "score": Score,
    "near": Near,
    "mirror": Mirror,
    "duplicates": Duplicates,
    "per_cluster": PerCluster,
    "diverse": Diverse,
    "sample": Sample,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`number`: from 1. `operator`: its key in the recipe. `said`: as the recipe has it, on one line."""

    number: int
    operator: str
    asked: Operator
    said: str
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`where`: the file, for messages. `text`: the whole file; `hash`: sha256 of it."""

    name: str
    description: str
    steps: tuple[Step, ...]
    where: str
    text: str
    hash: str


def _at_least_one(model: Any, *names: str) -> None:
    if not any(getattr(model, name) not in (None, ()) for name in names):
        raise ValueError(f"takes at least one of {', '.join(names)}")
