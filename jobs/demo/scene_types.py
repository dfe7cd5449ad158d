"""The nouns of the drawn world: what a scene is made of, and which words name its parts.

Coordinates are fractions of the picture's side: x to the right, y down, (0, 0) the top left corner.
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS = (
    "circle", "square", "triangle", "star", "heart", "ring", "cross", "moon",
    "tree", "house", "car", "fish", "boat", "flower", "mushroom", "cup",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black")
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUNDS = ("sky", "night", "meadow", "desert", "snow", "sunset", "brick wall", "wooden floor")
STYLES = ("photo", "cartoon", "sketch")
COUNTS = ("one", "two", "three", "four", "five")
POSITIONS = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
SIZES = ("small", "medium", "large")

# How a scene's objects are laid out, which decides what can be said about it without ambiguity.
LAYOUTS = ("single", "count", "row", "column")


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One thing in a picture.

    x, y: its centre; radius: half its side (all as fractions of the picture's side);
    angle: its tilt in radians, small enough that nothing looks upside down.
    """

    kind: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture before it is drawn. Everything the pixels depend on is here, so drawing is pure.

    layout: ``single`` (one object in one of nine places), ``count`` (2 to 5 equal objects, scattered),
    ``row`` (2 or 3 different objects, from left to right), ``column`` (the same from top to bottom).
    position: the place of a single object, else ``""``. seed: decides grain, clouds and the like.
    """

    objects: tuple[SceneObject, ...]
    layout: str
    position: str
    background: str
    style: str
    seed: int

    @property
    def count(self) -> int:
        """How many objects there are."""
        return len(self.objects)


def held_out_colour(kind: str) -> str:
    """The one colour this kind never has in the training pictures."""
    return COLOURS[(KINDS.index(kind) * 3 + 1) % len(COLOURS)]


def held_out_texture(kind: str) -> str:
    """The one texture (never ``plain``) this kind never has in the training pictures."""
    return TEXTURES[1 + KINDS.index(kind) % 3]


def is_held_out(item: SceneObject) -> bool:
    """Whether this object is a combination that training never shows."""
    return item.colour == held_out_colour(item.kind) or item.texture == held_out_texture(item.kind)
