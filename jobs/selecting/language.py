"""In which language a caption is. One of the owners of py3langid, a small naive Bayes classifier over bytes with its
weights inside: no network, and the same answer for the same text."""

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

from clipmill.schemas.errors import UserError
from clipmill.schemas.installed import not_installed


class Detector:
    """Says of a text whether the likeliest of all known languages is one of those asked for."""

    def __init__(self, languages: frozenset[str]) -> None:
        self._languages = languages
        self._classify: Any = _library().classify
        self.name = f"languages by py3langid {metadata.version('py3langid')}"

    def __call__(self, text: str) -> bool:
        return self._classify(text)[0] in self._languages


def detector(languages: Sequence[str]) -> Detector:
    """Raises UserError for a code that it does not know, and where it is not installed."""
    known = {code for code, _ in _library().rank("")}
    for code in languages:
        if code not in known:
            raise UserError(f"no language is known by '{code}'", f"there is: {', '.join(sorted(known))}")
    return Detector(frozenset(languages))


@cache
def _library() -> Any:
    try:
        import py3langid
    except ModuleNotFoundError as error:
        raise not_installed(error, "the language of captions") or error from None
    return py3langid
