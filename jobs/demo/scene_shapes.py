"""Outlines of every kind of object, as polygons in the unit square [-1, 1] x [-1, 1] (y down).

A shape is a list of parts painted in order. ``MAIN`` takes the object's colour and texture; ``DARK`` and
``LIGHT`` are tones of that colour; ``NEUTRAL`` and ``INK`` are grey, so that a detail never adds a second colour.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2): x, y
Part = tuple[Points, int]

CLEAR, OUTLINE, MAIN, DARK, LIGHT, NEUTRAL, INK, ACCENT, HALO = range(9)


def _poly(*xy: tuple[float, float]) -> Points:
    return np.array(xy, dtype=np.float64)


def _oval(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> Points:
    """An ellipse, or the part of it between two angles in degrees (clockwise from the right)."""
    turn = np.radians(np.linspace(start, end, 40))
    return np.stack([cx + rx * np.cos(turn), cy + ry * np.sin(turn)], axis=1)


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return _poly((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _star() -> list[Part]:
    turn = np.radians(np.arange(10) * 36.0 - 90.0)
    reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return [(np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1), MAIN)]


def _heart() -> list[Part]:
    t = np.linspace(0.0, 2 * np.pi, 60)
    x = 16 * np.sin(t) ** 3 / 17
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17 - 0.1
    return [(np.stack([x, y], axis=1), MAIN)]


def _ring() -> list[Part]:
    return [(_oval(0, 0, 0.98, 0.98), MAIN), (_oval(0, 0, 0.5, 0.5), CLEAR)]


def _cross() -> list[Part]:
    a, b = 0.33, 0.95
    return [
        (
            _poly(
                (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
                (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a),
            ),
            MAIN,
        )
    ]  # fmt: skip


def _moon() -> list[Part]:
    outer = _oval(0.1, 0.0, 0.95, 0.95, 55.0, 305.0)
    inner = _oval(0.55, 0.0, 0.82, 0.82, 250.0, 110.0)
    return [(np.concatenate([outer, inner]), MAIN)]


def _tree() -> list[Part]:
    return [
        (_box(-0.16, 0.5, 0.16, 1.0), NEUTRAL),
        (_poly((0, 0.0), (0.8, 0.68), (-0.8, 0.68)), MAIN),
        (_poly((0, -0.5), (0.66, 0.26), (-0.66, 0.26)), MAIN),
        (_poly((0, -1.0), (0.5, -0.2), (-0.5, -0.2)), MAIN),
    ]


def _house() -> list[Part]:
    return [
        (_box(-0.72, -0.15, 0.72, 0.95), MAIN),
        (_poly((0, -1.0), (1.0, -0.1), (-1.0, -0.1)), DARK),
        (_box(-0.2, 0.35, 0.2, 0.95), INK),
    ]


def _car() -> list[Part]:
    return [
        (_poly((-0.55, 0.0), (-0.35, -0.52), (0.35, -0.52), (0.62, 0.0)), DARK),
        (_poly((-0.4, -0.02), (-0.26, -0.4), (-0.04, -0.4), (-0.04, -0.02)), NEUTRAL),
        (_poly((0.08, -0.02), (0.08, -0.4), (0.27, -0.4), (0.44, -0.02)), NEUTRAL),
        (_poly((-1.0, 0.0), (0.9, 0.0), (1.0, 0.12), (1.0, 0.48), (-1.0, 0.48)), MAIN),
        (_oval(-0.52, 0.46, 0.25, 0.25), INK),
        (_oval(0.52, 0.46, 0.25, 0.25), INK),
    ]


def _fish() -> list[Part]:
    return [
        (_poly((0.35, 0.0), (1.0, -0.52), (1.0, 0.52)), DARK),
        (_oval(-0.22, 0.0, 0.78, 0.5), MAIN),
        (_oval(-0.6, -0.12, 0.11, 0.11), INK),
    ]


def _boat() -> list[Part]:
    return [
        (_box(-0.06, -1.0, 0.06, 0.4), INK),
        (_poly((0.14, -0.9), (0.14, 0.2), (0.8, 0.2)), LIGHT),
        (_poly((-0.14, -0.6), (-0.14, 0.2), (-0.6, 0.2)), LIGHT),
        (_poly((-1.0, 0.32), (1.0, 0.32), (0.62, 0.92), (-0.62, 0.92)), MAIN),
    ]


def _flower() -> list[Part]:
    petals: list[Part] = []
    for turn in np.radians(np.arange(6) * 60.0):
        petals.append((_oval(0.58 * float(np.cos(turn)), 0.58 * float(np.sin(turn)), 0.38, 0.38), MAIN))
    return [*petals, (_oval(0, 0, 0.3, 0.3), LIGHT)]


def _mushroom() -> list[Part]:
    return [
        (_poly((-0.24, 0.0), (0.24, 0.0), (0.36, 0.95), (-0.36, 0.95)), NEUTRAL),
        (_oval(0.0, 0.12, 0.98, 1.0, 180.0, 360.0), MAIN),
    ]


def _cup() -> list[Part]:
    return [
        (_oval(0.55, 0.0, 0.45, 0.45), DARK),
        (_oval(0.55, 0.0, 0.24, 0.24), CLEAR),
        (_poly((-0.85, -0.72), (0.62, -0.72), (0.45, 0.8), (-0.68, 0.8)), MAIN),
    ]


_SHAPES: dict[str, Callable[[], list[Part]]] = {
    "circle": lambda: [(_oval(0, 0, 0.95, 0.95), MAIN)],
    "square": lambda: [(_box(-0.85, -0.85, 0.85, 0.85), MAIN)],
    "triangle": lambda: [(_poly((0, -0.95), (1.0, 0.8), (-1.0, 0.8)), MAIN)],
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "cross": _cross,
    "moon": _moon,
    "tree": _tree,
    "house": _house,
    "car": _car,
    "fish": _fish,
    "boat": _boat,
    "flower": _flower,
    "mushroom": _mushroom,
    "cup": _cup,
}


@cache
def parts(kind: str) -> tuple[Part, ...]:
    """The parts of one kind, in painting order."""
    return tuple(_SHAPES[kind]())
