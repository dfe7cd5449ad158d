"""Object stores and local disks, one road for both: list, look, stream, get, put.

What a name means is in `uri`, what is retried and how errors read in `errors`, the clients in `fs`, listings in
`listing`, and the test of a store's promises in `check`. Credentials come from the standard AWS chain only and are in
no message.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tenacity import retry, retry_if_exception, stop_after_attempt, stop_after_delay

from clipmill.schemas.errors import SourceChanged, UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.secrets import CHAIN_HINT, secret_in
from clipmill.schemas.unit.units import SourceObject
from clipmill.workers.store import errors as store_errors
from clipmill.workers.store.blocks import BLOCKS_AHEAD, Blocks
from clipmill.workers.store.check import check_store
from clipmill.workers.store.errors import (
    TRANSIENT,
    BadName,
    StoreUnavailable,
    TooManyBytes,
    as_user_error,
    call,
    is_transient,
)
from clipmill.workers.store.fs import connect, endpoint_url, head_of, open_fs, read_range, region
from clipmill.workers.store.listing import PassedOver, list_keys, resolve
from clipmill.workers.store.uri import Pattern, absolute_uri, folder_pattern, join_uri, quote, split_uri, unquote
from clipmill.workers.store.whole import written_whole

__all__ = [
    "TRANSIENT",
    "BadName",
    "StoreUnavailable",
    "TooManyBytes",
    "absolute_uri",
    "check_store",
    "connect",
    "get_bytes",
    "has_any",
    "head",
    "is_transient",
    "lance_options",
    "list_objects",
    "open_fs",
    "open_stream",
    "put_bytes",
    "put_file",
    "quote",
    "retry_transient",
    "unquote",
]

# What lance waits for one answer of the table's store, from the first byte sent to the last received. With lance's own
# 30 s, uploading ten parts of 5 MB at a time fails over a line of less than 14 Mbit/s; this is for lines half as fast.
STALLED_S = 60.0

retry_transient = retry(
    retry=retry_if_exception(is_transient),
    stop=stop_after_attempt(store_errors.ATTEMPTS) | stop_after_delay(store_errors.REPEAT_FOR_S),
    wait=lambda state: store_errors._WAIT(state),
    reraise=True,
)


def list_objects(
    pattern: str, storage: Storage, *, passed_over: PassedOver = lambda uri, why: None
) -> Iterator[SourceObject]:
    """Objects of a glob, a folder (ending in `/`, or found to be one), or one name; in key order.

    `**` crosses folders, `{000..009}` and `{a,b}` are expanded. Memory is one page. An empty folder or a glob without
    a match yields nothing. `passed_over` is told what is no file, by its uri, as `list_keys` tells it by its name.
    Raises UserError for a missing bucket or name, refused permission or credentials, a store that does not answer.
    """
    try:
        for resolved, key in resolve(pattern, storage):

            def uri_of(name: str, resolved: Pattern = resolved) -> str:
                return join_uri(resolved.scheme, resolved.root + name)

            def tell(name: str, why: str, uri_of: Callable[[str], str] = uri_of) -> None:
                passed_over(uri_of(name), why)

            for found in [key] if key else list_keys(resolved, storage, passed_over=tell):
                yield SourceObject(uri=uri_of(found.name), etag=found.etag, size_bytes=found.size_bytes)
    except (FileNotFoundError, NotADirectoryError, PermissionError, StoreUnavailable) as error:
        raise as_user_error(error, pattern) from error


def has_any(folder: str, storage: Storage) -> bool:
    """Whether anything lies below a folder (ending in `/`), a bucket or not. Raises as `list_objects` does."""
    try:
        return next(list_keys(folder_pattern(*split_uri(folder)), storage), None) is not None
    except FileNotFoundError:
        return False
    except BadName as error:
        if isinstance(error.__cause__, NotADirectoryError):  # below a file lies nothing
            return False
        raise
    except (PermissionError, StoreUnavailable) as error:
        raise as_user_error(error, folder) from error


def head(uri: str, storage: Storage) -> SourceObject:
    """Etag and size of one object. Raises UserError as `list_objects` does."""
    try:
        name, etag, size = head_of(uri, storage, attempts=store_errors.FIRST_CONTACT_ATTEMPTS)
    except (FileNotFoundError, PermissionError, StoreUnavailable) as error:
        raise as_user_error(error, uri) from error
    return SourceObject(uri=name, etag=etag, size_bytes=size)


def get_bytes(
    uri: str,
    storage: Storage,
    *,
    max_bytes: int,
    part: tuple[int, int] | None = None,
    expected_etag: str = "",
    attempts: int = store_errors.ATTEMPTS,
) -> bytes:
    """An object, or the `part` of it that begins at an offset and has a size, in one request; shorter where the object
    ends.

    Raises TooManyBytes before reading, FileNotFoundError, PermissionError, SourceChanged where `expected_etag` is not
    the object's, StoreUnavailable, BadName, UserError.
    """
    fs, path = open_fs(uri, storage)
    first, end = (0, None) if part is None else (part[0], sum(part))
    return call(
        uri, lambda: read_range(fs, path, first, end, max_bytes=max_bytes, etag=expected_etag), attempts=attempts
    )


def put_bytes(uri: str, data: bytes, storage: Storage) -> None:
    """Store `data` as one object, replacing it whole. Local folders are made; a half-written file is never visible."""
    fs, path = open_fs(uri, storage)
    if split_uri(uri)[0] != "file":
        _put(uri, lambda: fs.pipe_file(path, data))
        return
    with _published(path) as temporary, temporary.open("wb") as file:
        file.write(data)


def _put(uri: str, action: Callable[[], object]) -> None:
    """Raises UserError where the store will not have it: whoever writes was told to write there."""
    try:
        call(uri, action, doing="write to")
    except PermissionError as error:
        raise UserError(str(error), "ask for s3:PutObject on it") from error
    except FileNotFoundError as error:
        raise as_user_error(error, uri) from error


def put_file(uri: str, local: str, storage: Storage) -> None:
    """Store a local file in the same way, a piece at a time."""
    fs, path = open_fs(uri, storage)
    if split_uri(uri)[0] != "file":
        _put(uri, lambda: fs.put_file(local, path))
        return
    with _published(path) as temporary:
        shutil.copyfile(local, temporary)


@contextmanager
def _published(path: str) -> Iterator[Path]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with written_whole(Path(path)) as half:
        yield half


def open_stream(
    uri: str,
    storage: Storage,
    *,
    expected_etag: str = "",
    start: int = 0,
    end: int | None = None,
    straight_on: bool = False,
) -> BinaryIO:
    """A file over bytes up to `end` of an object, positioned at `start`; `tell` and `seek` count from the object's
    beginning. Sequential reads fetch 16 MB at a time; one block is held, and with `straight_on` two more are on their
    way (from a store; a local disk reads ahead by itself). Every block is asked for with the etag seen at opening, so
    the bytes of two versions of an object never mix.

    Raises SourceChanged where the object's etag is not `expected_etag`, or where it is gone although it was planned;
    while reading, also where it was replaced. PermissionError where it may not be read; UserError where it cannot be
    opened at all; StoreUnavailable.
    """
    try:
        name, etag, size = head_of(uri, storage, attempts=store_errors.ATTEMPTS)
    except FileNotFoundError as error:
        if expected_etag:
            raise SourceChanged(f"{uri} is gone", "run again: it will be planned anew") from error
        raise as_user_error(error, uri) from error
    if expected_etag and etag != expected_etag:
        raise SourceChanged(f"{uri} is not the object that was planned", "run again: it will be planned anew")

    def fetch(first: int, stop: int) -> bytes:
        return _fetch_block(name, storage, etag, first, stop)

    ahead = BLOCKS_AHEAD if straight_on and split_uri(name)[0] != "file" else 0
    stream = Blocks(fetch, end=size if end is None else min(end, size), ahead=ahead)
    stream.seek(start)
    return cast(BinaryIO, stream)


def _fetch_block(uri: str, storage: Storage, etag: str, start: int, stop: int) -> bytes:
    size = stop - start
    try:
        data = get_bytes(uri, storage, max_bytes=size, part=(start, size), expected_etag=etag)
    except FileNotFoundError as error:
        raise SourceChanged(f"{uri} is gone", "run again: it will be planned anew") from error
    if len(data) != size:
        raise SourceChanged(f"{uri} is shorter than when it was opened", "run again: it is planned anew")
    return data


def lance_options(uri: str, storage: Storage) -> dict[str, str]:
    """`storage_options` of lance and lancedb for the same store; empty for local disks.

    Credentials are not among them: lance takes them from the same environment, profile or role.
    """
    if split_uri(uri)[0] != "s3":
        return {}
    # Lance tries a request that nobody answers 4 x 4 times (those of the client within those of its throttle), which
    # are 8 minutes; 24 times to list. Once the first try has used up the time for retries there is no second, while
    # errors that come at once (5xx, "slow down", resets) are retried as often as ever. What is written more than once a
    # run is tried again by us: commits by `retry_transient`, fragments with their unit.
    options = {"timeout": f"{STALLED_S:g}s", "client_retry_timeout": f"{max(1, int(STALLED_S) - 1)}"}
    if name := region(storage):
        options["aws_region"] = name
    if endpoint := endpoint_url(storage):
        if what := secret_in(endpoint):
            raise UserError(f"the endpoint's address carries {what}", CHAIN_HINT)
        if not endpoint.startswith(("http://", "https://")):
            raise UserError(f"storage.endpoint_url {endpoint} is not a URL", "write http://host:port or https://host")
        if storage.addressing == "virtual":  # then lance takes the endpoint for the bucket's own
            scheme, _, host = endpoint.partition("://")
            endpoint = f"{scheme}://{split_uri(uri)[1].partition('/')[0]}.{host}"
        # Of the names that mean an endpoint, this one wins over all others, also where the environment sets them.
        options["aws_endpoint_url_s3"] = options["aws_endpoint"] = endpoint
        options["aws_virtual_hosted_style_request"] = "false"
        if endpoint.startswith("http://"):
            options["allow_http"] = "true"
    if storage.anonymous:
        options["aws_skip_signature"] = "true"
    if storage.requester_pays:
        options["aws_request_payer"] = "true"
    if storage.addressing != "auto":
        options["aws_virtual_hosted_style_request"] = str(storage.addressing == "virtual").lower()
    return options
