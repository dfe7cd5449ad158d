"""The shipped clipmill-tiny through open_clip's own loading: it understands scenes it never saw, and every way of
feeding it wrongly that happens in practice shows in the same figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from clipmill.jobs.demo.scene_types import Scene
from clipmill.jobs.demo.scenes import TRAIN, UNSEEN
from clipmill.schemas.job.config import Storage
from clipmill.schemas.model import ModelSpec
from clipmill.workers.load import load_engine
from clipmill.workers.tag import load_vocabulary, unknown_labels
from tests.models import save_checkpoint
from training.evaluate import Model, binding, distinct, facet_accuracy, picture, recall, scenes_of

FOLDER = Path(__file__).parents[2] / "workers" / "models" / "clipmill-tiny"
NUMBER, DAMAGED = 300, 120
# A little under what the model card states, for the noise of a small sample.
FLOOR = {"object": 0.97, "colour": 0.92, "count": 0.97, "background": 0.97, "position": 0.97}
RECALL_FLOOR = 0.97
BINDING_FLOOR = 0.95


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(FOLDER)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return distinct(scenes_of(NUMBER + 40, 77, TRAIN), NUMBER)


@pytest.fixture(scope="module")
def pictures(scenes: list[Scene]) -> list[Image.Image]:
    return [picture(scene) for scene in scenes]


@pytest.fixture(scope="module")
def vectors(model: Model, pictures: list[Image.Image]) -> torch.Tensor:
    return model.images(pictures)


def passes(model: Model, scenes: list[Scene], vectors: torch.Tensor) -> list[str]:
    """The names of the figures that reach their floor."""
    reached = [name for name, value in facet_accuracy(model, scenes, vectors).items() if value >= FLOOR.get(name, 2)]
    return reached + (["recall"] if recall(model, scenes, vectors)["recall@1"] >= RECALL_FLOOR else [])


def test_it_is_an_ordinary_open_clip_folder_of_the_promised_size() -> None:
    said = json.loads((FOLDER / "open_clip_config.json").read_text())
    assert set(said) == {"model_cfg", "preprocess_cfg"}
    assert 10e6 < (FOLDER / "model.safetensors").stat().st_size < 20e6
    assert (FOLDER / "MODEL_CARD.md").exists()
    assert (FOLDER / "training_log.jsonl").exists()


def test_it_understands_scenes_it_never_saw(model: Model, scenes: list[Scene], vectors: torch.Tensor) -> None:
    assert set(passes(model, scenes, vectors)) == {*FLOOR, "recall"}


def test_it_binds_colours_and_places_in_combinations_it_never_saw(model: Model) -> None:
    assert binding(model, 120, UNSEEN)["mean"] >= BINDING_FLOOR


def swapped(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.asarray(picture)[..., ::-1]))


def zoomed(picture: Image.Image) -> Image.Image:
    """What a centre crop of 62 % shows, as when the resize before it is forgotten."""
    cut = round(0.19 * picture.width)
    return ImageOps.crop(picture, cut)


def shifted(picture: Image.Image) -> Image.Image:
    """The crop taken a quarter of the picture off centre."""
    by = picture.width // 4
    return picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, by, 0, 1, by))


@pytest.mark.parametrize(
    ("damage", "hurt"), [(swapped, "colour"), (zoomed, "count"), (shifted, "position")], ids=["bgr", "zoom", "shift"]
)
def test_wrong_pixels_drop_below_the_floor(
    model: Model,
    scenes: list[Scene],
    pictures: list[Image.Image],
    vectors: torch.Tensor,
    damage: Callable[[Image.Image], Image.Image],
    hurt: str,
) -> None:
    few = scenes[:DAMAGED]
    assert set(passes(model, few, vectors[:DAMAGED])) == {*FLOOR, "recall"}
    reached = passes(model, few, model.images([damage(one) for one in pictures[:DAMAGED]]))
    assert hurt not in reached
    assert "recall" not in reached


def test_a_missing_normalisation_drops_below_the_floor(
    model: Model, scenes: list[Scene], pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    *kept, normalise = model.preprocess.transforms
    assert type(normalise).__name__ == "Normalize"
    monkeypatch.setattr(model.preprocess, "transforms", kept)
    reached = passes(model, scenes[:DAMAGED], model.images(pictures[:DAMAGED]))
    assert "colour" not in reached
    assert "recall" not in reached


def test_captions_off_by_one_drop_below_the_floor(model: Model, scenes: list[Scene], vectors: torch.Tensor) -> None:
    assert passes(model, scenes, vectors.roll(1, dims=0)) == []


def test_it_says_which_words_it_never_met() -> None:
    """Their vectors are zeros, so that all of them together get one answer: 0.3 for a zebra as for a submarine."""
    engine = load_engine(ModelSpec(name="clipmill-tiny"), device="cpu", threads=1)
    vectors = engine.encode_texts(["zebra", "submarine"])
    assert np.allclose(vectors[0], vectors[1]), "one answer for both is what has to be told"
    assert engine.unknown_words(["a Zebra beside a red house, 1984!", "zebra"]) == ["zebra", "beside", "1984"]
    assert engine.unknown_words(["three green cars in a starry night", "a photo of a blue heart", ""]) == []
    scenes = load_vocabulary("scenes", Storage())
    assert unknown_labels(scenes, engine) == []
    coco = load_vocabulary("coco", Storage())
    unknown = unknown_labels(coco, engine)
    assert {"person", "bicycle", "elephant"} <= set(unknown)
    assert not {"car", "boat"} & set(unknown)


def test_a_trained_models_words_are_all_known(tmp_path: Path) -> None:
    engine = load_engine(ModelSpec(name=str(save_checkpoint(tmp_path, "vit"))), device="cpu", threads=1)
    assert engine.unknown_words(["zebra"]) == []
