"""Rows fetched again from where they came from, and embedded again."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash

from jobs.tables import Tables
from jobs.verifying.report import Problems, Report
from schemas.config import Limits

MIN_COSINE = 0.999  # of a stored vector, whatever precision made it, to the same picture in fp32


def check_sample(
    tables: Tables, rows: Any, fingerprint: Any, report: Report, say: Problems, drawn: tuple[int, int]
) -> None:
    """Fetch `drawn[0]` random rows again from their uri and embed them with the table's model, in fp32."""
    from schemas.model import ModelSpec
    from workers.load import load_engine

    engine = load_engine(ModelSpec(name=fingerprint.model, pretrained=fingerprint.pretrained or None, precision="fp32"))
    differences = engine.fingerprint.differences(fingerprint)
    if differences:
        say("model", f"the model that loads here is not the table's: {differences[0]}")
        return
    lowest = 1.0
    for row, image in _sampled(tables, rows, drawn, report):
        if xxhash.xxh3_128_hexdigest(image) != row["image_hash"]:
            say("bytes", f"row {row['id']}: the bytes at {row['uri']} are no longer those it was made from")
            continue
        pixels_1CHW = engine.prepare(image, Limits()).pixels_CHW[None]
        cosine = float(engine.encode_images(pixels_1CHW)[0] @ np.asarray(row["vector"], np.float32))
        lowest = min(lowest, cosine)
        report.sampled += 1
        if cosine < MIN_COSINE:
            say("vectors", f"row {row['id']}: embedding it again gives cosine {cosine:.5f}")
    report.sample_min_cosine = round(lowest, 6) if report.sampled else None


def _sampled(
    tables: Tables, rows: Any, drawn: tuple[int, int], report: Report
) -> Iterator[tuple[dict[str, Any], bytes]]:
    from schemas.errors import UserError
    from workers.fetch import fetch_image

    count, seed = drawn
    total = rows.count_rows()
    picks = np.random.default_rng(seed).choice(total, size=min(count, total), replace=False)
    names = ["id", "uri", "image_offset", "image_size", "image_hash", "vector"]
    column = _image_column(tables)
    for row in rows.take(sorted(int(i) for i in picks), columns=names).to_pylist():
        try:
            yield (
                row,
                fetch_image(
                    row["uri"],
                    tables.storage,
                    offset=row["image_offset"],
                    size=row["image_size"],
                    image_column=column,
                ),
            )
        except UserError:  # the source is gone or unreadable from here: not the table's fault, but said
            report.sample_not_checked += 1


def _image_column(tables: Tables) -> str:
    """`source.image` of the last run that said so; parquet rows need it."""
    runs = tables.open("runs", missing_ok=True)
    if runs is None:
        return "image"
    for row in runs.to_table(columns=["detail"], filter="event = 'started'").to_pylist()[::-1]:
        names = json.loads(row["detail"]).get("source", {}).get("image") or []
        if names:
            return str(names[0])
    return "image"
