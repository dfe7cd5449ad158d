"""Samples of a zip archive, which is read as the folder that was packed into it: every picture is one, and the caption
of `a.jpg` is `a.txt` or `a.jpg.txt` beside it, wherever in the archive that lies.

A slice has the pictures whose headers begin in its range of bytes. They come in the order of those, so that the
archive is read straight on.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.left_out import HIDDEN, LONELY_TEXT, ending_of
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import SourceObject, WorkUnit
from clipmill.workers.read.census import Census
from clipmill.workers.read.fields import MAX_TEXT_BYTES, Parts, Wanted, assemble, reject_id
from clipmill.workers.read.folders.archive import NEAR_BYTES, Archive, BadMember, name_of, open_archive
from clipmill.workers.read.folders.keys import split_key, text_of
from clipmill.workers.store.storage import quote

_EMPTY = "the archive has no bytes"


@dataclass(frozen=True, slots=True)
class _Item:
    """A picture and the texts beside it. `repeats`: another of its name came before."""

    image: zipfile.ZipInfo
    caption: zipfile.ZipInfo | None
    json: zipfile.ZipInfo | None
    repeats: bool


def read(unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census) -> Iterator[Sample | Reject]:
    """One sample or reject per picture. Raises SourceChanged; WrongFormat for what is no zip archive."""
    if unit.size_bytes == 0:
        yield Reject(id=unit.uri, uri=unit.uri, reason=Reason.EMPTY, detail=_EMPTY)
        return
    wanted = Wanted.of(source)
    with open_archive(unit.uri, storage, expected_etag=unit.etag) as archive:
        census.entries(((info.filename, info.header_offset) for info in archive.members), span_of(unit), wanted)
        for item in _items(archive, span_of(unit), wanted, census):
            yield _sample(archive, item, unit, source, limits)


def span_of(unit: WorkUnit) -> range:
    """The bytes at which the headers of a unit's members begin."""
    return range(int(unit.start or 0), int(unit.end) if unit.end else 1 << 63)


def spans(
    item: SourceObject, source: Source, storage: Storage, slice_bytes: int
) -> list[tuple[int, int | None, int, int]]:
    """(first byte, byte after the last or None, pictures, bytes) of each slice: a new one begins at the first picture
    behind `slice_bytes`. Raises as `open_archive` does."""
    wanted = Wanted.of(source)
    found: list[tuple[int, int | None, int, int]] = []
    start = count = 0
    with open_archive(item.uri, storage, expected_etag=item.etag) as archive:
        for info in archive.members:
            if not _is_image(info, wanted):
                continue
            if info.header_offset - start >= slice_bytes and count:
                found.append((start, info.header_offset, count, info.header_offset - start))
                start, count = info.header_offset, 0
            count += 1
    return [*found, (start, None, count, item.size_bytes - start)]


def _is_image(info: zipfile.ZipInfo, wanted: Wanted) -> bool:
    return split_key(info.filename)[1] in wanted.image and ending_of(info.filename) != HIDDEN


def _items(archive: Archive, span: range, wanted: Wanted, census: Census) -> Iterator[_Item]:
    """Of the slice; texts of the slice that no picture has as a sidecar are counted."""
    texts: dict[tuple[str, str], zipfile.ZipInfo] = {}
    images: list[zipfile.ZipInfo] = []
    for info in archive.members:
        stem, extension = split_key(name_of(info))
        if _is_image(info, wanted):
            images.append(info)
        elif ending_of(info.filename) != HIDDEN and wanted.is_text(extension):
            texts.setdefault((stem, extension), info)
    names: set[str] = set()
    used: set[int] = set()
    for info in images:
        name = name_of(info)
        caption = text_of(name, wanted.caption, texts) if wanted.caption else None
        json = text_of(name, "json", texts) if wanted.json else None
        used |= {id(text) for text in (caption, json) if text is not None}
        if info.header_offset in span:
            yield _Item(info, caption, json, name in names)
        names.add(name)
    for text in archive.members:
        extension = split_key(text.filename)[1]
        if text.header_offset in span and id(text) not in used and census.is_text(text.filename, wanted):
            census.leave_out(f"{extension} {LONELY_TEXT}")


def _sample(archive: Archive, item: _Item, unit: WorkUnit, source: Source, limits: Limits) -> Sample | Reject:
    name = name_of(item.image)
    key, uri = split_key(name)[0], f"{unit.uri}#{quote(name)}"

    def reject(reason: Reason, detail: str = "") -> Reject:
        return Reject(id=reject_id(source, uri, key), uri=uri, reason=reason, detail=detail)

    if item.repeats:
        return reject(Reason.DUPLICATE_MEMBER, "a member of the same name came earlier in the archive")
    if item.image.file_size == 0:
        return reject(Reason.EMPTY)
    wanted = [(item.image, limits.max_image_bytes)]
    wanted += [(text, MAX_TEXT_BYTES) for text in (item.caption, item.json) if text is not None]
    found: dict[int, tuple[bytes, int | None]] = {}
    for info, max_bytes in sorted(wanted, key=lambda pair: pair[0].header_offset):
        aside = abs(info.header_offset - item.image.header_offset) > NEAR_BYTES
        try:
            found[id(info)] = archive.read(info, max_bytes, aside=aside)
        except BadMember as bad:
            if info is item.image:
                return reject(bad.reason, bad.detail)
            return reject(Reason.BAD_METADATA, f"{name_of(info)}: {bad.detail}")
    image, offset = found[id(item.image)]
    parts = Parts(
        uri=uri,
        key=key,
        image=image,
        caption=found[id(item.caption)][0] if item.caption else None,
        json=found[id(item.json)][0] if item.json else None,
        offset=offset,
        folder=name.rpartition("/")[0].rpartition("/")[2],
    )
    return assemble(parts, source, Wanted.of(source))
