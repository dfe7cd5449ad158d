"""When an object was written, and its removal. Only tables are cleaned up with it; a source is never written to."""

import contextlib
import os
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from clipmill.schemas.job.config import Storage
from clipmill.workers.store.errors import call
from clipmill.workers.store.fs import is_s3, open_fs
from clipmill.workers.store.uri import split_uri


def modified_s(uri: str, storage: Storage) -> float:
    """Unix time of the last write, by the store's clock. FileNotFoundError where there is nothing any more."""
    fs, path = open_fs(uri, storage)
    if split_uri(uri)[0] == "file":
        return os.stat(path).st_mtime
    if is_s3(fs):
        bucket, key, _ = fs.split_path(path)
        at: datetime = call(uri, lambda: fs.call_s3("head_object", Bucket=bucket, Key=key)["LastModified"])
        return at.timestamp()
    stamp: Any = call(uri, lambda: fs.modified(path))
    return float(stamp.timestamp())


def remove(uris: Iterable[str], storage: Storage) -> int:
    """Remove these objects, and the local folders that are empty then; how many were there."""
    count = 0
    for uri in uris:
        fs, path = open_fs(uri, storage)
        with contextlib.suppress(FileNotFoundError):
            if split_uri(uri)[0] == "file":
                os.unlink(path)
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(os.path.dirname(path))
            else:
                call(uri, lambda fs=fs, path=path: fs.rm_file(path))  # type: ignore[misc]
            count += 1
    return count
