"""What a failed commit means: somebody was first, or this table cannot be written at all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import UserError

# The words that begin each of Lance's errors about other commits. Only the beginning: a path, an S3 answer ("409
# Conflict") and the name of a source file further on may say anything.
_CONFLICT = re.compile(
    r"(?:LanceError\(\w*\): )?"
    r"(?:Retryable commit conflict|Commit conflict|Incompatible transaction|Too many concurrent writers)",
    re.IGNORECASE,
)
_REFUSALS = (
    (
        r"\(os error 28\)|\(os error 122\)|507 Insufficient",
        "there is no space left for",
        "free some, or use another place",
    ),
    (r"\(os error 30\)", "the file system is mounted read-only, so nothing can be written to", "use another place"),
    (
        r"\(os error 13\)|\(os error 1\)|403 Forbidden|401 Unauthorized|lacked the necessary privileges",
        "no permission to write to",
        "ask for write permission on the folder, or for s3:PutObject, s3:GetObject, s3:ListBucket and s3:DeleteObject",
    ),
)


def is_conflict(error: BaseException) -> bool:
    """Whether another commit got in the way. Lance raises that as its own class or as a plain OSError."""
    if any(one.__name__ == "CommitConflictError" for one in type(error).__mro__):
        return True
    return isinstance(error, OSError) and _CONFLICT.match(str(error)) is not None


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Around a commit or a write: what `refusal` knows is raised as that; other errors, conflicts too, as they are."""
    try:
        yield
    except OSError as error:
        told = refusal(error, uri)
        if told is None:
            raise
        raise told from None


def refusal(error: BaseException, uri: str) -> UserError | None:
    """The sentence for a store that will not take what is written to `uri`; None where that is not what happened."""
    text = str(error)
    for pattern, sentence, hint in _REFUSALS:
        if isinstance(error, OSError) and re.search(pattern, text):
            return UserError(f"{sentence} {uri}", hint)
    return None


def one_line(error: BaseException) -> str:
    """Its first 200 characters, without what may stand before an @ in a URL."""
    text = re.sub(r"//[^/@\s]*@", "//***@", " ".join(str(error).split()))
    return text[:200] or type(error).__name__
