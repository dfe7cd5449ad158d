"""Tells a web address that a night went wrong: one JSON document that Slack takes (`text`) and programs read.

The address is a secret, because whoever knows it can post. So it is in no message of ours: what the HTTP library raises
and logs holds it, and is neither shown nor passed on. Nothing here changes how a night ends.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from clipmill.jobs.publishing.night import Night, webhook_address
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.nightly import Nightly
from clipmill.schemas.text.secrets import masked
from clipmill.schemas.text.words import units_without_rows

TOLD = frozenset({"refused", "units", "failed"})  # of Night.status; and whenever units failed
TRIES = 3
CONNECT_S, READ_S = 5, 15
LONGEST = 2000  # characters of `text` and `error`
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_SAYS = {"refused": "not published", "units": "units failed", "failed": "failed"}


class _TryAgain(Exception):
    """The server asked for that, or nobody answered."""


def notify(nightly: Nightly, night: Night) -> str:
    """Post the summary of a night that went wrong, if the job names an address. Returns a sentence for a person where
    it could not be told; empty where it was, or there was nothing to tell."""
    if night.status not in TOLD and not night.failed_units:
        return ""
    try:
        address = webhook_address(nightly)
    except UserError as error:
        return f"the webhook was not told: {error.message}"
    if address is None:
        return ""
    why = post(address, summary(night, address))
    return f"the webhook was not told: {why}" if why else ""


def summary(night: Night, address: str = "") -> dict[str, Any]:
    """The night as JSON values, with `text` for a person. `address` is blotted out wherever an error repeats it."""

    def clean(text: str) -> str:
        return masked(text.replace(address, "***") if address else text)[:LONGEST]

    said = [clean(gate.sentence or f"{gate.name}: {gate.value}") for gate in night.refused]
    error = clean(night.error)
    name = night.table.rpartition("/")[2]
    lines = [f"clipmill nightly, {name}: {_SAYS.get(night.status, night.status)}", *said, error]
    if night.failed_units:
        lines.append(clean(units_without_rows(night.failed_units)))
    if night.live_after is not None:
        lines.append(f"readers see version {night.live_after}")
    figures = asdict(night)
    del figures["maintained"]
    return {
        # Slack reads & < > as its own: <!channel> in the name of a file would wake everybody.
        "text": _plain_for_slack("\n".join(filter(None, lines)))[:LONGEST],
        "event": "clipmill.nightly",
        **figures,
        "table": masked(night.table),
        "failed_units": [{k: clean(str(v)) for k, v in unit.items()} for unit in night.failed_units[:20]],
        "num_failed_units": len(night.failed_units),
        "gates": [{**asdict(gate), "sentence": clean(gate.sentence)} for gate in night.gates],
        "error": error,
        "note": clean(night.note),
    }


def _plain_for_slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def post(address: str, document: dict[str, Any], *, waits_s: float = 1.0) -> str:
    """POST the document; at most TRIES times where that may help, without following redirects. Returns why it did not
    arrive, without the address; empty where it did. Takes a minute and a half at most."""
    from tenacity import (
        RetryError,
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_exponential,
        wait_random,
    )

    tries = Retrying(
        retry=retry_if_exception_type(_TryAgain),
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(multiplier=waits_s, max=10 * waits_s) + wait_random(0, waits_s),
    )
    try:
        with _quiet():
            return tries(_once, address, document)
    except RetryError as error:
        return f"{error.last_attempt.exception()}, {TRIES} times"
    except Exception as error:  # noqa: BLE001 - its text may hold the address; a night does not end by this
        return type(error).__name__


def _once(address: str, document: dict[str, Any]) -> str:
    import requests

    try:
        with requests.post(
            address, json=document, timeout=(CONNECT_S, READ_S), allow_redirects=False, stream=True
        ) as answer:
            status = answer.status_code
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _TryAgain(f"nobody answers ({type(error).__name__})") from None
    if status in _LATER:
        raise _TryAgain(f"its server answers {status}")
    return "" if 200 <= status < 300 else f"its server answers {status}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """urllib3 logs the path of each request, which is where such addresses keep their secret."""
    loggers = [logging.getLogger(name) for name in ("urllib3.connectionpool", "urllib3.util.retry", "requests")]
    before = [one.disabled for one in loggers]
    for one in loggers:
        one.disabled = True
    try:
        yield
    finally:
        for one, was in zip(loggers, before, strict=True):
            one.disabled = was
