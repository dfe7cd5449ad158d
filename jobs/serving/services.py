"""What all requests share, and what several kinds of answers have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request

from clipmill.jobs.querying.open import Table
from clipmill.jobs.serving.guard import Metrics
from clipmill.jobs.serving.pictures import Pictures
from clipmill.jobs.serving.runner import Runner
from clipmill.jobs.serving.settings import Settings
from clipmill.schemas.model import Fingerprint

Answer = TypeVar("Answer")
UNPROVEN_VECTORS = (
    "unproven: these vectors were imported, and it was not shown that they are of the model that looks for them"
)
LOADING = "loading"
STEADY_TRIES = 3  # of a search beside which the table moved on; it does so every `Settings.refresh_s` at most


class Loading(Exception):
    """Words and pictures cannot be searched yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes share. `encoder` is a list of one word on the encoder's state, replaced as it loads;
    `table_state` the same of the table: ok, away or gone, and why; `facet_of` the same of the tags: the facet of every
    label of the vocabulary, empty where it is not known here."""

    table: Table
    settings: Settings
    runner: Runner
    pictures: Pictures
    metrics: Metrics
    encoder: list[str]
    table_state: list[tuple[str, str]]
    facet_of: list[dict[str, str]]

    def model(self) -> Fingerprint:
        return self.table.snapshot.fingerprint("vector")

    def need_encoder(self) -> None:
        """Raises Loading rather than let a query wait in a thread that others could use."""
        if self.encoder[0] == LOADING:
            raise Loading


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


def steady(table: Table, once: Callable[[int], Answer]) -> Answer:
    """All of it from the version that it names: readers may be given a newer one meanwhile, of another model."""
    for _ in range(STEADY_TRIES):
        version = table.version
        answer = once(version)
        if table.version == version:
            break
    return answer


def unproven(table: Table) -> str | None:
    """Neither the proof's words nor the model's whole name, which may be of a folder, are for whoever asks."""
    return UNPROVEN_VECTORS if table.unproven() else None
