"""Scenes to draw: sampling, near-twins for hard negatives, and drawing (see ``scene_paint``).

Everything is a pure function of a seed. Scenes are unambiguous by construction: nothing touches, a place is
one of nine well separated cells, and things beside each other differ far more along one axis than the other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clipmill.jobs.demo.scene_paint import render
from clipmill.jobs.demo.scene_types import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    KINDS,
    LAYOUTS,
    POSITIONS,
    SIZES,
    STYLES,
    TEXTURES,
    Scene,
    SceneObject,
    held_out_colour,
    held_out_texture,
    is_held_out,
)

__all__ = ["Scene", "SceneObject", "is_held_out", "meaning", "render", "sample_scene", "twin"]

RADIUS = {"small": (0.105, 0.12), "medium": (0.15, 0.17), "large": (0.215, 0.235)}
CELLS = (0.23, 0.5, 0.77)  # centres of the nine places
MAX_TILT = 0.2  # radians
LAYOUT_SHARES = {"single": 0.34, "count": 0.22, "row": 0.26, "column": 0.18}

TRAIN, UNSEEN, ANY = (
    "train",
    "unseen",
    "any",
)  # which (kind, colour) and (kind, texture) pairs a scene may use


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _look(rng: np.random.Generator, pairs: str, *, textured: bool, kinds: tuple[str, ...] = KINDS) -> SceneObject:
    """An object with kind, colour and texture chosen, still without a place."""
    while True:
        kind = _pick(rng, kinds)
        texture = _pick(rng, TEXTURES[1:]) if textured and rng.random() < 0.4 else "plain"
        item = SceneObject(
            kind=kind,
            colour=_pick(rng, COLOURS),
            texture=texture,
            size="medium",
            x=0.5,
            y=0.5,
            radius=0.15,
            angle=0.0,
        )
        if pairs == UNSEEN and not is_held_out(item):
            if texture != "plain":
                item = replace(item, texture=held_out_texture(kind))
            else:
                item = replace(item, colour=held_out_colour(kind))
        if pairs != TRAIN or not is_held_out(item):
            return item


def _tilt(rng: np.random.Generator) -> float:
    return float(rng.uniform(-MAX_TILT, MAX_TILT))


def place_single(rng: np.random.Generator, item: SceneObject, position: str, size: str) -> SceneObject:
    """Put one object into one of the nine places; a hair off centre, never over the edge."""
    row, column = divmod(POSITIONS.index(position), 3)
    radius = float(rng.uniform(*RADIUS[size]))
    x, y = (
        float(np.clip(CELLS[cell] + rng.uniform(-0.035, 0.035), radius + 0.01, 0.99 - radius)) for cell in (column, row)
    )
    return replace(item, x=x, y=y, radius=radius, size=size, angle=_tilt(rng))


def place_count(rng: np.random.Generator, item: SceneObject, count: int) -> tuple[SceneObject, ...]:
    """Scatter ``count`` equal objects so that none touch: starts over with smaller ones when they do not fit."""
    radius = float(rng.uniform(0.12, 0.16) if count <= 3 else rng.uniform(0.105, 0.13))
    while True:
        centres: list[tuple[float, float]] = []
        for _ in range(60):
            x, y = (float(v) for v in rng.uniform(radius + 0.02, 0.98 - radius, size=2))
            if all(np.hypot(x - a, y - b) > 2.45 * radius for a, b in centres):
                centres.append((x, y))
            if len(centres) == count:
                return tuple(replace(item, x=a, y=b, radius=radius, angle=_tilt(rng)) for a, b in centres)
        radius *= 0.97


def place_line(rng: np.random.Generator, items: tuple[SceneObject, ...], layout: str) -> tuple[SceneObject, ...]:
    """Two or three objects in a row or a column, in the given order."""
    centres = (0.27, 0.73) if len(items) == 2 else (0.18, 0.5, 0.82)
    low, high = (0.14, 0.19) if len(items) == 2 else (0.12, 0.145)
    across = float(rng.uniform(0.3, 0.7))
    placed = []
    for centre, item in zip(centres, items, strict=True):
        radius = float(rng.uniform(low, high))
        along = float(np.clip(centre + rng.uniform(-0.025, 0.025), radius + 0.01, 0.99 - radius))
        beside = across + float(rng.uniform(-0.06, 0.06))
        x, y = (along, beside) if layout == "row" else (beside, along)
        placed.append(replace(item, x=x, y=y, radius=radius, angle=_tilt(rng)))
    return tuple(placed)


def sample_scene(
    rng: np.random.Generator,
    *,
    pairs: str = ANY,
    layouts: tuple[str, ...] = LAYOUTS,
    styles: tuple[str, ...] = STYLES,
) -> Scene:
    """One random scene.

    pairs: ``train`` never uses a held-out combination, ``unseen`` uses one for every object, ``any`` does not care.
    """
    shares = np.array([LAYOUT_SHARES[name] for name in layouts])
    layout = layouts[int(rng.choice(len(layouts), p=shares / shares.sum()))]
    position = ""
    if layout == "single":
        size, position = _pick(rng, SIZES), _pick(rng, POSITIONS)
        item = _look(rng, pairs, textured=size != "small")
        objects: tuple[SceneObject, ...] = (place_single(rng, item, position, size),)
    elif layout == "count":
        objects = place_count(rng, _look(rng, pairs, textured=False), int(rng.integers(2, len(COUNTS) + 1)))
    else:
        objects = place_line(rng, _different(rng, pairs, 2 + int(rng.random() < 0.5)), layout)
    return Scene(
        objects=objects,
        layout=layout,
        position=position,
        background=_pick(rng, BACKGROUNDS),
        style=_pick(rng, styles),
        seed=int(rng.integers(2**31)),
    )


def _different(rng: np.random.Generator, pairs: str, number: int) -> tuple[SceneObject, ...]:
    """Objects of which no two share a kind or a colour. Three are too small to tell a texture by."""
    found: list[SceneObject] = []
    while len(found) < number:
        item = _look(rng, pairs, textured=number == 2)
        if all(item.kind != other.kind and item.colour != other.colour for other in found):
            found.append(item)
    return tuple(found)


def swap_colours(scene: Scene) -> Scene:
    """The same things in the same places with the colours of the first and the last exchanged."""
    first, *middle, last = scene.objects
    objects = (replace(first, colour=last.colour), *middle, replace(last, colour=first.colour))
    return replace(scene, objects=objects)


def swap_places(scene: Scene) -> Scene:
    """The same things with the places of the first and the last exchanged."""
    first, *middle, last = scene.objects
    objects = (
        replace(last, x=first.x, y=first.y, radius=first.radius),
        *middle,
        replace(first, x=last.x, y=last.y, radius=last.radius),
    )
    return replace(scene, objects=objects)


def meaning(scene: Scene) -> tuple[object, ...]:
    """What a complete caption tells. Scenes of equal meaning cannot be told apart by words."""
    things = tuple((o.kind, o.colour, o.texture, o.size) for o in scene.objects)
    return (things, scene.layout, scene.position, scene.background, scene.style)


def twin(scene: Scene, rng: np.random.Generator, *, pairs: str = TRAIN) -> Scene:
    """A scene that differs in one respect: the hard negative that shares a batch with ``scene``.

    pairs: as the scene was sampled; ``train`` scenes get twins without held-out combinations.
    """
    assert pairs != TRAIN or not any(is_held_out(item) for item in scene.objects)
    scene_seed = int(rng.integers(2**31))
    while True:
        other = _twin_once(scene, rng)
        allowed = pairs != TRAIN or not any(is_held_out(item) for item in other.objects)
        if meaning(other) != meaning(scene) and allowed:
            return replace(other, seed=scene_seed)


def _twin_once(scene: Scene, rng: np.random.Generator) -> Scene:
    if rng.random() < 0.12:
        return replace(scene, background=_pick(rng, BACKGROUNDS))
    first = scene.objects[0]
    if scene.layout == "single":
        change = int(rng.integers(4))
        position, size = scene.position, first.size
        if change == 0:
            position = _pick(rng, POSITIONS)
        elif change == 1:
            first = replace(first, kind=_pick(rng, KINDS))
        elif change == 2:
            first = replace(first, colour=_pick(rng, COLOURS))
        elif size != "small":
            first = replace(first, texture=_pick(rng, TEXTURES))
        else:
            size = _pick(rng, SIZES)
        return replace(scene, objects=(place_single(rng, first, position, size),), position=position)
    if scene.layout == "count":
        change = int(rng.integers(3))
        count = scene.count
        if change == 0:
            count = int(np.clip(count + rng.choice((-1, 1)), 2, len(COUNTS)))
        elif change == 1:
            first = replace(first, kind=_pick(rng, KINDS))
        else:
            first = replace(first, colour=_pick(rng, COLOURS))
        return replace(scene, objects=place_count(rng, first, count))
    return swap_colours(scene) if rng.random() < 0.55 else swap_places(scene)
