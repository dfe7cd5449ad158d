"""Where the pictures of imported rows are: what the files say, made an address; and their bytes, for the proof.

A key of a tar or a name below a folder is no address. It becomes one where `--pictures` names the folder, else the row
is known by its own place in the file that it was imported from.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.importing.columns import Chosen
from clipmill.jobs.importing.read import Window
from clipmill.jobs.importing.sources import Piece
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.workers.read.original import fetch_any
from clipmill.workers.store.storage import absolute_uri, quote

ENDINGS = ("", ".jpg", ".jpeg", ".png", ".webp")
MAX_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class Pictures:
    """`folder`: as --pictures has it; empty where nobody said one."""

    chosen: Chosen
    folder: str = ""

    def own(self, piece: Piece, places_B: npt.NDArray[np.int64]) -> pa.Array:
        """The rows' own addresses: unique, and the same at every import of the file."""
        file = piece.metadata.uri if piece.metadata is not None else piece.unit.uri
        before = f"{file}#row={piece.unit.start}." if piece.unit.start else f"{file}#row="
        return pc.binary_join_element_wise(before, pa.array(places_B).cast(pa.string()), "")

    def uris(self, window: Window, own: pa.Array) -> pa.Array:
        """The address of each row's picture; its own where none is said."""
        if not self.chosen.uri:
            return own
        said = window.strings(self.chosen.uri)
        if not self.folder and not pc.any(pc.match_substring_regex(said, "^/|://")).as_py():
            return own  # keys, all of them
        told = [self._address(name) or other for name, other in zip(said.to_pylist(), own.to_pylist(), strict=True)]
        return pa.array(told, pa.string())

    def _address(self, name: str | None) -> str:
        if not name:
            return ""
        if "://" in name:
            return name
        if os.path.isabs(name):
            return quote(os.path.normpath(name))
        if self.folder and os.path.splitext(name)[1]:
            return self._below(name)
        return ""

    def _below(self, name: str) -> str:
        return f"{absolute_uri(self.folder).rstrip('/')}/{quote(name)}"

    def candidates(self, uri: str, names: list[str]) -> Iterator[str]:
        """Where the picture may be. Nothing of the web is asked: a proof must not knock at a thousand doors."""
        if not uri.startswith(("http://", "https://")) and "#row=" not in uri:
            yield uri
        for name in names if self.folder else ():
            if "://" not in name and not os.path.isabs(name):
                yield from (self._below(name + ending) for ending in ENDINGS)
                yield self._below(os.path.basename(name))

    def bytes_of(self, uri: str, names: list[str], storage: Storage) -> bytes | None:
        """The encoded picture; None where it is at none of its places."""
        for place in dict.fromkeys(self.candidates(uri, names)):
            try:
                return fetch_any(place, storage, max_bytes=MAX_BYTES)
            except UserError:
                continue
        return None
