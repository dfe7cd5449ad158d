"""Images that a list points at: which URIs may be opened, and one fetch of each.

A manifest is data that somebody else may have written, so it may not reach further than its reader expects:

- object stores (s3, gs, az, abfs) and http(s): yes; but an http(s) host on this machine or its private network
  (loopback, private, link-local, where clouds answer with credentials) only from a local manifest;
- local paths and file:// : only from a manifest that is itself a local file;
- a name without a scheme is relative to the manifest's folder, and `..` may not leave it unless the manifest is local;
  or to the folder that the job file names (`source.images`), and never leaves that;
- every other scheme: no.

The answer to a redirect is not looked at again: what comes back is only ever decoded as an image, never shown as text.
"""

import ipaddress
import posixpath
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read.fetch import bytes_or_why, memory_share, ordered_map
from clipmill.workers.read.fields import BadField, lookup, sample_id, storable, values_of
from clipmill.workers.store.storage import absolute_uri
from clipmill.workers.store.uri import join_uri, quote, split_uri

_STORES = frozenset({"s3", "gs", "az", "abfs", "abfss"})
_MAX_URI_CHARS = 4096
# A picture's bytes as text: a data: URL, or base64 of what JPEG, PNG, GIF or WebP begin with.
_AS_TEXT = re.compile(r"data:|(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/=_-]{100}")
_USUAL_IMAGE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a list. `place` names it where it has no usable URI; `problem` is set where it cannot be read."""

    place: str
    link: str | None
    record: dict[str, Any]
    problem: str = ""
    reason: Reason = Reason.BAD_METADATA


class BadUri(Exception):
    """The URI cannot be understood or may not be opened from here."""


def allowed_uri(text: str, listed_in: str, images: str | None = None) -> str:
    """The absolute URI of an image that the list at `listed_in` names. `images`: where names without an address lie,
    if not beside the list. Raises BadUri."""
    if _AS_TEXT.match(text):
        raise BadUri("a picture written as text, and no address: store its bytes")
    if len(text) > _MAX_URI_CHARS or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise BadUri("too long, or holds control characters")
    scheme, list_path = split_uri(listed_in)
    local = scheme == "file"
    if "://" not in text and not text.startswith("/"):
        if images is not None:
            return _below(images, text)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(list_path), text))
        folder = posixpath.dirname(list_path).rstrip("/") + "/"
        if not local and not path.startswith(folder):
            raise BadUri("leaves the folder of the manifest")
        return absolute_uri(join_uri(scheme, path))
    target = split_uri(text)[0]
    if target in ("http", "https"):
        if not local:
            refuse_private(text)
        return text
    if target == "file":
        if not local:
            raise BadUri("a local path in a manifest that is not a local file")
    elif target not in _STORES and target != scheme:
        raise BadUri(f"the scheme {target}:// is not allowed")
    return absolute_uri(text)


def _below(folder: str, name: str) -> str:
    scheme, path = split_uri(absolute_uri(folder))
    if scheme in ("http", "https"):
        if ".." in name.split("/"):
            raise BadUri("leaves the folder of source.images")
        return f"{path.rstrip('/')}/{quote(name)}"
    inside = posixpath.normpath(posixpath.join(path.rstrip("/"), name))
    if not inside.startswith(path.rstrip("/") + "/"):
        raise BadUri("leaves the folder of source.images")
    return absolute_uri(join_uri(scheme, inside))


def refuse_private(url: str) -> None:
    try:
        host = urlsplit(url).hostname
    except ValueError as error:
        raise BadUri("not a URL") from error
    if not host:
        raise BadUri("no host")
    if _is_private(host):
        raise BadUri(f"the host {host} is on a private network")


@lru_cache(maxsize=4096)
def _is_private(host: str) -> bool:
    """Whether any address of the host is one that only this machine or network can reach; unknown hosts are not."""
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(address).is_global for address in found)


def read_rows(
    rows: Iterable[Row], listed_in: str, source: Source, storage: Storage, limits: Limits
) -> Iterator[Sample | Reject]:
    """The sample or reject of each row, in order; images are fetched at once within a share of worker_memory.

    A list does not say how large its images are, and were each taken for the largest allowed, few would be under way.
    So each is expected to be at most twice as large as the largest so far; one that is larger is fetched in its turn.
    """
    largest = _USUAL_IMAGE_BYTES

    def read(row: Row, most: int) -> Sample | Reject:
        nonlocal largest
        found = _read_row(row, listed_in, source, storage, limits.model_copy(update={"max_image_bytes": most}))
        if isinstance(found, Sample):
            largest = max(largest, len(found.image))
        return found

    def fetch(expected: tuple[Row, int]) -> Sample | Reject | Row:
        row, most = expected
        found = read(row, most)
        too_large = isinstance(found, Reject) and found.reason == Reason.TOO_MANY_BYTES
        return row if too_large and most < limits.max_image_bytes else found

    expected = ((row, min(2 * largest, limits.max_image_bytes)) for row in rows)
    budget = memory_share(limits)
    for found in ordered_map(expected, fetch, weigh=lambda one: one[1], max_bytes=budget):
        yield read(found, limits.max_image_bytes) if isinstance(found, Row) else found


def _read_row(row: Row, listed_in: str, source: Source, storage: Storage, limits: Limits) -> Sample | Reject:
    key = str(row.record.get("key") or row.link or "")

    def reject(reason: Reason, detail: str = "", uri: str = row.place) -> Reject:
        return Reject(id=storable(key) if source.id == "key" and key else uri, uri=uri, reason=reason, detail=detail)

    if row.problem:
        return reject(row.reason, row.problem)
    if not row.link or not row.link.strip():
        return reject(Reason.NO_IMAGE, "the row names no image")
    try:
        uri = allowed_uri(row.link.strip(), listed_in, source.images)
    except BadUri as error:
        return reject(Reason.BAD_URI, f"{storable(row.link)[:200]}: {error}")
    image = bytes_or_why(uri, storage, max_bytes=limits.max_image_bytes)
    if not isinstance(image, bytes):
        return reject(*image, uri)
    if not image:
        return reject(Reason.EMPTY, uri=uri)
    try:
        values = values_of(row.record, source, lookup(row.record, caption_path(source)) if source.caption else None)
        return Sample(
            id=sample_id(source, uri=uri, key=key, record=row.record),
            uri=uri,
            image=image,
            caption=values.caption,
            metadata=values.metadata,
            unread=values.unread,
            orientation=values.orientation_of(image),
            image_offset=0,
            image_size=len(image),
        )
    except BadField as error:
        return reject(Reason.BAD_METADATA, str(error), uri)


def caption_path(source: Source) -> str:
    return (source.caption or "").removeprefix("json:")
