"""Where a huge tar may be cut, found from its headers alone."""

import itertools
from array import array
from collections.abc import Iterator

import xxhash

from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.units import SourceObject
from clipmill.workers.read.census import split_name
from clipmill.workers.read.tars.tar import BadTar, TarReader
from clipmill.workers.store.storage import open_stream


def cut_tar(item: SourceObject, storage: Storage, slice_bytes: int) -> list[tuple[int, int] | None]:
    """Byte ranges [start, end) of about `slice_bytes`, each beginning at a header; [None] where no cut is possible.

    No key has members on both sides of a cut, so a tar whose members lie in random order stays whole, as a gzipped one
    does. One pass over the headers; some 70 bytes of memory per member. What cannot be read as a header is left to the
    last range, whose worker will say so.
    """
    starts, keys = array("Q"), array("Q")
    with open_stream(item.uri, storage, expected_etag=item.etag) as stream:
        if stream.read(2) == b"\x1f\x8b":
            return [None]
        stream.seek(0)
        try:
            for member in TarReader(stream):
                named = split_name(member.name)
                raw = (named[0] if named else "").encode("utf-8", "surrogateescape")
                starts.append(member.header_offset)
                keys.append(xxhash.xxh3_64_intdigest(raw) if named else 0)
        except BadTar:
            pass
    cuts = list(_cuts(starts, keys, slice_bytes))
    if not cuts:
        return [None]
    edges = [0, *cuts, item.size_bytes]
    return list(itertools.pairwise(edges))


def _cuts(starts: "array[int]", keys: "array[int]", slice_bytes: int) -> Iterator[int]:
    """Header offsets at which to cut. A collision of two keys' hashes only forgoes a cut."""
    last: dict[int, int] = {key: i for i, key in enumerate(keys) if key}
    reach = -1  # the furthest member of any key that has begun
    edge = 0
    for i, (start, key) in enumerate(zip(starts, keys, strict=True)):
        if reach < i and start - edge >= slice_bytes:
            edge = start
            yield start
        reach = max(reach, last.get(key, -1))
