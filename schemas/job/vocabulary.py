"""The labels that pictures are tagged with: names, synonyms, facets and prompt templates, as frozen values.

Reading files is `workers.tag.load_vocabulary`'s; here is what a vocabulary is and how its text is understood.
"""

import csv
import difflib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.strict_yaml import Lines, load_yaml

MAX_LABELS = 100_000
MAX_SYNONYMS = 64
MAX_TEMPLATES = 500
MAX_CHARS = 200  # of a label, synonym or template: CLIP reads 77 tokens at most
PLACEHOLDER = "{label}"
DEFAULT_TEMPLATES = ("a photo of a {label}.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One tag. `synonyms` are other words for it, averaged with the name; `facet` groups labels that exclude each
    other (one softmax per facet), empty where the vocabulary has no facets."""

    name: str
    synonyms: tuple[str, ...] = ()
    facet: str = ""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Labels in order, those of one facet next to each other. `templates` hold `{label}` once each;
    `facet_templates` replaces them for the facets it names. `thresholds`: the least score of a tag, for labels that
    were calibrated on one model's vectors; no part of the hash, because it is of a table and not of the file."""

    name: str
    labels: tuple[Label, ...]
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    facet_templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict, compare=False)

    @cached_property
    def hash(self) -> str:
        """16 hex digits over everything that changes a tag; the name is not among it."""
        content = [
            [[label.name, label.synonyms, label.facet] for label in self.labels],
            self.templates,
            sorted(self.facet_templates.items()),
        ]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]

    @cached_property
    def facets(self) -> tuple[tuple[str, int, int], ...]:
        """(facet, start, stop) of each run of labels; one with an empty name where there are no facets."""
        runs: list[tuple[str, int, int]] = []
        for index, label in enumerate(self.labels):
            if runs and runs[-1][0] == label.facet:
                runs[-1] = (label.facet, runs[-1][1], index + 1)
            else:
                runs.append((label.facet, index, index + 1))
        return tuple(runs)

    def prompts(self, label: Label) -> list[str]:
        """Every template with the name and with each synonym."""
        templates = self.facet_templates.get(label.facet, self.templates)
        words = (label.name, *label.synonyms)
        return [template.replace(PLACEHOLDER, word) for word in words for template in templates]


def parse_vocabulary(text: str, *, name: str, where: str, form: str = "yaml") -> Vocabulary:
    """A vocabulary from the text of its file.

    `where` is the file, for messages; `name` is used where the file gives none; `form` is yaml or csv.
    Raises UserError naming the line or the label.
    """
    return _from_csv(text, name, where) if form == "csv" else _from_yaml(text, name, where)


def _from_yaml(text: str, name: str, where: str) -> Vocabulary:
    data, lines = load_yaml(text, where)
    if isinstance(data, list):
        data, lines = {"labels": data}, {("labels", *path): line for path, line in lines.items()}
    if not isinstance(data, dict):
        raise UserError(f"{where} is not a vocabulary: it holds no keys", "start it with `labels: [cat, dog]`")
    for key in data:
        _known_keys({key: None}, ("name", "templates", "labels", "facets"), f"{where}, line {lines.get((key,), 1)}")
    if ("labels" in data) == ("facets" in data):
        raise UserError(
            f"{where} needs either `labels` or `facets`", "`labels: [cat, dog]`, or `facets: {colour: [red, blue]}`"
        )
    reader = _Reader(where, lines)
    templates = reader.templates(data.get("templates"), ("templates",)) or DEFAULT_TEMPLATES
    labels: list[Label] = []
    facet_templates: dict[str, tuple[str, ...]] = {}
    if "labels" in data:
        labels = reader.labels(data["labels"], ("labels",), "")
    else:
        facets = data["facets"]
        if not isinstance(facets, dict) or not facets:
            raise reader.error(("facets",), "`facets` is not a mapping of facet to labels", "facets: {colour: [red]}")
        for facet, value in facets.items():
            path: tuple[str | int, ...] = ("facets", facet)
            if isinstance(value, dict):
                _known_keys(value, ("templates", "labels"), f"{where}, facet '{facet}'")
                own = reader.templates(value.get("templates"), (*path, "templates"))
                facet_templates |= {facet: own} if own else {}
                value, path = value.get("labels"), (*path, "labels")
            labels += reader.labels(value, path, reader.word(facet, path))
    given = data.get("name", name)
    return _checked(
        Vocabulary(
            name=reader.word(given, ("name",)),
            labels=tuple(labels),
            templates=templates,
            facet_templates=facet_templates,
        ),
        where,
    )


def _from_csv(text: str, name: str, where: str) -> Vocabulary:
    """Columns: label, and optionally synonyms (separated by `;`) and facet."""
    rows = csv.DictReader(io.StringIO(text), strict=True)
    columns = [column.strip() for column in rows.fieldnames or ()]
    if "label" not in columns:
        raise UserError(
            f"{where}: the first line names no column `label`", "start the file with `label` or `label,synonyms,facet`"
        )
    rows.fieldnames = columns
    _known_keys(dict.fromkeys(columns), ("label", "synonyms", "facet"), f"{where}, first line")
    by_facet: dict[str, list[Label]] = {}
    try:
        for row in rows:
            reader = _Reader(f"{where}, line {rows.line_num}", {})
            if None in row:
                raise reader.error((), "there are more values than columns", "quote values that hold a comma")
            synonyms = [part.strip() for part in (row.get("synonyms") or "").split(";") if part.strip()]
            item = {"name": row["label"], "synonyms": synonyms}
            facet = (row.get("facet") or "").strip()
            by_facet.setdefault(facet, []).append(reader.label(item, (), facet))
    except csv.Error as error:
        raise UserError(f"{where}, line {rows.line_num}: this is not CSV: {error}", "check the quotes there") from None
    labels = tuple(label for group in by_facet.values() for label in group)
    return _checked(Vocabulary(name=name, labels=labels), where)


class _Reader:
    """Checks values of one file and names the line they stand on."""

    def __init__(self, where: str, lines: Lines) -> None:
        self.where, self.lines = where, lines

    def error(self, path: tuple[str | int, ...], message: str, hint: str) -> UserError:
        while path and path not in self.lines:
            path = path[:-1]
        return UserError(f"{self.where}{f', line {self.lines[path]}' if path else ''}: {message}", hint)

    def word(self, value: Any, path: tuple[str | int, ...]) -> str:
        if isinstance(value, bool):
            raise self.error(
                path,
                f"a bare {str(value).lower()} is not text",
                "quote it: YAML reads yes, no, on and off as true or false",
            )
        if not isinstance(value, str | int | float):
            raise self.error(
                path, f"{'nothing' if value is None else 'this'} is not text", "give a word or a short phrase"
            )
        text = " ".join(str(value).split())
        if not text or len(text) > MAX_CHARS:
            raise self.error(path, f"a label has {len(text)} characters", f"1 to {MAX_CHARS} are allowed")
        return text

    def label(self, value: Any, path: tuple[str | int, ...], facet: str) -> Label:
        if not isinstance(value, dict):
            return Label(name=self.word(value, path), facet=facet)
        at = f"{self.where}, line {self.lines[path]}" if path in self.lines else self.where
        _known_keys(value, ("name", "synonyms"), at)
        if "name" not in value:
            raise self.error(path, "a label has no `name`", "write `{name: blue, synonyms: [azure]}`")
        synonyms = value.get("synonyms") or []
        if not isinstance(synonyms, list) or len(synonyms) > MAX_SYNONYMS:
            raise self.error(path, f"synonyms of '{value['name']}' are not a list of at most {MAX_SYNONYMS}", "[a, b]")
        words = tuple(self.word(word, (*path, "synonyms", i)) for i, word in enumerate(synonyms))
        return Label(name=self.word(value["name"], (*path, "name")), synonyms=words, facet=facet)

    def labels(self, value: Any, path: tuple[str | int, ...], facet: str) -> list[Label]:
        if not isinstance(value, list) or not value:
            raise self.error(
                path, f"'{path[-1]}' is not a list of labels", "write `[red, blue]`, or one `- red` a line"
            )
        return [self.label(item, (*path, index), facet) for index, item in enumerate(value)]

    def templates(self, value: Any, path: tuple[str | int, ...]) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, list) or not value or len(value) > MAX_TEMPLATES:
            raise self.error(
                path, f"`templates` is not a list of 1 to {MAX_TEMPLATES}", "templates: ['a photo of a {label}.']"
            )
        return tuple(self._template(item, (*path, index)) for index, item in enumerate(value))

    def _template(self, value: Any, path: tuple[str | int, ...]) -> str:
        text = self.word(value, path).replace("{}", PLACEHOLDER)
        if text.count(PLACEHOLDER) != 1:
            raise self.error(
                path, f"template '{text}' does not hold {PLACEHOLDER} once", "such as 'a photo of a {label}.'"
            )
        return text


def _known_keys(data: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"the keys are {', '.join(known)}"
            raise UserError(f"{where}: '{key}' is not a known key", hint)


def _checked(vocabulary: Vocabulary, where: str) -> Vocabulary:
    """A tag is a plain word in the table, so one word means one label in the whole vocabulary."""
    if not 1 <= len(vocabulary.labels) <= MAX_LABELS:
        raise UserError(
            f"{where} has {len(vocabulary.labels):,} labels", f"1 to {MAX_LABELS:,} are allowed; split it into several"
        )
    seen: dict[str, Label] = {}
    for label in vocabulary.labels:
        other = seen.setdefault(label.name, label)
        if other is not label:
            place = f"in facets '{other.facet}' and '{label.facet}'" if other.facet != label.facet else "twice"
            raise UserError(f"{where}: the label '{label.name}' is given {place}", "make the words differ, or drop one")
    for facet, start, stop in vocabulary.facets:
        if stop - start == 1:  # a softmax over one: every picture would have the tag
            alone = vocabulary.labels[start].name
            raise UserError(
                f"{where}: '{alone}' is the only label {f'in facet {facet!r}' if facet else 'without a facet'}, "
                "and a share among one is always 1",
                f"add a label for pictures without it, such as 'something other than {alone}'",
            )
    return vocabulary
