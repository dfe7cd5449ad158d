"""What a card does for an index: partitions trained and rows placed by numpy on all cores and by the card, in turn, and
whole builds of a table of vectors alone. Nothing here asks whether it is worth it; `clipmill index` does.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu import meters
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import Report

if TYPE_CHECKING:
    from clipmill.jobs.indexing.products import Products

_CPU, _CARD = "cpu", "card"


def run(setting: Setting, report: Report) -> None:
    name = report.case("card", 2, partial(_open, setting))
    if name is None:
        return
    for partitions in setting.sizes.index_partitions:
        needs_s = 0 if setting.small else partitions / 100
        report.case(f"{partitions} partitions", needs_s, partial(_compared, setting, partitions))
    report.case("build", 0 if setting.small else 20, partial(_built, setting))


def _open(setting: Setting) -> dict[str, Any]:
    """As a build opens it: refused where somebody else has half of it, and with TF32 off."""
    from clipmill.jobs.indexing.on_device import open_gpu

    return {"name": open_gpu()[1] if setting.on_gpu else "torch's CPU in its place"}


def _products(setting: Setting, place: str) -> "Products":
    from clipmill.jobs.indexing.products import Products

    return Products(device=place, gpu=setting.device if place == _CARD else "", asked=True)


def _compared(setting: Setting, partitions: int) -> dict[str, Any]:
    """Seconds by the clock and of CPU. `mean_cosine`: of rows with their centroid, when each place trained by itself.
    `placed_elsewhere`: the share of rows that the card puts into another partition by the same centroids."""
    import numpy as np

    from benchmarks.query_data import Mixture
    from clipmill.jobs.indexing.centroids import SAMPLES_PER_PARTITION
    from clipmill.jobs.indexing.kmeans import train

    sizes = setting.sizes
    draw = Mixture(sizes.index_dim)
    sample_SD, _ = draw.draw(partitions * SAMPLES_PER_PARTITION, 1)
    rows_ND, _ = draw.draw(sizes.index_rows, 2)
    holds = {place: _products(setting, place).hold(0, print) for place in (_CPU, _CARD)}
    trained = {place: holds[place](sample_SD[:partitions]).sums(sample_SD[:64])[0] for place in holds}  # warms up
    found = {}

    def training(place: str) -> None:
        trained[place] = train(sample_SD, partitions, hold=holds[place])

    found["train"] = _in_turn(setting, training)
    placed = {}

    def placing(place: str) -> None:
        placed[place] = holds[place](trained[_CPU]).nearest(rows_ND)

    found["place"] = _in_turn(setting, placing)
    for place in holds:
        own_N = holds[place](trained[place]).nearest(rows_ND)
        found[place] = {
            "mean_cosine": round(float(np.einsum("nd,nd->", rows_ND, trained[place][own_N])) / len(own_N), 6)
        }
    return {**found, "placed_elsewhere": float((placed[_CPU] != placed[_CARD]).mean())} | _memory(setting)


def _built(setting: Setting) -> dict[str, Any]:
    """The vector index alone, from float16 on a local disk; the last build of each place says what computed."""
    import lance
    import numpy as np
    import pyarrow as pa

    from benchmarks.query_data import Mixture
    from clipmill.jobs.indexing import segments, vector
    from clipmill.jobs.indexing.plan import VectorPlan
    from clipmill.jobs.table.tables import Tables

    sizes = setting.sizes
    uri = str(setting.folder / "index" / "images")
    if not Path(f"{uri}.lance").exists():
        rows_ND, _ = Mixture(sizes.index_dim).draw(sizes.index_rows, 3)
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.astype(np.float16).reshape(-1)), sizes.index_dim)
        lance.write_dataset(pa.table({"vector": column}), f"{uri}.lance")
    plan = VectorPlan(kind="IVF_RQ", num_partitions=sizes.index_partitions[0], bits=5)
    device = {}

    def build(place: str) -> None:
        builder = segments.Builder(
            tables=Tables.at(uri),
            rows_per_segment=sizes.index_rows,
            run=segments.in_turn,
            tell=print,
            products=_products(setting, place),
        )
        vector.build(lance.dataset(f"{uri}.lance"), "vector", plan, retrain=True, builder=builder)
        device[place] = builder.products.device

    return {"rows": sizes.index_rows, **_in_turn(setting, build), "computed_on": device}


def _in_turn(setting: Setting, work: Callable[[str], None]) -> dict[str, Any]:
    """Medians of as many rounds as there are; `ratio`: of the clock within a round."""
    clock: dict[str, list[float]] = {_CPU: [], _CARD: []}
    cores: dict[str, list[float]] = {_CPU: [], _CARD: []}
    for _ in range(setting.sizes.rounds):
        for place in clock:
            start, spent = time.perf_counter(), sum(os.times()[:2])
            work(place)
            meters.wait_for(setting.device)
            clock[place].append(time.perf_counter() - start)
            cores[place].append(sum(os.times()[:2]) - spent)
    return {
        **{f"{place}_s": round(statistics.median(clock[place]), 3) for place in clock},
        **{f"{place}_core_s": round(statistics.median(cores[place]), 2) for place in clock},
        "ratio": round(statistics.median(a / b for a, b in zip(clock[_CPU], clock[_CARD], strict=True)), 3),
    }


def _memory(setting: Setting) -> dict[str, Any]:
    import torch

    return {"card_peak_bytes": torch.cuda.max_memory_allocated(setting.device)} if setting.on_gpu else {}
