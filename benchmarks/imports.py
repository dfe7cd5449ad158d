"""`clipmill import` of clip-retrieval's files, beside writing the same Lance table plainly.

    python -m benchmarks.imports --folder DIR [--rows 1000000] [--files 4] [--rounds 3] [--out benchmarks/results]

Plainly: one `lance.write_dataset` of the very rows that the import made, the vectors straight from the .npy files and
the rest from the imported table; nothing is checked, hashed or committed unit by unit. Both run one after the other in
each round, in a process of their own, over files that are in the page cache; the ratio is taken within a round. The
model is the stub of that width, because a real one's memory is the model's; no picture is embedded again and no index
is built, which the import's own figures leave out too (`rows_s`).

N: rows. B: rows of a window. D: dimension.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import machine

DIM = 512
WINDOW = 8192


def make(folder: Path, rows: int, files: int) -> None:
    """As clip-retrieval 2.45.0 writes it: float16 of unit length, the names and captions in a parquet file beside."""
    for name in ("img_emb", "metadata"):
        (folder / "out" / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    each = -(-rows // files)
    for number in range(files):
        count = min(each, rows - number * each)
        path = folder / "out" / "img_emb" / f"img_emb_{number}.npy"
        matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(count, DIM))
        for start in range(0, count, WINDOW):
            drawn = rng.standard_normal((min(WINDOW, count - start), DIM)).astype(np.float32)
            matrix[start : start + WINDOW] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        matrix.flush()
        names = [f"{number:05d}{row:07d}" for row in range(count)]
        captions = [f"the caption of picture {name}, as long as those of the web are" for name in names]
        table = pa.table({"image_path": names, "caption": captions})
        pq.write_table(table, folder / "out" / "metadata" / f"metadata_{number}.parquet")


def imported(folder: Path) -> dict[str, Any]:
    from clipmill.jobs.importing.request import ImportOptions
    from clipmill.jobs.importing.run import import_vectors
    from clipmill.schemas.job.config import Model, Storage

    options = ImportOptions(vectors=str(folder / "out"), model=Model(name=f"stub:{DIM}"), index=False)
    done = import_vectors(str(folder / "db" / "images"), options, Storage())
    assert not done.rejects, done.rejects
    return {"rows": done.rows, "rows_s": done.rows_s}


def plain(folder: Path) -> dict[str, Any]:
    import lance

    source = lance.dataset(str(folder / "db" / "images.lance"))
    names = [name for name in source.schema.names if name != "vector"]

    def batches() -> Iterator[pa.RecordBatch]:
        for file in sorted((folder / "out" / "img_emb").iterdir()):
            matrix = np.load(file, mmap_mode="r", allow_pickle=False)
            for start in range(0, len(matrix), WINDOW):
                window = np.array(matrix[start : start + WINDOW])
                rest = next(others)
                assert rest.num_rows == len(window), "the windows of both"
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(window.reshape(-1)), DIM)
                columns = {name: rest.column(name) for name in names} | {"vector": vectors}
                yield pa.record_batch([columns[one] for one in source.schema.names], schema=source.schema)

    def windows() -> Iterator[pa.RecordBatch]:
        for fragment in source.get_fragments():
            yield from fragment.to_batches(columns=names, batch_size=WINDOW)

    others = windows()
    reader = pa.RecordBatchReader.from_batches(source.schema, batches())
    lance.write_dataset(reader, str(folder / "plain.lance"), enable_stable_row_ids=True)
    return {"rows": lance.dataset(str(folder / "plain.lance")).count_rows()}


def _child(work: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    # Loading code and libraries is neither's work.
    import lance.fragment  # noqa: F401

    import clipmill.jobs.importing.run
    import clipmill.workers.stub  # noqa: F401

    began, cpu = time.perf_counter(), time.process_time()
    found = work(folder)
    found |= {"wall_s": round(time.perf_counter() - began, 2), "cpu_s": round(time.process_time() - cpu, 2)}
    return {**found, "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)}


def alone(work: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """In a process of its own, with its peak memory. Raises what it raised, or that it died."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_child, work, folder).result()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    shutil.rmtree(options.folder, ignore_errors=True)
    make(options.folder, options.rows, options.files)
    rounds: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        for left in ("db", "plain.lance"):
            shutil.rmtree(options.folder / left, ignore_errors=True)
        one = {"import": alone(imported, options.folder), "plain": alone(plain, options.folder)}
        one["wall_ratio"] = round(one["import"]["wall_s"] / one["plain"]["wall_s"], 2)
        one["cpu_ratio"] = round(one["import"]["cpu_s"] / one["plain"]["cpu_s"], 2)
        print(json.dumps(one), flush=True)
        rounds.append(one)
    shutil.rmtree(options.folder)
    return {
        "at": machine.now(),
        "machine": machine.machine(("pylance", "pyarrow", "numpy")),
        "rows": options.rows,
        "dim": DIM,
        "files": options.files,
        "rounds": rounds,
        "wall_ratio": median(one["wall_ratio"] for one in rounds),
        "cpu_ratio": median(one["cpu_ratio"] for one in rounds),
        "peak_mb": max(one["import"]["peak_mb"] for one in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="scratch, with 6 GB for a million rows")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(options)
    if options.out:
        machine.dated(options.out, f"imports-{options.rows}").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: found[name] for name in ("wall_ratio", "cpu_ratio", "peak_mb")}))


if __name__ == "__main__":
    main()
