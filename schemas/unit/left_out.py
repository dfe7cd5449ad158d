"""What a source holds and no reader takes, counted by the ending of its name: {"heic": 12, "hidden": 5}.

Every key is a short printable word, because names are strangers' text, and there are few of them, because a name may
end in anything: what comes after the first MAX_ENDINGS is `other`.
"""

import json
import re
from collections.abc import Mapping

NO_EXTENSION = "no extension"
HIDDEN = "hidden"  # dot files, macOS `._` files and `__MACOSX` folders, webdataset's own `__name__`
BROKEN_LINK = "broken link"  # on a local disk: to nothing, or to itself
NO_FILE = "no file"  # a pipe, socket or device
LONELY_TEXT = "without a picture"  # prefixed by the text's ending: "txt without a picture"
WITHOUT_A_ROW = "without a row"  # prefixed by the ending of a picture that the list beside it does not name
OTHER = "other"
MAX_ENDINGS = 30

LeftOut = dict[str, int]

_ENDING = re.compile(r"[a-z0-9_+~-]{1,16}")


def ending_of(name: str) -> str:
    """The key under which an object or member of this name is counted."""
    base = name.rpartition("/")[2]
    if base.startswith(".") or "__MACOSX" in name.split("/")[:-1] or (base.startswith("__") and base.endswith("__")):
        return HIDDEN
    _, dot, ending = base.rpartition(".")
    if not dot or not ending:
        return NO_EXTENSION
    return ending.lower() if _ENDING.fullmatch(ending.lower()) else OTHER


def count(into: LeftOut, ending: str, number: int = 1) -> None:
    """Add `number` under `ending`."""
    key = ending if ending in into or len(into) < MAX_ENDINGS else OTHER
    into[key] = into.get(key, 0) + number


def merge(into: LeftOut, more: Mapping[str, int]) -> None:
    for ending, number in more.items():
        count(into, ending, number)


def to_text(counts: Mapping[str, int]) -> str:
    """`heic 12, no extension 3, hidden 5`: most first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{ending} {number:,}" for ending, number in ordered)


def hint_for(counts: Mapping[str, int]) -> str:
    """What would bring some of them in; empty where nothing does."""
    found = [ending for ending in ("heic", "heif", "hif") if counts.get(ending)]
    if not found:
        return ""
    return (
        f"pip install 'clipmill[heic]' where workers run, and name {found[0]} in source.image (jpg;jpeg;png;{found[0]})"
    )


def to_json(counts: Mapping[str, int]) -> str:
    """As the ledger keeps it; `{}` says that nothing was left out, an empty text that nobody counted."""
    return json.dumps(dict(counts), sort_keys=True)


def from_json(text: str) -> LeftOut:
    return {str(ending): int(number) for ending, number in json.loads(text).items()} if text else {}
