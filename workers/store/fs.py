"""One file system object per store and process, and the few requests that clipmill makes of it.

The only module that knows s3fs. An s3fs client lives on an event loop of its own thread and does not survive a fork:
processes are spawned, and the cache is keyed by process id.
"""

import contextlib
import hashlib
import os
import threading
from datetime import datetime
from io import FileIO
from stat import S_ISREG
from typing import Any

from clipmill.schemas.errors import SourceChanged
from clipmill.schemas.job.config import Storage
from clipmill.workers.store.errors import TooManyBytes, call
from clipmill.workers.store.uri import join_uri, split_uri
from clipmill.workers.store.web import client_options, read_web

_CACHE: dict[tuple[object, ...], Any] = {}
_LOCK = threading.Lock()
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10, 60
_MAX_CONNECTIONS = 64


def endpoint_url(storage: Storage) -> str | None:
    """The job file's endpoint, else the standard environment's; None for AWS itself."""
    env = os.environ
    return storage.endpoint_url or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or None


def region(storage: Storage) -> str | None:
    """The job file's region, else the environment's; a fixed one for endpoints that have none."""
    named = storage.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return named or ("us-east-1" if endpoint_url(storage) else None)


def open_fs(uri: str, storage: Storage) -> tuple[Any, str]:
    """(fsspec file system, raw path on it). Clients are shared by the threads of a process.

    Raises UserError for an unknown scheme or a missing package.
    """
    scheme, path = split_uri(uri)
    # A digest, so that no credential is kept here: another environment must mean another client.
    environment = repr(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    key = (scheme, os.getpid(), storage, hashlib.sha256(environment.encode(errors="surrogateescape")).digest())
    with _LOCK:
        if key not in _CACHE:
            _CACHE[key] = call(uri, lambda: _make_fs(scheme, storage))
        return _CACHE[key], path


def connect(uri: str, storage: Storage) -> None:
    """Make the client for `uri` now, which takes an S3 client half a second; it is shared from then on."""
    fs, _ = open_fs(uri, storage)
    if is_s3(fs):
        call(uri, fs.connect)


def _make_fs(scheme: str, storage: Storage) -> Any:
    import fsspec

    if scheme in ("http", "https"):
        return fsspec.filesystem(scheme, use_listings_cache=False, **client_options())
    if scheme != "s3":
        return fsspec.filesystem(scheme, use_listings_cache=False)
    import s3fs

    endpoint = endpoint_url(storage)
    config: dict[str, Any] = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "max_pool_connections": _MAX_CONNECTIONS,
        "retries": {"mode": "standard", "total_max_attempts": 1},  # errors.call retries
        # Stores other than AWS may not know the newer checksum headers.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if endpoint or storage.addressing != "auto":
        config["s3"] = {"addressing_style": "virtual" if storage.addressing == "virtual" else "path"}
    fs = s3fs.S3FileSystem(
        anon=storage.anonymous,
        requester_pays=storage.requester_pays,
        session=_session(),
        endpoint_url=endpoint,
        client_kwargs={"region_name": region(storage)},
        config_kwargs=config,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    fs.retries = 1
    return fs


def _session() -> Any:
    """As s3fs would make it, but for dates: botocore guesses the form of each date of a listing with dateutil, which
    takes five sixths of the time of a page of 1,000 keys (63 µs of 75 a key; by hand, 2026-11-28)."""
    from aiobotocore.session import AioSession  # type: ignore[import-untyped]

    session = AioSession()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_date)
    return session


def parse_date(text: Any) -> datetime:
    """A date of an S3 answer: ISO 8601 in UTC at once, all others as botocore reads them."""
    if isinstance(text, str) and text[10:11] == "T" and text.endswith("Z"):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(text)
    from botocore.utils import parse_timestamp  # type: ignore[import-untyped]

    found: datetime = parse_timestamp(text)
    return found


def is_s3(fs: Any) -> bool:
    return "s3" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def etag_of(info: dict[str, Any]) -> str:
    """The store's etag without quotes (on the Hugging Face Hub the hash of a file's content, or of what points to it),
    or `size-mtime_ns` (local), or the size and whatever date the store shows."""
    for name in ("ETag", "etag", "md5Hash", "content_md5", "blob_id"):
        if isinstance(value := info.get(name), str) and value:
            return value.strip('"')
    for name in ("mtime_ns", "mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if value:
            stamp = value.isoformat() if isinstance(value, datetime) else str(value)
            return f"{info.get('size') or 0}-{stamp}"
    return str(info.get("size") or 0)


def stat_of(fs: Any, path: str) -> tuple[str, int]:
    """(etag, bytes) of one object. Raises what fsspec raises; a folder is FileNotFoundError."""
    if _is_local(fs):
        stat = os.stat(path)
        if not os.path.isfile(path):
            raise FileNotFoundError(path)
        return f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size
    if is_s3(fs):
        bucket, key = _bucket_and_key(fs, path)
        if not key:
            raise FileNotFoundError(path)
        out = fs.call_s3("head_object", Bucket=bucket, Key=key, **fs.req_kw)
        return str(out["ETag"]).strip('"'), int(out["ContentLength"])
    info = fs.info(path)
    if info.get("type") == "directory":
        raise FileNotFoundError(path)
    return etag_of(info), int(info.get("size") or 0)


def _bucket_and_key(fs: Any, path: str) -> tuple[str, str]:
    """s3fs takes what follows `?versionId=` for a version and cuts it off; in a listing it is part of a key."""
    before, mark, after = path.partition("?versionId=")
    bucket, key, _ = fs.split_path(before)
    return bucket, key + mark + after


def _is_local(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def read_range(fs: Any, path: str, start: int, end: int | None, *, max_bytes: int, etag: str = "") -> bytes:
    """Bytes [start, end) of an object (None: to its end), less where the object is shorter; one request.

    Raises TooManyBytes over `max_bytes`, without reading; SourceChanged where `etag` is given and not the object's.
    """
    if end is not None and end <= start:
        return b""
    if _is_local(fs):
        return _read_local(path, start, end, max_bytes, etag)
    if is_s3(fs):
        from fsspec.asyn import sync

        data: bytes = sync(fs.loop, _read_s3, fs, path, (start, end), max_bytes, etag)
        return data
    if path.startswith(("http://", "https://")) and not start and end is None and not etag:
        from fsspec.asyn import sync

        body: bytes = sync(fs.loop, read_web, fs, path, max_bytes)
        return body
    found, size = stat_of(fs, path)
    _check(path, min(end or size, size) - start, max_bytes, etag, found)
    other: bytes = fs.cat_file(path, start=start, end=end)
    return other


def _read_local(path: str, start: int, end: int | None, max_bytes: int, etag: str) -> bytes:
    with _open_regular(path) as file:
        stat = os.fstat(file.fileno())
        length = max(0, min(stat.st_size if end is None else end, stat.st_size) - start)
        _check(path, length, max_bytes, etag, f"{stat.st_size}-{stat.st_mtime_ns}")
        file.seek(start)
        parts: list[bytes] = []
        while length > 0 and (part := file.read(length)):
            parts.append(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _open_regular(path: str) -> FileIO:
    """A plain file. A pipe would be waited for, and opening a device may do something: FileNotFoundError for both."""
    if not S_ISREG(os.stat(path).st_mode):
        raise FileNotFoundError(path)
    # Without blocking, should it have become a pipe since; on a plain file the flag does nothing.
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(path)
    return file


async def _read_s3(fs: Any, path: str, span: tuple[int, int | None], max_bytes: int, etag: str) -> bytes:
    bucket, key = _bucket_and_key(fs, path)
    start, end = span
    options: dict[str, str] = {"IfMatch": f'"{etag}"'} if etag else {}
    if start or end is not None:
        options["Range"] = f"bytes={start}-" + ("" if end is None else str(end - 1))
    try:
        out = await fs._call_s3("get_object", Bucket=bucket, Key=key, **options, **fs.req_kw)
    except OSError as error:
        # 416: the range starts at or after the end, as any range of an empty object does.
        if "InvalidRange" in str(getattr(error.__cause__, "response", "")):
            return b""
        raise
    body = out["Body"]
    try:
        _check(path, int(out["ContentLength"]), max_bytes, etag, str(out.get("ETag", etag)).strip('"'))
        data: bytes = await body.read()
        return data
    finally:
        body.close()


def _check(path: str, length: int, max_bytes: int, etag: str, found: str) -> None:
    if etag and found != etag:
        raise SourceChanged(f"{path} is not the object that was planned", "run again: it will be planned anew")
    if length > max_bytes:
        raise TooManyBytes(f"{length:,} bytes are more than the {max_bytes:,} allowed")


def head_of(uri: str, storage: Storage, *, attempts: int) -> tuple[str, str, int]:
    """(absolute uri, etag, bytes), retried. Raises as `call` does."""
    fs, path = open_fs(uri, storage)
    etag, size = call(uri, lambda: stat_of(fs, path), attempts=attempts)
    return join_uri(split_uri(uri)[0], path), etag, size
