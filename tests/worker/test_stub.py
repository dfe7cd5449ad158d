"""The stand-in model: deterministic, and without torch."""

import subprocess
import sys

import numpy as np
import pytest

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec
from clipmill.workers.engine import OutOfMemory
from clipmill.workers.load import load_engine
from tests.models import encoded, picture


def test_vectors_depend_on_content_only() -> None:
    one, two = load_engine(ModelSpec(name="stub:24")), load_engine(ModelSpec(name="stub:24"))
    images = [encoded(picture(seed), "PNG") for seed in (1, 2, 1)]
    vectors = one.encode_images(np.stack([one.prepare(image, Limits()).pixels_CHW for image in images]))
    assert vectors.shape == (3, one.dim) == (3, 24)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors[0], vectors[2])
    assert abs(float(vectors[0] @ vectors[1])) < 0.9
    assert np.array_equal(one.encode_texts(["a", "b"]), two.encode_texts(["a", "b"]))
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint.differences(load_engine(ModelSpec(name="stub")).fingerprint)


def test_it_misbehaves_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(ModelSpec(name="stub"))
    monkeypatch.setenv("CLIPMILL_STUB_NAN", "spoiled")
    monkeypatch.setenv("CLIPMILL_STUB_OOM_ABOVE", "2")
    good, spoiled = encoded(picture(1)), encoded(picture(1)) + b"spoiled"
    pixels = np.stack([engine.prepare(image, Limits()).pixels_CHW for image in (good, spoiled)])
    vectors = engine.encode_images(pixels)
    assert np.isfinite(vectors[0]).all()
    assert np.isnan(vectors[1]).all()
    with pytest.raises(OutOfMemory):
        engine.encode_images(np.concatenate([pixels, pixels]))


def test_a_marked_image_kills_the_process() -> None:
    code = (
        "from clipmill.workers.load import load_engine; from clipmill.schemas.model import ModelSpec;"
        "from clipmill.schemas.job.config import Limits;"
        "load_engine(ModelSpec(name='stub')).prepare(b'..poison..', Limits())"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"CLIPMILL_STUB_KILL": "poison"}, timeout=120)
    assert done.returncode == -9


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from clipmill.workers.load import load_engine; from clipmill.schemas.model import ModelSpec;"
        "load_engine(ModelSpec(name='stub:8')).encode_texts(['a']); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_dimension_that_is_none() -> None:
    for name in ("stub:0", "stub:many", "stub:99999"):
        with pytest.raises(UserError):
            load_engine(ModelSpec(name=name))
