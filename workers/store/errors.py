"""Which failures of an object store pass by themselves, and what the others mean to a person.

Throttling, resets, timeouts and 5xx answers are retried with exponential back-off and full jitter (AWS Architecture
Blog, "Exponential Backoff And Jitter", 2015) and never counted as bad data. This is the only retry: the ones inside
botocore and s3fs are off, so that waits do not multiply.

The table's store is reached by lance, which retries by itself; what it says goes through the same sentences.
"""

import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from clipmill.schemas.errors import ClipmillError, EmptySource, SourceChanged, UserError
from clipmill.schemas.text.secrets import one_line
from clipmill.workers.store.answers import (
    CREDENTIAL_CODES,
    REGION_CODES,
    TRANSIENT_CODES,
    TRANSIENT_ERRNOS,
    answer_of,
    chain,
    has_no_credentials,
    is_network,
    lance_reason,
    lance_text,
)

T = TypeVar("T")

ATTEMPTS = 8  # about 15 s of waiting on average, 32 s at most
REPEAT_FOR_S = 90.0  # a store that swallows requests takes a client's whole patience each time: no new try after this
FIRST_CONTACT_ATTEMPTS = 3  # while planning, a wrong endpoint should be said soon; one that answers is none
_FIRST_WAIT_S = 0.25
_WAIT = wait_random_exponential(multiplier=0.25, max=15)
# Who hears that a store asks for patience: a thread's own, and told once for each time somebody listens.
_LISTENER: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


class StoreUnavailable(ClipmillError):
    """The store did not answer, or answered 5xx or "slow down", for longer than the retries last."""


class StoreBusy(StoreUnavailable):
    """The store did answer, with 5xx or "slow down", again and again: nothing in the job file is wrong."""


class StoreRefuses(UserError):
    """The store is there and lets nobody in who asks like this: credentials, permission, clock, region. A person may
    mend it meanwhile, and nothing is said of what lies there."""


class TooManyBytes(ClipmillError):
    """The object or range is larger than the caller allows; it was not read."""


class BadName(UserError):
    """The URI cannot be the name of an object on that store; no request was sent, or the store could not read it."""


# What a caller may try again later; everything else says something about the data or the job.
TRANSIENT: tuple[type[BaseException], ...] = (StoreUnavailable, ConnectionError, TimeoutError)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, ClipmillError):
        return isinstance(error, StoreUnavailable)
    code, status = answer_of(error)
    if code or status:
        return code in TRANSIENT_CODES or status == 429 or (status >= 500 and status != 501)
    if isinstance(error, (ConnectionError, TimeoutError)) or any(is_network(link) for link in chain(error)):
        return True
    return type(error) is OSError and error.errno in TRANSIENT_ERRNOS


def call(uri: str, action: Callable[[], T], *, attempts: int = ATTEMPTS, doing: str = "read") -> T:
    """Run `action` on the store, retrying what is transient. `attempts`: of a store that says nothing; one that answers
    5xx or "slow down" is there, and gets the usual number. A host of the web gets what was said. `doing`: as in "no
    permission to read".

    Raises FileNotFoundError, PermissionError, SourceChanged (the object was replaced), StoreUnavailable, and UserError
    for what no object of this store can get past (credentials, region, endpoint, missing package).
    """
    try:
        return action()  # nearly always: a Retrying object costs as much as a small local read
    except Exception as error:  # every library has its own; they leave under the few names above
        if attempts <= 1 or not is_transient(error):
            raise translate(error, uri, doing) from error
        _tell_busy(error, uri)
    too_long = stop_after_delay(REPEAT_FOR_S)
    time.sleep(_FIRST_WAIT_S * random.random())  # noqa: S311 - jitter
    try:
        return Retrying(
            retry=retry_if_exception(is_transient),
            stop=lambda state: too_long(state) or _was_last(state, uri, attempts),
            wait=_WAIT,
            before_sleep=lambda state: _tell_busy(_error_of(state), uri),
            reraise=True,
        )(action)
    except Exception as error:
        raise translate(error, uri, doing) from error


@contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """`say` hears once, in a sentence, that a store asks this thread for patience, while it is waited for."""
    token = _LISTENER.set(say)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def _tell_busy(error: BaseException | None, uri: str) -> None:
    say = _LISTENER.get()
    if say is not None and error is not None and any(answer := answer_of(error)):
        _LISTENER.set(None)
        what = answer[0] or answer[1]
        say(f"the store of {uri} is busy ({what}); each request is tried up to {ATTEMPTS} times")


def _was_last(state: RetryCallState, uri: str, attempts: int) -> bool:
    """The first attempt was made before there was a state."""
    error = _error_of(state)
    if error is not None and any(answer_of(error)) and not _is_web(uri):
        attempts = max(attempts, ATTEMPTS)
    return state.attempt_number >= attempts - 1


def _is_web(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def translate(error: Exception, uri: str, doing: str = "read") -> Exception:
    """The error under one of clipmill's names; itself where it has one, or where nothing better is known."""
    if isinstance(error, ClipmillError):
        return error
    code, status = answer_of(error)
    names = {c.__name__ for c in type(error).__mro__}
    if refused := _refused_before_looking(error, uri, code, names):
        return refused
    if "FileExpired" in names or code == "PreconditionFailed" or status == 412:
        return SourceChanged(f"{uri} was replaced while it was read", "run again: it will be planned anew")
    if is_transient(error):
        hint = "check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network, then run again"
        if _is_web(uri):
            hint = "check the address and the network, then run again"
        if status:
            return StoreBusy(f"the store of {uri} is too busy or ill ({code or status})", "run the same command later")
        return StoreUnavailable(f"the store of {uri} does not answer: {_one_line(error)}", hint)
    if code == "NoSuchBucket":
        return FileNotFoundError(f"the bucket of {uri} does not exist")
    if code == "NoSuchKey" or status == 404 or isinstance(error, (FileNotFoundError, IsADirectoryError)):
        return FileNotFoundError(f"{uri} does not exist")
    if status in (401, 403) or isinstance(error, PermissionError):
        return PermissionError(f"no permission to {doing} {uri}" + (f" ({code})" if code else ""))
    if 400 <= status < 500:
        return PermissionError(f"the store refuses {uri} ({code or status})")
    return _local_mistake(error, uri, names)


def _refused_before_looking(error: Exception, uri: str, code: str, names: set[str]) -> StoreRefuses | None:
    """Credentials, clock or region: no object of this store can be reached like this."""
    if code in CREDENTIAL_CODES:
        return StoreRefuses(
            f"the store refuses the credentials for {uri} ({code})", "check AWS_ACCESS_KEY_ID and its key"
        )
    if has_no_credentials(error, names):
        return _no_credentials(error, uri)
    if code == "RequestTimeTooSkewed":
        return StoreRefuses(
            f"this machine's clock and that of the store of {uri} differ too much", "set the clock (NTP)"
        )
    if code in REGION_CODES:
        return StoreRefuses(f"the bucket of {uri} is in another region ({code})", "set storage.region or AWS_REGION")
    return None


def _no_credentials(error: Exception, uri: str) -> StoreRefuses:
    """No request was signed. What the chain says names profiles and files, never a key."""
    text = " ".join(str(link) for link in chain(error))
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    of = f" (profile {profile})" if profile else ""
    if re.search(r"(?i)sso", text + " ".join(c.__name__ for c in type(error).__mro__)):
        login = "aws sso login" + (f" --profile {profile}" if profile else "")
        return StoreRefuses(f"no credentials for {uri}: single sign-on is not logged in{of}", f"run `{login}`")
    hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run where a role is attached"
    hint += "; to read a public bucket: storage.anonymous: true"
    if profile:
        hint = f"check the profile in the AWS config file, and the profile or command it takes them from; or {hint}"
    return StoreRefuses(f"no usable credentials for {uri}{of}", hint)


def of_table(error: Exception, uri: str, *, doing: str = "read") -> Exception:
    """What lance raised, as a sentence where it is the table's store that failed; else the error itself. `doing`: as in
    "no permission to read"."""
    if not lance_text(error):
        return error
    code, status = answer_of(error)
    failed = code in CREDENTIAL_CODES | REGION_CODES or status in (301, 401, 403, 429) or status >= 500
    if not (failed or code == "NoSuchBucket" or has_no_credentials(error, set()) or is_transient(error)):
        return error
    told = translate(error, uri)
    if isinstance(told, FileNotFoundError):
        return UserError(str(told), "make the bucket, or check the table's name and storage.endpoint_url")
    if isinstance(told, PermissionError):
        hint = "ask for s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject on it"
        return StoreRefuses(f"no permission to {doing} {uri}" + (f" ({code})" if code else ""), hint)
    return told


@contextmanager
def table_errors(uri: str, *, doing: str = "read") -> Iterator[None]:
    """Around what lance does on a store."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        told = of_table(error, uri, doing=doing)
        if told is error:
            raise
        raise told from error


def _local_mistake(error: Exception, uri: str, names: set[str]) -> Exception:
    """What went wrong before a request was sent."""
    if isinstance(error, ImportError):
        return UserError(f"{uri} needs a package that is not installed: {_one_line(error)}", "pip install it")
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return UserError(f"{uri} has a scheme that is not known", "use s3://, a local path, or another fsspec scheme")
    too_long = isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR)
    if names & {"ParamValidationError", "InvalidURL"} or type(error) in (ValueError, UnicodeEncodeError) or too_long:
        return BadName(f"{uri} cannot be the name of an object: {_one_line(error)}", "write s3://bucket/key or a path")
    return error


def as_user_error(error: Exception, uri: str) -> Exception:
    """For planning, where a missing or forbidden object is the user's to fix. A store that does not answer may do so
    later: it stays what it is, as for the table's."""
    if isinstance(error, FileNotFoundError):
        hint = "check the spelling, and that storage.endpoint_url names the right store"
        return EmptySource(str(error), hint if "://" in uri else "check the spelling, and the folder you are in")
    if isinstance(error, PermissionError):
        said = f"no permission to read {error.filename}" if error.filename else str(error)  # of a disk, met on the way
        return UserError(said, "ask for s3:ListBucket and s3:GetObject (or read permission) on it")
    return error


def _one_line(error: BaseException) -> str:
    return one_line(lance_reason(str(error)) if lance_text(error) else error)
