"""Finding, loading and refusing models; the engine's own promises on small ones."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import Fingerprint, ModelSpec
from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.engine import ClipEngine
from clipmill.workers.clip.load import load_clip
from clipmill.workers.engine import OutOfMemory
from clipmill.workers.load import load_engine
from tests.models import FAMILIES, config, encoded, picture, save_checkpoint, state_dict

TEXTS = ["a red shoe", "", "a red shoe", "two dogs and " * 30, "a blue hat", "été 🐘"]


def load(name: str | Path, pretrained: str | None = None, precision: str = "fp32", **options: Any) -> ClipEngine:
    how = {**config("vit")["preprocess_cfg"], "resize_mode": "shortest"} if name == "clipmill-small-vit" else {}
    spec = ModelSpec(name=str(name), pretrained=pretrained, precision=precision, preprocess=how)
    engine = load_engine(spec, device="cpu", threads=1, **options)
    assert isinstance(engine, ClipEngine)
    return engine


def refused(name: str | Path, pretrained: str | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        load(name, pretrained)
    assert caught.value.hint
    return caught.value


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("models") / "vit", "vit")


# --- names and weights -----------------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_near_ones() -> None:
    error = refused("ViT-B-33", "openai")
    assert "ViT-B-33" in error.message
    assert "ViT-B-32" in error.hint


def test_an_unknown_tag_lists_the_tags() -> None:
    error = refused("ViT-B-32", "laion3b")
    assert "laion2b_s34b_b79k" in error.hint


def test_a_name_without_weights_is_an_error() -> None:
    assert "laion2b_s34b_b79k" in refused("ViT-B-32").hint


def test_weights_for_the_other_activation_are_an_error() -> None:
    assert "ViT-B-32-quickgelu" in refused("ViT-B-32", "openai").hint


def test_a_failed_download_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> str:
        raise ConnectionError("https://user:secret@host refused")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", no_network)
    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf", no_network)
    for error in (refused("ViT-B-32", "laion2b_s34b_b79k"), refused("hf-hub:laion/some-model")):
        assert "could not be" in error.message
        assert "without a network" in error.hint
        assert "secret" not in error.message


def test_folders_that_are_not_models(tmp_path: Path, vit: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent").message
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert "not an open_clip configuration" in refused(tmp_path).message
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config("vit")))
    assert "no weights" in refused(tmp_path).message
    assert "leave `pretrained` out" in refused(vit, "laion2b").hint


def test_random_weights_only_by_name_and_always_the_same(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config("vit")))
    torch.manual_seed(1)
    one = load(tmp_path, "random")
    torch.manual_seed(2)
    assert load(tmp_path, "random").fingerprint == one.fingerprint
    assert one.fingerprint.pretrained == "random"


def test_the_fingerprint_is_of_the_weights_not_of_the_file(tmp_path: Path, small_architecture: str, vit: Path) -> None:
    weights = state_dict("vit")
    torch.save(weights, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "trained.pt")
    save_file(weights, tmp_path / "weights.safetensors")
    hashes = {load(vit).fingerprint.weights_sha256}
    for name in ("plain.pt", "trained.pt", "weights.safetensors"):
        fingerprint = load(small_architecture, str(tmp_path / name)).fingerprint
        hashes.add(fingerprint.weights_sha256)
        assert fingerprint.pretrained == str(tmp_path / name)
        assert Fingerprint.from_json(fingerprint.to_json()) == fingerprint
    assert len(hashes) == 1
    changed = weights | {"logit_scale": weights["logit_scale"] + 1}
    save_file(changed, tmp_path / "changed.safetensors")
    assert load(small_architecture, str(tmp_path / "changed.safetensors")).fingerprint.weights_sha256 not in hashes


def test_weights_of_another_shape_are_refused(tmp_path: Path, small_architecture: str) -> None:
    weights = state_dict("vit")
    cases = {
        "other": state_dict("resnet"),
        "missing": {k: v for k, v in weights.items() if k != "visual.proj"},
        "extra": weights | {"another": torch.zeros(2)},
        "narrow": weights | {"text_projection": torch.zeros(64, 47)},
        # open_clip would interpolate these and say nothing.
        "larger image": weights | {"visual.positional_embedding": torch.zeros(26, 64)},
        "longer text": weights | {"positional_embedding": torch.zeros(40, 64)},
    }
    for name, changed in cases.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(changed, path)
        error = refused(small_architecture, str(path))
        assert "does not fit" in error.message, name
        assert path.name in error.message


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_that_runs_code_is_refused_and_not_run(
    tmp_path: Path, small_architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state_dict("vit"), "evil": Evil()}, tmp_path / "evil.pt")
    assert "never runs" in refused(small_architecture, str(tmp_path / "evil.pt")).message
    assert not (tmp_path / "executed").exists()


def test_damaged_files_are_refused(tmp_path: Path, small_architecture: str) -> None:
    for name in ("a.safetensors", "b.pt", "c.bin"):
        (tmp_path / name).write_bytes(b"not a checkpoint at all")
        assert name in refused(small_architecture, str(tmp_path / name)).message
    save_file(state_dict("vit"), tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cut.safetensors" in refused(small_architecture, str(tmp_path / "cut.safetensors")).message
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    assert "tensor.pt" in refused(small_architecture, str(tmp_path / "tensor.pt")).message
    assert "does not exist" in refused(small_architecture, str(tmp_path / "absent.safetensors")).message


def test_devices_and_precisions_that_are_not_there(vit: Path) -> None:
    for device in ("tpu9", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(UserError):
            load_engine(ModelSpec(name=str(vit)), device=device)
    with pytest.raises(UserError, match="precision"):
        load(vit, precision="int4")


# --- the engine ------------------------------------------------------------------------------------------------------


def test_preprocessing_and_scale_come_from_the_models_config(family: str, tmp_path: Path) -> None:
    fingerprint = load(save_checkpoint(tmp_path, family)).fingerprint
    cfg = config(family)
    size = cfg["model_cfg"]["vision_cfg"]["image_size"]
    assert fingerprint.preprocess.size_HW == (size, size)
    assert list(fingerprint.preprocess.mean) == cfg["preprocess_cfg"]["mean"]
    assert fingerprint.preprocess.interpolation == cfg["preprocess_cfg"]["interpolation"]
    assert fingerprint.preprocess.resize_mode == cfg["preprocess_cfg"].get("resize_mode", "shortest")
    assert fingerprint.dim == cfg["model_cfg"]["embed_dim"]
    assert (fingerprint.logit_bias is not None) == (family == "siglip")


def test_the_self_check_passes_and_catches_a_wrong_road(family: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, family)
    engine = load(folder, precision="auto")
    result = engine.self_check(None)
    assert result["min_cosine"] >= 0.999
    stored = json.loads(json.dumps(result))
    assert engine.self_check(stored)["images"] == stored["images"]
    swapped = json.loads(json.dumps(result))
    swapped["images"] = swapped["images"][::-1]
    with pytest.raises(UserError, match="self-check"):
        engine.self_check(swapped)
    broken = selfcheck.fast_vectors(engine)
    broken = replace(broken, images_ND=np.full_like(broken.images_ND, np.nan))
    with pytest.raises(UserError, match="nan"):
        selfcheck.compare(engine._parts.reference(engine.own_vectors()), broken, identity="", precision="fp32")
    # A reference of other weights is no reference: it is computed anew.
    assert engine.self_check(swapped | {"identity": "other"})["min_cosine"] >= 0.999


def test_auto_precision_gives_way_where_rounding_shows(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmill.workers.clip.build.native_bf16", lambda _: True)
    assert load(vit, precision="auto").fingerprint.provenance["precision"] == "bf16"
    monkeypatch.setattr(selfcheck, "AUTO_MIN_COSINE", 1.1)
    engine = load(vit, precision="auto")
    assert engine.fingerprint.provenance["precision"] == "fp32"
    assert engine.self_check(None)["min_cosine"] > 0.99999


def test_texts_come_back_in_order_whatever_the_batch(family: str, tmp_path: Path) -> None:
    engine = load(save_checkpoint(tmp_path, family), batch_size=2)
    together = engine.encode_texts(TEXTS)
    assert together.shape == (len(TEXTS), engine.dim)
    assert np.array_equal(together[0], together[2])
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(together[row], engine.encode_texts([text])[0], atol=1e-5)
    assert engine.encode_texts([]).shape == (0, engine.dim)


def test_only_causal_text_towers_are_cut(family: str, tmp_path: Path) -> None:
    tower = load(save_checkpoint(tmp_path, family))._parts.text_tower
    assert tower.cuts == (family != "siglip")


def test_rows_that_are_not_finite_become_nan_and_spare_the_others(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(vit)
    pixels_BCHW = np.stack([engine.prepare(encoded(picture(s)), Limits()).pixels_CHW for s in range(4)])
    expected = engine.encode_images(pixels_BCHW)
    real = engine._parts.image_tower.visual.forward

    def spoil(batch_BCHW: torch.Tensor) -> torch.Tensor:
        features_BD = real(batch_BCHW).clone()
        features_BD[1] = float("inf")
        features_BD[2] = 0
        return features_BD

    monkeypatch.setattr(engine._parts.image_tower.visual, "forward", spoil)
    got = engine.encode_images(pixels_BCHW)
    assert np.isnan(got[1:3]).all()
    assert np.array_equal(got[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_is_told_apart(vit: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    engine = load(vit)

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setattr(engine._parts.image_tower.visual, "forward", fail)
    with pytest.raises(OutOfMemory):
        engine.encode_images(np.zeros((1, 3, 64, 64), np.uint8))


def test_many_threads_share_one_engine(vit: Path) -> None:
    engine = load(vit)
    images = [encoded(picture(seed)) for seed in range(12)]
    alone = [engine.prepare(image, Limits()).pixels_CHW for image in images]
    expected = engine.encode_images(np.stack(alone))
    barrier = threading.Barrier(4)

    def work(_: int) -> Any:
        barrier.wait(timeout=60)
        pixels = np.stack([engine.prepare(image, Limits()).pixels_CHW for image in images])
        return engine.encode_images(pixels), engine.encode_texts(TEXTS)

    with ThreadPoolExecutor(4) as pool:
        for vectors, _ in pool.map(work, range(4)):
            np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_the_tokenizers_memory_is_bounded(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmill.workers.clip.alike._MAX_REMEMBERED_WORDS", 50)
    engine = load(vit)
    before = engine.encode_texts(["a red shoe"])
    for start in range(0, 400, 20):
        engine.encode_texts([f"word{number}x" for number in range(start, start + 20)])
    assert len(engine._parts.tokenizer.cache) < 200  # type: ignore[attr-defined]
    np.testing.assert_allclose(engine.encode_texts(["a red shoe"]), before, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_there_once_and_nothing_of_an_engine_lies_in_its_file(precision: str, tmp_path: Path) -> None:
    """While it loads the model is the file itself, mapped; later whoever writes into that file changes no vector."""
    folder = save_checkpoint(tmp_path, "vit")
    file = next(folder.glob("*.safetensors"))
    mapped = load_clip(ModelSpec(name=str(folder))).model
    maps = Path("/proc/self/maps")
    if maps.exists():
        ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if str(file.resolve()) in line]
        spans = [(int(start, 16), int(stop, 16)) for start, stop in ranges]
        for name, tensor in mapped.named_parameters():
            assert any(start <= tensor.data_ptr() < stop for start, stop in spans), f"{name} is a copy"
    del mapped
    engine = load_engine(ModelSpec(name=str(folder), precision=precision), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8)
    before = engine.encode_images(pixels), engine.encode_texts(["dog"])
    with file.open("r+b") as open_file:
        open_file.write(b"\0" * file.stat().st_size)
    after = engine.encode_images(pixels), engine.encode_texts(["dog"])
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
