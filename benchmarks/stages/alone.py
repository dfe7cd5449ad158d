"""Each stage alone, over the shards of all samples, with as many callers as keep all cores busy."""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from typing import Any

from benchmarks.stages.operations import counted

STAGES = ("read", "decode", "image tower", "text tower", "tag", "write")


def job_of(options: argparse.Namespace, table: str) -> Any:
    """The job as a user would write it, against the local server."""
    from clipmill.schemas.job.config import JobFile

    return JobFile.model_validate(
        {
            "table": f"s3://{options.bucket}/db/{table}",
            "source": {"format": "webdataset", "uri": f"s3://{options.bucket}/shards/*.tar", "caption": "txt"},
            "model": {"name": options.model, "pretrained": options.pretrained},
            "tags": {"vocabulary": "coco"},
            "storage": {"endpoint_url": options.endpoint, "region": "us-east-1"},
        }
    )


def stages(options: argparse.Namespace) -> dict[str, Any]:
    """Samples/s and CPU seconds per sample of each stage, over the shards of `samples` samples."""
    import numpy as np

    from benchmarks.road import Road
    from clipmill.schemas.unit.samples import Sample
    from clipmill.schemas.unit.tasks import Task
    from clipmill.workers.read import read_unit
    from clipmill.workers.write import RowWriter

    road = Road.build(job_of(options, f"stages_{os.getpid()}"), device="cpu", threads=options.threads)
    units, engine = road.units, road.engine
    batch = road.bench.samples_at_once
    result: dict[str, Any] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        result[stage] = {"samples_per_s": len(samples) / wall, "cpu_ms_per_sample": 1000 * cpu / len(samples)}

    samples: list[Sample] = []
    ends = [0]  # of units, in samples: no batch holds those of two
    with timed("read"):
        for unit in units:
            read = read_unit(unit, road.job.source, road.job.storage, road.job.limits)
            samples += [item for item in read if isinstance(item, Sample)]
            ends.append(len(samples))
    result["read"]["mb_per_s"] = (
        result["read"]["samples_per_s"] * sum(len(s.image) for s in samples) / len(samples) / 1e6
    )
    assert road.bench.pool is not None
    with timed("decode"):
        pictures_ = list(road.bench.pool.map(lambda s: engine.prepare(s.image, road.job.limits), samples))
    batches_of = [
        [slice(start, min(start + batch, end)) for start in range(begin, end, batch)] for begin, end in pairwise(ends)
    ]
    batches = list(chain.from_iterable(batches_of))
    captions = [sample.caption or "" for sample in samples]

    def image_tower(rows: slice) -> Any:
        return engine.encode_images(np.stack([p.pixels_CHW for p in pictures_[rows]]))

    def text_tower(rows: slice) -> Any:
        return engine.encode_texts(captions[rows])

    # As many callers as keep all cores busy: fewer callers with more threads each wait for one another.
    engine.share(engine.callers)
    with ThreadPoolExecutor(engine.callers) as callers:
        for tower in (image_tower, text_tower):
            list(callers.map(tower, batches[: 2 * engine.callers]))  # the first calls choose kernels
        gflop = {"image tower": _gflop(image_tower, batches), "text tower": _gflop(text_tower, batches)}
        with timed("image tower"):
            vectors = list(callers.map(image_tower, batches))
        with timed("text tower"):
            texts = list(callers.map(text_tower, batches))
    for stage, of_sample in gflop.items():
        result[stage]["gflop_per_sample"] = of_sample
    result["precision"] = engine.fingerprint.provenance["precision"]
    with timed("tag"):
        tags = [road.tagger.tag(vectors_BD) for vectors_BD in vectors] if road.tagger else []
    with timed("write"):
        of_batches = ([all_[rows] for rows in batches] for all_ in (samples, pictures_))
        embedded = map(_embedded, *of_batches, vectors, texts, tags)
        for unit, of_unit in zip(units, batches_of, strict=True):
            writer = RowWriter(road.context, Task(unit=unit, attempt=1))
            writer.write(map(writer.record_batch, list(islice(embedded, len(of_unit)))))
    return result


def _gflop(tower: Callable[[slice], Any], batches: list[slice]) -> float:
    """Billions of operations of a sample, over the first unit's batches."""
    few = batches[:4]
    operations: float = counted(lambda: [tower(rows) for rows in few])
    samples: int = sum(rows.stop - rows.start for rows in few)
    return operations / samples / 1e9


def _embedded(samples: Any, pictures_: Any, vectors_BD: Any, caption_vectors_BD: Any, tags: Any) -> Any:
    import numpy as np

    from clipmill.workers.write import Embedded

    return Embedded(
        samples=samples,
        pictures=pictures_,
        hashes=["0" * 32] * len(samples),
        vectors_BD=vectors_BD,
        caption_vectors_BD=caption_vectors_BD,
        has_caption_B=np.ones(len(samples), bool),
        tags=tags[0],
        tag_scores=tags[1],
    )
