"""The open table: search it, count it, look a row up. Everything comes back as Arrow.

D: dimension. B: examples.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.querying import filters, phash, values
from clipmill.jobs.querying.at_hand.fill import AtHand
from clipmill.jobs.querying.at_hand.shared import Shared
from clipmill.jobs.querying.damaged import naming_damage
from clipmill.jobs.querying.encoder import (
    Use,
    check_engine,
    combine,
    encode_images,
    encode_texts,
    engine_for,
    unit_rows,
)
from clipmill.jobs.querying.hybrid import hybrid
from clipmill.jobs.querying.pages import near_enough, ranked
from clipmill.jobs.querying.request import Examples, Query, QueryFields, as_examples, as_tuple, vector_tuple
from clipmill.jobs.querying.snapshot import ROW_ID, Snapshot
from clipmill.jobs.querying.versions import open_snapshot
from clipmill.jobs.table.proof import warning
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.words import counted
from clipmill.workers.engine import Engine
from clipmill.workers.recent import Recent

_OF_PHASH_SEARCH = frozenset({"where", "any_tags", "all_tags", "no_tags", "tags_column", "k", "offset", "columns"})


class Table:
    """A table at one version, until `refresh`. Thread-safe: a search works on the snapshot it began with."""

    def __init__(self, uri: str, version: int | str | None, storage: Storage, engine: Engine | None) -> None:
        self.uri = uri.rstrip("/")
        self.storage = storage
        self._asked_version = version
        self._engine = engine
        self._at_hand = AtHand()
        self.cold = ""  # why not all that `warm` was asked for is in memory, in a sentence
        self._words: Recent[tuple[str, str, tuple[str, ...]], npt.NDArray[np.float32]] | None = None
        self.snapshot: Snapshot = open_snapshot(self.uri, version, storage)
        self._followed = self.snapshot

    def __repr__(self) -> str:
        models = ", ".join(f"{column} by {model}" for column, model in self.snapshot.models.items()) or "no vectors"
        columns = ", ".join(self.snapshot.default_columns())
        rows = counted(self.num_rows, "row")
        return f"<table {self.uri}, version {self.version}: {rows}; {models}; columns {columns}>"

    @property
    def version(self) -> int:
        return self.snapshot.version

    @property
    def schema(self) -> pa.Schema:
        return self.snapshot.schema

    @property
    def num_rows(self) -> int:
        return self.snapshot.num_rows

    def refresh(self) -> bool:
        """Follow `live` (or the newest version, or the tag that was asked for); True where it moved, or where the table
        was made again. Raises UserError where it is gone."""
        before = self.snapshot
        fresh = open_snapshot(self.uri, self._asked_version, self.storage)
        moved = fresh.identity != self._followed.identity
        if moved:
            self._follow(fresh, before)
        return moved

    def renew(self) -> bool:
        """As `refresh` does, but at once, with nothing at hand: for whoever found files of this version gone. The next
        `refresh` says that it moved, and reads what is to be at hand. True also where one moved it beside this."""
        before = self.snapshot
        fresh = open_snapshot(self.uri, self._asked_version, self.storage)
        if self.snapshot is before and fresh.identity != before.identity:
            self.snapshot = fresh
        return self.snapshot is not before

    def _follow(self, fresh: Snapshot, before: Snapshot) -> None:
        """`before`: what was in place when `fresh` was looked for."""
        room = self._fill(fresh)  # before it is put in place, so that no query meets a cold one
        self._followed = fresh
        if self.snapshot is not before and self.snapshot.identity != fresh.identity:
            return  # a newer one was put in place meanwhile, for want of this one's files
        self.snapshot = fresh
        if not room:  # beside the one before it, which has gone now
            self._fill(fresh)

    def warm(
        self,
        columns: Sequence[str] = ("vector",),
        *,
        memory_bytes: int = 2 * 10**9,
        rows: bool = False,
        shared: Shared | None = None,
    ) -> bool:
        """Keep vectors in memory from now on, so that filters that few rows pass are answered exactly and fast, and the
        index where searches still ask it. False where they do not fit: `cold` says why. Costs one read of the columns,
        again after each refresh. Options are those of `AtHand`."""
        self._at_hand = AtHand(columns=tuple(columns), memory_bytes=memory_bytes, rows=rows, shared=shared)
        if self.snapshot.warm:  # queries are answered from what is at hand until the other is
            self._follow(self.snapshot.anew(), self.snapshot)
        else:
            self._fill(self.snapshot)
        return not self.cold

    def remember_words(self, *, memory_bytes: int = 16_000_000) -> None:
        """Keep the vectors of texts from now on: a page asks with the same words for its hits, its facets and more."""
        self._words = Recent(
            lambda key, vectors_BD: 300 + 4 * sum(len(text) for text in key[2]) + vectors_BD.nbytes,
            max_bytes=memory_bytes,
        )

    def _fill(self, snapshot: Snapshot) -> bool:
        """False where the machine has no room for it."""
        room, self.cold = self._at_hand.fill(snapshot)
        return room

    def engine(self, column: str = "vector", use: Use = "all") -> Engine:
        """The model that made the column's vectors, loaded at the first call. Raises UserError."""
        return self._engine_of(self.snapshot, column, use)

    def unproven(self, column: str = "vector") -> str:
        """One sentence where the column's vectors were imported and never shown to be of the model that embeds the
        query; else empty."""
        snapshot = self.snapshot
        return warning(snapshot.fingerprint(column)) if column in snapshot.models else ""

    def _engine_of(self, snapshot: Snapshot, column: str, use: Use) -> Engine:
        fingerprint = snapshot.fingerprint(column)
        return check_engine(self._engine, fingerprint) if self._engine else engine_for(fingerprint, use)

    def search(
        self,
        text: str | Sequence[str] | None = None,
        *,
        image: Any = None,
        like: str | Sequence[str] | None = None,
        vector: Any = None,
        negative: str | Sequence[str] | Examples | None = None,
        **options: Unpack[QueryFields],
    ) -> pa.Table:
        """The rows nearest to the examples, best first, with `score`, the cosine.

        Each of `text`, `image` (path, URI, bytes, PIL), `like` (ids) and `vector` is one thing or several; `negative`
        moves away from its words, or its `Examples`. Options are those of `clipmill.Query`; `limit` is
        `k`. Raises UserError.
        """
        known = values.options(options, set(Query.__dataclass_fields__) - {"positive", "negative"})
        positive = Examples(
            texts=values.strings("text", () if text is None else text),
            images=as_tuple(image),
            ids=values.strings("like", () if like is None else like),
            vectors=vector_tuple(vector),
        )
        return self.run(Query(positive=positive, negative=as_examples(negative), **known))

    def run(self, query: Query) -> pa.Table:
        """Answer a query. Columns: those asked for, then score float32, and for hybrid bm25 and rank_score."""
        snapshot = self.snapshot
        columns = snapshot.check_columns(query.columns or snapshot.default_columns())
        predicate = self.predicate(query)
        by_id = "id" if query.positive.ids or query.negative.ids else None
        with naming_damage(snapshot.dataset, predicate, query.column, "caption" if query.hybrid else None, by_id):
            if not len(query.positive):
                return self._browse(snapshot, query, predicate, columns)
            hits = self._hits(snapshot, query, predicate)
            return _with_columns(snapshot, hits.slice(query.offset, query.k), columns)

    def search_phash(
        self, picture: Any, *, max_distance: int = phash.DEFAULT_DISTANCE, **options: Unpack[QueryFields]
    ) -> pa.Table:
        """The rows that look the same, by perceptual hash, nearest first, with `phash_distance` in bits, 0..64.

        `picture`: the id of a row, which is not in the answer; a path, URI, bytes or PIL image; or a hash, as a number
        or 16 hex digits. `Examples(ids=…)` of one id is a row and never a file. Every row that passes is compared;
        nothing is embedded. Options: where, any_tags, all_tags, no_tags, tags_column, k, offset, columns. Raises
        UserError.
        """
        query = Query(**values.options(options, _OF_PHASH_SEARCH))
        snapshot = self.snapshot
        columns = snapshot.check_columns(query.columns or snapshot.default_columns())
        with naming_damage(snapshot.dataset, "id"):
            wanted = phash.hash_of(snapshot, picture, self.storage)
        predicate = self.predicate(query)
        own = picture.ids if isinstance(picture, Examples) else (picture,) if isinstance(picture, str) else ()
        if own:
            predicate = filters.conjunction([predicate, f"NOT ({filters.ids_predicate(own)})"])
        most = values.whole("max_distance", max_distance)
        with naming_damage(snapshot.dataset, predicate):
            hits = phash.nearest(snapshot, wanted, most, query.depth, predicate)
            return _with_columns(snapshot, hits.slice(query.offset, query.k), columns)

    def predicate(self, query: Query) -> str | None:
        """The filters of a query as one SQL predicate. Raises UserError."""
        if query.where is not None:
            try:
                filters.check_where(query.where, self.schema.names)
            except UserError as error:
                raise self.snapshot.newer.unknown(error.message, error.hint) from None
        column = query.tags_column
        if column != "tags" or query.any_tags or query.all_tags or query.no_tags:
            self.snapshot.check_tags(column)
        null_tags = bool(query.no_tags) and (column != "tags" or self.snapshot.has_null_tags)
        tags = filters.tags_predicates(
            query.any_tags, query.all_tags, query.no_tags, null_tags=null_tags, column=column
        )
        predicate = filters.conjunction([query.where, *tags])
        if predicate and query.where is None and column == "tags":
            self.snapshot.note_tags(predicate, (query.any_tags, query.all_tags, query.no_tags))
        return predicate

    def count(self, query: Query | str | None = None) -> int:
        """Rows that pass the filters of a query, or a predicate as `where` takes it."""
        query = query if query is None or isinstance(query, Query) else Query(where=query)
        snapshot, predicate = self.snapshot, self.predicate(query) if query else None
        with naming_damage(snapshot.dataset, predicate):
            return snapshot.count(predicate)

    def get(self, ids: str | Sequence[str], columns: str | Sequence[str] | None = None) -> pa.Table:
        """Rows by id, in the order asked; ids that are not there are left out."""
        snapshot = self.snapshot
        ids = values.strings("ids", ids)
        wanted = snapshot.check_columns(values.strings("columns", columns or snapshot.default_columns()))
        with_id = [*wanted] if "id" in wanted else ["id", *wanted]
        with naming_damage(snapshot.dataset, "id"):
            found = snapshot.dataset.scanner(columns=with_id, filter=filters.ids_predicate(ids)).to_table()
        place = {row_id: n for n, row_id in enumerate(found["id"].to_pylist())}
        order = pa.array([place[i] for i in dict.fromkeys(ids) if i in place], pa.int64())
        return found.take(order).select(list(wanted))

    def query_vector(self, query: Query) -> npt.NDArray[np.float32]:
        """The unit vector (D,) that a query searches with. Raises UserError."""
        return self._query_vector(self.snapshot, query)

    def _query_vector(self, snapshot: Snapshot, query: Query) -> npt.NDArray[np.float32]:
        """By the model of that snapshot: another may be in use as soon as a refresh has put a newer one in place."""
        use: Use = "question" if query.positive.images or query.negative.images else "words"
        positive_BD = self._encode(snapshot, query.positive, query.column, use)
        negative_BD = self._encode(snapshot, query.negative, query.column, use) if len(query.negative) else None
        return combine(positive_BD, negative_BD)

    def _hits(self, snapshot: Snapshot, query: Query, predicate: str | None) -> pa.Table:
        vector_D = self._query_vector(snapshot, query)
        # The examples themselves are no answer to "more like this", so look as much deeper and drop them.
        more = len(query.positive.ids)
        if query.hybrid:
            hits = hybrid(snapshot, query, vector_D, predicate, query.depth + more)
        else:
            hits = ranked(snapshot, query, vector_D, predicate, query.depth + more, query.k + more)
            hits = near_enough(hits, query.min_score)
        if query.positive.ids:
            own = _row_ids(snapshot, query.positive.ids)
            hits = hits.filter(pc.invert(pc.is_in(hits[ROW_ID], value_set=pa.array(own, pa.uint64()))))
        return hits

    def _encode(self, snapshot: Snapshot, examples: Examples, column: str, use: Use) -> npt.NDArray[np.float32]:
        rows = []
        if examples.texts:
            rows.append(self._texts(snapshot, examples.texts, column, use))
        if examples.images:
            engine = self._engine_of(snapshot, column, use)
            rows.append(encode_images(engine, examples.images, storage=self.storage))
        if examples.ids:
            rows.append(self._stored(snapshot, examples.ids, column))
        if examples.vectors:
            rows.append(unit_rows(examples.vectors, snapshot.dim(column)))
        return np.concatenate(rows)

    def _texts(self, snapshot: Snapshot, texts: tuple[str, ...], column: str, use: Use) -> npt.NDArray[np.float32]:
        def make() -> npt.NDArray[np.float32]:
            return encode_texts(self._engine_of(snapshot, column, use), texts)

        if self._words is None:
            return make()
        model = snapshot.fingerprint(column)
        return self._words.get_or_make((model.weights_sha256, model.tokenizer, texts), make)

    def _stored(self, snapshot: Snapshot, ids: tuple[str, ...], column: str) -> npt.NDArray[np.float32]:
        snapshot.dim(column)
        found = snapshot.dataset.scanner(columns=["id", column], filter=filters.ids_predicate(ids)).to_table()
        vectors = dict(zip(found["id"].to_pylist(), found[column].to_pylist(), strict=True))
        for row_id in ids:
            if row_id not in vectors:
                hint = "ids are exact; list some with a search; a picture in a file is an image, no id"
                raise UserError(f"there is no row with id {row_id!r}", hint)
            if vectors[row_id] is None:
                raise UserError(f"the row {row_id!r} has no {column}", "choose another row")
        return unit_rows(tuple(np.asarray(vectors[i], dtype=np.float32) for i in ids), snapshot.dim(column))

    def _browse(self, snapshot: Snapshot, query: Query, predicate: str | None, columns: tuple[str, ...]) -> pa.Table:
        snapshot.dim(query.column)
        shown = filters.conjunction([predicate, f"{query.column} IS NOT NULL"])
        with filters.filter_errors(predicate):
            found = snapshot.dataset.scanner(
                columns=list(columns), filter=shown, limit=query.k, offset=query.offset, scan_in_order=True
            ).to_table()
        return found.append_column("score", pa.nulls(len(found), pa.float32()))


def _row_ids(snapshot: Snapshot, ids: Sequence[str]) -> list[int]:
    found = snapshot.dataset.scanner(columns=[], filter=filters.ids_predicate(ids), with_row_id=True).to_table()
    return found[ROW_ID].to_pylist()  # type: ignore[no-any-return]


def _with_columns(snapshot: Snapshot, hits: pa.Table, columns: tuple[str, ...]) -> pa.Table:
    """Fetch `columns` of the hits, keeping their order, and put the scores behind; a column of the table that is called
    like one of them is left out."""
    rows = snapshot.take(hits[ROW_ID].to_numpy(), columns)
    rows = rows.drop_columns([name for name in columns if name in hits.column_names])
    for name in hits.column_names:
        if name != ROW_ID:
            rows = rows.append_column(name, hits[name])
    return rows.replace_schema_metadata(None)
