"""What a store answered, read from whatever its client raised: botocore and s3fs, aiohttp, or lance.

lance retries what passes by itself, and says what does not as the text of an OSError, ValueError or RuntimeError.
"""

import errno
import re
from typing import Any

TRANSIENT_CODES = frozenset(
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
CREDENTIAL_CODES = frozenset(
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
REGION_CODES = frozenset(
    (
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "301",
    )
)
# Classes of botocore.
_NO_CREDENTIALS = frozenset(
    (
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "CredentialRetrievalError",
        "SSOError",
        "TokenRetrievalError",
        "ConfigParseError",
        "ConfigNotFound",
        "InvalidConfigError",
        "InfiniteLoopConfigError",
        "UnknownCredentialError",
        "MetadataRetrievalError",
    )
)
TRANSIENT_ERRNOS = frozenset(
    {errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.ETIMEDOUT, errno.EAGAIN, errno.ESTALE}
)


def chain(error: BaseException) -> list[BaseException]:
    """The error and what it was translated from: s3fs keeps botocore's answer as the cause."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__
    return found


def answer_of(error: BaseException) -> tuple[str, int]:
    """The store's error code and HTTP status, ("", 0) where there was no answer."""
    for link in chain(error):
        response: Any = getattr(link, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        if text := lance_text(link):
            return _lance_answer(text)
        if type(link).__module__.startswith("aiohttp") and isinstance(status := getattr(link, "status", None), int):
            return str(status), status  # fsspec's http
        if isinstance(status := getattr(response, "status_code", None), int):
            return str(status), status  # the Hub's client
    return "", 0


def lance_text(error: BaseException) -> str:
    """What lance or its object store said, itself or through an Arrow stream of rows that it reads meanwhile; empty for
    errors of others. Conflicts have a class of their own."""
    text = str(error) if type(error).__name__ in ("OSError", "ValueError", "RuntimeError", "ArrowInvalid") else ""
    return text if "LanceError(" in text or "lance error" in text or "Generic S3 error" in text else ""


def _lance_answer(text: str) -> tuple[str, int]:
    status = re.search(r"status code: (\d{3})|status: (\d{3})", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    if "redirect without LOCATION" in text:
        return "PermanentRedirect", 301
    return code[1] if code else "", int(status[1] or status[2]) if status else 0


def lance_reason(text: str) -> str:
    """Where lance asked and what came of it, without the layers around that."""
    asked = re.search(r"Error performing [A-Z]+ (https?://[^/\s]+)", text)
    reason = re.sub(r", /\S+\.rs:.*", "", text.rpartition(" - ")[2]).removeprefix("LanceError(IO): ")
    return f"{asked[1]}: {reason}" if asked else reason


def has_no_credentials(error: BaseException, names: set[str]) -> bool:
    text = lance_text(error)
    return bool(names & _NO_CREDENTIALS) or "Failed to get AWS credentials" in text or "CredentialsNotLoaded" in text


def is_network(error: BaseException) -> bool:
    """Whether the connection failed, as opposed to the request. By module: nothing heavy is imported to ask."""
    if text := lance_text(error):
        return "HTTP error" in text or "error sending request" in text or "timed out" in text
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
            "httpx.TransportError",  # the Hub's client, by its age
            "httpx2.TransportError",
        }
    )
