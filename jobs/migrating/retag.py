"""`clipmill retag TABLE --vocabulary FILE`: tags of another vocabulary from the stored vectors. No images, no GPU.

The new tags are written into two columns beside the old ones, a fragment a commit, and take their names in one commit
that renames all four; then the old ones leave. A reader of any version sees the tags of one vocabulary, with that
vocabulary's hash beside them. Killed, the next call goes on with the fragments that are not done, or, where it is for
something else, drops what was begun.

Memory holds a batch of rows, whatever the fragment's size. N: rows of a batch. D: dimension.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.committing.lease import Lease, no_fill_beside
from clipmill.jobs.maintaining.maintain import leased
from clipmill.jobs.migrating.fill import replacement
from clipmill.jobs.migrating.label_vectors import load_label_vectors
from clipmill.jobs.migrating.retag_rows import TYPES, nothing, spread, unit_rows
from clipmill.jobs.table import compat, memory
from clipmill.jobs.table.errors import is_conflict, writing
from clipmill.jobs.table.readers import readers
from clipmill.jobs.table.tables import Tables, lance_module
from clipmill.schemas.columns import VOCABULARY_KEY
from clipmill.schemas.config import Storage, Tags
from clipmill.schemas.errors import UserError
from clipmill.schemas.vocabulary import Vocabulary
from clipmill.workers.store.uri import split_uri
from clipmill.workers.tag import BUILT_IN, Tagger, embed_labels, load_vocabulary
from clipmill.workers.write import write_column_file

Say = Callable[[str], None]
Step = Callable[[str], None]
NAMES = ("tags", "tag_scores")
NEW = ("tags__retag", "tag_scores__retag")  # filled, until they take the names
OLD = ("tags__before", "tag_scores__before")  # from the switch until they are dropped
BATCH_ROWS = 4096
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
RETRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Retagged:
    """`rows`: of the table. `tagged`: written by this call; the others had these tags already. `untagged`: rows that
    no label fits well enough, or that have no vector. `note`: where readers see another version still."""

    table: str
    vocabulary: str
    labels: int
    rows: int
    tagged: int
    untagged: int
    version: int
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetagOptions:
    """`top_k` and `min_score`: as the table's tags have them where None. `label_vectors`: a .npy file instead of the
    text tower."""

    vocabulary: str
    label_vectors: str | None = None
    top_k: int | None = None
    min_score: float | None = None


def retag(
    table: str, options: RetagOptions, storage: Storage, *, say: Say = lambda _: None, step: Step = lambda _: None
) -> Retagged:
    """Give every row the tags of `options.vocabulary`. `step` is told before each commit (tests stop there).

    Raises UserError where the vocabulary or its vectors do not fit, LeaseHeld where somebody else writes, LeaseLost.
    """
    from threadpoolctl import threadpool_limits

    began = time.monotonic()
    tables = Tables.at(table, storage)
    schema = tables.open().schema
    memory.use_little()
    tagger = _tagger(schema, options, storage, say)
    about = _about(tagger, options)
    # The tagger multiplies 64 rows at a time: threads of BLAS wait for each other at that size, ours do not.
    with leased(tables, "retag", say) as (lease, _), no_fill_beside(lease, say), threadpool_limits(1, user_api="blas"):
        tagged = _Retag(tables, lease, tagger, step, say).all(about)
    rows = tables.open()
    seen = readers(rows)
    return Retagged(
        table=table,
        vocabulary=tagger.vocabulary.name,
        labels=len(tagger.vocabulary.labels),
        rows=rows.count_rows(),
        tagged=tagged,
        untagged=rows.count_rows("array_length(tags) = 0"),
        version=int(rows.version),
        seconds=round(time.monotonic() - began, 3),
        note=f"{seen.describe()}: `clipmill publish TABLE` publishes the newest" if seen.is_behind else "",
    )


def _tagger(schema: pa.Schema, options: RetagOptions, storage: Storage, say: Say) -> Tagger:
    fingerprint = compat.stored_fingerprint(schema)
    vocabulary: Vocabulary = load_vocabulary(options.vocabulary, storage)
    stored = compat.stored_vocabulary(schema) or {}
    usual = Tags()
    top_k = options.top_k or stored.get("top_k", usual.top_k)
    min_score = options.min_score if options.min_score is not None else stored.get("min_score", usual.min_score)
    tags = Tags(vocabulary=options.vocabulary, top_k=top_k, min_score=min_score)
    if options.label_vectors is not None:
        vectors_LD = load_label_vectors(options.label_vectors, vocabulary, fingerprint.dim)
    else:
        from clipmill.jobs.querying.encoder import engine_for  # loads torch and the model

        say(f"embedding {len(vocabulary.labels)} labels with {fingerprint.model}")
        vectors_LD = embed_labels(vocabulary, engine_for(fingerprint))
    return Tagger.from_vectors(vocabulary, vectors_LD, fingerprint, tags)


def _about(tagger: Tagger, options: RetagOptions) -> dict[str, Any]:
    """What the column's metadata says: as embed writes it, and where the vocabulary's file is, so that it is found
    without a job that names it; of vectors from a file, their hash."""
    about: dict[str, Any] = json.loads(tagger.metadata_json)
    if options.vocabulary not in BUILT_IN:
        scheme, path = split_uri(options.vocabulary)
        about["file"] = os.path.abspath(path) if scheme == "file" else options.vocabulary
    if options.label_vectors is not None:
        about["label_vectors"] = hashlib.sha256(tagger.vectors_LD.tobytes()).hexdigest()[:16]
    return about


def _same(stored: dict[str, Any] | None, about: dict[str, Any]) -> bool:
    """Whether tags of `stored` are what `about` would give."""
    keys = ("hash", "top_k", "min_score", "label_vectors")
    return stored is not None and all(stored.get(key) == about.get(key) for key in keys)


class _Retag:
    """Under both leases."""

    def __init__(self, tables: Tables, lease: Lease, tagger: Tagger, step: Step, say: Say) -> None:
        self.tables, self.lease, self.tagger, self.step, self.say = tables, lease, tagger, step, say

    def all(self, about: dict[str, Any]) -> int:
        """Rows that were tagged now."""
        self._finish()  # where a call was killed after its switch
        if _same(compat.stored_vocabulary(self.tables.open().schema), about):
            self._drop(NEW)
            return self._fill(NAMES)
        self._begin(about)
        tagged = self._fill(NEW)
        self._switch()
        # None, unless this process slept past its lease between its last look and the switch.
        tagged += self._fill(NAMES)
        self._finish()
        return tagged

    def _finish(self) -> None:
        """The index of the old tags is followed by one of the new, and the old ones leave."""
        rows = self.tables.open()
        indices = rows.describe_indices()
        indexed = {tuple(index.field_names) for index in indices}
        if (OLD[0],) in indexed and ("tags",) not in indexed:
            self.step("index")
            self.say("tags: building their index again")
            self.lease.check()
            # While the old tags are there their index keeps its name: gone first, a kill would leave no trace of it.
            taken = {index.name for index in indices}
            name = next(name for name in ("tags_idx", "tags_idx2", "tags_idx3") if name not in taken)
            with writing(self.tables.uri()):
                rows.create_scalar_index("tags", "LABEL_LIST", name=name)
        self._drop(OLD)

    def _drop(self, names: tuple[str, str]) -> None:
        present = [name for name in names if name in self.tables.open().schema.names]
        if present:
            self.step(f"drop {names[0]}")
            self.lease.check()
            with writing(self.tables.uri()):
                self.tables.open().drop_columns(present)

    def _begin(self, about: dict[str, Any]) -> None:
        """Two empty columns, unless a killed call left them for the same tags."""
        schema = self.tables.open().schema
        if all(name in schema.names for name in NEW):
            begun = json.loads((schema.field(NEW[0]).metadata or {}).get(VOCABULARY_KEY, b"null"))
            if begun is not None and begun == about:
                self.say("going on with what an earlier call began")
                return
        self._drop(NEW)
        self.step("begin")
        self.lease.check()
        metadata = {VOCABULARY_KEY: json.dumps(about, sort_keys=True).encode()}
        fields = [pa.field(NEW[0], TYPES[0], metadata=metadata), pa.field(NEW[1], TYPES[1])]
        with writing(self.tables.uri()):
            self.tables.open().add_columns(pa.schema(fields))

    def _fill(self, names: tuple[str, str]) -> int:
        tagged = 0
        fragments = self.tables.open().get_fragments()
        for at, fragment in enumerate(fragments):
            if rows := self._fill_fragment(fragment.fragment_id, names):
                tagged += rows
                self.say(f"{tagged:,} rows tagged, fragment {at + 1} of {len(fragments)}")
        return tagged

    def _fill_fragment(self, fragment_id: int, names: tuple[str, str]) -> int:
        lance = lance_module()
        for _ in range(RETRIES):
            dataset = self.tables.open()
            fragment = dataset.get_fragment(fragment_id)
            if fragment is None or not fragment.count_rows(f"{names[0]} IS NULL"):
                return 0
            rows = int(fragment.count_rows())
            with writing(self.tables.uri()):
                tagged = self._tagged(fragment, names)
                file = write_column_file(dataset, fragment_id, tagged, self.tables.options, rows=rows)
            self.step(f"fill {names[0]} {fragment_id}")
            self.lease.check()
            operation = lance.LanceOperation.DataReplacement([replacement(file)])
            try:
                lance.LanceDataset.commit(dataset, lance.Transaction(dataset.version, operation))
            except OSError as error:
                if not is_conflict(error):
                    raise
                continue
            return rows
        raise UserError(
            f"fragment {fragment_id} was rewritten {RETRIES} times while its rows were tagged",
            "run the command again when other programs are done with the table; it goes on from there",
        )

    def _tagged(self, fragment: Any, names: tuple[str, str]) -> Iterator[pa.RecordBatch]:
        """Physical rows in order; deleted ones are null, rows without a vector have no tags."""
        schema = pa.schema([pa.field(name, kind) for name, kind in zip(names, TYPES, strict=True)])
        done = 0
        scanner = fragment.scanner(columns=["vector"], with_row_address=True, batch_size=BATCH_ROWS)
        for place_N, (tags, scores) in self._ahead(scanner.to_batches()):
            stop = int(place_N[-1]) + 1
            yield spread(tags, scores, place_N - done, stop - done, schema)
            done = stop
        if done < fragment.physical_rows:
            yield spread(*nothing(), np.zeros(0, np.int64), fragment.physical_rows - done, schema)

    def _ahead(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
        """Offsets within the fragment and tags of each batch, in order; a batch more than there are threads is held."""
        dim, waiting = self.tagger.vectors_LD.shape[1], deque[tuple[npt.NDArray[np.int64], Future[Any]]]()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="retag") as pool:
            for batch in batches:
                place_N = (batch.column("_rowaddr").to_numpy() & 0xFFFFFFFF).astype(np.int64)
                vectors_ND = unit_rows(batch.column("vector"), dim)
                waiting.append((place_N, pool.submit(self.tagger.tag, vectors_ND)))
                if len(waiting) > THREADS:
                    place_N, done = waiting.popleft()
                    yield place_N, done.result()
            for place_N, done in waiting:
                yield place_N, done.result()

    def _switch(self) -> None:
        """One commit, so that no version has some of both."""
        self.step("switch")
        rows = self.tables.open()
        left = rows.count_rows(f"{NEW[0]} IS NULL")
        if left:
            raise UserError(f"{left} rows came while the table was tagged", "run the command again; it goes on")
        self.lease.check()
        renames = [*zip(NAMES, OLD, strict=True), *zip(NEW, NAMES, strict=True)]
        with writing(self.tables.uri()):
            rows.alter_columns(*({"path": was, "name": now} for was, now in renames))
        self.say("switched to the new tags")
