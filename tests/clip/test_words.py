"""An engine for words alone: the same vectors, and nothing imported that only pictures need."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from clipmill.jobs.querying.encoder import engine_for
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.errors import UserError
from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip import build as clip_build
from clipmill.workers.clip import library
from clipmill.workers.clip.load import reference_transform
from clipmill.workers.load import load_engine, load_text_engine
from tests.clip.test_families import CONFIGS
from tests.clip.test_families import folder as unusual  # noqa: F401 - a fixture
from tests.models import FAMILIES, save_checkpoint

TEXTS = [
    "a red shoe",
    "dog",
    "",
    "a very long text about a street with many houses on both sides " * 4,
    "Über naïve ☕",
]


@pytest.fixture(autouse=True)
def copied(monkeypatch: pytest.MonkeyPatch) -> library.Library:
    """Words get the copy of open_clip, though this process has imported it whole."""
    copy = library._copy()
    assert copy is not library.WHOLE, "this open_clip is not what the copy expects"
    monkeypatch.setattr(clip_build, "light", lambda: copy)
    monkeypatch.setattr(clip_build, "native_bf16", lambda _: True)
    return copy


def same(spec: ModelSpec) -> tuple[Any, Any]:
    """The whole engine and the one for words, of which the vectors and all that is said are the same."""
    whole: Any = load_engine(spec, device="cpu")
    noted = "fp32" if whole.fingerprint.provenance.get("precision_note") else spec.precision
    words: Any = load_text_engine(ModelSpec(name=spec.name, pretrained=spec.pretrained, precision=noted))
    assert not whole.fingerprint.differences(words.fingerprint)
    np.testing.assert_array_equal(whole.encode_texts(TEXTS), words.encode_texts(TEXTS))
    np.testing.assert_array_equal(whole.encode_texts(["dog"]), words.encode_texts(words.prepare_texts(["dog"])))
    assert whole.unknown_words(["zyxw dog"]) == words.unknown_words(["zyxw dog"])
    return whole, words


@pytest.mark.parametrize(("family", "precision"), [*((name, "auto") for name in FAMILIES), ("vit", "fp32")])
def test_vectors_of_texts_are_those_of_the_whole_engine(family: str, precision: str, tmp_path: Path) -> None:
    _, words = same(ModelSpec(name=str(save_checkpoint(tmp_path, family)), precision=precision))
    with pytest.raises(AssertionError, match="words alone"):
        words.encode_images(np.zeros((1, 3, 64, 64), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_so_they_are_of_unusual_models(unusual: Path, precision: str) -> None:  # noqa: F811
    same(ModelSpec(name=str(unusual), precision=precision))


def test_so_they_are_of_an_architecture_with_another_activation(tmp_path: Path) -> None:
    """QuickGELU is known by its name, whichever copy of open_clip it is of."""
    folder = save_checkpoint(tmp_path, "vit")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    whole, words = same(ModelSpec(name=str(folder), precision="bf16"))
    for engine in (whole, words):
        kinds = {library.kind(module) for module in engine._parts.text_tower.model.modules()}
        assert not any("QuickGELU" in kind for kind in kinds)
        assert any(kind.endswith("LastBlock") for kind in kinds)


def test_only_models_of_open_clips_own_are_built_from_the_copy(copied: Any, tmp_path: Path) -> None:
    for family, own in (("vit", True), ("resnet", True), ("siglip", False)):
        folder = save_checkpoint(tmp_path / family, family)
        config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        assert library.plain(config) is own
        model = load_text_engine(ModelSpec(name=str(folder)))._parts.text_tower.model  # type: ignore[attr-defined]
        assert (type(model) is copied.part("model").CLIP) is own
    for text in ({"hf_model_name": "roberta-base"}, {"hf_tokenizer_name": "t5"}):
        assert not library.plain({"text_cfg": text, "vision_cfg": {}})
    assert not any(map(library.plain, CONFIGS.values()))


def test_texts_that_bf16_computes_too_roughly_are_computed_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipmill.workers.clip.selfcheck.AUTO_MIN_COSINE", 1.1)
    engine = load_text_engine(ModelSpec(name=str(save_checkpoint(tmp_path, "vit"))))
    assert engine.fingerprint.provenance["precision"] == "fp32"
    assert "its least cosine" in engine.fingerprint.provenance["precision_note"]


def test_what_the_pictures_were_found_to_need_words_get_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(name=str(save_checkpoint(tmp_path, "vit")))
    with monkeypatch.context() as patch:
        patch.setattr("clipmill.workers.clip.selfcheck.AUTO_MIN_COSINE", 1.1)
        noted = load_engine(spec, device="cpu").fingerprint
    assert load_text_engine(spec).fingerprint.provenance["precision"] == "bf16"  # no text asks for fp32
    assert engine_for(noted, "words").fingerprint.provenance["precision"] == "fp32"


def test_open_clip_that_is_imported_already_is_used() -> None:
    import open_clip  # noqa: F401 - a model may have been registered with it

    assert library.light() is library.WHOLE


def test_where_the_copy_cannot_build_a_model_all_of_open_clip_does(
    copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec(name=str(save_checkpoint(tmp_path, "vit")), precision="fp32")
    # As a release would that uses more of torchvision than its names.
    monkeypatch.setattr(copied.part("factory"), "create_model", lambda *_, **__: copied.part("transform").Compose([]))
    words: Any = load_text_engine(spec)
    assert type(words._parts.text_tower.model) is library.WHOLE.part("model").CLIP
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="open_clip_model"):
        load_text_engine(spec)


def test_another_release_of_open_clip_is_imported_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "open_clip")
    monkeypatch.setattr(library, "_copy", library._copy.__wrapped__)
    monkeypatch.setattr(library._Copy, "part", lambda *_: 1 / 0)
    assert library.light() is library.WHOLE


_SEARCHES = """
import sys
import clipmill
from clipmill.jobs.querying.request import Query, Examples
heavy = {"torch", "torchvision", "timm", "transformers", "open_clip", "ray", "sympy", "matplotlib"}
table = clipmill.open_table(sys.argv[1])
words = table.query_vector(Query(positive=Examples(texts=("a green car",))))
assert len(table.search("a green car")) == 0
there = heavy & set(sys.modules)
assert not there, there
if sys.argv[2] == "none":
    sys.exit()
picture = table.query_vector(Query(positive=Examples(images=(sys.argv[2],))))
there = heavy & set(sys.modules)
assert not there, there
assert table.engine(use="words") is table.engine(use="question"), "both towers take the place of the text tower"
from clipmill.jobs.querying import encoder
assert list(encoder._pictures_s.values())[0] > 0
encoder._PICTURES_S = 0.0
there = table.query_vector(Query(positive=Examples(images=(sys.argv[2],))))
assert "torch" in sys.modules, "whoever asks for many pictures gets all of the model"
assert picture @ there > 0.9995
there = {"timm", "transformers", "open_clip", "torch._dynamo", "sympy"} & set(sys.modules)
assert not there, there
import open_clip, torchvision
assert open_clip.transform.Compose is torchvision.transforms.Compose, "whole"
again = table.query_vector(Query(positive=Examples(texts=("a green car",))))
assert words @ again > 0.9995  # fp32 in numpy, and what precision: auto gives
assert table.engine(use="words") is table.engine(use="question") is table.engine()
"""


@pytest.fixture(scope="module")
def tiny_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    engine = load_text_engine(ModelSpec(name="clipmill-tiny", precision="fp32"))
    uri = f"{tmp_path_factory.mktemp('tiny')}/db/images"
    made = engine.fingerprint.to_json()
    schema = rows_schema(dim=engine.dim, keep={}, fingerprint_json=made, vocabulary_json=None, thumbnails=False)
    Tables.at(uri, None).create("", schema)  # type: ignore[arg-type]
    return uri


def test_a_search_by_words_imports_neither_torchvision_nor_timm(tiny_table: str) -> None:
    subprocess.run([sys.executable, "-c", _SEARCHES, tiny_table, "none"], check=True, timeout=300)


@pytest.mark.slow
def test_a_picture_afterwards_gets_the_whole_model(tiny_table: str) -> None:
    picture = next((Path(clip_build.__file__).parent / "selfcheck_pictures").glob("*.jpg"))
    subprocess.run([sys.executable, "-c", _SEARCHES, tiny_table, str(picture)], check=True, timeout=300)


def test_a_model_of_open_clips_own_is_loaded_and_checked_without_the_compiler() -> None:
    """Nor timm, which imports it: half of what a worker's start imports."""
    code = """
import sys
from clipmill.schemas.model import ModelSpec
from clipmill.workers.load import import_code, load_engine
spec = ModelSpec(name="clipmill-tiny", precision="fp32")
import_code(spec)
load_engine(spec, device="cpu", threads=1).self_check(None)
there = {"torch._dynamo", "torch._dynamo.utils", "timm", "transformers", "sympy", "open_clip"} & set(sys.modules)
assert not there, there
operator = sys.modules["torchvision.ops.roi_align"]
assert operator.is_compile_supported("cpu") in (True, False)  # by the real module, once it is asked
assert type(sys.modules["torch._dynamo.utils"]).__name__ == "module"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_the_evaluation_transform_of_the_copy_is_open_clips(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess = load_text_engine(ModelSpec(name="clipmill-tiny", precision="fp32")).fingerprint.preprocess
    whole = reference_transform(preprocess)
    monkeypatch.delitem(sys.modules, "open_clip")
    alone = reference_transform(preprocess)
    assert repr(whole) == repr(alone)
    picture = PIL.Image.effect_noise((97, 64), 80).convert("RGB")
    assert torch.equal(whole(picture), alone(picture))
