"""English for scenes: varied captions, and the words a zero-shot vocabulary is made of.

``caption`` says what is in the picture, ``partial_caption`` only one or two things about it (as people and short
prompts do), ``LABELS`` and ``TEMPLATES`` are the vocabulary by facet, ``label_of`` the true answer where there is one.
"""

from __future__ import annotations

import numpy as np

from clipmill.jobs.demo.scene_types import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    KINDS,
    POSITIONS,
    STYLES,
    TEXTURES,
    Scene,
    SceneObject,
)

PLACES = {
    "top left": ("in the top left corner", "at the top left", "in the upper left corner"),
    "top": ("at the top", "at the top in the middle"),
    "top right": ("in the top right corner", "at the top right", "in the upper right corner"),
    "left": ("on the left", "on the left side", "at the left"),
    "center": ("in the center", "in the middle", "at the center"),
    "right": ("on the right", "on the right side", "at the right"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left corner"),
    "bottom": ("at the bottom", "at the bottom in the middle"),
    "bottom right": ("in the bottom right corner", "at the bottom right", "in the lower right corner"),
}
GROUNDS = {
    "sky": ("in the sky", "against a blue sky", "in front of a cloudy sky"),
    "night": ("at night", "in a starry night", "against the night"),
    "meadow": ("on a meadow", "in a green meadow", "over a meadow of grass"),
    "desert": ("in the desert", "in a sandy desert", "over desert sand"),
    "snow": ("in the snow", "in a snowy field of snow", "with snow behind"),
    "sunset": ("at sunset", "in the sunset", "against a sunset"),
    "brick wall": ("in front of a brick wall", "against a brick wall", "on a brick wall"),
    "wooden floor": ("on a wooden floor", "on the wooden floor", "over a wooden floor"),
}
LEADS = {
    "photo": ("a photo of ", "a photograph of ", "a realistic photo of "),
    "cartoon": ("a cartoon of ", "a flat cartoon of ", "a cartoon picture of "),
    "sketch": ("a sketch of ", "a line sketch of ", "a pencil sketch of "),
}
NEUTRAL_LEADS = ("", "", "a picture of ", "an image of ")

LABELS: dict[str, tuple[str, ...]] = {
    "object": KINDS,
    "colour": COLOURS,
    "count": ("one object", *(f"{number} objects" for number in COUNTS[1:])),
    "background": BACKGROUNDS,
    "position": tuple(PLACES[name][0] for name in POSITIONS),
    "texture": TEXTURES,
    "style": STYLES,
}
TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": ("{}", "a {}", "a photo of a {}", "a picture of a {}", "a drawing of a {}"),
    "colour": ("{}", "something {}", "a {} thing", "a photo of a {} object", "a picture of a {} object"),
    "count": ("{}", "a photo of {}", "a picture of {}", "a drawing of {}"),
    "background": ("{}", "a photo of a {} background", "a {} scene", "a picture with a {} background"),
    "position": ("an object {}", "something {}", "a photo of an object {}", "a picture of a thing {}"),
    "texture": ("{}", "something {}", "a {} thing", "a picture of a {} object"),
    "style": ("{}", "a {}", "a {} of an object", "a {} of something"),
}


def label_of(scene: Scene, facet: str) -> int | None:
    """The index in ``LABELS[facet]`` that is true of the scene, or None where no single one is."""
    first = scene.objects[0]
    alike = scene.layout in ("single", "count")
    answers = {
        "object": KINDS.index(first.kind) if alike else None,
        "colour": COLOURS.index(first.colour) if alike else None,
        "count": scene.count - 1,
        "background": BACKGROUNDS.index(scene.background),
        "position": POSITIONS.index(scene.position) if scene.position else None,
        "texture": TEXTURES.index(first.texture) if scene.layout == "single" and first.size != "small" else None,
        "style": STYLES.index(scene.style),
    }
    return answers[facet]


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def plural(kind: str) -> str:
    if kind == "fish":
        return kind
    return kind + ("es" if kind == "cross" else "s")


def name_object(item: SceneObject, rng: np.random.Generator, *, size: bool = False) -> str:
    """``a small red striped star``: everything that tells this object from another."""
    if item.texture == "plain":
        words = f"{item.colour} {item.kind}"
        if rng.random() < 0.08:
            words = f"plain {words}"
    elif rng.random() < 0.5:
        words = f"{item.texture} {item.colour} {item.kind}"
    else:
        words = f"{item.colour} {item.texture} {item.kind}"
    return _article(f"{item.size} {words}" if size and item.size != "medium" else words)


def caption(scene: Scene, rng: np.random.Generator, *, complete: bool = False) -> str:
    """One sentence that is true of the scene. complete: leave nothing out that could tell two scenes apart."""
    if scene.layout == "single":
        body = _single(scene, rng, complete)
    elif scene.layout == "count":
        body = _counted(scene, rng)
    elif scene.count == 2:
        body = _pair(scene, rng, complete)
    else:
        body = _trio(scene, rng, complete)
    lead = _pick(rng, LEADS[scene.style] if complete or rng.random() < 0.5 else NEUTRAL_LEADS)
    if not complete and rng.random() < 0.12:
        return lead + body
    ground = _pick(rng, GROUNDS[scene.background])
    return f"{ground}, {lead}{body}" if rng.random() < 0.15 else f"{lead}{body} {ground}"


def _single(scene: Scene, rng: np.random.Generator, complete: bool) -> str:
    words = name_object(scene.objects[0], rng, size=complete or rng.random() < 0.6)
    return f"{words} {_pick(rng, PLACES[scene.position])}" if complete or rng.random() < 0.85 else words


def _counted(scene: Scene, rng: np.random.Generator) -> str:
    item = scene.objects[0]
    return f"{COUNTS[scene.count - 1]} {item.colour} {plural(item.kind)}"


def _pair(scene: Scene, rng: np.random.Generator, complete: bool) -> str:
    first, second = (name_object(item, rng) for item in scene.objects)
    if not complete and rng.random() < 0.1:
        return f"{first} and {second}" if rng.random() < 0.5 else f"{second} next to {first}"
    if scene.layout == "row":
        forms = (
            f"{first} left of {second}",
            f"{first} to the left of {second}",
            f"{second} right of {first}",
            f"{second} to the right of {first}",
            f"{first} on the left and {second} on the right",
        )
    else:
        forms = (
            f"{first} above {second}",
            f"{first} over {second}",
            f"{second} below {first}",
            f"{second} under {first}",
            f"{first} at the top and {second} at the bottom",
        )
    return _pick(rng, forms)


def _trio(scene: Scene, rng: np.random.Generator, complete: bool) -> str:
    first, second, third = (name_object(item, rng) for item in scene.objects)
    if not complete and rng.random() < 0.1:
        return f"{third}, {first} and {second}"
    if scene.layout == "row":
        forms = (
            f"{first}, {second} and {third} from left to right",
            f"{third}, {second} and {first} from right to left",
            f"{first} on the left, {second} in the middle and {third} on the right",
        )
    else:
        forms = (
            f"{first}, {second} and {third} from top to bottom",
            f"{third}, {second} and {first} from bottom to top",
            f"{first} at the top, {second} in the middle and {third} at the bottom",
        )
    return _pick(rng, forms)


def partial_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A short text about one or two facets of the scene, true of it but also of many others."""
    options = [_about_place(scene, rng), _about_things(scene, rng), _about_things(scene, rng), _about_count(scene, rng)]
    if scene.layout == "single":
        options.append(_about_position(scene, rng))
        options.append(_about_position(scene, rng))
        if scene.objects[0].size != "small":
            texture = scene.objects[0].texture
            options.append(_pick(rng, (texture, f"something {texture}", _article(f"{texture} thing"))))
    style = _pick(rng, LEADS[scene.style]) + _pick(rng, ("an object", "something", "things"))
    options.append(style if rng.random() < 0.6 else scene.style)
    return _pick(rng, tuple(options))


def shape_caption(scene: Scene, rng: np.random.Generator) -> str:
    """The whole scene without its colours, textures, style or background: kinds, counts, places and order only."""
    kinds = [_article(item.kind) for item in scene.objects]
    lead = _pick(rng, ("", "", "a picture of ", "a drawing of ", "a photo of "))
    if scene.layout == "single":
        thing = _pick(rng, (kinds[0], kinds[0], "an object", "something"))
        return f"{lead}{thing} {_pick(rng, PLACES[scene.position])}" if rng.random() < 0.6 else f"{lead}{kinds[0]}"
    if scene.layout == "count":
        noun = plural(scene.objects[0].kind)
        number = COUNTS[scene.count - 1]
        return lead + _pick(rng, (f"{number} {noun}", f"{number} {noun}", noun, f"{number} objects", kinds[0]))
    if rng.random() < 0.2:
        return lead + _pick(rng, tuple(kinds))
    if scene.layout == "row":
        between, ends = ("left of", "to the left of"), "from left to right"
    else:
        between, ends = ("above", "over"), "from top to bottom"
    if scene.count == 2:
        return f"{lead}{kinds[0]} {_pick(rng, between)} {kinds[1]}"
    return f"{lead}{kinds[0]}, {kinds[1]} and {kinds[2]} {ends}"


def _lead(scene: Scene, rng: np.random.Generator) -> str:
    return _pick(rng, LEADS[scene.style] if rng.random() < 0.3 else ("", "", "a picture of "))


def _about_place(scene: Scene, rng: np.random.Generator) -> str:
    ground = scene.background
    lead = _lead(scene, rng)
    forms = (
        ground,
        f"{lead}a {ground} background",
        f"{lead}a {ground} scene",
        f"{lead}a scene {_pick(rng, GROUNDS[ground])}",
        f"{lead}something {_pick(rng, GROUNDS[ground])}",
        f"a picture with a {ground} background",
    )
    return _pick(rng, forms)


def _about_things(scene: Scene, rng: np.random.Generator) -> str:
    item = scene.objects[int(rng.integers(scene.count))]
    lead = _lead(scene, rng)
    if scene.layout == "count":
        forms = (
            f"{lead}{plural(item.kind)}",
            f"{lead}{item.colour} {plural(item.kind)}",
            f"{lead}{item.colour} things",
            item.colour,
            item.kind,
            f"{lead}{item.colour} objects",
            f"something {item.colour}",
            f"{lead}{_article(item.kind)}",
        )
    else:
        forms = (
            f"{lead}{_article(item.kind)}",
            f"{lead}{name_object(item, rng)}",
            f"{lead}{_article(item.colour)} thing",
            item.kind,
            item.colour,
            f"{lead}{_article(item.colour)} object",
            f"something {item.colour}",
            f"a drawing of {_article(item.kind)}",
        )
    return _pick(rng, forms)


def _about_count(scene: Scene, rng: np.random.Generator) -> str:
    number, one = COUNTS[scene.count - 1], scene.count == 1
    nouns = ["object" if one else "objects", "thing" if one else "things"]
    if scene.layout in ("single", "count"):
        kind = scene.objects[0].kind
        nouns.append(kind if one else plural(kind))
    return f"{_lead(scene, rng)}{number} {nouns[int(rng.integers(len(nouns)))]}"


def _about_position(scene: Scene, rng: np.random.Generator) -> str:
    item = scene.objects[0]
    thing = _pick(rng, ("an object", "something", "a thing", _article(item.kind), name_object(item, rng)))
    return f"{_lead(scene, rng)}{thing} {_pick(rng, PLACES[scene.position])}"
