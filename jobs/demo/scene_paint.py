"""Draw a scene with numpy and Pillow. Shapes: pictures are (S, S, 3), patches (P, P, 4); values are 0 to 255.

Every width is a fraction of the side, so one scene looks the same at 64 and at 512 pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from clipmill.jobs.demo import scene_shapes as shapes
from clipmill.jobs.demo.scene_backdrop import backdrop
from clipmill.jobs.demo.scene_types import Scene, SceneObject

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

RGB = {
    "red": (216, 34, 38),
    "orange": (248, 132, 16),
    "yellow": (250, 220, 40),
    "green": (40, 158, 62),
    "blue": (36, 92, 220),
    "purple": (134, 52, 178),
    "pink": (250, 142, 190),
    "brown": (120, 70, 36),
    "white": (248, 248, 248),
    "black": (26, 26, 28),
}
OVERSAMPLE = 3
EDGE = {"photo": 0.006, "cartoon": 0.014, "sketch": 0.017}  # width of the outline, fraction of the side


def render(scene: Scene, size_px: int) -> Pixels:
    """The picture of ``scene``: uint8, (size_px, size_px, 3), RGB. The same scene gives the same bytes."""
    rng = np.random.default_rng(scene.seed)
    canvas = backdrop(scene.background, scene.style, size_px, rng)
    for item in scene.objects:
        _paste(canvas, item, scene.style, rng)
    if scene.style == "photo":
        light = 1.0 + rng.uniform(-0.06, 0.06)
        canvas = canvas * np.float32(light) + rng.normal(0, 3.5, canvas.shape).astype(np.float32)
    return np.asarray(np.clip(canvas + 0.5, 0, 255), dtype=np.uint8)


def _paste(canvas: Floats, item: SceneObject, style: str, rng: np.random.Generator) -> None:
    size_px = canvas.shape[0]
    half = int(np.ceil((item.radius * 1.12 + 0.03) * size_px))
    x, y = round(item.x * size_px), round(item.y * size_px)
    tones = _tones(item.colour, style, rng)
    patch = _patch(item, tones, half, size_px, style)
    if style == "photo":
        _shade(patch, rng)
        shift = max(1, round(0.018 * size_px))
        _blend(canvas, _shadow(patch[..., 3], size_px), x + shift, y + shift)
    _blend(canvas, patch, x, y)


def _blend(canvas: Floats, patch: Floats, x: int, y: int) -> None:
    """Paint a patch, colour premultiplied by its alpha, centred on (x, y); what lies outside is cut."""
    size_px, half = canvas.shape[0], patch.shape[0] // 2
    x0, y0 = max(0, x - half), max(0, y - half)
    x1, y1 = min(size_px, x - half + patch.shape[1]), min(size_px, y - half + patch.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    cut = patch[y0 - y + half : y1 - y + half, x0 - x + half : x1 - x + half]
    canvas[y0:y1, x0:x1] = canvas[y0:y1, x0:x1] * (1 - cut[..., 3:] / 255) + cut[..., :3]


def _tones(colour: str, style: str, rng: np.random.Generator) -> Floats:
    """Colour and alpha of every tone in ``scene_shapes``: (tone, RGBA)."""
    base = np.array(RGB[colour], np.float32) + rng.uniform(-7, 7, 3).astype(np.float32)
    bright = float(base @ np.array([0.3, 0.59, 0.11], np.float32))
    accent = base * 0.5 if bright > 185 else base * 0.2 + 204
    if colour == "black":
        accent = np.full(3, 165, np.float32)
    dark = base * 0.72 if bright > 40 else base + 45
    edge = base * 0.45 if style == "photo" else np.full(3, 22, np.float32)
    fill = base
    if style == "sketch":
        # A pencil drawing: the line carries the colour, the inside is a lighter wash of it.
        edge = base * 0.85 if 40 < bright < 185 else base * 0.55
        fill, dark, accent = base * 0.62 + 92, base * 0.8, np.clip(accent * 0.9 + 20, 0, 255)
        if colour == "black":
            fill = np.full(3, 62, np.float32)
    table = np.zeros((9, 4), np.float32)
    light = base * 0.35 + 160 if colour != "black" else np.full(3, 70, np.float32)
    inside = {
        shapes.OUTLINE: edge,
        shapes.MAIN: fill,
        shapes.DARK: dark,
        shapes.LIGHT: light,
        shapes.ACCENT: accent,
    }
    for tone, rgb in inside.items():
        table[tone] = (*np.clip(rgb, 0, 255), 255)
    table[shapes.NEUTRAL] = (168, 168, 172, 255)
    table[shapes.INK] = (58, 58, 62, 255) if bright > 60 else (110, 110, 115, 255)
    table[shapes.HALO] = (238, 238, 238, 255 if style != "sketch" else 0)
    return table


def _patch(item: SceneObject, tones: Floats, half: int, size_px: int, style: str) -> Floats:
    """The object alone: (2 * half, 2 * half, RGBA), premultiplied."""
    side = 2 * half * OVERSAMPLE
    scale = item.radius * size_px * OVERSAMPLE
    turn = np.array([[np.cos(item.angle), np.sin(item.angle)], [-np.sin(item.angle), np.cos(item.angle)]])
    image = Image.new("L", (side, side), shapes.CLEAR)
    draw = ImageDraw.Draw(image)
    outlines = [(points @ turn * scale + side / 2, tone) for points, tone in shapes.parts(item.kind)]
    edge = EDGE[style] * size_px * OVERSAMPLE
    # A thin pale rim outside the dark outline, so that black shows at night and green in the grass.
    for width, tone in ((edge * 2 + 0.012 * size_px * OVERSAMPLE, shapes.HALO), (edge * 2, shapes.OUTLINE)):
        for points, part in outlines:
            if part != shapes.CLEAR:
                _line(draw, points, tone, width)
    for points, part in outlines:
        draw.polygon([tuple(p) for p in points], fill=part)
        if part == shapes.CLEAR:
            _line(draw, points, shapes.OUTLINE, edge)
        elif style != "photo" and len(outlines) > 1 and item.kind != "flower":
            _line(draw, points, shapes.OUTLINE, edge * 0.6)
    index = np.array(image)
    if item.texture != "plain":
        _texture(index, item, scale)
    return _shrunk(index, tones)


def _shrunk(index: Pixels, tones: Floats) -> Floats:
    """Tone numbers as colours of OVERSAMPLE times fewer pixels a side, premultiplied.

    Blocks of one tone, nine of ten, are looked up; the others are added up sample by sample, in the order of rows:
    floats added in another order would be other bytes.
    """
    premultiplied = np.concatenate([tones[:, :3] * (tones[:, 3:] / 255), tones[:, 3:]], axis=1)
    side = len(index) // OVERSAMPLE
    blocks = index.reshape(side, OVERSAMPLE, side, OVERSAMPLE).transpose(1, 3, 0, 2).reshape(OVERSAMPLE**2, -1)
    small: Floats = _mean(np.broadcast_to(np.arange(len(tones)), (len(blocks), len(tones))), premultiplied)[blocks[0]]
    mixed = np.flatnonzero((blocks[1:] != blocks[0]).any(axis=0))
    small[mixed] = _mean(blocks[:, mixed], premultiplied)
    return np.asarray(small.reshape(side, side, 4), np.float32)


def _mean(blocks: NDArray[np.integer], colours: Floats) -> Floats:
    """(samples, blocks) of tone numbers: the mean colour of each block."""
    total = colours[blocks[0]]
    for samples in blocks[1:]:
        total += colours[samples]
    return np.asarray(total / len(blocks), np.float32)


def _line(draw: ImageDraw.ImageDraw, points: NDArray[np.float64], tone: int, width: float) -> None:
    closed = [tuple(p) for p in (*points, points[0], points[1])]
    draw.line(closed, fill=tone, width=max(1, round(width)), joint="curve")


def _texture(index: Pixels, item: SceneObject, scale: float) -> None:
    """The second tone of a texture into what has the first, in place. Its period follows the object's size."""
    rows, columns = np.nonzero(index == shapes.MAIN)
    axis = (np.arange(len(index)) - len(index) / 2) / scale
    x, y = axis[columns], axis[rows]
    along = x * np.cos(item.angle) + y * np.sin(item.angle)
    down = -x * np.sin(item.angle) + y * np.cos(item.angle)
    if item.texture == "striped":
        second = (down / 0.5) % 1 < 0.5
    elif item.texture == "checkered":
        second = (np.floor(along / 0.44) + np.floor(down / 0.44)) % 2 == 0
    else:
        second = ((along / 0.6) % 1 - 0.5) ** 2 + ((down / 0.6) % 1 - 0.5) ** 2 < 0.085
    index[rows[second], columns[second]] = shapes.ACCENT


def _shade(patch: Floats, rng: np.random.Generator) -> None:
    """Light from the upper left: a slope over the body and a soft highlight, in place."""
    axis = np.linspace(-1, 1, patch.shape[0], dtype=np.float32)
    slope = 1.0 - 0.13 * (axis[None, :] + axis[:, None])
    spot = np.exp(-((axis[None, :] + 0.3) ** 2 + (axis[:, None] + 0.3) ** 2) / 0.06) * rng.uniform(20, 60)
    patch[..., :3] = patch[..., :3] * slope[..., None] + (spot * patch[..., 3] / 255)[..., None]
    np.clip(patch[..., :3], 0, patch[..., 3:], out=patch[..., :3])


def _shadow(alpha: Floats, size_px: int) -> Floats:
    soft = Image.fromarray(alpha.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.014 * size_px))
    out = np.zeros((*alpha.shape, 4), np.float32)
    out[..., 3] = np.asarray(soft, np.float32) * 0.45
    return out
