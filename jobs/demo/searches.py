"""The six searches of the demo, and what is true of the scenes they should find.

Scenes know what was drawn, so every answer can be marked right or wrong; a test holds the same
six to figures.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from clipmill.jobs.demo.captions import LABELS, label_of, plural
from clipmill.jobs.demo.scene_types import Scene

HITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """`like`: the picture to start from is the best hit of the search before it, instead of words. `where`: a filter
    over kept metadata. `is_true`: whether a scene answers it."""

    text: str = ""
    like: bool = False
    where: str | None = None
    shows: str  # what it demonstrates, for a person
    is_true: Callable[[Scene], bool]

    def command(self, program: str, table: str, like_id: str = "", *, k: int | None = HITS) -> str:
        """The command line that runs it; `k` None: with the command's own number of answers."""
        words = [program, "search", table, *(["--like", like_id] if self.like else [self.text])]
        if self.where:
            words += ["--where", self.where]
        return " ".join(_quoted(word) for word in [*words, *(["-k", str(k)] if k else [])])


def _quoted(word: str) -> str:
    """For a shell, in double quotes where those are enough: SQL has single ones inside."""
    if word == shlex.quote(word):
        return word
    return f'"{word}"' if not set(word) & set('"$`\\!') else shlex.quote(word)


def _has(scene: Scene, kind: str, colour: str | None = None) -> bool:
    return any(item.kind == kind and colour in (None, item.colour) for item in scene.objects)


def _equal(scene: Scene, kind: str, count: int) -> bool:
    return scene.layout == "count" and scene.count == count and scene.objects[0].kind == kind


SEARCHES = (
    Search(text="a green car", shows="a colour and a thing", is_true=lambda s: _has(s, "car", "green")),
    Search(
        text="a heart at night",
        shows="a thing and where it is",
        is_true=lambda s: _has(s, "heart") and s.background == "night",
    ),
    Search(
        text="a house in the top left corner",
        shows="a place in the picture",
        is_true=lambda s: s.position == "top left" and _has(s, "house"),
    ),
    Search(text="three stars", shows="how many", is_true=lambda s: _equal(s, "star", 3)),
    Search(like=True, shows="pictures like the best one above", is_true=lambda s: _equal(s, "star", 3)),
    Search(
        text="a sketch of a flower",
        where="background = 'meadow'",
        shows="words within a filter over the metadata",
        is_true=lambda s: _has(s, "flower") and s.style == "sketch" and s.background == "meadow",
    ),
)


def suggestions(scenes: Sequence[Scene]) -> list[Search]:
    """Searches to try next: what was drawn most often of each form, so that there is always something to find."""
    pairs = Counter((s.objects[0].colour, s.objects[0].kind) for s in scenes if s.layout == "count" and s.count == 2)
    singles = Counter((s.objects[0].kind, s.background) for s in scenes if s.count == 1)
    found = []
    if pairs:
        colour, kind = min(pairs, key=lambda pair: (-pairs[pair], pair))
        found.append(
            Search(
                text=f"two {colour} {plural(kind)}",
                shows="a number and a colour",
                is_true=lambda s: _equal(s, kind, 2) and s.objects[0].colour == colour,
            )
        )
    if singles:
        thing, ground = min(singles, key=lambda single: (-singles[single], single))
        found.append(
            Search(
                text=f"a {thing}",
                where=f"objects = 1 AND background = '{ground}'",
                shows="words within a filter over the metadata",
                is_true=lambda s: s.count == 1 and s.objects[0].kind == thing and s.background == ground,
            )
        )
    return found


def facet_accuracy(
    scenes: Sequence[Scene], tags: Iterable[Sequence[str]], facets: Iterable[str] = LABELS
) -> dict[str, float]:
    """Share of scenes whose best tag of a facet is the true one, over the scenes that have one true answer.

    `tags`: those of each scene, best first, as the table has them. A missing tag counts as wrong. NaN without scenes.
    """
    tags = list(tags)
    found = {}
    for facet in facets:
        labels = LABELS[facet]
        own = set(labels)
        right = [
            next((tag for tag in row if tag in own), None) == labels[truth]
            for scene, row in zip(scenes, tags, strict=True)
            if (truth := label_of(scene, facet)) is not None
        ]
        found[facet] = sum(right) / len(right) if right else float("nan")
    return found
