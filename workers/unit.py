"""The road of one image: read, decode, embed, tag, write. The only place where the stages meet.

A unit goes in, a receipt comes out. Every sample that the reader yields ends as a row or as a named reject; the
receipt is checked for that before it leaves.

Shapes: B samples of a batch, D dimension of the shared space, C, H, W of the model's input.
"""

import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from clipmill.schemas.errors import SourceChanged
from clipmill.schemas.unit.receipts import Outcome, Receipt
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import BadImage, Sample
from clipmill.schemas.unit.tasks import Task, UnitProgress, WorkContext
from clipmill.schemas.unit.tombstones import deleted_reject
from clipmill.workers.bench import Bench
from clipmill.workers.decode.decoded import Decoded, batches, described, hash_sample, pixels, weight, with_id
from clipmill.workers.engine import halving
from clipmill.workers.flow import ReadAhead, map_ahead
from clipmill.workers.heads import head_values
from clipmill.workers.read import read_unit
from clipmill.workers.read.census import Census
from clipmill.workers.read.folders.keys import folder_of
from clipmill.workers.read.orientation import stamped
from clipmill.workers.reuse import Remembered, Unseen
from clipmill.workers.tag import Tagger
from clipmill.workers.write import Embedded, RejectWriter, RowWriter, count_filled

Vectors = npt.NDArray[np.float32]  # (B, D)


class UnitRun:
    """One attempt at one unit."""

    def __init__(self, task: Task, context: WorkContext, bench: Bench) -> None:
        self.task, self.context, self.bench = task, context, bench
        weights = bench.engine.fingerprint.weights_sha256
        self.rejects = RejectWriter(context, task, weights[:16])
        self.hasher = xxhash.xxh3_128()
        self.unread: dict[str, int] = {}
        self.unread_first: dict[str, str] = {}
        self.seconds: dict[str, float] = dict.fromkeys(("read", "decode", "embed", "tag", "write"), 0.0)
        self.seen = self.written = self.bytes_read = self._steps = 0
        self._waits = False
        self._remembered: Remembered | None = None
        self._inside_s = 0.0  # what the writer spent waiting for rows
        self._rank = bench.turns.rank()
        self._folder = folder_of(task.unit.uri) if task.unit.format == "files" else ""
        self.census = Census()
        self.filled: dict[str, int] = {}

    @property
    def progress(self) -> UnitProgress:
        """From any thread."""
        return UnitProgress(steps=self._steps, waits=self._waits)

    def run(self) -> Receipt:
        """The receipt. Lets transient storage errors and bugs raise: the driver decides about another attempt."""
        try:
            writer = RowWriter(self.context, self.task)
            if self.task.known and (alias := self._alias(writer)) is not None:
                return alias
            if before := (self.task.moved_from,) if self.task.moved_from else self.task.kin:
                self._remembered = Remembered(writer.dataset, before)
            start = time.perf_counter()
            with self.bench.unit():
                fragments = writer.write(self._clocked(self._record_batches(writer)))
            self.seconds["write"] = time.perf_counter() - start - self._inside_s
            self.rejects.flush()
        except SourceChanged:
            return self._receipt(Outcome.SOURCE_CHANGED)
        receipt = self._receipt(Outcome.DONE, fragments)
        receipt.check_balance()
        missing = self.census.missing(self.seen) if self.task.unit.limit is None else 0
        assert not missing, f"{missing} of {self.census.pictures} pictures of {self.task.unit.uri} are in no sum"
        return receipt

    def _record_batches(self, writer: RowWriter) -> Iterator[Any]:
        """The stages, one after the other. Reading and decoding run ahead of the model in their own threads."""
        context = self.context
        reading = read_unit(self.task.unit, context.source, context.storage, context.limits, self.census)
        for embedded in self._embedded_batches(reading):
            with self._timed("tag"):
                # At the float16 that the table stores: computed again from there, a score is the same.
                stored_BD = embedded.vectors_BD.astype(np.float16)
                embedded.heads = {head.name: head_values(head, stored_BD) for head in context.heads}
            record_batch = writer.record_batch(embedded)
            count_filled(self.filled, record_batch, ("caption", "tags", *embedded.heads, *context.source.keep))
            yield record_batch

    def _embedded_batches(self, reading: Iterator[Sample | Reject]) -> Iterator[Embedded]:
        samples = ReadAhead(
            reading,
            weight,
            max_items=4 * self.bench.samples_at_once,
            max_bytes=self.context.limits.worker_memory // (8 * self.context.units_in_flight),
        )
        try:
            good = self._good(self._decoded(self._counted(samples)))
            for batch in batches(good, self.bench.samples_at_once):
                embedded = self._embedded(batch)
                self._steps += 1
                if embedded is not None:
                    self.written += len(embedded.samples)
                    yield embedded
        finally:
            samples.close()
            self.seconds["read"] += samples.busy_s

    def _counted(self, samples: Iterable[Sample | Reject]) -> Iterator[Sample]:
        """Count what the reader yields, keep its rejects, pass over what is to be skipped."""
        ordinal = -1
        for item in samples:
            self.seen += 1
            self._steps += 1
            if isinstance(item, Reject):
                self.rejects.add(item)
                continue
            ordinal += 1
            self.bytes_read += len(item.image)
            reason = self.task.skip.get(ordinal)
            if reason is not None:
                detail = f"sample {ordinal} of its unit; found by going through the unit one by one"
                id_ = item.id or xxhash.xxh3_128_hexdigest(item.image)
                self.rejects.add(Reject(id=id_, uri=item.uri, reason=Reason(reason), detail=detail))
                continue
            for column, problem in item.unread.items():
                self.unread[column] = self.unread.get(column, 0) + 1
                self.unread_first.setdefault(column, f"{problem}, at {item.uri}"[:400])
            yield item

    def _decoded(self, samples: Iterable[Sample]) -> Iterator[Decoded]:
        return map_ahead(self.bench.pool, self._decode_one, samples, window=self.bench.decode_window)

    def _decode_one(self, sample: Sample) -> Decoded:
        start = time.thread_time()
        image_hash = xxhash.xxh3_128_hexdigest(sample.image)
        if not sample.id:  # source.id: content
            sample = with_id(sample, image_hash)
        decoded = Decoded(sample, image_hash)
        if self.context.deleted.holds(sample.id, sample.uri, image_hash):
            decoded.reject = deleted_reject(sample.id, sample.uri, image_hash)
            return decoded
        try:
            decoded.picture = self.bench.engine.prepare(
                stamped(sample.image, sample.orientation),
                self.context.limits,
                thumbnail=self.context.thumbnails,
                phash=self.context.phash,
            )
        except BadImage as bad:
            decoded.reject = Reject(id=sample.id, uri=sample.uri, reason=Reason(bad.reason), detail=bad.detail)
        decoded.busy_s = time.thread_time() - start
        return decoded

    def _good(self, decoded: Iterable[Decoded]) -> Iterator[Decoded]:
        """What has a picture; the content hash sees every sample in order, good or bad."""
        for one in decoded:
            self.seconds["decode"] += one.busy_s
            self._steps += 1
            hash_sample(self.hasher, one.sample, one.image_hash, self._folder)
            if one.reject is not None:
                self.rejects.add(one.reject)
            else:
                yield one

    def _embedded(self, batch: list[Decoded]) -> Embedded | None:
        """Run the model and the tagger; rows that come back as NaN become rejects. None where none is left."""
        if self._remembered is not None:
            rows = self._remembered.rows_of([(d.image_hash, d.sample.caption, d.sample.orientation) for d in batch])
            if rows is not None:
                return self._remembered.embedded(rows, *described(batch))
        vectors_BD, caption_vectors_BD, has_caption_B = self._encode(batch)
        finite_B = np.isfinite(np.concatenate([vectors_BD, caption_vectors_BD], axis=1)).all(axis=1)
        if not finite_B.all():
            for one, ok in zip(batch, finite_B, strict=True):
                if not ok:
                    s = one.sample
                    self.rejects.add(Reject(id=s.id, uri=s.uri, reason=Reason.NOT_FINITE, detail="NaN from the model"))
            batch = [d for d, ok in zip(batch, finite_B, strict=True) if ok]
            vectors_BD, caption_vectors_BD = vectors_BD[finite_B], caption_vectors_BD[finite_B]
            has_caption_B = has_caption_B[finite_B]
        if not batch:
            return None
        with self._timed("tag"):
            tags, scores = _tagged(self.bench.tagger, vectors_BD)
        samples, pictures, hashes = described(batch)
        return Embedded(
            samples=samples,
            pictures=pictures,
            hashes=hashes,
            vectors_BD=vectors_BD,
            caption_vectors_BD=caption_vectors_BD,
            has_caption_B=has_caption_B,
            tags=tags,
            tag_scores=scores,
        )

    def _encode(self, batch: list[Decoded]) -> tuple[Vectors, Vectors, npt.NDArray[np.bool_]]:
        """(image vectors (B, D), caption vectors (B, D), zeros where there is no caption, and where there is one (B,)).

        Only the forward passes take a turn at the model; what surrounds them is done while another unit has it.
        """
        bench, engine = self.bench, self.bench.engine
        pixels_BCHW = np.stack([pixels(d) for d in batch])
        captions = [d.sample.caption for d in batch]
        known = {caption: bench.captions.get(caption) for caption in captions if caption is not None}
        new = [caption for caption, vector_D in known.items() if vector_D is None]
        texts = engine.prepare_texts(new)
        new_ND = np.empty((0, engine.dim), np.float32)
        self._waits = True
        with bench.turns.turn(self._rank), self._timed("embed", places=bench.turns.most // bench.turns.at_once):
            self._waits = False
            vectors_BD = halving(engine.encode_images, pixels_BCHW)
            if new:
                new_ND = halving(engine.encode_texts, texts)
        for caption, vector_D in zip(new, new_ND, strict=True):
            known[caption] = vector_D
            if np.isfinite(vector_D).all():
                bench.captions.put(caption, vector_D.copy())  # a view would keep its whole batch
        caption_vectors_BD = np.zeros_like(vectors_BD)
        for row, one in enumerate(captions):
            if one is not None:
                caption_vectors_BD[row] = known[one]
        return vectors_BD, caption_vectors_BD, np.array([caption is not None for caption in captions], np.bool_)

    def _alias(self, writer: RowWriter) -> Receipt | None:
        """Read the unit once for its hash alone: where the content is known and the rows that the table has of it are
        true of it, no new ones are needed. Where one is not, all are written anew, with the vectors of the old."""
        (content, old), *_ = self.task.known.items()
        unseen = Unseen(writer.dataset, old, self.rejects.dataset)
        hasher = xxhash.xxh3_128()
        for item in read_unit(self.task.unit, self.context.source, self.context.storage, self.context.limits):
            self._steps += 1
            image_hash = ""
            if isinstance(item, Sample):
                image_hash = xxhash.xxh3_128_hexdigest(item.image)
                hash_sample(hasher, item, image_hash, self._folder)
                item = item if item.id else with_id(item, image_hash)
            unseen.saw(item, image_hash)
        if hasher.hexdigest() != content:
            return None
        if unseen:
            self._remembered = Remembered(writer.dataset, (old,))
            return None
        return self._receipt(Outcome.ALIAS, alias_of=old, content_hash=content)

    def _receipt(
        self, outcome: Outcome, fragments: tuple[str, ...] = (), *, alias_of: str = "", content_hash: str = ""
    ) -> Receipt:
        return Receipt(
            unit_id=self.task.unit.unit_id,
            run=self.context.run,
            attempt=self.task.attempt,
            outcome=outcome,
            seen=self.seen,
            written=self.written,
            rejected=dict(self.rejects.counts),
            unread=dict(self.unread),
            unread_first=dict(self.unread_first),
            fragments=fragments,
            reject_fragments=tuple(self.rejects.fragments),
            content_hash=content_hash or self.hasher.hexdigest(),
            alias_of=alias_of,
            left_out=dict(self.census.left_out),
            filled=dict(self.filled),
            bytes_read=self.bytes_read,
            seconds={stage: round(s, 4) for stage, s in self.seconds.items()},
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )

    def _clocked(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._inside_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    @contextmanager
    def _timed(self, stage: str, *, places: int = 1) -> Iterator[None]:
        """`places`: how many of those that a stage has it takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += places * (time.perf_counter() - start)


def _tagged(tagger: Tagger | None, vectors_BD: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    import pyarrow as pa

    if tagger is None:
        n = len(vectors_BD)
        return pa.nulls(n, pa.list_(pa.string())), pa.nulls(n, pa.list_(pa.float32()))
    return tagger.tag(vectors_BD)
