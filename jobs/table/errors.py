"""What a failed commit means: somebody was first, or this table cannot be written at all."""

import difflib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.workers.store.errors import of_table
from clipmill.workers.store.uri import split_uri

# The words that begin each of Lance's errors about other commits. Only the beginning: a path, an S3 answer ("409
# Conflict") and the name of a source file further on may say anything.
_CONFLICT = re.compile(
    r"(?:LanceError\(\w*\): )?"
    r"(?:Retryable commit conflict|Commit conflict|Incompatible transaction|Too many concurrent writers)",
    re.IGNORECASE,
)


class NoSpace(UserError):
    """The disk, or one's share of it, is full, or a file would be larger than this process may make one. What frees
    space can still be done."""


_NO_ROOM = (
    (
        r"\(os error 28\)|\(os error 122\)|507 Insufficient",
        "there is no space left for",
        "free some, or use another place",
        NoSpace,
    ),
    (
        r"\(os error 27\)",
        "this process may make no file as large as is needed for",
        "raise the limit: ulimit -f of the shell, LimitFSIZE of a systemd unit, or that of the file system",
        NoSpace,
    ),
    (
        r"\(os error 30\)",
        "the file system is mounted read-only, so nothing can be written to",
        "use another place",
        UserError,
    ),
)
_REFUSALS = (
    *_NO_ROOM,
    (
        r"\(os error 13\)|\(os error 1\)",
        "no permission to write to",
        "ask for write permission on the folder",
        UserError,
    ),
)


def is_conflict(error: BaseException) -> bool:
    """Whether another commit got in the way. Lance raises that as its own class or as a plain OSError."""
    if any(one.__name__ == "CommitConflictError" for one in type(error).__mro__):
        return True
    return isinstance(error, OSError) and _CONFLICT.match(str(error)) is not None


def check_folder(uri: str) -> None:
    """UserError where a local folder, or the nearest one above it that is there, cannot be written to: for a new table
    or an export, which would find it out only after the work. Stores are asked by `check_store`."""
    scheme, path = split_uri(uri)
    if scheme != "file":
        return
    folder = Path(path)
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
    except OSError as error:  # a folder above it that may not be entered, a name that is too long
        raise UserError(f"nothing can be written to {uri}: {error.strerror}", "use another place") from None
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder, so nothing can be kept in {uri}", "use another place")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise UserError(f"no permission to write to {folder}", "ask for write permission on it, or use another place")
    try:  # root has every permission, also where nothing can be made
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"nothing can be written to {folder}: {error.strerror}", "use another place") from None


def no_place_for_a_table(error: Exception, database: str) -> UserError | None:
    """The sentence where no table can be below `database`, whatever it is called, or may not be read there; None for
    other errors of lance."""
    text = str(error)
    if "No object store provider found" in text:
        scheme = database.partition("://")[0]
        return UserError(
            f"{database} cannot hold a table: nothing here keeps tables under {scheme}://",
            "write <database uri>/<name>, local or in a store, such as s3://lake/db/images",
        )
    if "Unable to find object store prefix" in text:
        scheme = database.partition("://")[0]
        return UserError(
            f"{database} cannot be opened: {' '.join(text.split('prefix: ')[-1].split(', /')[0].split())}",
            f"set what the store behind {scheme}:// needs, or use s3:// or a local folder",
        )
    if unreadable := no_reading(error, database):
        return unreadable
    if "(os error 20)" in text:
        return UserError(f"{database} is no folder, so there is no table in it", "check the path, a folder and a name")
    return None


def no_table(database: str, name: str) -> UserError:
    """On a disk the hint looks around: a database that was typed for a table of it, or a slip in the name."""
    typed = f"{database}/{name}"
    hint = "check the name, or create it with `clipmill embed JOB.yaml`, which makes it once the model is loaded"
    if below := _tables_in(typed):
        hint = f"it is a database; what it holds: {', '.join(f'{typed}/{one}' for one in below[:3])}"
    elif near := difflib.get_close_matches(name, _tables_in(database), n=1):
        hint = f"did you mean {database}/{near[0]}?"
    return UserError(f"there is no table {typed}", hint)


def _tables_in(uri: str) -> list[str]:
    """Of a folder on a disk, without those beside them; of a store none: asking would be another listing."""
    scheme, path = split_uri(uri)
    try:
        names = sorted(os.listdir(path)) if scheme == "file" else []
    except (OSError, ValueError):
        return []
    return [one.removesuffix(".lance") for one in names if one.endswith(".lance") and "__" not in one]


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Around a commit or a write: what `refusal` knows is raised as that; other errors, conflicts too, as they are."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        told = refusal(error, uri)
        if told is None:
            raise
        raise told from None


def refusal(error: Exception, uri: str) -> ClipmillError | None:
    """The sentence for a store that will not take what is written to `uri`, or does not answer (StoreUnavailable); None
    where that is not what happened."""
    if is_conflict(error):
        return None
    if refused := _refused(error, uri, _REFUSALS):
        return refused
    told = of_table(error, uri, doing="write to")
    return told if isinstance(told, ClipmillError) else None


def no_reading(error: Exception, uri: str) -> UserError | None:
    """The sentence where Lance may not read a file on a disk, which it does not always name: it is of `uri` then."""
    text = str(error)
    if "LanceError" not in text or "(os error 13)" not in text:
        return None
    found = re.search(r"operation on (.+?): Permission denied", text)
    what = found[1] if found else f"a file of {uri}"
    return UserError(f"no permission to read {what}", "ask for read permission on it and the folders above it")


def no_room(error: Exception, uri: str) -> UserError | None:
    """Of what `refusal` knows, what no reader meets: for whoever cannot tell whether something was to be written."""
    return _refused(error, uri, _NO_ROOM)


def _refused(error: Exception, uri: str, refusals: Sequence[tuple[str, str, str, type[UserError]]]) -> UserError | None:
    if not isinstance(error, OSError):
        return None
    text = f"{error} (os error {error.errno})"  # Python's; Lance's have the number in the text
    for pattern, sentence, hint, kind in refusals:
        if re.search(pattern, text):
            return kind(f"{sentence} {uri}", hint)
    return None
