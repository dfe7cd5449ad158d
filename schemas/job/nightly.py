"""The section `nightly` of the job file: what a night may take away, what it has to reach, and who hears of it."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from clipmill.schemas.job.strict import Strict

MIN_MISSES = 5  # `jobs.table.enough` says why
Share = Annotated[float, Field(ge=0, le=1)]


class Saved(Strict):
    """A search that is run over the rows of each night. Exactly one of `text`, `image` (a file or URI) and `like` (the
    id of a row). `where`: SQL. `min_score`: cosine. `k`: rows listed at most."""

    text: str | None = None
    image: str | None = None
    like: str | None = None
    where: str | None = None
    min_score: float | None = Field(default=None, ge=-1, le=1)
    k: int = Field(default=20, ge=1, le=1000)

    @model_validator(mode="after")
    def _one_of_three(self) -> "Saved":
        given = [name for name in ("text", "image", "like") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"takes exactly one of text, image and like, not {' and '.join(given) or 'none'}")
        return self


def _words(value: Any) -> Any:
    """`name: red shoes` is short for `name: {text: red shoes}`."""
    if isinstance(value, dict):
        return {name: {"text": saved} if isinstance(saved, str) else saved for name, saved in value.items()}
    return value


class Nightly(Strict):
    """Only the nightly command reads this; `embed` and `plan` pass over it.

    `gone`: what becomes of rows whose source object is gone: a tar, a parquet file, a list. It is not about a picture
    that leaves a folder, nor a line that leaves a list: its row leaves with it. A listing that lost more than
    `max_gone` of the samples is taken for a mistake: nothing is deleted and nothing published. The other numbers are
    the gates' thresholds: a night that misses one of them is not published. `sets`: whether rows that came get the sets
    beside the one in use too. `min_misses`: of samples without a row so many before their share is judged; fewer say
    little about a share, and pass while they are a tenth of the samples at most. `min_coverage: 1` allows none all the
    same. `webhook` counts as a secret: an address, or `env:NAME` of a variable that holds it.
    """

    gone: Literal["keep", "delete"] = "keep"
    max_gone: Share = 0.1  # of the samples
    golden: str | None = None
    min_coverage: Share = 0.999  # rows / samples
    min_misses: int = Field(default=MIN_MISSES, ge=1)  # samples
    max_more_rejects: Share = 0.01  # share of samples rejected, above that of the published version
    min_recall: Share = 0.95  # recall@10 of the index against brute force
    max_worse: Share = 0.01  # top-1 accuracy, or recall@10, on the golden set, below that of the published version
    max_tag_drift: Share = 0.2  # total variation between the tag histograms of the two versions
    sets: Literal["fill", "leave"] = "fill"
    keep_versions_d: int = Field(default=7, ge=1, le=3650)  # days
    watch: dict[str, Saved] = Field(default_factory=dict)
    webhook: SecretStr | None = None

    @field_validator("watch", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return _words(value)

    @field_validator("watch")
    @classmethod
    def _names(cls, value: dict[str, Saved]) -> dict[str, Saved]:
        for name in value:
            if not re.fullmatch(r"\w[\w .-]{0,62}", name):
                raise ValueError(f"'{name}' is no name for a search: letters, digits, blanks, _ . and - only")
        return value

    @field_validator("webhook")
    @classmethod
    def _address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"https?://[^/\s]\S*|env:[A-Za-z_]\w*", value.get_secret_value()):
            raise ValueError("must be an address that starts with https://, or env:NAME of a variable that holds one")
        return value
