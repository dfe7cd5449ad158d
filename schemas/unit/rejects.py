"""Why a sample has no row: a closed list of reasons, so that they can be counted, filtered and tested."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """One word per cause. Adding one is a change of the table's contract."""

    EMPTY = "empty"  # zero bytes
    NO_IMAGE = "no_image"  # a sample of a tar or a row without an image member or value
    TOO_MANY_BYTES = "too_many_bytes"  # over limits.max_image_bytes
    TOO_MANY_PIXELS = "too_many_pixels"  # over limits.max_pixels, decompression bombs included
    UNKNOWN_FORMAT = "unknown_format"  # no decoder recognises the bytes
    CORRUPT = "corrupt"  # recognised, but decoding failed
    TRUNCATED = "truncated"  # the encoded data or the tar ends too early
    NOT_FOUND = "not_found"  # the URI of a manifest or a parquet row does not exist
    FORBIDDEN = "forbidden"  # the store refuses the object of that URI
    BAD_URI = "bad_uri"  # the URI cannot be understood or its scheme is not allowed
    BAD_METADATA = "bad_metadata"  # a text that cannot be read, or a required value that is not there
    DUPLICATE_ID = "duplicate_id"  # another row already has this id; detail names its uri
    DUPLICATE_MEMBER = "duplicate_member"  # two image members under one key of a tar
    KILLED_WORKER = "killed_worker"  # decoding or embedding it killed the process
    TIMED_OUT = "timed_out"  # it alone took longer than the unit's deadline
    SOURCE_CHANGED = "source_changed"  # the bytes are no longer those the row was made from (re-embedding)
    NOT_FINITE = "not_finite"  # the model gave NaN, infinity or a zero vector for it
    NOT_UNIT = "not_unit"  # an imported vector is not of unit length
    WRONG_VECTOR = "wrong_vector"  # an imported vector is not that of its picture, which was embedded again
    DELETED = "deleted"  # a person had its row deleted, and its source was read again


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A sample that has no row. `detail` is one short line for a person."""

    id: str
    uri: str
    reason: Reason
    detail: str = ""
