"""Are the vectors those of open_clip? bf16 and fp16 on the device against fp32 on the CPU, and the self-check.

Random weights give every picture nearly the same vector, and then any two roads agree. So most of the mean is taken
off before vectors are compared, as benchmarks/peers/checkpoint.py takes it off the weights: what is left tells
pictures apart. `apart` is how unlike two different pictures are then; without it a cosine says nothing.

N pictures or texts, D dimension.
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu import drawn
from benchmarks.gpu.setting import TINY, Setting
from benchmarks.gpu.steps import Report
from benchmarks.pictures import Kind, caption

MODELS = ("ViT-L-14", "ViT-B-32", TINY, "RN50", "SigLIP-B-16")
CENTRED = 0.7  # of the mean; more would amplify rounding beyond that of trained models

Vectors = npt.NDArray[np.float32]


def run(setting: Setting, report: Report) -> None:
    for name in [TINY] if setting.small else MODELS:
        needs_s = 3 if name == TINY else 18
        report.case(name, 0 if setting.small else needs_s, partial(compared, name, setting))


def compared(name: str, setting: Setting) -> dict[str, Any]:
    """Least cosines of pictures and texts for each precision, and what the self-check says of it."""
    from clipmill.schemas.model import ModelSpec
    from clipmill.workers.load import load_engine

    model = setting.model(name)["name"]
    jpegs = [drawn.draw(number, Kind(seed=3)) for number in range(setting.sizes.parity_pictures)]
    random = np.random.default_rng(3)
    texts = [caption(number, random) for number in range(len(jpegs))]

    def vectors(engine: Any) -> tuple[Vectors, Vectors]:
        from clipmill.schemas.job.config import Limits
        from clipmill.workers.clip import selfcheck

        pixels_NCHW = np.stack(
            [engine.prepare(jpeg, Limits()).pixels_CHW for jpeg in [*selfcheck.pictures().values(), *jpegs]]
        )
        return engine.encode_images(pixels_NCHW), engine.encode_texts(texts)

    exact = load_engine(ModelSpec(name=model, precision="fp32"), device="cpu", threads=setting.threads, batch_size=8)
    right = vectors(exact)
    found: dict[str, Any] = {"pictures": len(right[0]), "texts": len(texts)}
    for precision in ("bf16", "fp16"):
        spec = ModelSpec(name=model, precision=precision)
        engine = load_engine(spec, device=setting.device, threads=setting.threads, batch_size=setting.sizes.batch)
        got = vectors(engine)
        found[precision] = {
            "images": least_cosine(right[0], got[0]),
            "texts": least_cosine(right[1], got[1]),
            "self_check": self_check(engine),
        }
    return found


def self_check(engine: Any) -> float | str:
    """The least cosine of the pictures that clipmill brings, or why it refuses."""
    from clipmill.schemas.errors import UserError

    try:
        return round(float(engine.self_check(None)["min_cosine"]), 6)
    except UserError as error:
        return str(error)


def least_cosine(right_ND: Vectors, got_ND: Vectors) -> dict[str, float]:
    """As they are, and with most of the mean taken off."""
    mean_D = CENTRED * right_ND.mean(axis=0)
    right, got = _unit(right_ND - mean_D), _unit(got_ND - mean_D)
    between_NN = right @ right.T
    np.fill_diagonal(between_NN, 1.0)
    return {
        "least": round(float((right_ND * got_ND).sum(axis=1).min()), 6),
        "least_centred": round(float((right * got).sum(axis=1).min()), 6),
        "apart": round(float(between_NN.min()), 3),
    }


def _unit(vectors_ND: Vectors) -> Vectors:
    units_ND: Vectors = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return units_ND
