"""Whether a store keeps the two promises that commits rest on.

1. `PUT` with `If-None-Match: *` has exactly one winner, raced. One correct 412 proves nothing: a store was found that
   passes it and loses commits under a race.
2. A ranged `GET` answers 206 with just those bytes.
"""

import asyncio
import os
import random
import time
import uuid
from typing import Any

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.store.errors import REPEAT_FOR_S, StoreBusy, as_user_error, call, is_transient
from clipmill.workers.store.fs import is_s3, open_fs

_WRITERS, _ROUNDS, _MAX_BROKEN_ROUNDS = 8, 20, 20
_MAX_WAIT_S = 2.0
# Tried and right: moto, Ceph's RADOS gateway 16.2. Tried and refused: servers that ignore If-None-Match. Others have
# not been tried; this check is what decides, not a list of names.
_HINT = (
    "use a store where a PUT with If-None-Match: * has one winner and a ranged GET is answered with 206, as by Ceph's "
    "RADOS gateway 16.2, or a local disk"
)


def check_store(uri: str, storage: Storage) -> None:
    """Race 8 writers for 20 rounds below `uri`, then read a range. A no-op for local disks and other schemes.

    Raises UserError with the reason where the store is not safe to commit to. Its keys are removed again.
    """
    fs, path = open_fs(uri, storage)
    if not is_s3(fs):
        return
    from fsspec.asyn import sync

    bucket, folder, _ = fs.split_path(path)
    prefix = (folder.rstrip("/") + "/" if folder else "") + f".clipmill-check-{uuid.uuid4().hex}/"
    try:
        call(uri, lambda: fs.call_s3("put_object", Bucket=bucket, Key=prefix + "probe", Body=b"0123456789"))
        _check_range(call(uri, lambda: sync(fs.loop, _ranged, fs, bucket, prefix + "probe")), uri)
        done = broken = 0
        begun_s = time.monotonic()
        while done < _ROUNDS:
            key = f"{prefix}{done:02d}-{broken:02d}"
            winners = sync(fs.loop, _race, fs, bucket, key)
            if winners is None:
                broken += 1
                if broken > _MAX_BROKEN_ROUNDS or time.monotonic() - begun_s > REPEAT_FOR_S:
                    raise StoreBusy(f"the store of {uri} fails too many requests to be tested", "try again later")
                time.sleep(random.uniform(0, min(_MAX_WAIT_S, 0.1 * 2**broken)))  # noqa: S311 - jitter
                continue
            if winners != 1:
                raise UserError(
                    f"the store of {uri} let {winners} of {_WRITERS} racing writers create one object "
                    f"(If-None-Match: * is not atomic): commits would be lost",
                    _HINT,
                )
            done += 1
    except (FileNotFoundError, PermissionError) as error:
        raise as_user_error(error, uri) from error
    finally:
        _clean_up(fs, bucket, prefix)


def _check_range(answer: tuple[int, bytes], uri: str) -> None:
    status, data = answer
    if status != 206 or data != b"2345":
        reason = f"status {status} and {len(data)} bytes instead of 206 and 4"
        raise UserError(f"the store of {uri} answers a ranged GET with {reason}", _HINT)


async def _ranged(fs: Any, bucket: str, key: str) -> tuple[int, bytes]:
    out = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range="bytes=2-5")
    return int(out["ResponseMetadata"]["HTTPStatusCode"]), await out["Body"].read()


async def _race(fs: Any, bucket: str, key: str) -> int | None:
    """How many writers were told that they created `key`, at least the one whose bytes are there.

    None where a transient failure leaves a writer's own result unknown, also one that the HTTP client below took for a
    reason to ask again: that round says nothing.
    """

    async def write(body: bytes) -> bool:
        try:
            await fs._call_s3("put_object", Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
            return True
        except OSError as error:
            response: Any = getattr(error.__cause__ or error, "response", None) or {}
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in (409, 412):
                return False
            raise

    bodies = [os.urandom(32) for _ in range(_WRITERS)]
    results = await asyncio.gather(*(write(body) for body in bodies), return_exceptions=True)
    for failure in (r for r in results if isinstance(r, BaseException)):
        if not is_transient(failure):
            raise failure
        return None
    won = [body for body, result in zip(bodies, results, strict=True) if result]
    try:
        out = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        stored = await out["Body"].read()
    except Exception as failure:
        if not is_transient(failure):
            raise
        return None
    if not won and stored in bodies:
        return None  # that writer was told twice: its first acknowledgement was lost, and the client asked again
    if len(won) == 1 and stored != won[0]:
        return 0  # the one that was told it won is not the one that is stored
    return len(won)


def _clean_up(fs: Any, bucket: str, prefix: str) -> None:
    """Best effort: a failure here must not hide the result."""
    try:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix)
        for item in page.get("Contents", ()):
            fs.call_s3("delete_object", Bucket=bucket, Key=item["Key"])
    except Exception:  # noqa: BLE001, S110 - the keys are tiny and named .clipmill-check-*
        pass
