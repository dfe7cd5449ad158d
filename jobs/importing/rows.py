"""Windows to rows of the table, and to rejects: what stands in each column of a row whose picture nobody read.

B: rows of a window. D: dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from clipmill.jobs.importing.check import Bad, checked
from clipmill.jobs.importing.columns import Chosen
from clipmill.jobs.importing.ids import TakenIds
from clipmill.jobs.importing.places import Pictures
from clipmill.jobs.importing.read import WINDOW, Window
from clipmill.jobs.importing.sources import Piece
from clipmill.schemas.columns import KEEP_TYPES, UNSEEN_HASH
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.tombstones import Tombstones, deleted_reject
from clipmill.workers.tag import Tagger

_MAX_SIZE = 2**31 - 1  # pixels that the table's column holds


@dataclass(slots=True, kw_only=True)
class Maker:
    """What all pieces of an import are made into rows with. `wrong`: unit -> place -> why, of rows that were shown to
    have another picture's vector."""

    schema: pa.Schema
    chosen: Chosen
    pictures: Pictures
    taken: TakenIds
    normalize: bool = False
    tagger: Tagger | None = None
    deleted: Tombstones = field(default_factory=Tombstones)
    wrong: dict[str, dict[int, str]] = field(default_factory=dict)
    _none: dict[str, pa.Array] = field(default_factory=dict)

    def make(self, piece: Piece, window: Window) -> tuple[pa.RecordBatch, list[Reject]]:
        """Rows for what is right, rejects for the rest; together the window."""
        images = checked(window.vectors, normalize=self.normalize)
        bad: Bad = dict(images.bad)
        captions = window.strings(self.chosen.caption)
        texts, said_B = None, np.asarray(captions.is_valid())
        if window.texts is not None:
            texts = checked(window.texts, normalize=self.normalize, what="caption vector")
            said_B = said_B & ~window.texts.none_B
            bad = {**{row: why for row, why in texts.bad.items() if said_B[row]}, **bad}
        for place, why in self.wrong.get(piece.unit.unit_id, {}).items():
            row = int(np.searchsorted(window.places_B, place))
            if row < len(window) and window.places_B[row] == place:
                bad.setdefault(row, (Reason.WRONG_VECTOR, why))
        kept = self._kept(window, bad)
        ids, uris = self._names(piece, window, bad)
        hashes = [UNSEEN_HASH + xxhash.xxh3_128_hexdigest(row)[len(UNSEEN_HASH) :] for row in images.unit_BD]
        rejects = self._rejects(ids, uris, hashes, bad)
        columns: dict[str, pa.Array] = {
            "id": ids,
            "uri": uris,
            "image_hash": pa.array(hashes, pa.string()),
            "caption": captions,
            "vector": _vectors(images.unit_BD, None),
            **self._sizes(window),
            **kept,
        }
        if texts is not None:
            scores_B = np.einsum("bd,bd->b", images.full(), texts.full()).clip(-1.0, 1.0)
            columns["caption_vector"] = _vectors(texts.unit_BD, ~said_B)
            columns["caption_score"] = pa.array(scores_B, pa.float32(), mask=~said_B)
        if self.tagger is not None:
            columns["tags"], columns["tag_scores"] = self.tagger.tag(images.unit_BD)
        return self._batch(piece, columns, len(window), bad), rejects

    def _kept(self, window: Window, bad: Bad) -> dict[str, pa.Array]:
        """Kept columns; `bad` grows by rows whose values, in them or in a column of text, are none of their kind."""
        found = {}
        texts = dict.fromkeys(filter(None, (self.chosen.id, self.chosen.uri, self.chosen.caption)), "string")
        for name, kind in (*texts.items(), *self.chosen.keep.items()):
            column, wrong = window.converted(name, KEEP_TYPES[kind])
            for row, why in wrong.items():
                bad.setdefault(row, (Reason.BAD_METADATA, why))
            if name in self.chosen.keep:
                found[name] = column
        return found

    def _names(self, piece: Piece, window: Window, bad: Bad) -> tuple[pa.Array, pa.Array]:
        """Ids and addresses; `bad` grows by rows without an id, and by those whose id is taken."""
        ids = own = self.pictures.own(piece, window.places_B)
        if self.chosen.id:
            said = window.strings(self.chosen.id)
            is_said = pc.fill_null(pc.greater(pc.binary_length(said), 0), False)
            for row in np.flatnonzero(~np.asarray(is_said)).tolist():
                bad.setdefault(row, (Reason.BAD_METADATA, f"its {self.chosen.id} is null or empty"))
            ids = pc.if_else(is_said, said, own)
        good = np.setdiff1d(np.arange(len(ids)), list(bad)) if bad else np.arange(len(ids))
        again = self.taken.add(ids.take(pa.array(good)) if bad else ids)
        for row in good[again].tolist():
            bad[row] = (Reason.DUPLICATE_ID, "another row has this id")
        return ids, self.pictures.uris(window, own)

    def _rejects(self, ids: pa.Array, uris: pa.Array, hashes: list[str], bad: Bad) -> list[Reject]:
        """`bad` grows by what a person had deleted."""
        found = [
            Reject(id=ids[row].as_py(), uri=uris[row].as_py(), reason=why, detail=text)
            for row, (why, text) in bad.items()
        ]
        if len(self.deleted):
            for row, (name, uri, image_hash) in enumerate(zip(ids.to_pylist(), uris.to_pylist(), hashes, strict=True)):
                if row not in bad and self.deleted.holds(name, uri, image_hash):
                    found.append(deleted_reject(name, uri, image_hash))
                    bad[row] = (Reason.DELETED, "")
        return found

    def _sizes(self, window: Window) -> dict[str, pa.Array]:
        """0 where nobody said them, or they are none."""
        if not self.chosen.sizes:
            return {}
        found = {}
        for name in self.chosen.sizes:
            sizes = window.converted(name, pa.int64())[0]
            right = pc.and_(pc.greater(sizes, 0), pc.less_equal(sizes, _MAX_SIZE))
            found[name] = pc.if_else(pc.fill_null(right, False), sizes, 0).cast(pa.int32())
        return found

    def _nulls(self, field_: pa.Field, rows: int) -> pa.Array:
        """Made once: those of vectors take as many bytes as vectors."""
        if len(made := self._none.get(field_.name, ())) < rows:
            made = self._none[field_.name] = pa.nulls(max(rows, WINDOW), field_.type)
        return made.slice(0, rows)

    def _batch(self, piece: Piece, known: Mapping[str, pa.Array], rows: int, bad: Bad) -> pa.RecordBatch:
        constant = {
            "source_etag": piece.unit.etag,
            "unit_id": piece.unit.unit_id,
            "width": 0,
            "height": 0,
        }
        arrays = []
        for one in self.schema:
            if one.name in known:
                arrays.append(known[one.name])
            elif one.name in constant:
                arrays.append(pa.repeat(pa.scalar(constant[one.name], one.type), rows))
            else:
                arrays.append(self._nulls(one, rows))
        batch = pa.record_batch(arrays, schema=self.schema)
        if not bad:
            return batch
        keep_B = np.ones(rows, np.bool_)
        keep_B[list(bad)] = False
        return batch.filter(pa.array(keep_B))


def _vectors(half_BD: npt.NDArray[np.float16], null_B: npt.NDArray[np.bool_] | None) -> pa.Array:
    if null_B is not None and null_B.any():
        half_BD = np.where(null_B[:, None], np.float16(0), half_BD)
    mask = None if null_B is None else pa.array(null_B)
    return pa.FixedSizeListArray.from_arrays(pa.array(half_BD.reshape(-1)), half_BD.shape[1], mask=mask)
