"""The empty folder that a driver of Ray works in. A killed one leaves it; the next driver removes it.

Who uses a folder holds a lock on it, which the system takes back from a process that ends in whatever way, also one of
another container with the same TMPDIR. Only empty folders are ever removed.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "clipmill-run-"
_YOUNG_S = 60.0  # between making one and locking it


def make() -> str:
    """A new one, which leaves with this process."""
    for one in left_behind():
        with contextlib.suppress(OSError):
            one.rmdir()
    made = tempfile.mkdtemp(prefix=_PREFIX)
    handle = os.open(made, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks: then nobody can tell, and all stay
        fcntl.flock(handle, fcntl.LOCK_SH)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def left_behind() -> Iterator[Path]:
    """Those that nobody works in."""
    for one in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - one.stat().st_mtime > _YOUNG_S and _is_free(one):
                yield one


def _is_free(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
