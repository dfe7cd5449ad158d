"""Requests and answers of the HTTP API. Strict: a number is a number, unknown fields are refused."""

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from clipmill.jobs.querying.request import Examples, Query, as_tuple
from clipmill.schemas.errors import UserError
from clipmill.schemas.model import Fingerprint

MAX_K = 1000
MAX_OFFSET = 9000


def _unicode(value: str) -> str:
    """Lone surrogates are JSON but no text: nothing behind this could encode them."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    return value


Words = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_unicode)]
Id = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_unicode)]
Label = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_unicode)]
SeveralWords = Annotated[list[Words], Field(max_length=16)] | Words
SeveralIds = Annotated[list[Id], Field(max_length=16)] | Id
ColumnName = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_unicode)]  # others may add any


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Filters(Strict):
    """Which rows count."""

    where: Annotated[str, Field(max_length=4000), AfterValidator(_unicode)] | None = Field(
        default=None, description="A SQL predicate over the columns, such as width > 512 AND license = 'cc0'."
    )
    any_tags: list[Label] = Field(default=[], max_length=64)
    all_tags: list[Label] = Field(default=[], max_length=64)
    no_tags: list[Label] = Field(default=[], max_length=64)


class Question(Filters):
    """Examples to be like or unlike, and filters. Without examples, the rows that pass the filters."""

    text: SeveralWords = Field(default=[], description="Words to look for: one text or several.")
    like: SeveralIds = Field(default=[], description="Ids of rows to be like.")
    not_text: SeveralWords = []
    not_like: SeveralIds = []
    vector: str | None = Field(
        default=None,
        max_length=24_000,
        pattern=r"^([0-9a-f]{16}\.)?[A-Za-z0-9_-]*$",
        description="A query vector: little-endian float16, base64url without padding. One of /api/encode has its "
        "model's mark and a dot before it, and is refused once the table is of another model.",
    )
    min_score: float | None = Field(default=None, ge=-1, le=1)
    hybrid: bool = False
    text_weight: float = Field(default=0.5, ge=0, le=1)


class SearchRequest(Question):
    k: int = Field(default=20, ge=1, le=MAX_K)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)
    columns: list[ColumnName] | None = Field(default=None, max_length=64)


class FacetsRequest(Question):
    columns_counted: list[ColumnName] = Field(default=["tags"], min_length=1, max_length=8)
    top: int = Field(default=30, ge=1, le=1000)
    hits: int = Field(default=0, ge=0, le=MAX_K, description="Count the best hits; 0: every row that passes.")
    containing: Annotated[str, Field(max_length=256), AfterValidator(_unicode)] = Field(
        default="",
        description="Only values with this text in them, whatever its case; tags of no such row are counted as 0.",
    )
    by_facet: bool = Field(
        default=False,
        description="Tags by the facets of their vocabulary, where it is known: an answer and `top` values of each.",
    )


class Row(BaseModel):
    """A row: the columns asked for. `score` is the cosine similarity, null where nothing was compared."""

    model_config = ConfigDict(extra="allow")
    score: float | None = None


class SearchResponse(BaseModel):
    """`matching`: rows that pass the filters. `version`: of the table. `note`: why there are no hits, or what the words
    of a hybrid search cannot find; null where there is nothing to say. `unproven`: as in `TableInfo`."""

    hits: list[Row]
    note: str | None = None
    unproven: str | None = None
    matching: int
    version: int
    took_ms: float


class CopiesResponse(BaseModel):
    """`version`: of the table."""

    hits: list[Row]
    version: int
    took_ms: float


class FacetValue(BaseModel):
    value: str
    rows: int


class FacetOut(BaseModel):
    """`group`: the facet of the vocabulary that these tags are of; empty for what is of none."""

    column: str
    group: str = ""
    values: list[FacetValue]
    rows: int
    distinct: int
    truncated: bool


class FacetsResponse(BaseModel):
    facets: list[FacetOut]
    version: int
    took_ms: float


class Encoded(BaseModel):
    vector: str
    dim: int


class ColumnInfo(BaseModel):
    name: str
    type: str


class TableInfo(BaseModel):
    """`unproven`: one sentence where the vectors were imported and never shown to be of the model."""

    name: str
    version: int
    rows: int
    columns: list[ColumnInfo]
    model: str
    pretrained: str
    facets: list[str]
    full_text: bool
    index: dict[str, Any] | None
    unproven: str | None = None


class Health(BaseModel):
    """`status`: ok; stuck: queries that do not end hold every thread (503); gone: there is no such table any more
    (503); away: it cannot be looked at for news just now, and is answered from as it was. `detail`: of the status.
    `encoder`: ready, loading, or why words and pictures cannot be searched. `overdue`: queries over their time that
    did not end yet."""

    status: str
    version: int
    rows: int
    encoder: str
    overdue: int = 0
    detail: str = ""


class Problem(BaseModel):
    """One sentence, and the way out of it."""

    error: str
    hint: str


def to_query(question: Question, model: Callable[[], Fingerprint], **page: Any) -> Query:
    """`model`: the one that the vectors which are searched are of; asked where the question's vector names one.
    Raises UserError for a vector that is none, or of another model."""
    vectors = (decode_vector(question.vector, model),) if question.vector else ()
    return Query(
        positive=Examples(texts=as_tuple(question.text), ids=as_tuple(question.like), vectors=vectors),
        negative=Examples(texts=as_tuple(question.not_text), ids=as_tuple(question.not_like)),
        where=question.where or None,
        any_tags=tuple(question.any_tags),
        all_tags=tuple(question.all_tags),
        no_tags=tuple(question.no_tags),
        min_score=question.min_score,
        hybrid=question.hybrid,
        text_weight=question.text_weight,
        **page,
    )


def encode_vector(vector_D: Any, model: Fingerprint) -> str:
    numbers = base64.urlsafe_b64encode(np.asarray(vector_D, dtype="<f2").tobytes()).decode().rstrip("=")
    return f"{_mark(model)}.{numbers}"


def decode_vector(text: str, model: Callable[[], Fingerprint]) -> Any:
    mark, _, numbers = text.rpartition(".")
    if mark and mark != _mark(model()):
        raise UserError(
            "the vector is of another model than the one that the table is searched by now",
            "embed the picture again: /api/encode, or choose it anew on the page",
        )
    try:
        data = base64.urlsafe_b64decode(numbers + "=" * (-len(numbers) % 4))
        return np.frombuffer(data, dtype="<f2").astype(np.float32)
    except (binascii.Error, ValueError):
        raise UserError("the vector is not base64url of float16 numbers", "take it from /api/encode") from None


def _mark(model: Fingerprint) -> str:
    """Vectors of the same weights have the same."""
    return hashlib.sha256(model.weights_sha256.encode()).hexdigest()[:16]
