"""Vectors and pixels of the fast road against reference open_clip (Pillow, open_clip's transform, fp32)."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image

from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip.engine import ClipEngine
from clipmill.workers.clip.selfcheck import reference_rgb
from clipmill.workers.load import load_engine
from tests.models import FAMILIES, config, save_checkpoint

LIMITS = Limits()
MODELS = (*FAMILIES, "clipmill-tiny")
FLOORS = {"fp32": (0.99999, 0.99999), "auto": (0.999, 0.9999)}  # least cosine, median


def photos(real_data: Path, step: int = 1) -> list[bytes]:
    paths = sorted((real_data / "clothing").rglob("*.jpg"))
    assert len(paths) == 341
    return [path.read_bytes() for path in paths[::step]]


def drawings(real_data: Path, step: int = 1) -> list[bytes]:
    """Even surfaces and hard edges: what rounded weights err on most."""
    paths = sorted((real_data / "emoji").glob("*.png"))
    assert len(paths) >= 400
    return [path.read_bytes() for path in paths[::step]]


def captions(real_data: Path, most: int) -> list[str]:
    with (real_data / "emoji_captions.csv").open(encoding="utf-8", newline="") as lines:
        return [row[-1] for row in csv.reader(lines)][1 : most + 1]


@dataclass(frozen=True)
class Reference:
    """Plain open_clip, loaded and called as its README does."""

    folder: Path

    def __post_init__(self) -> None:
        name = f"local-dir:{self.folder}"
        model, _, transform = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name)
        for key, value in (("model", model.eval()), ("transform", transform), ("tokenizer", tokenizer)):
            object.__setattr__(self, key, value)

    model: Any = None
    transform: Any = None
    tokenizer: Any = None

    @torch.inference_mode()
    def images(self, encoded: list[bytes]) -> npt.NDArray[np.float32]:
        inputs = torch.stack([self.transform(reference_rgb(image)) for image in encoded])
        return torch.cat([self.model.encode_image(part, normalize=True) for part in inputs.split(64)]).numpy()

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> npt.NDArray[np.float32]:
        parts = self.tokenizer(texts).split(64)
        return torch.cat([self.model.encode_text(part, normalize=True) for part in parts]).numpy()


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "clipmill-tiny":
        shipped = Path(__file__).parents[2] / "workers" / "models" / "clipmill-tiny"
        if not (shipped / "model.safetensors").is_file():
            pytest.skip("clipmill-tiny is not built here")
        return shipped
    return save_checkpoint(tmp_path_factory.mktemp("model") / request.param, request.param)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


def engine_of(folder: Path, precision: str = "auto") -> ClipEngine:
    engine = load_engine(ModelSpec(name=str(folder), precision=precision), device="cpu", threads=1)
    assert isinstance(engine, ClipEngine)
    return engine


def prepared(engine: ClipEngine, encoded: list[bytes]) -> npt.NDArray[np.uint8]:
    return np.stack([engine.prepare(image, LIMITS).pixels_CHW for image in encoded])


def check_parity(folder: Path, reference: Reference, images: list[bytes], texts: list[str]) -> None:
    image_reference, text_reference = reference.images(images), reference.texts(texts)
    for precision, (least, median) in FLOORS.items():
        engine = engine_of(folder, precision)
        for expected, got in (
            (image_reference, engine.encode_images(prepared(engine, images))),
            (text_reference, engine.encode_texts(texts)),
        ):
            cosines = (expected * got).sum(axis=1)
            assert cosines.min() >= least, (precision, cosines.min())
            assert np.median(cosines) >= median, (precision, np.median(cosines))
            np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


@pytest.mark.realdata
def test_vectors_are_those_of_open_clip(real_data: Path, folder: Path, reference: Reference) -> None:
    images = photos(real_data, step=7) + drawings(real_data, step=10)
    check_parity(folder, reference, images, captions(real_data, 60))


@pytest.mark.realdata
@pytest.mark.slow
def test_vectors_of_all_pictures_are_those_of_open_clip(real_data: Path, folder: Path, reference: Reference) -> None:
    check_parity(folder, reference, photos(real_data) + drawings(real_data), captions(real_data, 1000))


Mutation = Callable[[npt.NDArray[np.uint8], list[bytes]], npt.NDArray[np.uint8]]


def nearest(pixels_BCHW: npt.NDArray[np.uint8], encoded: list[bytes]) -> npt.NDArray[np.uint8]:
    height, width = pixels_BCHW.shape[2:]
    resized = [reference_rgb(image).resize((width, height), Image.Resampling.NEAREST) for image in encoded]
    return np.stack([np.asarray(image) for image in resized]).transpose(0, 3, 1, 2)


MUTATIONS: dict[str, Mutation] = {
    "swapped channels": lambda pixels_BCHW, _: pixels_BCHW[:, ::-1],
    "rotated": lambda pixels_BCHW, _: np.rot90(pixels_BCHW, 1, (2, 3)),
    "nearest neighbour": nearest,
    "one pixel off": lambda pixels_BCHW, _: np.roll(pixels_BCHW, 2, axis=3),
}


@pytest.mark.realdata
def test_the_same_comparison_fails_for_mistakes(real_data: Path, folder: Path, reference: Reference) -> None:
    images = photos(real_data, step=20)
    engine = engine_of(folder)
    expected, pixels_BCHW = reference.images(images), prepared(engine, images)
    for name, mutate in MUTATIONS.items():
        mutated = np.ascontiguousarray(mutate(pixels_BCHW, images))
        cosines = (expected * engine.encode_images(mutated)).sum(axis=1)
        assert cosines.min() < 0.999, f"{name} goes unnoticed: least cosine {cosines.min()}"


@pytest.mark.realdata
@pytest.mark.parametrize("family", FAMILIES)
def test_missing_normalisation_fails_the_comparison(real_data: Path, tmp_path: Path, family: str) -> None:
    right = save_checkpoint(tmp_path / "right", family)
    wrong = save_checkpoint(tmp_path / "wrong", family)
    changed = config(family)
    changed["preprocess_cfg"] |= {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    (wrong / "open_clip_config.json").write_text(json.dumps(changed))
    images = photos(real_data, step=40)
    engine = engine_of(wrong)
    cosines = (Reference(right).images(images) * engine.encode_images(prepared(engine, images))).sum(axis=1)
    assert cosines.max() < 0.999


@pytest.mark.realdata
@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_within_one_level_of_pillow(real_data: Path, tmp_path: Path, family: str) -> None:
    """Modes shortest and squash, bicubic and bilinear, 64 and 160 pixels; fp32 differs nowhere."""
    folder = save_checkpoint(tmp_path / family, family)
    reference = Reference(folder)
    images = photos(real_data, step=10)
    how = engine_of(folder).fingerprint.preprocess
    mean, std = np.array(how.mean)[:, None, None], np.array(how.std)[:, None, None]
    expected = np.stack([np.rint((reference.transform(reference_rgb(i)).numpy() * std + mean) * 255) for i in images])
    fast = prepared(engine_of(folder), images).astype(np.float64)
    assert np.abs(fast - expected).max() <= 1
    assert np.abs(fast - expected).mean() < 0.01
    assert np.array_equal(prepared(engine_of(folder, "fp32"), images), expected)


@pytest.mark.realdata
def test_a_large_jpeg_scaled_while_decoding_keeps_its_vector(
    real_data: Path, folder: Path, reference: Reference
) -> None:
    """1299 x 1131 pixels: both sides leave a remainder at every DCT scale."""
    import io

    tiles = [Image.open(io.BytesIO(image)).resize((433, 377)) for image in photos(real_data, step=5)[:36]]
    large = []
    for start in range(0, 36, 9):
        canvas = Image.new("RGB", (1299, 1131))
        for place, tile in enumerate(tiles[start : start + 9]):
            canvas.paste(tile, (place % 3 * 433, place // 3 * 377))
        out = io.BytesIO()
        canvas.save(out, "JPEG", quality=92)
        large.append(out.getvalue())
    engine = engine_of(folder)
    cosines = (reference.images(large) * engine.encode_images(prepared(engine, large))).sum(axis=1)
    assert cosines.min() >= 0.999
    assert engine.prepare(large[0], LIMITS).width == 1299
