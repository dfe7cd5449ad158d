"""The drawn world of the demo: same seed, same bytes; captions that are true; places nobody can argue about."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from clipmill.jobs.demo import scene_paint
from clipmill.jobs.demo.captions import GROUNDS, LABELS, TEMPLATES, caption, label_of, partial_caption, shape_caption
from clipmill.jobs.demo.scene_types import BACKGROUNDS, COLOURS, COUNTS, KINDS, POSITIONS, STYLES, Scene, is_held_out
from clipmill.jobs.demo.scenes import TRAIN, UNSEEN, render, sample_scene, swap_colours, swap_places, twin


def scenes(number: int, seed: int = 0, pairs: str = "any") -> list[Scene]:
    return [sample_scene(np.random.default_rng([seed, i]), pairs=pairs) for i in range(number)]


def test_the_same_seed_gives_the_same_scene_words_and_bytes() -> None:
    for first, again in zip(scenes(12), scenes(12), strict=True):
        assert first == again
        assert np.array_equal(render(first, 64), render(again, 64))
        assert caption(first, np.random.default_rng(1)) == caption(again, np.random.default_rng(1))


def test_samples_are_averaged_to_the_same_bytes_as_by_numpy() -> None:
    """Only blocks of several tones are added up: in any other order, and the demo's pictures would be other bytes."""
    rng = np.random.default_rng(0)
    index = np.repeat(np.repeat(rng.integers(0, 9, (40, 40), dtype=np.uint8), 6, axis=0), 6, axis=1)[2:-1, 2:-1]
    tones = rng.uniform(0, 255, (9, 4)).astype(np.float32)
    tones[:, 3] = rng.choice((0, 255), 9)
    rgba = tones[index]
    rgba[..., :3] *= rgba[..., 3:] / 255
    side = len(index) // 3
    mean = rgba.reshape(side, 3, side, 3, 4).mean(axis=(1, 3))
    assert scene_paint._shrunk(index, tones).tobytes() == mean.tobytes()


@pytest.mark.parametrize(("texture", "most_bytes"), [("plain", 10), ("striped", 24), ("dotted", 24), ("checkered", 24)])
def test_an_object_is_not_drawn_in_colours_for_each_of_its_samples(texture: str, most_bytes: int) -> None:
    """Most of what drawing took was four floats for each of nine samples a pixel: 23 bytes a sample, 34 to 42 with a
    texture. It is 5, and 14 to 20."""
    item = next(o for scene in scenes(60, seed=3) for o in scene.objects if o.texture == texture)
    half = int(np.ceil((item.radius * 1.12 + 0.03) * 256))
    tones = scene_paint._tones(item.colour, "photo", np.random.default_rng(1))
    scene_paint._patch(item, tones, half, 256, "photo")
    tracemalloc.start()
    try:
        scene_paint._patch(item, tones, half, 256, "photo")
        assert tracemalloc.get_traced_memory()[1] < most_bytes * (2 * half * scene_paint.OVERSAMPLE) ** 2
    finally:
        tracemalloc.stop()


def test_pictures_are_uint8_rgb_of_the_asked_size_and_differ_by_seed() -> None:
    scene = scenes(1)[0]
    small, large = render(scene, 64), render(scene, 256)
    assert small.shape == (64, 64, 3)
    assert large.shape == (256, 256, 3)
    assert small.dtype == np.uint8
    assert not np.array_equal(small, render(replace(scene, seed=scene.seed + 1), 64))


@pytest.mark.parametrize("size_px", [64, 256])
def test_a_scene_looks_the_same_at_every_size(size_px: int) -> None:
    for scene in scenes(9, seed=3):
        reference = render(scene, 128).astype(float).mean(axis=(0, 1))
        assert np.abs(render(scene, size_px).astype(float).mean(axis=(0, 1)) - reference).max() < 12


def test_every_object_is_where_the_scene_says_and_changes_the_picture_there() -> None:
    for scene in scenes(60, seed=1):
        for item in scene.objects:
            others = tuple(other for other in scene.objects if other is not item)
            # Drawn last, so that what chance decides about the others is the same in both pictures; a sketch or a
            # cartoon has no grain, which would differ.
            style = "cartoon" if scene.style == "photo" else scene.style
            pictures = (replace(scene, style=style, objects=objects) for objects in ((*others, item), others))
            changed = np.abs(np.subtract(*(render(one, 128).astype(int) for one in pictures))).sum(axis=2)
            rows, columns = np.nonzero(changed > 60)
            assert len(rows) > 40, item
            # A ring and a moon are hollow, so the extent is compared, not the centre of mass.
            assert abs((columns.min() + columns.max()) / 256 - item.x) < 0.06, item
            assert abs((rows.min() + rows.max()) / 256 - item.y) < 0.06, item


def test_nothing_touches_and_nothing_leaves_the_picture() -> None:
    for scene in scenes(400, seed=2):
        for i, item in enumerate(scene.objects):
            assert 0.99 - item.radius >= item.x >= item.radius + 0.009
            assert 0.99 - item.radius >= item.y >= item.radius + 0.009
            for other in scene.objects[:i]:
                assert np.hypot(item.x - other.x, item.y - other.y) > item.radius + other.radius + 0.005


def test_places_and_orders_are_unambiguous() -> None:
    for scene in scenes(600, seed=4):
        xs, ys = [o.x for o in scene.objects], [o.y for o in scene.objects]
        if scene.layout == "single":
            row, column = divmod(POSITIONS.index(scene.position), 3)
            assert int(xs[0] > 0.37) + int(xs[0] > 0.63) == column
            assert int(ys[0] > 0.37) + int(ys[0] > 0.63) == row
        elif scene.layout in ("row", "column"):
            along, across = (xs, ys) if scene.layout == "row" else (ys, xs)
            assert min(np.diff(along)) > 0.25
            assert max(across) - min(across) < 0.13
            assert len({o.kind for o in scene.objects}) == len({o.colour for o in scene.objects}) == scene.count


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text))


def singular(word: str) -> str:
    return word if word in KINDS else word.removesuffix("es" if word == "crosses" else "s")


@pytest.mark.parametrize("say", [caption, partial_caption, shape_caption])
def test_captions_name_only_what_is_there(say) -> None:  # type: ignore[no-untyped-def]
    for i, scene in enumerate(scenes(1500, seed=5)):
        text = say(scene, np.random.default_rng(i))
        # "a blue sky" and "a green meadow" are about the ground, and "starry" is not a star.
        things = text
        for phrases in GROUNDS.values():
            for phrase in sorted(phrases, key=len, reverse=True):
                things = things.replace(phrase, "")
        said = words(things)
        assert {w for w in said if w in COLOURS} <= {o.colour for o in scene.objects}, text
        assert {singular(w) for w in said if singular(w) in KINDS} <= {o.kind for o in scene.objects}, text
        assert {w for w in said if w in COUNTS} <= {COUNTS[scene.count - 1]}, text
        # "A photo of" is also what a prompt says about any picture.
        assert say is shape_caption or {name for name in STYLES if name in said} <= {scene.style}, text
        assert {name for name in BACKGROUNDS if name in text} <= {scene.background}, text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


def test_complete_captions_tell_near_twins_apart() -> None:
    for i, scene in enumerate(scenes(300, seed=6, pairs=TRAIN)):
        other = twin(scene, np.random.default_rng(i))
        texts = [caption(one, np.random.default_rng(9), complete=True) for one in (scene, other)]
        assert texts[0] != texts[1], scene


def test_swaps_change_who_is_what_and_where_but_not_the_order_of_places() -> None:
    for scene in scenes(200, seed=7):
        if scene.layout not in ("row", "column"):
            continue
        colours, places = swap_colours(scene), swap_places(scene)
        assert [o.colour for o in colours.objects][::-1][0] == scene.objects[0].colour
        assert [o.kind for o in colours.objects] == [o.kind for o in scene.objects]
        assert places.objects[0].kind == scene.objects[-1].kind
        assert (places.objects[0].x, places.objects[0].y) == (scene.objects[0].x, scene.objects[0].y)


def test_training_scenes_never_show_a_held_out_combination_and_unseen_ones_always_do() -> None:
    for scene in scenes(500, seed=8, pairs=TRAIN):
        assert not any(is_held_out(item) for item in scene.objects)
        other = twin(scene, np.random.default_rng(scene.seed))
        assert not any(is_held_out(item) for item in other.objects)
    for scene in scenes(300, seed=9, pairs=UNSEEN):
        assert all(is_held_out(item) for item in scene.objects)


def test_every_facet_has_labels_templates_and_answers() -> None:
    assert LABELS.keys() == TEMPLATES.keys()
    for facet, labels in LABELS.items():
        seen = {label_of(scene, facet) for scene in scenes(600, seed=10)} - {None}
        assert seen == set(range(len(labels))), facet
