"""Eight backgrounds in three styles: a far tone, a near tone, and a motif that names the place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
RGB = tuple[int, int, int]
Draw = ImageDraw.ImageDraw


@dataclass(frozen=True, kw_only=True)
class Backdrop:
    """far, near: colours at the top and the bottom; ground: colour below the horizon (None: no horizon);
    ink: colour of the motif; motif: draws it; its last argument is the horizon in pixels."""

    far: RGB
    near: RGB
    ground: RGB | None
    ink: RGB
    motif: Callable[[Draw, int, np.random.Generator, RGB, int], None]


def _clouds(draw: Draw, size: int, rng: np.random.Generator, ink: RGB, horizon: int) -> None:
    for _ in range(4):
        x, y = rng.uniform(0, 1) * size, rng.uniform(0.02, 0.95) * size
        w = rng.uniform(0.1, 0.16) * size
        for dx, r in ((-0.6, 0.45), (0.0, 0.6), (0.65, 0.4)):
            draw.ellipse((x + dx * w - r * w, y - r * w * 0.6, x + dx * w + r * w, y + r * w * 0.5), fill=ink)


def _stars(draw: Draw, size: int, rng: np.random.Generator, ink: RGB, horizon: int) -> None:
    for x, y in rng.uniform(0, 1, (38, 2)) * size:
        r = rng.uniform(0.003, 0.009) * size
        draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)


def _blades(draw: Draw, size: int, rng: np.random.Generator, ink: RGB, horizon: int) -> None:
    for _ in range(70):
        x, y = rng.uniform(0, size), rng.uniform(horizon + 0.05 * size, size * 1.02)
        h = rng.uniform(0.025, 0.06) * size
        draw.line((x, y, x + rng.uniform(-0.4, 0.4) * h, y - h), fill=ink, width=max(1, size // 110))


def _dunes(draw: Draw, size: int, rng: np.random.Generator, ink: RGB, horizon: int) -> None:
    for _ in range(6):
        x, y = rng.uniform(-0.2, 0.8) * size, rng.uniform(horizon + 0.03 * size, size)
        w = rng.uniform(0.3, 0.7) * size
        draw.arc((x, y, x + w, y + 0.22 * w), 190, 350, fill=ink, width=max(1, size // 64))


def _flakes(draw: Draw, size: int, rng: np.random.Generator, ink: RGB, horizon: int) -> None:
    for x, y in rng.uniform(0, 1, (60, 2)) * size:
        r = rng.uniform(0.006, 0.014) * size
        draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)


def _bands(draw: Draw, size: int, rng: np.random.Generator, ink: RGB, horizon: int) -> None:
    for _ in range(16):
        x, y = rng.uniform(-0.1, 0.9) * size, rng.uniform(horizon + 0.02 * size, size)
        draw.line((x, y, x + rng.uniform(0.08, 0.25) * size, y), fill=ink, width=max(1, size // 80))


def _bricks(draw: Draw, size: int, rng: np.random.Generator, ink: RGB, horizon: int) -> None:
    high, wide, line = size * 0.1, size * 0.2, max(1, size // 64)
    shift = rng.uniform(0, wide)
    for row in range(-1, 12):
        y = row * high + shift / 3
        draw.line((0, y, size, y), fill=ink, width=line)
        for column in range(-1, 7):
            x = column * wide + (row % 2) * wide / 2 + shift
            draw.line((x, y, x, y + high), fill=ink, width=line)


def _planks(draw: Draw, size: int, rng: np.random.Generator, ink: RGB, horizon: int) -> None:
    wide = size * 0.17
    shift = rng.uniform(0, wide)
    for column in range(-1, 8):
        x = column * wide + shift
        draw.line((x, 0, x, size), fill=ink, width=max(1, size // 64))
        y = rng.uniform(0, size)
        draw.line((x, y, x + wide, y), fill=ink, width=max(1, size // 90))


PLACES = {
    "sky": Backdrop(far=(98, 172, 240), near=(176, 218, 250), ground=None, ink=(244, 249, 255), motif=_clouds),
    "night": Backdrop(far=(10, 14, 46), near=(36, 42, 92), ground=None, ink=(250, 246, 200), motif=_stars),
    "meadow": Backdrop(
        far=(196, 226, 240), near=(214, 236, 232), ground=(104, 178, 74), ink=(58, 122, 44), motif=_blades
    ),
    "desert": Backdrop(
        far=(246, 226, 190), near=(250, 236, 204), ground=(228, 190, 122), ink=(190, 146, 84), motif=_dunes
    ),
    "snow": Backdrop(
        far=(166, 180, 196), near=(198, 208, 220), ground=(232, 238, 246), ink=(255, 255, 255), motif=_flakes
    ),
    "sunset": Backdrop(
        far=(112, 60, 128), near=(255, 150, 70), ground=(104, 58, 92), ink=(250, 160, 100), motif=_bands
    ),
    "brick wall": Backdrop(far=(178, 92, 72), near=(164, 82, 64), ground=None, ink=(222, 208, 196), motif=_bricks),
    "wooden floor": Backdrop(far=(196, 148, 96), near=(184, 134, 82), ground=None, ink=(118, 78, 44), motif=_planks),
}


def backdrop(name: str, style: str, size_px: int, rng: np.random.Generator) -> Floats:
    """The empty scene: (size_px, size_px, 3), 0 to 255."""
    place = PLACES[name]
    far, near = _toned(place.far, style, rng), _toned(place.near, style, rng)
    ground = None if place.ground is None else _toned(place.ground, style, rng)
    ink = _toned(place.ink, style, rng)
    if style == "sketch" and name in ("snow", "sky"):
        ink = (max(0, near[0] - 70), max(0, near[1] - 70), max(0, near[2] - 70))  # white on paper is not a line
    rows = np.linspace(0, 1, size_px, dtype=np.float32)[:, None, None]
    if style != "photo":
        rows = np.round(rows)  # flat bands instead of a slope
    column = np.array(far, np.float32) * (1 - rows) + np.array(near, np.float32) * rows
    image = Image.fromarray(np.broadcast_to(column, (size_px, size_px, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    horizon = 0
    if ground is not None:
        horizon = round(rng.uniform(0.3, 0.5) * size_px)
        _land(draw, size_px, rng, ground, horizon)
    place.motif(draw, size_px, rng, ink, horizon)
    if style == "photo":
        image = image.filter(ImageFilter.GaussianBlur(size_px / 200))
    return np.array(image, np.float32)


def _land(draw: Draw, size: int, rng: np.random.Generator, ground: RGB, horizon: int) -> None:
    """The ground below a gently waving horizon."""
    phase, swing = rng.uniform(0, 6.28), rng.uniform(0.005, 0.025) * size
    xs = np.linspace(0, size, 25)
    ridge = [(float(x), float(horizon + swing * np.sin(x / size * 7 + phase))) for x in xs]
    draw.polygon([*ridge, (size, size), (0, size)], fill=ground)


def _toned(rgb: RGB, style: str, rng: np.random.Generator) -> RGB:
    """The place's colour in this style: paper washes it out in a sketch, a cartoon has it stronger."""
    colour = np.array(rgb, np.float32) + rng.uniform(-8, 8)
    if style == "sketch":
        colour = colour * 0.5 + 0.5 * 246
    elif style == "cartoon":
        colour = (colour - colour.mean()) * 1.2 + colour.mean()
    red, green, blue = (int(v) for v in np.clip(colour, 0, 255))
    return red, green, blue
