"""A file on a disk, written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place once it is whole. What the disk says against it is told
    of `path`: nobody who asked for that knows the other."""
    half = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        yield half
        os.replace(half, path)
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) == str(half):
            error.filename = str(path)
            del error.filename2
        raise
    finally:
        with contextlib.suppress(OSError):  # mostly it is not there, which a read-only disk does not even look at
            half.unlink()
