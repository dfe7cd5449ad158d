"""A short measured sample for `clipmill plan --measure N`: the first samples of the source through the real model.

Loads the model on this machine, so it imports torch and takes as long as that does; writes nothing.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from clipmill.jobs.planning.estimate import Estimate
from clipmill.schemas.errors import SourceChanged, UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.samples import BadImage, Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.engine import Engine
from clipmill.workers.load import load_engine
from clipmill.workers.read import read_unit
from clipmill.workers.read.orientation import stamped

T = TypeVar("T")


def from_sample(job: JobFile, units: Sequence[WorkUnit], count: int) -> Estimate:
    """Each stage alone over the first `count` samples. Raises UserError as the job would, and for no picture."""
    threads = max(1, os.cpu_count() or 1)
    engine = load_engine(job.model.spec(), threads=threads, batch_size=job.workers.batch_size)
    if job.workers.batch_size == "auto":
        engine.tune()
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    samples = list(islice(_samples(job, units), count))
    seconds["read"] = time.perf_counter() - start
    start = time.perf_counter()
    pixels = _pixels(engine, job, samples, threads)
    seconds["decode"] = time.perf_counter() - start
    if not pixels:
        raise UserError("the first samples of the source hold no picture", "look at the source, or drop --measure")
    captions = [sample.caption for sample in samples if sample.caption is not None]
    seconds["embed"] = _embed_s(engine, pixels, captions)
    device = engine.fingerprint.provenance.get("device", "cpu")
    # On a CPU decoding and embedding share the cores; on a GPU they run side by side, as reading does everywhere.
    busy_s = seconds["decode"] + seconds["embed"] if device == "cpu" else max(seconds["decode"], seconds["embed"])
    return Estimate(
        samples_per_s=round(len(samples) / max(busy_s, seconds["read"]), 1),
        gpus=0.0 if device == "cpu" else 1.0,
        limited_by=max(seconds, key=lambda stage: seconds[stage]),
        basis=f"measured: the first {counted(len(samples), 'sample')} on this machine ({device}, {threads} cores)",
    )


def _samples(job: JobFile, units: Sequence[WorkUnit]) -> Iterator[Sample]:
    for unit in units:
        with contextlib.suppress(PermissionError, SourceChanged):  # costs its unit only, as it does in a run
            for item in read_unit(unit, job.source, job.storage, job.limits):
                if isinstance(item, Sample):
                    yield item


def _pixels(engine: Engine, job: JobFile, samples: Sequence[Sample], threads: int) -> list[Any]:
    def prepare(sample: Sample) -> Any:
        try:
            return engine.prepare(stamped(sample.image, sample.orientation), job.limits).pixels_CHW
        except BadImage:
            return None

    with ThreadPoolExecutor(threads) as pool:
        return [one for one in pool.map(prepare, samples) if one is not None]


def _embed_s(engine: Engine, pixels: list[Any], captions: list[str]) -> float:
    """Seconds for all of them, by as many callers as a job has at work."""
    engine.share(engine.callers)
    images = _parts(pixels, engine.batch_size, engine.callers)
    texts = _parts(captions, engine.samples_at_once, engine.callers)
    with ThreadPoolExecutor(engine.callers) as callers:

        def embed(images: list[list[Any]], texts: list[list[str]]) -> None:
            list(callers.map(lambda part: engine.encode_images(np.stack(part)), images))
            list(callers.map(engine.encode_texts, texts))

        embed(images[: engine.callers], texts[: engine.callers])  # the first batches choose kernels
        start = time.perf_counter()
        embed(images, texts)
        return time.perf_counter() - start


def _parts(items: list[T], most: int, callers: int) -> list[list[T]]:
    """Of `most` each, or less where few items would leave a caller without any."""
    size = max(1, min(most, -(-len(items) // callers)))
    return [items[start : start + size] for start in range(0, len(items), size)]
