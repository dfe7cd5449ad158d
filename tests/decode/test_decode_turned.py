"""A JPEG that is scaled while decoding and still has to be turned: every orientation, divisor and remainder.

A side that the divisor does not divide ends in a pixel that lies partly outside; wherever the picture is turned, that
pixel must not shift it. Fine stripes show a fifth of a pixel.
"""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image

from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec, Preprocess
from clipmill.workers.clip.selfcheck import reference_rgb
from clipmill.workers.decode.picture import decode
from clipmill.workers.decode.preprocess import preprocess
from clipmill.workers.load import load_engine
from tests.models import save_checkpoint

LIMITS = Limits()
ORIENTATIONS = range(1, 9)
TARGET_PX = 160
# The shortest side is at least twice the divisor times the target; remainders of 0, 1 and most.
SIZES = {
    2: [(672, 640), (641, 643), (647, 645)],
    4: [(1285, 1283), (1287, 1282)],
    8: [(2569, 2575)],
}
CASES = [(divisor, size) for divisor, sizes in SIZES.items() for size in sizes]


def stripes(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Slanted stripes over boxes, both fine at the model's size; unlike its mirror images."""
    y, x = np.mgrid[:height, :width]
    unit = min(width, height) / TARGET_PX
    boxes = np.random.default_rng(0).integers(0, 255, (14, 14, 3), np.uint8)
    ground = boxes[(y * 14 // height), (x * 14 // width)]
    lines = np.sin(x / (0.9 * unit) + y / (2.3 * unit)) > 0
    return np.where(lines[..., None], ground, 255 - ground // 2).astype(np.uint8)


def turned(size: tuple[int, int]) -> list[bytes]:
    """The same stored pixels under each orientation."""
    picture, encoded = Image.fromarray(stripes(*size)), []
    for orientation in ORIENTATIONS:
        exif, out = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        picture.save(out, "JPEG", quality=92, exif=exif)
        encoded.append(out.getvalue())
    return encoded


@pytest.mark.parametrize(("divisor", "size"), CASES)
def test_no_orientation_is_further_from_pillow_than_upright(divisor: int, size: tuple[int, int]) -> None:
    how = Preprocess(size_HW=(TARGET_PX, TARGET_PX), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    distances = []
    for image in turned(size):
        decoded = decode(image, LIMITS, target_px=TARGET_PX)
        assert max(decoded.stored_HWC.shape) == -(-max(size) // divisor)
        fast = preprocess(
            decoded.stored_HWC, how, original_HW=(decoded.height, decoded.width), orientation=decoded.orientation
        )
        expected = preprocess(np.array(reference_rgb(image)), how, exact=True)
        distances.append(float(np.abs(fast.astype(int) - expected).mean()))
    assert distances[0] < 6
    assert max(distances) < distances[0] * 1.1, distances


def test_vectors_of_turned_pictures_are_those_of_open_clip(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "siglip", "siglip")
    engine = load_engine(ModelSpec(name=str(folder), precision="fp32"), device="cpu", threads=1)
    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    engine._target_px = TARGET_PX  # type: ignore[attr-defined] - fp32, so that rounding is not what is measured
    engine._exact = False  # type: ignore[attr-defined]
    images = turned((641, 643))
    fast = engine.encode_images(np.stack([engine.prepare(image, LIMITS).pixels_CHW for image in images]))
    with torch.inference_mode():
        inputs = torch.stack([transform(reference_rgb(image)) for image in images])
        expected = model.eval().encode_image(inputs, normalize=True).numpy()
    cosines = (fast * expected).sum(axis=1)
    assert cosines.min() >= 0.999, cosines


@pytest.mark.realdata
def test_printed_text_keeps_its_vector_however_it_lies(real_data: Path) -> None:
    """Black on white: what a scaled decode errs on most, because it clips after the mean instead of before."""
    stored = (real_data / "reported" / "even-size-rotated.jpg").read_bytes()
    tag = stored.index(b"\x01\x12\x00\x03\x00\x00\x00\x01") + 9  # big-endian EXIF: the orientation's value
    assert stored[tag] == 3
    images = [stored[:tag] + bytes([orientation]) + stored[tag + 1 :] for orientation in ORIENTATIONS]
    engine = load_engine(ModelSpec(name="clipmill-tiny"), device="cpu", threads=1)
    exact = load_engine(ModelSpec(name="clipmill-tiny", precision="fp32"), device="cpu", threads=1)
    fast, expected = (
        one.encode_images(np.stack([one.prepare(image, LIMITS).pixels_CHW for image in images]))
        for one in (engine, exact)
    )
    assert (fast * expected).sum(axis=1).min() >= 0.999
