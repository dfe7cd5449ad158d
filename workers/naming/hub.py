"""The Hugging Face Hub and other hosts of weights where there is no network: one short try, not a minute of them.

huggingface_hub tries each of several names of a file five times, with pauses; on a machine without a network that was
24 to 48 s (by hand, 2026-11-28) before it says so, and what is in its cache is only looked for then.
"""

import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRY_S = 5.0
_KEEP_S = 60.0  # for so long an answer is believed
_known: dict[str, tuple[float, bool]] = {}


@contextmanager
def without_waiting() -> Iterator[None]:
    """Within it the hub's client takes only what its cache has, and at once, if the hub does not answer."""
    from huggingface_hub import constants

    switch: Any = constants
    before = switch.HF_HUB_OFFLINE
    if not before and not reachable(switch.ENDPOINT):
        switch.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        switch.HF_HUB_OFFLINE = before


def reachable(url: str) -> bool:
    """Whether anybody answers there within TRY_S seconds, whatever the answer."""
    at, answer = _known.get(url, (-_KEEP_S, False))
    if time.monotonic() - at < _KEEP_S:
        return answer
    answers: list[bool] = []
    # A thread, because looking a name up takes as long as it likes.
    thread = threading.Thread(target=lambda: answers.append(_answers(url)), daemon=True)
    thread.start()
    thread.join(TRY_S)
    _known[url] = (time.monotonic(), bool(answers and answers[0]))
    return _known[url][1]


def _answers(url: str) -> bool:
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - of open_clip's table or the hub's setting
        with urllib.request.urlopen(request, timeout=TRY_S):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # somebody answered; the client may have other certificates
    except (OSError, ValueError):
        return False
