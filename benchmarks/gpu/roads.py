"""The worker's road: tars on a local disk through the worker's own loop into Lance fragments, one process, no Ray.

Beside the rate of the whole: what decoding alone and the picture tower alone do on the same pictures, so that the
lower of the two is the bound; `plan`'s estimate; how busy the device was, and which stage was busiest. Operations are
those of the whole model as open_clip computes it: what clipmill leaves out (all but one token of the last block, 3 %
of an L/14 and 7 % of a B/32) counts as done.
"""

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from benchmarks.gpu import drawn, meters
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import Report
from benchmarks.pictures import Kind

if TYPE_CHECKING:
    from benchmarks.road import Road
    from clipmill.schemas.job.config import JobFile

WARM_UP_UNITS = 2
_LOAD_S = 12.0  # a model's load, self-check and warming up


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`large`: from pictures of 1920 px."""

    label: str
    model: str
    captions: bool = False
    large: bool = False


TARGETS = (Case(label="L/14", model="ViT-L-14"), Case(label="B/32", model="ViT-B-32"))
OTHERS = (
    Case(label="B/32 with captions", model="ViT-B-32", captions=True),
    Case(label="L/14 of 1920 px", model="ViT-L-14", large=True),
    Case(label="SO400M", model="SO400M"),
    Case(label="B/16", model="ViT-B-16"),
)


def prepare(setting: Setting, report: Report) -> None:
    """The peaks of the device, and everything that is drawn."""
    sizes = setting.sizes
    report.case("matmul_tflops", 2, lambda: meters.peaks(setting, sizes.round_s))
    report.case("bandwidth", 2, lambda: meters.bytes_per_s(setting.device, 1 << (16 if setting.small else 31)))
    report.case("256 px", 5, lambda: tars(setting))
    report.case("1920 px", 5, lambda: tars(setting, large=True))


def tars(setting: Setting, *, large: bool = False) -> dict[str, Any]:
    sizes = setting.sizes
    if large:
        kind = Kind(shortest_px=sizes.large_px, target_bytes=1_000_000, samples_per_shard=sizes.per_large_shard, seed=2)
        return drawn.make_tars(setting.large_tars, sizes.large_shards, kind, setting.threads)
    return drawn.make_tars(setting.tars, sizes.shards, Kind(samples_per_shard=sizes.per_shard), setting.threads)


def targets(setting: Setting, report: Report) -> None:
    _cases(TARGETS, setting, report)


def others(setting: Setting, report: Report) -> None:
    _cases(OTHERS, setting, report)


def _cases(cases: tuple[Case, ...], setting: Setting, report: Report) -> None:
    peak = meters.matmul_flops_per_s(setting.device, setting.sizes.matmul, at_least_s=setting.sizes.round_s)
    for case in cases[:2] if setting.small else cases:
        needs_s = _LOAD_S + setting.sizes.seconds + 4
        report.case(case.label, 0 if setting.small else needs_s, partial(run_case, case, setting, peak))


def job_of(case: Case, setting: Setting, **workers: Any) -> "JobFile":
    from clipmill.schemas.job.config import JobFile

    return JobFile.model_validate(
        {
            "table": str(setting.folder / f"db-{os.getpid()}" / f"t{time.monotonic_ns()}"),
            "source": {
                "format": "webdataset",
                "uri": f"{setting.large_tars if case.large else setting.tars}/*.tar",
                "caption": "txt" if case.captions else None,
            },
            "model": setting.model(case.model),
            "workers": {"units_in_flight": 3, **workers},
        }
    )


def run_case(case: Case, setting: Setting, peak: float) -> dict[str, Any]:
    """Units one after the other until `seconds` have passed, the first ones not counted. The self-check was passed
    while the model was loaded, or there is an error instead."""
    with road_of(job_of(case, setting), setting) as road:
        alone = alone_rates(road, setting)
        road.run(road.units[:WARM_UP_UNITS])
        measured = through(road, setting, setting.sizes.seconds)
        estimate = planned(road.job, setting)
        flops = flops_of(road.job)
        rate = measured["samples_per_s"]
        return {
            **measured,
            **alone,
            "share_of_bound": round(rate / min(alone["decode_alone_per_s"], alone["tower_alone_per_s"]), 3),
            "batch_size": road.engine.batch_size,
            "gflops_per_sample": round(flops / 1e9, 2),
            "matmul_tflops": round(peak / 1e12, 3),
            "share_of_matmul_peak": round(rate * flops / peak, 3),
            "plan": estimate,
            "reached_over_plan": round(rate / estimate["samples_per_s"], 3),
            "startup_s": round(road.startup_s, 1),
            **meters.memory_mb(setting.device),
        }


@contextmanager
def road_of(job: "JobFile", setting: Setting) -> Iterator["Road"]:
    from benchmarks.road import Road

    try:
        yield Road.build(job, device=setting.device, threads=setting.threads)
    finally:
        shutil.rmtree(setting.folder / f"db-{os.getpid()}", ignore_errors=True)


def through(road: "Road", setting: Setting, seconds: float) -> dict[str, Any]:
    """The units again and again: their fragments are never committed."""
    from clipmill.jobs.running.summary import StageClock

    clock = StageClock(
        threads=setting.threads, units_in_flight=road.job.workers.units_in_flight, callers=road.engine.callers
    )
    seen, start = 0, time.monotonic()
    with meters.BusyGpu(setting.device) as busy, ThreadPoolExecutor(road.job.workers.units_in_flight) as lanes:
        waiting = _forever(road.units)
        at_work = [lanes.submit(road.run_one, unit) for unit in islice(waiting, road.job.workers.units_in_flight)]
        while at_work:  # a unit is begun whenever one has ended, as the driver does it
            receipt = at_work.pop(0).result()
            clock.add(receipt)
            seen += receipt.seen
            if time.monotonic() - start < seconds:
                at_work.append(lanes.submit(road.run_one, next(waiting)))
    elapsed_s = time.monotonic() - start
    return {
        "samples_per_s": round(seen / elapsed_s, 1),
        "gpu_busy_percent": busy.percent,
        "limited_by": clock.limited_by(elapsed_s),
        "stage_loads": {stage: round(load, 3) for stage, load in clock.loads(elapsed_s).items()},
        "seconds": round(elapsed_s, 1),
    }


def _forever(units: list[Any]) -> Iterator[Any]:
    while True:
        yield from units


def alone_rates(road: "Road", setting: Setting) -> dict[str, float]:
    """Decoding on all threads with the device idle; the picture tower, from pixels in host memory, by as many callers
    as the engine takes."""
    import numpy as np

    from clipmill.schemas.unit.samples import Sample
    from clipmill.workers.read import read_unit

    engine, job = road.engine, road.job
    read = (item for unit in road.units for item in read_unit(unit, job.source, job.storage, job.limits))
    images = [item.image for item in islice((item for item in read if isinstance(item, Sample)), 1024)]
    assert road.bench.pool is not None
    decoded, start = 0, time.perf_counter()
    while not decoded or time.perf_counter() - start < 2 * setting.sizes.round_s:
        pictures = list(road.bench.pool.map(lambda image: engine.prepare(image, job.limits), images))
        decoded += len(pictures)
    decode_s = (time.perf_counter() - start) / decoded
    size = engine.batch_size
    pixels_BCHW = np.stack([picture.pixels_CHW for picture in islice(_forever(pictures), size)])
    tower_s = call_s(engine, pixels_BCHW, engine.callers, setting.sizes.round_s)
    return {"decode_alone_per_s": round(1 / decode_s, 1), "tower_alone_per_s": round(size / tower_s, 1)}


def call_s(engine: Any, pixels_BCHW: Any, callers: int, at_least_s: float) -> float:
    """Seconds of one `encode_images` of the engine, of so many callers at once together."""
    engine.share(callers)

    def calls(until: float) -> int:
        done = 0
        while done == 0 or time.perf_counter() < until:
            engine.encode_images(pixels_BCHW)
            done += 1
        return done

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(calls, [0.0] * callers))
        start = time.perf_counter()
        done = sum(threads.map(calls, [start + at_least_s] * callers))
        return (time.perf_counter() - start) / done


def flops_of(job: "JobFile") -> float:
    from clipmill.jobs.planning.arithmetic import model_cost
    from clipmill.jobs.planning.estimate import flops_per_sample

    cost = model_cost(job.model.name)
    assert cost is not None, job.model.name
    return flops_per_sample(cost, captions=job.source.caption is not None)


def planned(job: "JobFile", setting: Setting) -> dict[str, Any]:
    """What `clipmill plan` says of a table that has no run yet."""
    from clipmill.jobs.planning.estimate import Worker, from_arithmetic

    found = from_arithmetic(job, Worker(gpus=float(setting.on_gpu), cores=float(setting.threads)))
    assert found is not None, job.model.name
    return {"samples_per_s": found.samples_per_s, "limited_by": found.limited_by, "basis": found.basis}
