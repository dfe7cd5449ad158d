"""Words and pictures without torch: open_clip's vectors, and torch wherever a tower is not known to be that one."""

import json
import random
import shutil
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from threadpoolctl import threadpool_info

from clipmill.jobs.querying import encoder
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import Fingerprint, ModelSpec
from clipmill.workers.clip import layers, selfcheck, words
from clipmill.workers.clip.fold import normalise
from clipmill.workers.clip.load import build_model, load_clip
from clipmill.workers.load import load_engine, load_few, load_text_engine, load_words
from tests.models import config, save_checkpoint

STRANGE = ["", " ", "Über naïve ☕ 犬 ١٢", "<end_of_text> cat", "don't &amp;amp; stop!!", "a\u0301\ufffd", "x" * 3000]
STOCK = ["a", "the", "red", "dogs", "house", "on", "under", "rainy", "photograph", "1984", "unbelievably", "café"]


def some_texts(number: int) -> list[str]:
    """Strange ones, one of fifty words, and short ones."""
    draw = random.Random(4)
    short = [" ".join(draw.choices(STOCK, k=draw.randint(1, 8))) for _ in range(number - len(STRANGE) - 1)]
    return [*STRANGE, " ".join(draw.choices(STOCK, k=50)), *short]


def fingerprint_of(spec: ModelSpec) -> Fingerprint:
    return load_text_engine(replace(spec, precision="fp32")).fingerprint


def reference(spec: ModelSpec, texts: list[str]) -> Any:
    loaded = load_clip(spec)
    with torch.inference_mode():
        return build_model(loaded.resolved).encode_text(loaded.tokenizer(texts), normalize=True).numpy()


def changed(folder: Path, **values: Any) -> Path:
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"].update(values)
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", ["clipmill-tiny", "quickgelu", "custom text", "half"])
def test_texts_have_open_clips_vectors(kind: str, tmp_path: Path) -> None:
    spec = ModelSpec(name=kind if kind == "clipmill-tiny" else str(save_checkpoint(tmp_path, "vit")))
    if kind == "quickgelu":
        changed(tmp_path, quick_gelu=True)
    if kind == "custom text":
        changed(tmp_path, custom_text=True)
    if kind in ("half", "custom text"):
        file = next(tmp_path.glob("*.safetensors"))
        content = load_file(file)
        if kind == "half":
            content = {name: values.half() for name, values in content.items()}
        else:
            own = ("visual.", "logit_scale")
            content = {name if name.startswith(own) else f"text.{name}": values for name, values in content.items()}
        save_file(content, file)
    texts = some_texts(1000 if kind == "clipmill-tiny" else 30)
    engine = load_words(fingerprint_of(spec))
    assert engine is not None
    expected_BD = reference(spec, texts)
    assert (engine.encode_texts(texts) * expected_BD).sum(axis=1).min() >= 0.99999
    few = ["dog", "", "x" * 3000]
    np.testing.assert_array_equal(engine.encode_texts(engine.prepare_texts(few)), engine.encode_texts(few))


def test_it_says_the_same_of_words_and_of_itself() -> None:
    spec = ModelSpec(name="clipmill-tiny", precision="fp32")
    torch_engine = load_text_engine(spec)
    engine = encoder.engine_for(torch_engine.fingerprint, "words")
    assert isinstance(engine, words.PlainEngine)
    assert engine.fingerprint == torch_engine.fingerprint
    asked = ["a FOLDED blue shirt, 1984", "zyxw dog"]
    assert engine.unknown_words(asked) == torch_engine.unknown_words(asked) != []
    with pytest.raises(AssertionError, match="words alone"):
        engine.encode_images(np.zeros((1, 3, 64, 64), np.uint8))


def test_no_text_costs_more_than_the_context_has_room_for() -> None:
    """A hundred megabytes, a million letters without a space, entities, a million spaces in front: on both roads."""
    torch_engine: Any = load_text_engine(ModelSpec(name="clipmill-tiny", precision="fp32"))
    engine: Any = load_words(torch_engine.fingerprint)
    letters = "".join(random.Random(1).choices(string.ascii_lowercase, k=1_000_000))
    texts = ["red dog " * 12_500_000, letters, "&amp;quot;" * 100_000, " " * 1_000_000 + "red dog", "犬" * 1_000_000]
    for one, tokenizer in ((engine, engine._tokenizer), (torch_engine, torch_engine._parts.tokenizer)):
        tokenizer.cache = {word: token for word, token in tokenizer.cache.items() if word.startswith("<")}
        tokens = [text.ids_L.tolist() for text in one.prepare_texts(texts)]
        assert max(map(len, tokenizer.cache)) <= 32 * 4 * tokenizer.context_length
        assert [ids[:9] for ids in tokens[::3]] == [
            text.ids_L.tolist()[:9] for text in one.prepare_texts(["red dog " * 100, "red dog"])
        ]
        assert one.prepare_texts([letters[:5_000]])[0].ids_L.tolist() == tokens[1]
        few = 10  # a word of a few thousand letters comes apart as that of a few hundred does
        assert one.prepare_texts([letters[:500]])[0].ids_L.tolist()[:few] == tokens[1][:few]
    assert (engine.encode_texts(texts) * torch_engine.encode_texts(texts)).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("load", [load_words, lambda made: load_text_engine(made.spec())])
def test_words_are_not_remembered_for_ever(vit: tuple[Path, Fingerprint], load: Any) -> None:
    engine = load(vit[1])
    tokenizer = getattr(engine, "_tokenizer", None) or engine._parts.tokenizer
    before = engine.prepare_texts(["red"])[0].ids_L
    tokenizer.cache |= {str(number): "x" for number in range(200_000)}
    np.testing.assert_array_equal(engine.prepare_texts(["red"])[0].ids_L, before)
    assert len(tokenizer.cache) < 10


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fingerprint]:
    folder = save_checkpoint(tmp_path_factory.mktemp("vit"), "vit")
    made = fingerprint_of(ModelSpec(name=str(folder)))
    assert load_words(made) is not None
    return folder, made


@pytest.mark.parametrize("what", ["random", "pt", "other weights", "other tokenizer", "new key", "stub"])
def test_anything_else_is_left_to_torch(what: str, vit: tuple[Path, Fingerprint], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vit[0], tmp_path / "model"))
    made = replace(vit[1], model=str(folder))
    file = next(folder.glob("*.safetensors"))
    if what == "random":
        made = replace(made, pretrained="random")
    elif what == "pt":
        torch.save(load_file(file), folder / "model.pth")
        file.unlink()
    elif what == "other weights":
        content = load_file(file)
        content["visual.proj"][0, 0] += 1
        save_file(content, file)
    elif what == "other tokenizer":
        made = replace(made, tokenizer="HFTokenizer context_length=32")
    elif what == "new key":
        changed(folder, text_cfg={**config("vit")["model_cfg"]["text_cfg"], "qk_norm": False})
    elif what == "stub":
        made = load_engine(ModelSpec(name="stub:8")).fingerprint
    assert load_words(made) is None


def test_a_model_that_is_gone_is_refused_by_torchs_road(
    vit: tuple[Path, Fingerprint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_engines", {})  # of these weights, whichever file they came from
    made = replace(vit[1], model=str(shutil.copytree(vit[0], tmp_path / "model")))
    next((tmp_path / "model").glob("*.safetensors")).unlink()
    assert load_words(made) is None
    with pytest.raises(encoder.UserError, match="no weights"):
        encoder.engine_for(made, "words")


def test_pictures_do_without_torch_until_it_is_worth_loading_and_while_it_loads(
    vit: tuple[Path, Fingerprint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_engines", {})
    monkeypatch.setattr(encoder, "_pictures_s", {})
    plain = encoder.engine_for(vit[1], "question")
    assert isinstance(plain, words.PlainEngine)
    assert encoder.engine_for(vit[1], "words") is plain
    encoder.encode_images(plain, (next(iter(selfcheck.pictures().values())),))
    (spent_s,) = encoder._pictures_s.values()
    assert spent_s > 0
    monkeypatch.setattr(encoder, "_PICTURES_S", spent_s)
    with encoder._lock:  # as while another question loads all of the model
        assert encoder.engine_for(vit[1], "question") is plain
    whole = encoder.engine_for(vit[1], "question")
    assert not isinstance(whole, words.PlainEngine)
    assert encoder.engine_for(vit[1], "words") is encoder.engine_for(vit[1]) is whole


def test_a_model_that_no_longer_loads_leaves_pictures_as_they_were(
    vit: tuple[Path, Fingerprint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_engines", {})
    monkeypatch.setattr(encoder, "_pictures_s", {})
    made = replace(vit[1], model=str(shutil.copytree(vit[0], tmp_path / "model")))
    plain = encoder.engine_for(made, "question")
    next((tmp_path / "model").glob("*.safetensors")).unlink()
    monkeypatch.setattr(encoder, "_PICTURES_S", 0.0)
    assert encoder.engine_for(made, "question") is plain
    picture = next(iter(selfcheck.pictures().values()))
    assert np.isfinite(encoder.encode_images(plain, (picture,))).all()
    assert encoder.engine_for(made, "question") is plain, "and nothing is tried again"


def test_another_release_of_open_clip_is_left_to_torch(
    vit: tuple[Path, Fingerprint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "without_torch", lambda: 1 / 0)
    assert load_words(vit[1]) is None


def test_blas_has_one_thread_while_anybody_is_inside_and_then_what_it_had() -> None:
    def threads() -> int:
        return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

    before, one = threads(), layers.OneThread()
    with one:
        with one:
            assert threads() == 1
        assert threads() == 1
    assert threads() == before


# --- pictures --------------------------------------------------------------------------------------------------------


def reference_of_pictures(spec: ModelSpec, exact: Any) -> tuple[Any, Any]:
    """(pixels that an engine prepares, open_clip's vectors of them) of the self-check's pictures."""
    loaded = load_clip(spec)
    pixels_BCHW = np.stack([exact.prepare(image, Limits()).pixels_CHW for image in selfcheck.pictures().values()])
    with torch.inference_mode():
        normalised_BCHW = normalise(torch.from_numpy(pixels_BCHW), loaded.preprocess)
        return pixels_BCHW, loaded.model.encode_image(normalised_BCHW, normalize=True).numpy()


@pytest.mark.parametrize(
    "kind", ["clipmill-tiny", "quickgelu", *(pytest.param(more, marks=pytest.mark.slow) for more in ("vit", "resnet"))]
)
def test_pictures_have_open_clips_vectors(kind: str, tmp_path: Path) -> None:
    family = "resnet" if kind == "resnet" else "vit"
    spec = ModelSpec(name=kind if kind == "clipmill-tiny" else str(save_checkpoint(tmp_path, family)), precision="fp32")
    if kind == "quickgelu":
        changed(tmp_path, quick_gelu=True)
    exact = load_engine(spec, device="cpu")
    engine = load_few(exact.fingerprint)
    assert engine is not None
    pixels_BCHW, expected_BD = reference_of_pictures(spec, exact)
    for image, pixels_CHW in zip(selfcheck.pictures().values(), pixels_BCHW, strict=True):
        np.testing.assert_array_equal(engine.prepare(image, Limits(), phash=True).pixels_CHW, pixels_CHW)
    assert (engine.encode_images(pixels_BCHW) * expected_BD).sum(axis=1).min() >= 0.99999
    assert np.isfinite(engine.encode_texts(["dog"])).all()


def test_a_picture_tower_of_another_kind_is_left_to_torch(vit: tuple[Path, Fingerprint], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vit[0], tmp_path / "model"))
    made = replace(vit[1], model=str(folder))
    assert load_few(made) is not None
    changed(folder, vision_cfg={**config("vit")["model_cfg"]["vision_cfg"], "pool_type": "tok"})
    assert load_few(made) is None
    assert load_words(made) is not None


def test_neither_words_nor_pictures_import_torch() -> None:
    """Which takes longer than all else of `verify --sample 10`."""
    code = """
import sys
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import Fingerprint
from clipmill.workers.load import load_few
engine = load_few(Fingerprint.from_json(sys.argv[1]))
engine.encode_texts(["dog"])
picture = engine.prepare(open(sys.argv[2], "rb").read(), Limits(), thumbnail=True, phash=True)
engine.encode_images(picture.pixels_CHW[None])
assert not {"torch", "torchvision", "open_clip"} & set(sys.modules)
"""
    made = fingerprint_of(ModelSpec(name="clipmill-tiny"))
    picture = selfcheck.PICTURES / next(iter(selfcheck.pictures()))
    subprocess.run([sys.executable, "-c", code, made.to_json(), str(picture)], check=True, timeout=300)
