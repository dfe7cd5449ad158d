"""Rows fetched again from where they came from, and embedded again; and the tags of all rows, now that the model is
loaded."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.jobs.table.originals import Originals, place_columns, why
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying import tags
from clipmill.jobs.verifying.report import Problems, Report
from clipmill.schemas.columns import PHASH, has_phash
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.unit.samples import BadImage, Picture
from clipmill.workers.engine import Engine
from clipmill.workers.read.original import NotTheBytes

MIN_COSINE = 0.999  # of a stored vector, whatever precision made it, to the same picture or text in fp32
MAX_PHASH_BITS = 2  # another release of a decoder may give a level more or less, and with it a pair of bits
UNMEASURED = (0, 0)  # of an imported row; `verifying.values` finds one in any other
_ROWS_AT_ONCE = 1000
# So many pictures and captions, and texts that labels are embedded from, take less time one by one in numpy than torch
# takes to be imported and to make a model ready.
_FEW_ROWS, _FEW_TEXTS = 32, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Which rows: `size` of them, drawn by `seed`; `allow`: further places that may be read, see `table.originals`."""

    size: int
    seed: int
    allow: Sequence[str] = ()


def check_sample(
    tables: Tables, rows: Any, fingerprint: Fingerprint, report: Report, say: Problems, drawn: Sample
) -> None:
    """Fetch `drawn.size` random rows again from their uri and embed them with the table's model, in fp32."""
    report.seed = drawn.seed
    few = drawn.size <= _FEW_ROWS and tags.texts_to_embed(tables, rows) <= _FEW_TEXTS
    engine = _engine(fingerprint, report, say, few=few)
    if engine is None:
        report.sample_not_checked = min(drawn.size, report.rows)
        return
    lowest = 1.0
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    originals = Originals(tables, drawn.allow)
    for row in _drawn(rows, drawn):
        _check_caption(row, engine, say)
        try:
            image = originals.read(row)
            picture = engine.prepare(image, Limits(), phash=row.get(PHASH.name) is not None)
        except NotTheBytes as error:
            say("bytes", f"row {row['id']}: {error.message}")
            continue
        except UserError as error:  # gone, not of the source, or unreadable from here: not the table's fault, but said
            reasons[why(error)] += 1
            first.setdefault(why(error), f"{error.message} ({error.hint})")
            continue
        except BadImage as bad:  # the bytes are the right ones, so it is this machine's decoder or limit
            reasons["does not decode here"] += 1
            first.setdefault("does not decode here", f"{row['uri']} ({bad.reason})")
            continue
        report.sampled += 1
        _check_phash(row, picture, say)
        if row["vector"] is None:
            continue  # named already
        cosine = float(engine.encode_images(picture.pixels_CHW[None])[0] @ np.asarray(row["vector"], np.float32))
        lowest = min(lowest, cosine)
        if not cosine >= MIN_COSINE:
            say("vectors", f"row {row['id']}: embedding it again gives cosine {cosine:.5f}")
        if (row["width"], row["height"]) not in (UNMEASURED, (picture.width, picture.height)):
            stored = f"{row['width']}x{row['height']}"
            say("sizes", f"row {row['id']}: it is said to be {stored}, the picture is {picture.width}x{picture.height}")
    report.sample_min_cosine = round(lowest, 6) if report.sampled and np.isfinite(lowest) else None
    report.sample_not_checked = sum(reasons.values())
    report.not_checked += [f"{n} of the sample: {reason}, such as {first[reason]}" for reason, n in reasons.items()]
    tags.check_in_use(tables, rows, engine, report, say)


def _engine(fingerprint: Fingerprint, report: Report, say: Problems, *, few: bool) -> Engine | None:
    """The table's model in fp32; None, and a word about it, where another one or none loads here. `few`: it will embed
    little."""
    from clipmill.workers.load import load_engine, load_few

    if few and (plain := load_few(fingerprint)) is not None:
        return plain
    spec = fingerprint.spec("fp32")
    try:
        engine = load_engine(spec)
    except UserError as error:
        report.not_checked.append(f"the sample: {error.message} ({error.hint})")
        return None
    if differences := engine.fingerprint.differences(fingerprint):
        say("model", f"the model that loads here is not the table's: {differences[0]}")
        return None
    return engine


def _check_caption(row: dict[str, Any], engine: Engine, say: Problems) -> None:
    if row["caption"] is None or row["caption_vector"] is None:
        return
    vector_D = engine.encode_texts(engine.prepare_texts([row["caption"]]))[0]
    cosine = float(vector_D @ np.asarray(row["caption_vector"], np.float32))
    if not cosine >= MIN_COSINE:
        say("captions", f"row {row['id']}: embedding its caption again gives cosine {cosine:.5f}")


def _check_phash(row: dict[str, Any], picture: Picture, say: Problems) -> None:
    if picture.phash is None:
        return
    bits = ((picture.phash ^ row[PHASH.name]) & (2**64 - 1)).bit_count()
    if bits > MAX_PHASH_BITS:
        say("phash", f"row {row['id']}: hashing its picture again gives {bits} other bits")


def _drawn(rows: Any, drawn: Sample) -> Iterator[dict[str, Any]]:
    total = rows.count_rows()
    picks = np.random.default_rng(drawn.seed).choice(total, size=min(drawn.size, total), replace=False)
    picks.sort()
    names = [*place_columns(rows.schema), "caption", "vector", "caption_vector", "width", "height"]
    names += [PHASH.name] if has_phash(rows.schema) else []
    for start in range(0, len(picks), _ROWS_AT_ONCE):
        yield from rows.take(picks[start : start + _ROWS_AT_ONCE].tolist(), columns=names).to_pylist()
