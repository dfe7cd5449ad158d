"""Resize, crop and padding against open_clip's own transform, over sizes and modes."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipmill.schemas.model import Preprocess
from clipmill.workers.clip.load import reference_transform
from clipmill.workers.clip.selfcheck import reference_rgb
from clipmill.workers.decode.preprocess import preprocess
from tests.examples import examples
from tests.models import picture

SIZES = [(64, 64), (65, 64), (64, 200), (333, 250), (250, 333), (31, 47), (7, 90), (640, 641), (1, 1), (3, 40)]


def how(**changes: Any) -> Preprocess:
    return Preprocess(**({"size_HW": (64, 64), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} | changes))


def expected(pixels_HWC: npt.NDArray[np.uint8], spec: Preprocess) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = reference_transform(spec)(Image.fromarray(pixels_HWC)).numpy() * 255
    return np.rint(values)


SPECS = [
    how(resize_mode=mode, interpolation=interpolation, size_HW=size, fill_color=fill)
    for mode, interpolation, (size, fill) in itertools.product(
        ("shortest", "longest", "squash"), ("bicubic", "bilinear"), (((64, 64), 0), ((48, 80), 127))
    )
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.resize_mode}-{s.interpolation}-{s.size_HW[0]}")
def test_pixels_are_open_clips(spec: Preprocess) -> None:
    for height, width in SIZES:
        if spec.resize_mode == "longest" and min(height, width) * 20 < max(height, width):
            continue
        pixels_HWC = picture(height * width, width, height)
        got = preprocess(pixels_HWC, spec)
        assert got.shape == (3, *spec.size_HW)
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        difference = np.abs(got - expected(pixels_HWC, spec))
        assert (difference > 1).mean() < 1e-3, (height, width)  # hard edges, enlarged: two roundings can meet
        assert difference.max() <= 2, (height, width)
        assert difference.mean() < 0.05, (height, width)
        assert np.array_equal(preprocess(pixels_HWC, spec, exact=True), expected(pixels_HWC, spec)), (height, width)


@pytest.mark.realdata
def test_of_photographs_at_224_pixels_hardly_a_value_is_two_levels_off(real_data: Path) -> None:
    spec = how(size_HW=(224, 224))
    values = beyond = 0
    for path in sorted((real_data / "clothing").rglob("*.jpg"))[::6]:
        pixels_HWC = np.asarray(reference_rgb(path.read_bytes()))
        difference = np.abs(preprocess(pixels_HWC.copy(), spec) - expected(pixels_HWC, spec))
        assert difference.max() <= 2
        values, beyond = values + difference.size, beyond + int((difference > 1).sum())
    assert beyond / values < 1e-5


def test_the_wrong_filter_or_half_a_pixel_would_be_seen() -> None:
    pixels_HWC = picture(4, 333, 250)
    right = expected(pixels_HWC, how())
    assert np.abs(preprocess(pixels_HWC, how(interpolation="bilinear")) - right).max() > 1
    assert np.abs(preprocess(pixels_HWC[:, 1:], how()) - right).max() > 1
    assert np.abs(preprocess(pixels_HWC, how(resize_mode="squash")) - right).max() > 1


def test_a_strip_is_not_enlarged_before_it_is_cut() -> None:
    """1 x 60,000 pixels would become 64 x 3,840,000."""
    strip_HWC = picture(5, 60_000, 1)
    got = preprocess(strip_HWC, how())
    assert got.shape == (3, 64, 64)
    assert preprocess(strip_HWC.transpose(1, 0, 2).copy(), how()).shape == (3, 64, 64)
    assert preprocess(strip_HWC, how(resize_mode="longest")).shape == (3, 64, 64)
    long_HWC = picture(6, 1500, 100)
    assert np.abs(preprocess(long_HWC, how()) - expected(long_HWC, how())).max() <= 1


@examples(60)
@given(height=st.integers(1, 400), width=st.integers(1, 400), spec=st.sampled_from(SPECS))
def test_any_size_gives_the_models_size(height: int, width: int, spec: Preprocess) -> None:
    pixels_HWC = np.full((height, width, 3), 77, np.uint8)
    got = preprocess(pixels_HWC, spec)
    assert got.shape == (3, *spec.size_HW)
    assert set(np.unique(got)) <= {77, 0, spec.fill_color}  # nothing but the picture and what pads it
    assert (got == 77).any()
