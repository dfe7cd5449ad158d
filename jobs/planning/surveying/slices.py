"""Content-defined slices of a folder and of a manifest.

A slice ends where a hash of the key (or line) says so, so one key added moves only the edges of its own slice. Chosen
for about 1,000 samples: at least 250, then each one ends the slice with probability 1/750, at most 4,000.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import xxhash

from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.left_out import LONELY_TEXT, LeftOut, count, ending_of
from clipmill.schemas.unit.units import SourceObject, WorkUnit, make_unit_id
from clipmill.workers.read.fields import Wanted
from clipmill.workers.read.folders.keys import Digest, Pairs, file_patterns, is_asked_for, split_key, wanted_keys
from clipmill.workers.read.lists.lines import digest_start, open_rows
from clipmill.workers.store.listing import Key
from clipmill.workers.store.uri import Pattern

MIN_SAMPLES, MODULUS, MAX_SAMPLES = 250, 750, 4_000


def says_cut(data: bytes, count: int) -> bool:
    """Whether a slice of `count` samples, whose last is `data`, ends here."""
    return count >= MAX_SAMPLES or (count >= MIN_SAMPLES and xxhash.xxh3_64_intdigest(data) % MODULUS == 0)


def file_slices(source: Source, storage: Storage, options: dict[str, Any], left_out: LeftOut) -> Iterator[WorkUnit]:
    """Units of a `files` source. Overlapping patterns give each key to the first of them. Files that are no image and
    no sidecar of one are counted in `left_out`."""
    before: list[Pattern] = []
    for pattern in file_patterns(source, storage):
        if pattern in before:
            continue
        earlier = tuple(before)
        keys = wanted_keys(pattern, source, storage, before=earlier, left_out=left_out)

        def lonely(name: str, pattern: Pattern = pattern, earlier: tuple[Pattern, ...] = earlier) -> None:
            if is_asked_for(name, pattern, earlier):
                count(left_out, f"{ending_of(name)} {LONELY_TEXT}")

        slices = _Slices(pattern.uri, Wanted.of(source), options, lonely)
        for key in keys:
            if (unit := slices.add(key)) is not None:
                yield unit
        if (unit := slices.finish()) is not None:
            yield unit
        before.append(pattern)


class _Slices:
    """Cuts keys that come in order. A cut never separates an image from its sidecars: it is put off while any stem of
    the slice, followed by a dot, begins the next key (`a.jpg`, `a.b.jpg`, `a.txt` stay together). Memory does not grow
    with the number of texts, so a folder of nothing else is passed through."""

    def __init__(
        self, uri: str, wanted: Wanted, options: dict[str, Any], lonely: Callable[[str], None] = lambda name: None
    ) -> None:
        """`lonely` is told each text that no image of its slice has as a sidecar."""
        self._uri, self._wanted, self._options = uri, wanted, options
        self._pairs = Pairs(lonely)
        self._start_after = self._last = ""
        self._reset()

    def _reset(self) -> None:
        self._digest = Digest()
        self._count = self._size_bytes = 0
        self._cut = False

    def add(self, key: Key) -> WorkUnit | None:
        """Take the next key; a finished unit that ends before it, if there is one."""
        unit = None
        is_tied = self._pairs.go_on_to(key.name)
        if self._cut and not is_tied:
            unit = self.finish()
        stem, extension = split_key(key.name)
        self._digest.add(key)
        self._size_bytes += key.size_bytes
        self._last = key.name
        is_image = extension in self._wanted.image
        self._pairs.add(key.name, is_image=is_image)
        if is_image:
            self._count += 1
            self._cut = self._cut or says_cut(stem.encode("utf-8", "surrogateescape"), self._count)
        return unit

    def finish(self) -> WorkUnit | None:
        """The unit of the keys so far, or None where they hold no image."""
        unit = None
        self._pairs.finish()
        if self._count:
            etag = self._digest.hexdigest()
            unit = WorkUnit(
                unit_id=make_unit_id(self._uri, etag, "", self._options),
                format="files",
                uri=self._uri,
                etag=etag,
                size_bytes=self._size_bytes,
                start=self._start_after,
                end=self._last,
                num_samples=self._count,
            )
        self._start_after = self._last
        self._reset()
        return unit


def manifest_slices(
    item: SourceObject, source: Source, storage: Storage, options: dict[str, Any]
) -> Iterator[WorkUnit]:
    """Units of one manifest: records [start, end) as bytes of a text file or rows of a parquet file.

    Neither the offsets nor the manifest's etag is in the id, so appending lines renames nothing before them. Slices of
    equal lines are told apart by counting.
    """
    occurrences: Counter[str] = Counter()
    with open_rows(item.uri, source, storage, etag=item.etag) as rows:
        prefix = digest_start(rows.header)
        digest, count, read_bytes, start, end = prefix.copy(), 0, 0, rows.start, rows.start
        line = first_line = rows.header.count(b"\n") + 1

        def unit() -> WorkUnit:
            name = str(digest.hexdigest())[:32]
            occurrences[name] += 1
            repeat = occurrences[name] - 1
            return WorkUnit(
                unit_id=make_unit_id(item.uri, name, f"repeat {repeat}" if repeat else "", options),
                format="manifest",
                uri=item.uri,
                etag=name,
                size_bytes=end - start if rows.unit == "byte" else read_bytes,
                start=str(start),
                end=str(end),
                num_samples=count,
                first_line=first_line if rows.unit == "byte" else 0,
            )

        for raw, row_end in rows.raw():
            digest.update(hashlib.sha256(raw).digest())
            end = row_end
            read_bytes += len(raw)
            line += raw.count(b"\n")
            count += bool(raw.strip())
            if says_cut(raw, count):
                yield unit()
                digest, count, read_bytes, start, first_line = prefix.copy(), 0, 0, end, line
        if count:
            yield unit()
