"""The operators that look at each row by itself: where, size, tags, score, caption, sample."""

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pyarrow.compute as pc

from clipmill.jobs.querying.at_hand.warm import passing
from clipmill.jobs.querying.open import Query
from clipmill.jobs.selecting.language import detector
from clipmill.jobs.selecting.outcome import Outcome, Place, bounded
from clipmill.jobs.selecting.rows import Floats, Rows
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.recipe import Caption, Sample, Score, Size, Tags, Where

_TELL_EVERY = 200_000


def where(rows: Rows, asked: Where, place: Place) -> Outcome:
    return _passing(rows, Query(where=asked.sql))


def tags(rows: Rows, asked: Tags, place: Place) -> Outcome:
    return _passing(rows, Query(any_tags=asked.any, all_tags=asked.all, no_tags=asked.none, tags_column=asked.column))


def _passing(rows: Rows, query: Query) -> Outcome:
    predicate = rows.table.predicate(query)
    assert predicate is not None, "an empty filter was refused"
    return Outcome(keep=rows.among(passing(rows.table.snapshot, predicate)))


def size(rows: Rows, asked: Size, place: Place) -> Outcome:
    """A side of 0 pixels is one that nobody measured, as of imported vectors: no value."""
    keep_N = np.zeros(len(rows), np.bool_)
    unknown = 0
    for places, found in rows.batches(["width", "height"]):
        width_B, height_B = (found[name].to_numpy().astype(np.int64) for name in ("width", "height"))
        shorter_B, longer_B = np.minimum(width_B, height_B), np.maximum(width_B, height_B)
        keep_B = shorter_B >= max(asked.min_side or 0, 1)
        unknown += int((shorter_B < 1).sum())
        keep_B &= (width_B >= (asked.min_width or 0)) & (height_B >= (asked.min_height or 0))
        if asked.max_aspect is not None:
            keep_B &= longer_B <= asked.max_aspect * shorter_B
        keep_N[places] = keep_B
    return Outcome(keep=keep_N, without_value=unknown)


def score(rows: Rows, asked: Score, place: Place) -> Outcome:
    if asked.column is not None:
        return bounded(asked.column, rows.numbers(asked.column), asked)
    assert asked.tag is not None
    scores = asked.tags.replace("tags", "tag_scores", 1)
    return bounded(f"{scores}:{asked.tag}", _tag_scores(rows, asked.tag, asked.tags, scores), asked)


def _tag_scores(rows: Rows, label: str, column: str, scores: str) -> Floats:
    """What the row's tags give this label (N,), NaN where it is none of them."""
    found_N = np.full(len(rows), np.nan, np.float32)
    for places, found in rows.batches([column, scores]):
        named, scored = (found[name].combine_chunks() for name in (column, scores))
        lengths_B, scored_B = (pc.fill_null(pc.list_value_length(one), 0).to_numpy() for one in (named, scored))
        if (lengths_B != scored_B).any():
            raise UserError(f"a row has more {column} than {scores}, or fewer", "`clipmill verify TABLE` names it")
        hits = pc.fill_null(pc.equal(named.flatten(), label), False).to_numpy(zero_copy_only=False)
        owners = np.repeat(places, lengths_B)
        found_N[owners[hits]] = scored.flatten().to_numpy(zero_copy_only=False)[hits]
    return found_N


def caption(rows: Rows, asked: Caption, place: Place) -> Outcome:
    keep_N = np.zeros(len(rows), np.bool_)
    speaks = detector(asked.language) if asked.language else None
    missing = done = 0
    for places, found in rows.batches(["caption"]):
        texts = found["caption"].to_pylist()
        missing += sum(text is None for text in texts)
        keep_N[places] = [text is not None and _fits(text, asked) and (not speaks or speaks(text)) for text in texts]
        done += len(texts)
        if speaks and done // _TELL_EVERY > (done - len(texts)) // _TELL_EVERY:
            place.tell(f"{done:,} of {len(rows):,} captions looked at")
    return Outcome(keep=keep_N, without_value=missing, note=speaks.name if speaks else "")


def _fits(text: str, asked: Caption) -> bool:
    words = len(text.split()) if asked.min_words or asked.max_words else 0
    if asked.min_words is not None and words < asked.min_words:
        return False
    if asked.max_words is not None and words > asked.max_words:
        return False
    return asked.min_chars is None or len(text) >= asked.min_chars


def sample(rows: Rows, asked: Sample, place: Place) -> Outcome:
    # A second sample draws among those of the first by another hash, else it would draw all of them again.
    hash_N = rows.hashes(f"sample {place.nth} {asked.seed}")
    if asked.n is not None:
        return Outcome(keep=np.argsort(hash_N, kind="stable")[: asked.n])
    below = floor(Fraction(str(asked.share)) * 2**64)
    keep: Any = np.ones(len(rows), np.bool_) if below >= 2**64 else hash_N < np.uint64(below)
    return Outcome(keep=keep)
