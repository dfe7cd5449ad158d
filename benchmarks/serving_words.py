"""A table that says it is clipmill-tiny's, and words that this model knows, for the serving benchmark.

The vectors are drawn, as those of `benchmarks.query`: how near anything is to the words does not change what it costs.
"""

from itertools import product
from pathlib import Path

import pyarrow as pa

from benchmarks.query_data import chunks, schema
from clipmill.jobs.demo.scene_types import COLOURS, KINDS, SIZES
from clipmill.schemas.columns import FINGERPRINT_KEY

MODEL, DIM = "clipmill-tiny", 256


def questions(count: int) -> list[str]:
    """All different."""
    things = [f"{size} {colour} {kind}" for size, colour, kind in product(SIZES, COLOURS, KINDS)]
    many = len(things)
    return [f"a {things[n % many]} and a {things[(7 * n + n // many) % many]}" for n in range(count)]


def table(folder: Path, rows: int) -> str:
    """Write and index the table unless it is there; returns its `<folder>/<name>`."""
    from clipmill.jobs.indexing.build import build_index

    there = Path(f"{folder}/bench_words_{rows}.lance").exists()
    uri = write(folder, rows)
    if not there:
        build_index(uri)
    return uri


def write(folder: Path, rows: int) -> str:
    """The same without an index."""
    import lance

    from clipmill.schemas.model import ModelSpec
    from clipmill.workers.load import load_text_engine

    folder.mkdir(parents=True, exist_ok=True)
    uri = f"{folder}/bench_words_{rows}"
    if not Path(f"{uri}.lance").exists():
        fingerprint = load_text_engine(ModelSpec(name=MODEL)).fingerprint.to_json().encode()
        drawn = schema(DIM)
        place = drawn.get_field_index("vector")
        metadata = {**(drawn.field(place).metadata or {}), FINGERPRINT_KEY: fingerprint}
        own = drawn.set(place, drawn.field(place).with_metadata(metadata))
        batches = (pa.RecordBatch.from_arrays(batch.columns, schema=own) for batch in chunks(rows, DIM, "clustered"))
        lance.write_dataset(pa.RecordBatchReader.from_batches(own, batches), f"{uri}.lance", enable_stable_row_ids=True)
    return uri
