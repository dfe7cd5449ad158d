"""Samples of a slice of a folder: image files with sidecar texts.

The unit does not carry its keys: the range is listed again, and its digest compared, before anything is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from clipmill.schemas.errors import SourceChanged
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.census import Census
from clipmill.workers.read.fetch import memory_share, ordered_map
from clipmill.workers.read.fields import MAX_TEXT_BYTES, Parts, Wanted, assemble, reject_id
from clipmill.workers.read.folders.keys import (
    Digest,
    Pairs,
    earlier_patterns,
    pattern_of,
    split_key,
    text_of,
    wanted_keys,
)
from clipmill.workers.store.listing import Key
from clipmill.workers.store.storage import get_bytes
from clipmill.workers.store.uri import Pattern, join_uri


@dataclass(frozen=True, slots=True)
class _Item:
    """An image and the sidecars that were listed for it."""

    image: Key
    caption: Key | None
    json: Key | None

    @property
    def size_bytes(self) -> int:
        return sum(min(key.size_bytes, MAX_TEXT_BYTES) for key in (self.caption, self.json) if key)


def read(unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census) -> Iterator[Sample | Reject]:
    """One sample or reject per image file with a name in (unit.start, unit.end], in key order; ids of `key` are the
    path below the folder, without extension.

    Raises SourceChanged where the listing, or a file, is not the planned one.
    """
    pattern = pattern_of(unit.uri)
    try:
        items = _items(unit, pattern, source, storage, census)
    except FileNotFoundError as error:
        raise SourceChanged(f"{unit.uri} is gone", "run again: it will be planned anew") from error

    def fetch(item: _Item) -> Sample | Reject:
        return _read_one(item, pattern, source, storage, limits)

    def weigh(item: _Item) -> int:
        return item.size_bytes + min(item.image.size_bytes, limits.max_image_bytes)

    yield from ordered_map(items, fetch, weigh=weigh, max_bytes=memory_share(limits))


def _items(unit: WorkUnit, pattern: Pattern, source: Source, storage: Storage, census: Census) -> list[_Item]:
    """The slice, listed again: some thousand images at most, as the survey cut it, and their texts; of texts without an
    image there may be any number, and they are dropped on the way."""
    wanted = Wanted.of(source)
    digest = Digest()
    images: list[Key] = []
    texts: dict[tuple[str, str], Key] = {}

    def drop(name: str) -> None:
        texts.pop(split_key(name), None)  # `a.TXT` and `a.txt` are one entry

    pairs = Pairs(drop)
    before = earlier_patterns(source, unit.uri, storage)
    for key in wanted_keys(pattern, source, storage, before=before, between=(unit.start, unit.end)):
        digest.add(key)
        pairs.go_on_to(key.name)
        stem, extension = split_key(key.name)
        pairs.add(key.name, is_image=extension in wanted.image)
        if extension in wanted.image:
            census.pictures += 1
            images.append(key)
        else:
            texts[stem, extension] = key
    if digest.hexdigest() != unit.etag:
        raise SourceChanged(f"{unit.uri} changed since it was listed", "run again: it will be planned anew")
    items: list[_Item] = []
    for key in images:
        items.append(
            _Item(
                key,
                text_of(key.name, wanted.caption, texts) if wanted.caption else None,
                text_of(key.name, "json", texts) if wanted.json else None,
            )
        )
    return items


def _read_one(item: _Item, pattern: Pattern, source: Source, storage: Storage, limits: Limits) -> Sample | Reject:
    wanted = Wanted.of(source)
    key = split_key(item.image.name)[0]
    uri = join_uri(pattern.scheme, pattern.root + item.image.name)

    def reject(reason: Reason, detail: str = "") -> Reject:
        return Reject(id=reject_id(source, uri, key), uri=uri, reason=reason, detail=detail)

    if item.image.size_bytes == 0:
        return reject(Reason.EMPTY)
    if item.image.size_bytes > limits.max_image_bytes:
        return reject(
            Reason.TOO_MANY_BYTES, f"{item.image.size_bytes:,} bytes, the limit is {limits.max_image_bytes:,}"
        )
    for text in (item.caption, item.json):
        if text is not None and text.size_bytes > MAX_TEXT_BYTES:
            return reject(Reason.BAD_METADATA, f"{text.name} holds {text.size_bytes:,} bytes")

    def get(found: Key | None) -> bytes | None:
        if found is None:
            return None
        name = join_uri(pattern.scheme, pattern.root + found.name)
        try:
            return get_bytes(name, storage, max_bytes=found.size_bytes, expected_etag=found.etag)
        except FileNotFoundError as error:
            raise SourceChanged(f"{name} is gone", "run again: it will be planned anew") from error

    try:
        image = get(item.image)
        assert image is not None
        folder = (pattern.root + item.image.name).rpartition("/")[0].rpartition("/")[2]
        texts = {"caption": get(item.caption), "json": get(item.json)}
        parts = Parts(uri=uri, key=key, image=image, **texts, offset=0, folder=folder)
    except PermissionError as error:
        return reject(Reason.FORBIDDEN, str(error))
    return assemble(parts, source, wanted)
