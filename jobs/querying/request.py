"""What is asked of the table, as one frozen value. Checked when it is made; nothing is read.

D: dimension of the column that is searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from clipmill.jobs.querying import values
from clipmill.schemas.errors import UserError

MAX_HITS = 10_000  # offset + k: a page deeper than this is an export, not a search
MAX_EXAMPLES = 64
MAX_TEXT_CHARS = 10_000
MAX_TAGS = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """What the answer should be like, or unlike.

    `images`: paths or URIs, encoded bytes, or PIL images. `ids`: rows of the table. `vectors`: (D,) each, any
    length but zero.
    """

    texts: tuple[str, ...] = ()
    images: tuple[Any, ...] = ()
    ids: tuple[str, ...] = ()
    vectors: tuple[npt.NDArray[np.floating[Any]], ...] = ()

    def __post_init__(self) -> None:
        for name in ("texts", "ids"):
            object.__setattr__(self, name, values.strings(name, getattr(self, name)))
        object.__setattr__(self, "images", as_tuple(self.images))
        object.__setattr__(self, "vectors", vector_tuple(self.vectors or None))

    def __len__(self) -> int:
        return len(self.texts) + len(self.images) + len(self.ids) + len(self.vectors)


class QueryFields(TypedDict, total=False):
    """The options of a search that are not examples; see `Query`."""

    where: str | None
    any_tags: str | Sequence[str]
    all_tags: str | Sequence[str]
    no_tags: str | Sequence[str]
    tags_column: str
    min_score: float | None
    hybrid: bool
    text_weight: float
    k: int
    offset: int
    columns: str | Sequence[str] | None
    column: str
    exact: bool
    limit: int  # the same as k


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """One question. Without examples it lists the rows that pass the filter, in the table's order.

    `where`: a SQL predicate over the table's columns. `any_tags`, `all_tags`, `no_tags`: labels, of
    `tags_column`: tags, or tags__slug of another vocabulary.
    `min_score`: least cosine of an answer, -1..1. `hybrid`: the first positive text also asks the captions (BM25),
    and both rankings are fused with weight `text_weight` in 0..1 for the captions. `k`, `offset`: the page.
    `columns`: what comes back besides `score`; None: all but vectors and thumbnails. `column`: the vectors that
    are searched (vector, caption_vector, or a set under way such as vector__slug). `exact`: no index.
    Raises UserError for values out of range.
    """

    positive: Examples = field(default_factory=Examples)
    negative: Examples = field(default_factory=Examples)
    where: str | None = None
    any_tags: tuple[str, ...] = ()
    all_tags: tuple[str, ...] = ()
    no_tags: tuple[str, ...] = ()
    tags_column: str = "tags"
    min_score: float | None = None
    hybrid: bool = False
    text_weight: float = 0.5
    k: int = 10
    offset: int = 0
    columns: tuple[str, ...] | None = None
    column: str = "vector"
    exact: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        self._check_page()
        self._check_examples()
        for name in ("any_tags", "all_tags", "no_tags"):
            labels = getattr(self, name)
            if len(labels) > MAX_TAGS:
                raise UserError(f"{name} has {len(labels)} labels; at most {MAX_TAGS} are taken", "name fewer tags")
        if self.min_score is not None and not -1.0 <= self.min_score <= 1.0:
            raise UserError(f"min_score {self.min_score} is not a cosine", "give a number between -1 and 1")
        if not 0.0 <= self.text_weight <= 1.0:
            raise UserError(f"text_weight {self.text_weight} is out of range", "give a number between 0 and 1")
        if self.hybrid and not self.positive.texts:
            raise UserError("a hybrid search needs a text", "give words to look for, or leave hybrid out")

    def _check_types(self) -> None:
        """One string where several are taken is one; what cannot be meant is refused by its name."""
        checks: dict[str, Any] = {
            **dict.fromkeys(("any_tags", "all_tags", "no_tags", "columns"), values.strings),
            **dict.fromkeys(("k", "offset"), values.whole),
            **dict.fromkeys(("min_score", "text_weight"), values.number),
            **dict.fromkeys(("where", "column", "tags_column"), values.text),
            **dict.fromkeys(("hybrid", "exact"), values.flag),
        }
        for name, checked in checks.items():
            if (value := getattr(self, name)) is not None or name in (
                "k",
                "offset",
                "column",
                "text_weight",
                "tags_column",
            ):
                object.__setattr__(self, name, checked(name, value))

    def _check_page(self) -> None:
        if self.k < 1:
            raise UserError(f"k is {self.k}; a page has at least one row", "give a k of 1 or more")
        if self.offset < 0:
            raise UserError(f"offset is {self.offset}", "give an offset of 0 or more")
        if self.offset + self.k > MAX_HITS:
            raise UserError(
                f"offset + k is {self.offset + self.k}; at most {MAX_HITS} hits are ranked",
                "ask for fewer rows, or take them all with `clipmill export`",
            )

    def _check_examples(self) -> None:
        if len(self.positive) + len(self.negative) > MAX_EXAMPLES:
            raise UserError(f"more than {MAX_EXAMPLES} examples in one query", "give fewer examples")
        if len(self.negative) and not len(self.positive):
            raise UserError("only negative examples were given", "add a positive one to move away from")
        for text in self.positive.texts + self.negative.texts:
            if not text.strip():
                raise UserError("a text to look for is empty", "give at least one word")
            if len(text) > MAX_TEXT_CHARS:
                raise UserError(
                    f"a text to look for has {len(text)} characters; at most {MAX_TEXT_CHARS} are taken",
                    "the model reads only the first words anyway; shorten it",
                )

    @property
    def depth(self) -> int:
        """Hits to rank: the page and everything before it."""
        return self.offset + self.k


def as_tuple(value: Any) -> tuple[Any, ...]:
    """One thing or several, as a tuple. A string, bytes, path, array or picture is one thing."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes, Path)) or not isinstance(value, (list, tuple)):
        return (value,)
    return tuple(value)


def as_examples(value: Any) -> Examples:
    """Examples, or a word or several of them. Raises UserError."""
    if isinstance(value, Examples):
        return value
    return Examples(texts=() if value is None else values.strings("negative", value))


def vector_tuple(value: Any) -> tuple[npt.NDArray[np.floating[Any]], ...]:
    """A (D,) or (B, D) array, or a list of either, as a tuple of (D,) arrays. Raises UserError."""
    if value is None:
        return ()
    try:
        if np.iscomplexobj(value):
            raise TypeError
        with np.errstate(over="ignore"):  # said of what is not finite later
            array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise UserError("a query vector is not a list of numbers", "give one number per dimension") from None
    if array.ndim not in (1, 2):
        raise UserError(f"a query vector has {array.ndim} dimensions", "give a flat list of numbers")
    return tuple(np.atleast_2d(array))
