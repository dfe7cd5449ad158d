"""Decoding on all cores, as the worker does it, against the GPU's own JPEG decoder through torchvision, in turn."""

import statistics
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import meters
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import Report

_TARGET_PX = 224
_AT_ONCE = 64


def run(setting: Setting, report: Report) -> None:
    for label, tars in (("256 px", setting.tars), ("1920 px", setting.large_tars)):
        report.case(label, 0 if setting.small else 5, partial(compared, tars, setting))


def jpegs_of(tars: Path, most: int) -> list[bytes]:
    with tarfile.open(min(tars.glob("*.tar"))) as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][:most]
        return [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]


def compared(tars: Path, setting: Setting) -> dict[str, Any]:
    """Pictures a second: `cores` as the worker decodes (scaled, for large ones), `device` at full size, which is all
    that it can do; neither is resized here."""
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    from clipmill.schemas.job.config import Limits
    from clipmill.workers.decode.picture import decode

    jpegs = jpegs_of(tars, 250)
    raw = [torch.from_numpy(np.frombuffer(jpeg, np.uint8).copy()) for jpeg in jpegs]

    def on_cores() -> int:
        list(threads.map(lambda jpeg: decode(jpeg, Limits(), target_px=_TARGET_PX), jpegs))
        return len(jpegs)

    def on_device() -> int:
        for first in range(0, len(raw), _AT_ONCE):
            decode_jpeg(raw[first : first + _AT_ONCE], mode=ImageReadMode.RGB, device=setting.device)
        meters.wait_for(setting.device)
        return len(raw)

    rates: dict[str, list[float]] = {"cores": [], "device": []}
    with ThreadPoolExecutor(setting.threads) as threads:
        for number in range(setting.sizes.rounds + 1):
            for label, work in (("cores", on_cores), ("device", on_device)):
                start, done = time.perf_counter(), 0
                while not done or time.perf_counter() - start < setting.sizes.round_s:
                    done += work()
                if number:  # the first round fills caches
                    rates[label].append(done / (time.perf_counter() - start))
    return {
        "cores_per_s": round(statistics.median(rates["cores"]), 1),
        "threads": setting.threads,
        "device_per_s": round(statistics.median(rates["device"]), 1),
        "device_over_cores": round(statistics.median(d / c for c, d in zip(*rates.values(), strict=True)), 3),
    }
