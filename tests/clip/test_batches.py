"""How an engine cuts its work into batches: by what fits, what pays, and the length of texts."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip.batch_size import CPU_SIZES
from clipmill.workers.clip.engine import _TEXTS_STEP, ClipEngine, _like_lengths
from clipmill.workers.engine import halving
from clipmill.workers.load import load_engine
from tests.models import FAMILIES, encoded, picture, save_checkpoint

TEXTS = ["a red shoe", "", "a red shoe", "two dogs and " * 30, "a blue hat", "été 🐘"]


def load(folder: Path, **options: Any) -> ClipEngine:
    options = {"threads": 1, **options}
    engine = load_engine(ModelSpec(name=str(folder), precision="fp32"), device="cpu", **options)
    assert isinstance(engine, ClipEngine)
    return engine


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "vit", "vit")


def test_batches_stay_smaller_after_memory_ran_out(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(vit, batch_size=8)
    pixels_BCHW = np.stack([engine.prepare(encoded(picture(s)), Limits()).pixels_CHW for s in range(8)])
    expected = engine.encode_images(pixels_BCHW)
    real, failed = engine._parts.image_tower.visual.forward, list[int]()

    def cramped(batch_BCHW: torch.Tensor) -> torch.Tensor:
        if len(batch_BCHW) > 3:
            failed.append(len(batch_BCHW))
            raise torch.OutOfMemoryError("CUDA out of memory")
        features_BD: torch.Tensor = real(batch_BCHW)
        return features_BD

    monkeypatch.setattr(engine._parts.image_tower.visual, "forward", cramped)
    np.testing.assert_allclose(halving(engine.encode_images, pixels_BCHW), expected, atol=1e-5)
    assert failed == [8, 4]
    assert engine.batch_size == 2
    np.testing.assert_allclose(engine.encode_images(pixels_BCHW), expected, atol=1e-5)
    assert failed == [8, 4], "the size that failed was tried again"


def test_callers_compute_side_by_side_and_divide_the_threads(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(vit, batch_size=8, threads=4)
    pixels_BCHW = np.stack([engine.prepare(encoded(picture(s)), Limits()).pixels_CHW for s in range(2)])
    expected, real, seen = engine.encode_images(pixels_BCHW), engine._parts.image_tower.visual.forward, list[int]()
    together = threading.Barrier(2, timeout=20)

    def met(batch_BCHW: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        if engine._threads.callers == 2:
            together.wait()  # raises where one waits for the other to end
        features_BD: torch.Tensor = real(batch_BCHW)
        return features_BD

    monkeypatch.setattr(engine._parts.image_tower.visual, "forward", met)
    with ThreadPoolExecutor(2) as pool:
        for callers, threads in ((2, 2), (1, 4)):
            engine.share(callers)
            for vectors_BD in pool.map(engine.encode_images, [pixels_BCHW] * 2):
                np.testing.assert_allclose(vectors_BD, expected, atol=1e-5)
            assert seen == [threads] * 2
            seen.clear()
    engine.share(9)
    assert engine._threads.callers == engine.callers == 4, "no more callers than threads"


def test_the_batch_size_is_found_by_trying(vit: Path) -> None:
    engine = load(vit, batch_size="auto")
    engine.tune()
    assert engine.batch_size in CPU_SIZES
    assert engine._threads.callers == 1, "tuned with a caller's share of the threads, and left as it was"


@pytest.mark.parametrize(("batch_size", "samples"), [(1, 16), (8, 128), (32, 128), (256, 256)])
def test_a_small_batch_asks_for_few_samples_at_once(vit: Path, batch_size: int, samples: int) -> None:
    assert load(vit, batch_size=batch_size).samples_at_once == samples


def test_texts_go_together_beyond_the_batch_of_images(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(vit, batch_size=2)
    texts = [f"a photo of {n} dogs" for n in range(10, 40)]
    one_by_one = np.concatenate([engine.encode_texts([text]) for text in texts])
    real, sizes = engine._parts.text_tower._encode_cut, list[int]()

    def noted(tokens_BL: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tokens_BL))
        return real(tokens_BL)

    monkeypatch.setattr(engine._parts.text_tower, "_encode_cut", noted)
    np.testing.assert_allclose(engine.encode_texts(texts), one_by_one, atol=1e-5)
    assert sizes == [30]


def test_threads_that_another_caller_leaves_are_taken_up_at_the_next_batch(
    vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(vit, batch_size=2, threads=2)
    pixels_BCHW = np.stack([engine.prepare(encoded(picture(s)), Limits()).pixels_CHW for s in range(6)])
    real, seen = engine._parts.image_tower.visual.forward, list[int]()

    def left_alone(batch_BCHW: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        engine.share(1)
        features_BD: torch.Tensor = real(batch_BCHW)
        return features_BD

    monkeypatch.setattr(engine._parts.image_tower.visual, "forward", left_alone)
    engine.share(2)
    engine.encode_images(pixels_BCHW)
    assert seen == [1, 2, 2]


def test_batches_of_one_caller_go_side_by_side(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(vit, batch_size=2, threads=2)
    pixels_BCHW = np.stack([engine.prepare(encoded(picture(s)), Limits()).pixels_CHW for s in range(4)])
    expected = np.concatenate([engine.encode_images(pixels_BCHW[start : start + 2]) for start in (0, 2)])
    real, together = engine._parts.image_tower.visual.forward, threading.Barrier(2, timeout=20)

    def met(batch_BCHW: torch.Tensor) -> torch.Tensor:
        together.wait()  # raises where one waits for the other to end
        assert torch.get_num_threads() == 1
        features_BD: torch.Tensor = real(batch_BCHW)
        return features_BD

    monkeypatch.setattr(engine._parts.image_tower.visual, "forward", met)
    np.testing.assert_allclose(engine.encode_images(pixels_BCHW), expected, atol=1e-5)


def test_texts_may_come_tokenised(family: str, tmp_path: Path) -> None:
    engine = load(save_checkpoint(tmp_path, family))
    expected = engine.encode_texts(TEXTS)
    np.testing.assert_allclose(engine.encode_texts(engine.prepare_texts(TEXTS)), expected, atol=1e-5)
    mixed = [*engine.prepare_texts(TEXTS[:2]), *TEXTS[2:]]
    np.testing.assert_allclose(engine.encode_texts(mixed), expected, atol=1e-5)
    assert list(engine.prepare_texts([])) == []


@given(lengths=st.lists(st.integers(2, 77), max_size=80).map(sorted), most=st.integers(1, 40))
def test_texts_of_like_length_go_together(lengths: list[int], most: int) -> None:
    spans = list(_like_lengths(lengths, most))
    assert [n for start, stop in spans for n in range(start, stop)] == list(range(len(lengths)))
    assert all(stop - start <= most for start, stop in spans)
    for start, stop in spans:
        assert all(2 * lengths[place] <= 3 * lengths[start] for place in range(start + _TEXTS_STEP, stop, _TEXTS_STEP))
