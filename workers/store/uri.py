"""How clipmill writes the name of an object, and patterns over names. No I/O.

One rule for every URI in a job file, a listing or a row: `#` and `%` inside a name are written `%23` and `%25`, so that
`uri#member` can always be taken apart again; bytes that are not UTF-8 (local disks only) are written `%80`-`%FF`.
Nothing else is encoded: `s3://b/blå bær.jpg` stays readable. A name typed raw, such as `100%.jpg`, is understood too;
only a name that really holds the text `%23` must be written `%2523`. http(s) URLs are left as they are.
"""

import os
import re
from dataclasses import dataclass

from clipmill.schemas.errors import UserError

_TO_PERCENT = re.compile(r"[\0- %#?\x7f]")
_TO_QUOTE = re.compile("[#%\udc80-\udcff]")
_TO_UNQUOTE = re.compile("%(23|25|[89A-Fa-f][0-9A-Fa-f])")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MAGIC = re.compile(r"[*?\[]")
_ESCAPED = re.compile(r"\[([*?\[])\]")  # how a glob spells these characters where they mean themselves
_TO_ESCAPE = re.compile(r"([*?\[])")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}/]*,[^{}/]*)\}")
_MAX_EXPANDED = 100_000
WEB = ("http://", "https://")  # what lies there cannot be listed
_ALIASES = {"s3a": "s3", "s3n": "s3", "local": "file", "gcs": "gs", "adl": "abfs"}


def quote(name: str) -> str:
    """The part of a URI that stands for the raw `name`."""
    if name.isascii() and "#" not in name and "%" not in name:  # nearly all; ten times as fast
        return name
    return _TO_QUOTE.sub(lambda m: f"%{ord(m[0]) & 0xFF:02X}", name)


def unquote(text: str) -> str:
    """The raw name; invalid UTF-8 comes back as surrogates, as `os.fsdecode` gives it."""

    def one(match: re.Match[str]) -> str:
        byte = int(match[1], 16)
        return chr(byte) if byte < 0x80 else chr(0xDC00 + byte)

    return _TO_UNQUOTE.sub(one, text)


def split_uri(uri: str) -> tuple[str, str]:
    """(scheme, raw path): `file` and an absolute path for anything local; `s3` and `bucket/key`.

    A trailing slash is kept, because it says "everything below". Query strings are part of the name.
    """
    match = _SCHEME.match(uri)
    if not match:
        scheme, rest = "file", uri
    else:
        scheme = _ALIASES.get(match[1].lower(), match[1].lower())
        rest = uri[match.end() :]
    if scheme in ("http", "https"):
        return scheme, uri
    raw = unquote(rest)
    if scheme != "file":
        return scheme, raw
    absolute = os.path.abspath(raw)
    return scheme, absolute + "/" if raw.endswith(("/", "/.")) and absolute != "/" else absolute


def join_uri(scheme: str, path: str) -> str:
    """The URI of a raw path, the opposite of `split_uri`. Local files have no scheme."""
    if scheme in ("http", "https"):
        return path
    return quote(path) if scheme == "file" else f"{scheme}://{quote(path)}"


def absolute_uri(uri: str) -> str:
    """The one spelling under which an object is known, whatever the user typed."""
    return join_uri(*split_uri(uri))


def lance_address(uri: str) -> str:
    """The URI as Lance takes it. To Lance a path on a disk is no URI, and nothing in it is decoded; in a URL it decodes
    every `%XX`, and its path ends at a `#` or a `?`. UserError for what it cannot be told at all."""
    scheme, path = split_uri(uri)
    if any("\ud800" <= char <= "\udfff" for char in path):  # Lance takes UTF-8 alone
        raise UserError(f"no Lance table can be at {uri}: the path is not UTF-8", "use a folder of another name")
    if scheme in ("file", "http", "https"):
        return path
    if any(part in ("", ".", "..") for part in path.rstrip("/").split("/")):
        raise UserError(f"no Lance table can be at {uri}: Lance takes no `//`, `/./` or `/../`", "use another place")
    return f"{scheme}://{_TO_PERCENT.sub(lambda m: f'%{ord(m[0]):02X}', path)}"


def expand_braces(pattern: str) -> list[str]:
    """`x-{000..002}.tar` -> three names, `{train,val}/*.tar` -> two patterns. UserError for more than 100,000."""
    pending, done = [pattern], []
    while pending:
        text = pending.pop()
        match = _BRACES.search(text)
        if not match:
            done.append(text)
            continue
        if match[1] is not None:
            first, last, width = int(match[1]), int(match[2]), len(match[1])
            if abs(last - first) >= _MAX_EXPANDED:
                raise UserError(f"{pattern} stands for more than {_MAX_EXPANDED:,} names", "use a glob such as *.tar")
            numbers = range(first, last + 1) if last >= first else range(first, last - 1, -1)
            parts = [f"{n:0{width}d}" for n in numbers]
        else:
            parts = match[3].split(",")
        if len(pending) + len(done) + len(parts) > _MAX_EXPANDED:
            raise UserError(f"{pattern} stands for more than {_MAX_EXPANDED:,} names", "use a glob such as *.tar")
        pending += [text[: match.start()] + part + text[match.end() :] for part in reversed(parts)]
    return done


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern taken apart: `root` is the raw folder that names are relative to (empty or ending in `/`),
    `prefix` the literal start of the names below it, `regex` what a relative name must match (None: anything),
    `deep` whether names may lie in sub-folders, `everywhere` whether the last part of a name alone decides about it, in
    whatever sub-folder it lies. `below`: what was written behind `root`."""

    scheme: str
    root: str
    prefix: str
    regex: re.Pattern[str] | None
    deep: bool
    everywhere: bool = False
    below: str = ""

    def matches(self, name: str) -> bool:
        return self.regex is None or self.regex.fullmatch(name) is not None

    @property
    def uri(self) -> str:
        """The spelling that `parse_pattern` understands, whatever characters the folder's name holds."""
        return join_uri(self.scheme, escape(self.root) + self.below)


def has_magic(path: str) -> bool:
    return _magic_at(path) is not None


def escape(path: str) -> str:
    """The pattern that only the raw `path` itself matches."""
    return _TO_ESCAPE.sub(r"[\1]", path)


def unescape(pattern: str) -> str:
    """The raw path that is the only one to match a pattern without magic."""
    return _ESCAPED.sub(r"\1", pattern)


def folder_pattern(scheme: str, path: str) -> Pattern:
    """All that lies below a folder called `path`, whatever characters its name holds."""
    return Pattern(scheme, path, "", None, True, everywhere=True)


def parse_pattern(scheme: str, path: str) -> Pattern:
    """A glob (`*` and `?` stay within a folder, `**` does not), or a folder ending in `/`."""
    start = _magic_at(path)
    if start is None:
        assert path.endswith("/"), path
        return folder_pattern(scheme, unescape(path))
    from fsspec.utils import glob_translate

    folder = path[: path.rfind("/", 0, start) + 1]
    below = path[len(folder) :]
    root, prefix = (unescape(part) for part in (folder, path[len(folder) : start]))
    regex = re.compile(glob_translate(below))
    everywhere = below.startswith("**/") and "/" not in below[3:]
    return Pattern(scheme, root, prefix, regex, "/" in below or "**" in below, everywhere, below)


def _magic_at(path: str) -> int | None:
    """Where the first character stands that does not mean itself."""
    at = 0
    while found := _MAGIC.search(path, at):
        escaped = _ESCAPED.match(path, found.start())
        if escaped is None:
            return found.start()
        at = escaped.end()
    return None
