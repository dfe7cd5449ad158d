"""Where a huge tar may be cut, found from its headers alone."""

import itertools
from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xxhash

from clipmill.schemas.job.config import Storage
from clipmill.schemas.unit.units import SourceObject
from clipmill.workers.read.census import split_name
from clipmill.workers.read.tars.tar import BadTar, TarReader
from clipmill.workers.store.storage import open_stream


def cut_tar(item: SourceObject, storage: Storage, slice_bytes: int) -> list[tuple[int, int] | None]:
    """Byte ranges [start, end) of about `slice_bytes`, each beginning at a header; [None] where no cut is possible.

    No key has members on both sides of a cut, so a tar whose members lie in random order stays whole, as a gzipped one
    does. One pass over the headers; 27 bytes of memory per key whose members lie beside each other, 75 per member where
    they do not. What cannot be read as a header is left to the last range, whose worker will say so.
    """
    starts, keys = array("Q"), array("Q")  # of each run of members of one key
    with open_stream(item.uri, storage, expected_etag=item.etag) as stream:
        if stream.read(2) == b"\x1f\x8b":
            return [None]
        stream.seek(0)
        try:
            for member in TarReader(stream):
                named = split_name(member.name)
                raw = (named[0] if named else "").encode("utf-8", "surrogateescape")
                key = xxhash.xxh3_64_intdigest(raw) if named else 0
                if not named or not keys or key != keys[-1]:
                    starts.append(member.header_offset)
                    keys.append(key)
        except BadTar:
            pass
    cuts = list(_cuts(starts, keys, slice_bytes))
    if not cuts:
        return [None]
    edges = [0, *cuts, item.size_bytes]
    return list(itertools.pairwise(edges))


def _cuts(starts: "array[int]", keys: "array[int]", slice_bytes: int) -> Iterator[int]:
    """Header offsets at which to cut. A collision of two keys' hashes only forgoes a cut. 0: a member without a key."""
    places = np.frombuffer(starts, np.uint64) if starts else np.empty(0, np.uint64)
    if (may := _between_keys(keys)) is not None:
        places = places[may]
    edge = 0
    while (at := int(np.searchsorted(places, np.uint64(edge + slice_bytes)))) < len(places):
        edge = int(places[at])
        yield edge


def _between_keys(keys: "array[int]") -> npt.NDArray[np.bool_] | None:
    """Before which runs no key has begun that comes again; None: before all of them."""
    keys_N = np.frombuffer(keys, np.uint64) if keys else np.empty(0, np.uint64)
    in_order = np.sort(keys_N)
    again = np.unique(in_order[1:][(in_order[1:] == in_order[:-1]) & (in_order[1:] != 0)])
    del in_order
    if not len(again):
        return None
    recurring = np.flatnonzero(np.isin(keys_N, again))
    group = np.searchsorted(again, keys_N[recurring])
    last = np.zeros(len(again), np.int64)
    last[group] = recurring  # the last of each wins
    reach = np.arange(len(keys_N))
    reach[recurring] = last[group]
    np.maximum.accumulate(reach, out=reach)
    return np.append(True, reach[:-1] < np.arange(1, len(keys_N)))
