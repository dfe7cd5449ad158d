"""Which failures of an object store pass by themselves, and what the others mean to a person.

Throttling, resets, timeouts and 5xx answers are retried with exponential back-off and full jitter (AWS Architecture
Blog, "Exponential Backoff And Jitter", 2015) and never counted as bad data. This is the only retry: the ones inside
botocore and s3fs are off, so that waits do not multiply.
"""

import errno
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from schemas.errors import ClipmillError, SourceChanged, UserError

T = TypeVar("T")

ATTEMPTS = 8  # about 15 s of waiting on average, 32 s at most
FIRST_CONTACT_ATTEMPTS = 3  # while planning, a wrong endpoint should be said soon
_FIRST_WAIT_S = 0.25
_WAIT = wait_random_exponential(multiplier=0.25, max=15)

_TRANSIENT_CODES = frozenset(
    (
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "TooManyRequests",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "InternalError",
        "ServiceUnavailable",
        "BandwidthLimitExceeded",
        "PriorRequestNotComplete",
        "OperationAborted",
        "ConditionalRequestConflict",
        "429",
        "500",
        "502",
        "503",
        "504",
    )
)
_CREDENTIAL_CODES = frozenset(
    (
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "InvalidSecurity",
        "RequestExpired",
        "AuthFailure",
        "InvalidClientTokenId",
    )
)
_REGION_CODES = frozenset(
    (
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "301",
    )
)
_TRANSIENT_ERRNOS = frozenset(
    {errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.ETIMEDOUT, errno.EAGAIN, errno.ESTALE}
)


class StoreUnavailable(ClipmillError):
    """The store did not answer, or answered 5xx or "slow down", for longer than the retries last."""


class TooManyBytes(ClipmillError):
    """The object or range is larger than the caller allows; it was not read."""


class BadName(UserError):
    """The URI cannot be the name of an object on that store; no request was sent, or the store could not read it."""


# What a caller may try again later; everything else says something about the data or the job.
TRANSIENT: tuple[type[BaseException], ...] = (StoreUnavailable, ConnectionError, TimeoutError)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it was translated from: s3fs keeps botocore's answer as the cause."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__
    return found


def _answer(error: BaseException) -> tuple[str, int]:
    """The store's error code and HTTP status, ("", 0) where there was no answer."""
    for link in _chain(error):
        response: Any = getattr(link, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        if type(link).__module__.startswith("aiohttp") and isinstance(status := getattr(link, "status", None), int):
            return str(status), status  # fsspec's http
    return "", 0


def _is_network(error: BaseException) -> bool:
    """Whether the connection failed, as opposed to the request. By module: nothing heavy is imported to ask."""
    names = {f"{c.__module__.partition('.')[0]}.{c.__name__}" for c in type(error).__mro__}
    return bool(
        names
        & {
            "botocore.HTTPClientError",
            "botocore.ConnectionError",
            "botocore.ResponseParserError",
            "botocore.IncompleteReadError",
            "aiohttp.ClientConnectionError",
            "aiohttp.ClientPayloadError",
            "http.IncompleteRead",
        }
    )


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, ClipmillError):
        return isinstance(error, StoreUnavailable)
    code, status = _answer(error)
    if code or status:
        return code in _TRANSIENT_CODES or status == 429 or (status >= 500 and status != 501)
    if isinstance(error, (ConnectionError, TimeoutError)) or any(_is_network(link) for link in _chain(error)):
        return True
    return type(error) is OSError and error.errno in _TRANSIENT_ERRNOS


def call(uri: str, action: Callable[[], T], *, attempts: int = ATTEMPTS) -> T:
    """Run `action` on the store, retrying what is transient.

    Raises FileNotFoundError, PermissionError, SourceChanged (the object was replaced), StoreUnavailable, and UserError
    for what no object of this store can get past (credentials, region, endpoint, missing package).
    """
    try:
        return action()  # nearly always: a Retrying object costs as much as a small local read
    except Exception as error:  # every library has its own; they leave under the few names above
        if attempts <= 1 or not is_transient(error):
            raise translate(error, uri) from error
    time.sleep(_FIRST_WAIT_S * random.random())  # noqa: S311 - jitter
    try:
        return Retrying(
            retry=retry_if_exception(is_transient), stop=stop_after_attempt(attempts - 1), wait=_WAIT, reraise=True
        )(action)
    except Exception as error:
        raise translate(error, uri) from error


def translate(error: Exception, uri: str) -> Exception:
    """The error under one of clipmill's names; itself where it has one, or where nothing better is known."""
    if isinstance(error, ClipmillError):
        return error
    code, status = _answer(error)
    names = {c.__name__ for c in type(error).__mro__}
    if code in _CREDENTIAL_CODES:
        return UserError(f"the store refuses the credentials for {uri} ({code})", "check AWS_ACCESS_KEY_ID and its key")
    if names & {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError"}:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run where a role is attached"
        return UserError(f"no usable credentials for {uri}", hint)
    if code in _REGION_CODES:
        return UserError(f"the bucket of {uri} is in another region ({code})", "set storage.region or AWS_REGION")
    if "FileExpired" in names or code == "PreconditionFailed" or status == 412:
        return SourceChanged(f"{uri} was replaced while it was read", "run again: it will be planned anew")
    if is_transient(error):
        hint = "check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network, then run again"
        return StoreUnavailable(f"the store of {uri} does not answer: {_one_line(error)}", hint)
    if code == "NoSuchBucket":
        return FileNotFoundError(f"the bucket of {uri} does not exist")
    if code == "NoSuchKey" or status == 404 or isinstance(error, (FileNotFoundError, IsADirectoryError)):
        return FileNotFoundError(f"{uri} does not exist")
    if status in (401, 403) or isinstance(error, PermissionError):
        return PermissionError(f"no permission to read {uri}" + (f" ({code})" if code else ""))
    if 400 <= status < 500:
        return PermissionError(f"the store refuses {uri} ({code or status})")
    return _local_mistake(error, uri, names)


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
    """For planning, where a missing or forbidden object is the user's to fix."""
    if isinstance(error, FileNotFoundError):
        return UserError(str(error), "check the spelling, and that storage.endpoint_url names the right store")
    if isinstance(error, PermissionError):
        return UserError(str(error), "ask for s3:ListBucket and s3:GetObject (or read permission) on it")
    if isinstance(error, StoreUnavailable):
        return UserError(error.message, error.hint)
    return error


def _one_line(error: BaseException) -> str:
    """Its first 200 characters, without what may stand before an @ in a URL."""
    text = re.sub(r"//[^/@\s]*@", "//***@", " ".join(str(error).split()))
    return text[:200] or type(error).__name__
