"""Measure a clipmill-tiny folder on scenes it never saw: ``python -m training.evaluate DIR [--held-out DIR] [--card]``.

Prints one JSON object. Three sets, all from seeds that training does not use:

    unseen_seeds   combinations as in training, new scenes
    unseen_pairs   every object has a (kind, colour) or (kind, texture) that training never shows
    per style      unseen_seeds split by style, for the comparison under distribution shift

The model is loaded by open_clip from the folder and pictures pass through open_clip's own preprocessing.
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipmill.jobs.demo.captions import LABELS, TEMPLATES, caption, label_of
from clipmill.jobs.demo.scene_types import BACKGROUNDS, STYLES, Scene, is_held_out
from clipmill.jobs.demo.scenes import TRAIN, UNSEEN, meaning, render, sample_scene, swap_colours, swap_places
from training.card import fill

SEED = 990_001  # training draws with seeds [7, row]
RENDER_PX = 256


class Model:
    """A folder as open_clip loads it. All vectors are unit length, float32, (B, D)."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder.resolve()}"
        self.net, _, self.preprocess = open_clip.create_model_and_transforms(name)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.net.eval()

    @torch.inference_mode()
    def images(self, pictures: list[Image.Image]) -> Tensor:
        parts = [
            self.net.encode_image(torch.stack([self.preprocess(one) for one in pictures[i : i + 250]]), normalize=True)
            for i in range(0, len(pictures), 250)
        ]
        return torch.cat(parts)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        parts = [
            self.net.encode_text(self.tokenizer(texts[i : i + 500]), normalize=True) for i in range(0, len(texts), 500)
        ]
        return torch.cat(parts)

    def classes(self, facet: str) -> Tensor:
        """One vector per label: the mean of its prompts, normalised again. (labels, D)."""
        rows = []
        for label in LABELS[facet]:
            prompts = [template.format(label) for template in TEMPLATES[facet]]
            rows.append(self.texts(prompts).mean(dim=0))
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def picture(scene: Scene, quality: int = 90) -> Image.Image:
    """The scene as a 256 px JPEG, the form in which the demo stores it."""
    coded = io.BytesIO()
    Image.fromarray(render(scene, RENDER_PX)).save(coded, "JPEG", quality=quality)
    return Image.open(coded).convert("RGB")


def scenes_of(number: int, seed: int, pairs: str, **kwargs: Any) -> list[Scene]:
    """Scenes of a set; the seed is offset so that no training seed is met."""
    return [sample_scene(np.random.default_rng([SEED, seed, i]), pairs=pairs, **kwargs) for i in range(number)]


def facet_accuracy(model: Model, scenes: list[Scene], vectors: Tensor) -> dict[str, float]:
    """Zero-shot accuracy for each facet, over the scenes where it has one true answer."""
    found = {}
    for facet in LABELS:
        truth = [label_of(scene, facet) for scene in scenes]
        rows = [i for i, label in enumerate(truth) if label is not None]
        best = (vectors[rows] @ model.classes(facet).T).argmax(dim=1)
        found[facet] = _share(best == torch.tensor([truth[i] for i in rows]))
    return found


def recall(model: Model, scenes: list[Scene], vectors: Tensor, seed: int = 1) -> dict[str, float]:
    """Caption to image among scenes whose complete captions can differ: recall@1 and recall@5."""
    texts = [caption(scene, np.random.default_rng([SEED, seed, i]), complete=True) for i, scene in enumerate(scenes)]
    order = (model.texts(texts) @ vectors.T).argsort(dim=1, descending=True)
    hit = order == torch.arange(len(scenes))[:, None]
    return {"recall@1": _share(hit[:, :1].any(dim=1)), "recall@5": _share(hit[:, :5].any(dim=1))}


def distinct(scenes: list[Scene], number: int) -> list[Scene]:
    """The first ``number`` scenes of different meaning."""
    chosen = {meaning(scene): scene for scene in reversed(scenes)}
    kept = [scene for scene in scenes if chosen[meaning(scene)] is scene][:number]
    assert len(kept) == number, f"only {len(kept)} distinct scenes"
    return kept


def binding(model: Model, number: int, pairs: str) -> dict[str, float]:
    """Whether the true caption beats the one with colours, or places, exchanged (the words are the same)."""
    scenes = [scene for scene in scenes_of(number * 2, 5, pairs, layouts=("row", "column")) if scene.count == 2][
        :number
    ]
    plain = [replace(s, objects=tuple(replace(o, texture="plain") for o in s.objects)) for s in scenes]
    vectors = model.images([picture(scene) for scene in plain])
    result = {}
    for name, change in (("colours", swap_colours), ("places", swap_places)):
        wins = []
        for i, scene in enumerate(plain):
            other = change(scene)
            # The same draw of the words for both, so that only the exchange tells them apart.
            texts = [caption(s, np.random.default_rng([SEED, 6, i]), complete=True) for s in (scene, other)]
            true, false = (model.texts(texts) @ vectors[i]).tolist()
            wins.append(true > false)
        result[name] = _share(torch.tensor(wins))
    result["mean"] = round((result["colours"] + result["places"]) / 2, 4)
    return result


def _share(hits: Tensor) -> float:
    return round(float(hits.float().mean()), 4)


def measure(model: Model, number: int = 2000, gallery: int = 1000) -> dict[str, Any]:
    """All figures of the card."""
    result: dict[str, Any] = {"scenes": number, "gallery": gallery}
    for name, pairs in (("unseen_seeds", TRAIN), ("unseen_pairs", UNSEEN)):
        scenes = scenes_of(number, 2, pairs)
        assert pairs == TRAIN or all(is_held_out(item) for scene in scenes for item in scene.objects)
        vectors = model.images([picture(scene) for scene in scenes])
        chosen = distinct(scenes, gallery)
        place = {id(scene): i for i, scene in enumerate(scenes)}
        rows = [place[id(scene)] for scene in chosen]
        result[name] = {
            "accuracy": facet_accuracy(model, scenes, vectors),
            **recall(model, chosen, vectors[rows]),
            "binding": binding(model, 500, pairs),
        }
        if pairs == TRAIN:
            result["by_style"] = {style: _style(model, scenes, vectors, style) for style in STYLES}
            result["background_confusions"] = _confusions(model, scenes, vectors)
    return result


def measure_styles(model: Model, number: int = 2000) -> dict[str, Any]:
    """The figures split by style, for a model that was trained without some of them."""
    scenes = scenes_of(number, 2, TRAIN)
    vectors = model.images([picture(scene) for scene in scenes])
    return {style: _style(model, scenes, vectors, style) for style in STYLES}


def _style(model: Model, scenes: list[Scene], vectors: Tensor, style: str) -> dict[str, Any]:
    rows = [i for i, scene in enumerate(scenes) if scene.style == style]
    kept = [scenes[i] for i in rows]
    chosen = distinct(kept, 500)
    place = {id(scene): row for scene, row in zip(kept, rows, strict=True)}
    return {
        "accuracy": facet_accuracy(model, kept, vectors[rows]),
        **recall(model, chosen, vectors[[place[id(scene)] for scene in chosen]]),
    }


def _confusions(model: Model, scenes: list[Scene], vectors: Tensor) -> dict[str, int]:
    best: NDArray[np.int64] = (vectors @ model.classes("background").T).argmax(dim=1).numpy()
    found: dict[str, int] = {}
    for scene, label in zip(scenes, best, strict=True):
        if BACKGROUNDS[label] != scene.background:
            key = f"{scene.style} {scene.background} taken for {BACKGROUNDS[label]}"
            found[key] = found.get(key, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1])[:8])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--held-out", type=Path, help="the same recipe trained without sketch and cartoon")
    parser.add_argument("--card", action="store_true", help="also write the figures into the folder's MODEL_CARD.md")
    args = parser.parse_args()
    torch.set_num_threads(2)
    result = measure(Model(args.folder), args.number)
    if args.held_out:
        result["held_out"] = measure_styles(Model(args.held_out), args.number)
    print(json.dumps(result, indent=2))
    if args.card:
        fill(args.folder / "MODEL_CARD.md", result)


if __name__ == "__main__":
    main()
