"""The operator `mirror`: how well the caption fits the picture when that is turned left to right.

CLIP reads: a caption that repeats what is written in the picture scores well, whatever else it shows. Mirrored text it
reads badly, and most of what else a picture shows it knows as well as before (Yu et al., "The Devil is in the Details:
A Deep Dive into the Rabbit Hole of Data Filtering", 2023: the CLIP score of flipped images). Each picture is read again
and goes through the model, so this step belongs behind those that leave few rows.
B: pictures of a batch.
"""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from clipmill.jobs.querying.vectors import as_rows, normalise
from clipmill.jobs.selecting.outcome import Outcome, Place, bounded
from clipmill.jobs.selecting.rows import Rows
from clipmill.jobs.table.originals import Originals, place_columns, why
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.job.recipe import Mirror
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.engine import Engine

THREADS = 8
_LIMITS = Limits()
_TELL_EVERY = 10_000


def mirror(rows: Rows, asked: Mirror, place: Place) -> Outcome:
    """A row whose picture cannot be read, or that has no caption, has no value."""
    table = rows.table
    engine = table.engine("caption_vector")
    originals = Originals(Tables.at(table.uri, table.storage), place.allow)
    names = list(place_columns(table.schema))
    score_N = np.full(len(rows), np.nan, np.float32)
    failed: Counter[str] = Counter()
    done = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for places, found in rows.batches([*names, "caption_vector"]):
            there = found["caption_vector"].is_valid()
            captions_BD = normalise(as_rows(found["caption_vector"], engine.dim))
            places, named = places[np.asarray(there)], found.filter(pc.fill_null(there, False)).select(names)
            for start in range(0, len(places), engine.batch_size):
                part = slice(start, start + engine.batch_size)
                asked_rows = named.slice(start, engine.batch_size).to_pylist()
                read = list(pool.map(lambda row: _turned(row, originals, engine), asked_rows))
                failed.update(one for one in read if isinstance(one, str))
                good = [n for n, one in enumerate(read) if not isinstance(one, str)]
                if good:
                    vectors_BD = engine.encode_images(np.stack([read[n] for n in good]))
                    score_N[places[part][good]] = np.einsum("bd,bd->b", vectors_BD, captions_BD[part][good])
                done += len(read)
                if done // _TELL_EVERY > (done - len(read)) // _TELL_EVERY:
                    place.tell(f"{counted(done, 'picture')} of {counted(len(rows), 'row')} mirrored")
    note = ", ".join(f"{count:,} {reason}" for reason, count in sorted(failed.items()))
    return bounded("mirror", score_N, asked, note=f"pictures that could not be read: {note}" if note else "")


def _turned(row: Mapping[str, Any], originals: Originals, engine: Engine) -> npt.NDArray[np.uint8] | str:
    """The prepared picture turned left to right, or why there is none."""
    try:
        return engine.prepare(originals.read(row), _LIMITS).pixels_CHW[:, :, ::-1]
    except BadImage:
        return "cannot be decoded"
    except UserError as error:
        return why(error)
