"""What is damaged or gone, where Lance says no more than that it cannot read a file."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clipmill.schemas.errors import DamagedIndex, VersionGone
from clipmill.workers.store.errors import of_table

_READING = (OSError, ValueError, RuntimeError)  # Lance's, pyarrow's too
_NO_FILE = re.compile(r"Not found: .*\.lance/(data|_deletions|_versions)/")


def damaged(name: str, columns: list[str]) -> DamagedIndex:
    return DamagedIndex(
        f"the index {name} of {', '.join(columns)} is damaged, or files of it are gone",
        "`clipmill index TABLE --rebuild` builds it anew",
    )


def _told(error: Exception) -> Exception:
    """As what a person can do something about: the store, or that others removed what was read; else itself."""
    if _NO_FILE.search(str(error)):
        return VersionGone(
            "files of this version of the table are gone: the table was dropped or made again, or old versions removed",
            "run it again, which opens the newest; a table that is open in Python follows by `table.refresh()`",
        )
    return of_table(error, "the table")


@contextmanager
def reading_table() -> Iterator[None]:
    """Around any read of the version that is open."""
    try:
        yield
    except _READING as error:
        if (told := _told(error)) is error:
            raise
        raise told from error


@contextmanager
def reading_index(dataset: Any, name: str) -> Iterator[None]:
    """Around a read of nothing but this index. A store that does not answer is told as that."""
    try:
        yield
    except _READING as error:
        if (told := of_table(error, "the table")) is not error:
            raise told from error
        found = [list(index.field_names) for index in dataset.describe_indices() if index.name == name]
        raise damaged(name, found[0] if found else []) from error


@contextmanager
def naming_damage(dataset: Any, *asked: str | None) -> Iterator[None]:
    """Around a read that indices take part in: those of columns that are named in `asked`, filters or columns. What
    fails is tried again alone, index by index: Lance's words rarely say of which file they are. As
    `reading_table` too."""
    try:
        yield
    except _READING as error:
        if (told := _told(error)) is not error:
            raise told from error
        text = " ".join(part for part in asked if part)
        for index in dataset.describe_indices():
            if any(column in text for column in index.field_names):
                with reading_index(dataset, index.name):
                    dataset.prewarm_index(index.name)
        raise
