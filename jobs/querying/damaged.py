"""Which index is damaged, where Lance says no more than that it cannot read a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clipmill.schemas.errors import DamagedIndex
from clipmill.workers.store.errors import of_table

_READING = (OSError, ValueError, RuntimeError)  # Lance's, pyarrow's too


def damaged(name: str, columns: list[str]) -> DamagedIndex:
    return DamagedIndex(
        f"the index {name} of {', '.join(columns)} is damaged, or files of it are gone",
        "`clipmill index TABLE --rebuild` builds it anew",
    )


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
    fails is tried again alone, index by index: Lance's words rarely say of which file they are. A store that does not
    answer is told as that."""
    try:
        yield
    except _READING as error:
        if (told := of_table(error, "the table")) is not error:
            raise told from error
        text = " ".join(part for part in asked if part)
        for index in dataset.describe_indices():
            if any(column in text for column in index.field_names):
                with reading_index(dataset, index.name):
                    dataset.prewarm_index(index.name)
        raise
