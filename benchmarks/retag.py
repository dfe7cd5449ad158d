"""Tags of another vocabulary for a whole table, beside what reading its vectors and writing the columns alone takes.

    python -m benchmarks.retag --folder DIR [--rows 1000000] [--labels 1000] [--rounds 3] [--out benchmarks/results]

Both run the same code over the same table, one after the other in each round; only what is computed of a batch differs:
the tags, or ready columns of the same size. Both bring the vectors to unit length. What counts is CPU time, which other
programs on the machine change less than the clock's. `product_cpu_s` is the matrix product alone, as `numpy` does it:
no way of tagging by it takes less. The table is on a local disk, and is made by another process, so that the peak
memory is that of the tagging.

N: rows. L: labels. D: dimension.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import machine
from clipmill.jobs.committing.derived import BATCH_ROWS, THREADS, Derivation, Derived
from clipmill.jobs.committing.lease import no_fill_beside
from clipmill.jobs.maintaining.maintain import leased
from clipmill.jobs.migrating.retag import RetagOptions, derived_tags
from clipmill.jobs.table import memory
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import VOCABULARY_KEY, rows_schema
from clipmill.schemas.job.config import Tags
from clipmill.schemas.job.vocabulary import Label, Vocabulary
from clipmill.schemas.model import Fingerprint, Preprocess
from clipmill.workers.tag import Tagger

FRAGMENT_ROWS = 100_000
FINGERPRINT = Fingerprint(
    model="ViT-B-32",
    pretrained="laion2b_s34b_b79k",
    weights_sha256="0" * 64,
    preprocess=Preprocess(size_HW=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    tokenizer="none",
    dim=512,
)


def unit(rng: np.random.Generator, number: int) -> Any:
    drawn = rng.standard_normal((number, FINGERPRINT.dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def make(folder: Path, rows: int, labels: int) -> None:
    """Each vector lies near one label, as far from it as pictures lie from words: cosine 0.3."""
    import lance

    labels_LD = unit(np.random.default_rng(0), labels)
    schema = rows_schema(
        dim=FINGERPRINT.dim,
        keep={},
        fingerprint_json=FINGERPRINT.to_json(),
        vocabulary_json=json.dumps({"name": "none", "hash": "0", "top_k": 5, "min_score": 0.1}),
        thumbnails=False,
    )
    rng = np.random.default_rng(1)
    for start in range(0, rows, FRAGMENT_ROWS):
        number = min(FRAGMENT_ROWS, rows - start)
        vectors = 0.3 * labels_LD[rng.integers(0, labels, number)] + 0.954 * unit(rng, number)
        half = pa.array(vectors.astype(np.float16).reshape(-1))
        known: dict[str, Any] = {
            "id": pa.array([f"row-{start + n:09d}" for n in range(number)]),
            "vector": pa.FixedSizeListArray.from_arrays(half, FINGERPRINT.dim),
        }
        for field in schema:
            if field.name not in known:
                fill = 0 if pa.types.is_integer(field.type) else "" if pa.types.is_string(field.type) else None
                known[field.name] = pa.array([fill] * number, field.type)
        table = pa.table([known[field.name] for field in schema], schema=schema)
        mode = "append" if start else "create"
        lance.write_dataset(table, str(folder / "db" / "images.lance"), mode=mode, enable_stable_row_ids=True)
    Tables.at(f"{folder}/db/images").ensure_side_tables()


def run(tables: Tables, derived: Derived) -> dict[str, float]:
    """Wall and CPU seconds (user and system) of the whole computation, its commits and its switch."""
    with leased(tables, "retag", lambda _: None) as (lease, _), no_fill_beside(lease):
        wall, cpu = time.perf_counter(), time.process_time()
        Derivation(tables, lease, derived, lambda _: None).all()
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def _ready(columns: Any, vectors_ND: Any) -> list[Any]:
    return [one.slice(0, len(vectors_ND)) for one in columns]


def product(rows: int, labels_LD: Any) -> float:
    """CPU seconds, of one thread, from 20 batches."""
    from threadpoolctl import threadpool_limits

    labels_DL, batch = np.ascontiguousarray(labels_LD.T), unit(np.random.default_rng(2), BATCH_ROWS)
    out = np.empty((BATCH_ROWS, len(labels_LD)), np.float32)
    with threadpool_limits(1, user_api="blas"):
        np.matmul(batch, labels_DL, out=out)
        began = time.process_time()
        for _ in range(20):
            np.matmul(batch, labels_DL, out=out)
        return (time.process_time() - began) / 20 * rows / BATCH_ROWS


def measure(options: argparse.Namespace) -> dict[str, Any]:
    maker = multiprocessing.get_context("spawn").Process(
        target=make, args=(options.folder, options.rows, options.labels)
    )
    maker.start()
    maker.join()
    assert maker.exitcode == 0, "the table could not be made"
    labels_LD = unit(np.random.default_rng(0), options.labels)
    tables = Tables.at(f"{options.folder}/db/images")
    memory.use_little()
    names = tuple(Label(name=f"label number {n}") for n in range(options.labels))
    rounds = []
    for number in range(options.rounds):
        vocabulary = Vocabulary(name="drawn", labels=names, templates=(f"{number} {{label}}",))
        tagger = Tagger.from_vectors(vocabulary, labels_LD, FINGERPRINT, Tags(top_k=5, min_score=0.1))
        real = derived_tags(tagger, json.loads(tagger.metadata_json), RetagOptions(vocabulary="drawn").names)
        near = 0.5 * labels_LD[np.arange(BATCH_ROWS) % len(labels_LD)]
        ready = tagger.tag(near + 0.86 * unit(np.random.default_rng(3), BATCH_ROWS))
        about = {**real.about, "hash": f"ready {number}"}
        field = real.fields[0].with_metadata({VOCABULARY_KEY: json.dumps(about).encode()})
        alone = Derived(
            fields=pa.schema([field, real.fields[1]]),
            key=real.key,
            told=real.told,
            compute=partial(_ready, ready),
            index=real.index,
            verb=real.verb,
        )
        found: dict[str, Any] = {"alone": run(tables, alone), "retag": run(tables, real)}
        found["product_cpu_s"] = product(options.rows, labels_LD)
        found["times_cpu"] = found["retag"]["cpu_s"] / found["alone"]["cpu_s"]
        found["times_wall"] = found["retag"]["wall_s"] / found["alone"]["wall_s"]
        found["load"] = machine.machine()["load"]
        rounds.append(found)
        print(json.dumps(found), flush=True)
    return {
        "at": machine.now(),
        "machine": machine.machine(("numpy", "pylance", "pyarrow")),
        "blas": _blas(),
        "rows": options.rows,
        "labels": options.labels,
        "dim": FINGERPRINT.dim,
        "threads": THREADS,
        "rounds": rounds,
        "median_times_cpu": median(one["times_cpu"] for one in rounds),
        "median_times_wall": median(one["times_wall"] for one in rounds),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def _blas() -> dict[str, Any]:
    """What numpy's products run on, and whether the environment chose it."""
    from threadpoolctl import threadpool_info

    found: dict[str, Any] = next((one for one in threadpool_info() if one["user_api"] == "blas"), {})
    names = ("internal_api", "version", "architecture")
    return {**{name: found.get(name) for name in names}, "chosen": os.environ.get("OPENBLAS_CORETYPE", "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=False)
    try:
        result = measure(options)
    finally:
        shutil.rmtree(options.folder)
    print(json.dumps({key: value for key, value in result.items() if key != "rounds"}, indent=1))
    if options.out:
        machine.save(machine.dated(options.out, f"retag-{options.rows}"), result)


if __name__ == "__main__":
    main()
