"""The picture tower in other forms, each in turn with the one that clipmill runs; batch sizes; one and two callers.

A form is built, held against fp32 on the self-check's pictures, and timed round by round after the usual one; the
ratio is taken within a round. One that fails, or whose vectors are too far off, says so and is not the winner.
"""

import gc
import statistics
from functools import partial
from typing import Any, cast

from benchmarks.gpu import forms, meters
from benchmarks.gpu.parity import Vectors, least_cosine
from benchmarks.gpu.roads import call_s
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import Report

MODELS = ("ViT-L-14", "ViT-B-32")


class Towers:
    """An engine, its picture tower, pixels of a batch on the device, and fp32's vectors of the self-check's."""

    def __init__(self, name: str, setting: Setting) -> None:
        import torch

        from clipmill.schemas.model import ModelSpec
        from clipmill.workers.clip import selfcheck
        from clipmill.workers.load import load_engine

        sizes = setting.sizes
        # On a CPU a bf16 tower is packed for oneDNN, which nobody can copy; there the code is tried, not measured.
        spec = ModelSpec(name=setting.model(name)["name"], precision="bf16" if setting.on_gpu else "fp32")
        self.setting, self.device = setting, setting.device
        self.engine = engine = cast(
            Any, load_engine(spec, device=self.device, threads=setting.threads, batch_size=sizes.batch)
        )
        self.tower = engine._parts.image_tower
        self.right_ND: Vectors = engine._parts.reference(engine.own_vectors()).images_ND
        limits = _limits()
        check_N = [self.engine.prepare(image, limits).pixels_CHW for image in selfcheck.pictures().values()]
        self.check_NCHW = torch.stack([torch.from_numpy(pixels) for pixels in check_N]).to(self.device)
        shape = self.check_NCHW.shape[1:]
        self.pixels_BCHW = torch.randint(0, 256, (max(sizes.batch_sizes), *shape), dtype=torch.uint8)
        self.on_device_BCHW = self.pixels_BCHW.to(self.device)
        self.usual = self.in_mode(forms.eager(self.tower))

    def in_mode(self, form: forms.Form) -> forms.Form:
        import torch

        return torch.inference_mode()(form)

    def cosines(self, form: forms.Form) -> dict[str, float]:
        """One by one where a batch of another shape would be compiled anew: the whole batch begins with them."""
        import torch

        batch_BCHW = self.on_device_BCHW[: self.setting.sizes.batch].clone()
        count = min(len(self.check_NCHW), len(batch_BCHW))
        batch_BCHW[:count] = self.check_NCHW[:count]
        features_ND = form(batch_BCHW)[:count].float()
        got_ND = torch.nn.functional.normalize(features_ND, dim=-1).cpu().numpy()
        return least_cosine(self.right_ND[:count], got_ND)

    def per_s(self, form: forms.Form, batch: int) -> float:
        pixels_BCHW = self.on_device_BCHW[:batch]
        return batch / meters.seconds(self.device, lambda: form(pixels_BCHW), at_least_s=self.setting.sizes.round_s)


def _limits() -> Any:
    from clipmill.schemas.job.config import Limits

    return Limits()


def run(setting: Setting, report: Report) -> None:
    for name in MODELS[: 1 if setting.small else 2]:
        of_model(name, setting, report)
        gc.collect()


def of_model(name: str, setting: Setting, report: Report) -> None:
    quick = setting.small
    towers = Towers(name, setting)
    report.case(f"{name}, as clipmill runs it", 0, lambda: {"cosine": towers.cosines(towers.usual)})
    report.case(f"{name}, batch sizes", 0 if quick else 8, lambda: batch_sizes(towers))
    report.case(f"{name}, callers", 0 if quick else 4, lambda: callers(towers))
    wanted = [(forms.ON_ANY, 0 if quick else 6)]
    if setting.on_gpu:
        wanted += [(forms.ON_GPU, 8), (forms.COMPILED, 40)]
    for some, needs_s in wanted:
        for label, make in some.items():
            report.case(f"{name}, {label}", needs_s, partial(in_turn, towers, make))


def in_turn(towers: Towers, make: Any) -> dict[str, Any]:
    sizes = towers.setting.sizes
    form = towers.in_mode(make(towers.tower))
    cosine = towers.cosines(form)
    pairs = [(towers.per_s(towers.usual, sizes.batch), towers.per_s(form, sizes.batch)) for _ in range(sizes.rounds)]
    return {
        "per_s": round(statistics.median(its for _, its in pairs), 1),
        "usual_per_s": round(statistics.median(usual for usual, _ in pairs), 1),
        "ratio": round(statistics.median(its / usual for usual, its in pairs), 3),
        "cosine": cosine,
        "would_pass_self_check": cosine["least"] >= 0.999,
    }


def batch_sizes(towers: Towers) -> dict[str, Any]:
    return {str(size): round(towers.per_s(towers.usual, size), 1) for size in towers.setting.sizes.batch_sizes}


def callers(towers: Towers) -> dict[str, Any]:
    """From pixels in host memory, copies there and back included: what a second caller hides."""
    setting = towers.setting
    pixels_BCHW = towers.pixels_BCHW[: setting.sizes.batch].numpy()
    rates: dict[str, list[float]] = {"one": [], "two": []}
    for _ in range(setting.sizes.rounds):
        for label, count in (("one", 1), ("two", 2)):
            rates[label].append(len(pixels_BCHW) / call_s(towers.engine, pixels_BCHW, count, setting.sizes.round_s))
    found: dict[str, Any] = {label: round(statistics.median(some), 1) for label, some in rates.items()}
    found["two_over_one"] = round(statistics.median(b / a for a, b in zip(*rates.values(), strict=True)), 3)
    return found
