"""The card, README.md: what the Hub reads in its first lines, and what people want to know of the data set. Nothing in
it is of the moment, so the same version has the same card."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

from clipmill.jobs.pushing.facts import ANY_LICENSE, Facts
from clipmill.jobs.pushing.files import DATA, REJECTS
from clipmill.jobs.pushing.loading import loading
from clipmill.schemas.columns import PHASH
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.text.markdown import cell, line
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.left_out import to_text

_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")  # as the Hub has them
_MEANINGS = {
    "id": "stable name of the sample, unique",
    "uri": "where the picture is: a file or object, `x.tar#member` in an archive, `x.parquet#row=17`",
    "image_offset": "first byte of the picture inside that object; null where it cannot be read by a range",
    "image_size": "its length in bytes",
    "source_etag": "of the object that the row came from",
    "unit_id": "the piece of the source that the row came from",
    "image_hash": "xxh3-128 of the encoded picture; with eight zeros in front: of the vector instead",
    "caption": "as the source has it",
    "width": "of the original, in pixels, upright; 0: unknown",
    "height": "likewise",
    "vector": "the picture's embedding, of unit length; null where it has none",
    "caption_vector": "the caption's embedding, of unit length; null without a caption",
    "caption_score": "cosine of the two",
    "tags": "zero-shot labels, best first",
    "tag_scores": "their probabilities, parallel to `tags`",
    "thumbnail": "the picture made smaller, as WebP",
    "orientation": "EXIF 1 to 8: how the picture must be turned whose own bytes do not say it",
}


# An older table may keep something else under that name (`schemas.columns.has_phash`), so the type is asked as well.
_PHASH_MEANING = (
    "perceptual hash of the upright picture: 64 bits by the DCT, as ImageHash defines it, the first the sign"
)


def card(facts: Facts, repo: str, *, with_heads: Mapping[str, str] = MappingProxyType({})) -> str:
    """`repo`: OWNER/NAME; empty for a folder. `with_heads`: the columns that are scores of a head -> of which model's
    vectors."""
    parts = [
        f"---\n{yaml.safe_dump(_front(facts), sort_keys=False, allow_unicode=True, width=1000)}---",
        f"# {line(repo.rpartition('/')[2] or facts.name)}",
        _about(facts),
        *([f"> **Unproven.** {_unproven(facts)}"] if facts.proof.startswith("unproven") else []),
        loading(facts, repo),
        *(_model(column, fingerprint) for column, fingerprint in _distinct(facts.models).items()),
        _licenses(facts),
        _columns(facts, with_heads),
        _ledger(facts),
        f"Made by `clipmill push`, clipmill {facts.clipmill}; the same for programs: `clipmill.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _front(facts: Facts) -> dict[str, Any]:
    """The Hub's own fields."""
    files = {"parquet": "*.parquet", "lance": "train.lance/**"}[facts.form]

    def config(name: str, folder: str) -> dict[str, Any]:
        return {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/{files}"}]}

    named = {"license_name": "per-row"} if facts.hub_license == ANY_LICENSE and not facts.license else {}
    return {
        "license": facts.hub_license,
        **named,
        "pretty_name": facts.name,
        "size_categories": [_size(facts.rows)],
        "task_categories": ["image-feature-extraction"],
        "tags": ["clip", "embeddings", "clipmill", *(["lance"] if facts.form == "lance" else [])],
        "configs": [
            {**config("default", DATA), "default": True},
            *([config("rejects", REJECTS)] if facts.rejects else []),
        ],
    }


def _size(rows: int) -> str:
    for number, name in enumerate(_SIZES):
        if rows < 1000 * 10**number:
            return f"n<{name}" if number == 0 else f"{_SIZES[number - 1]}<n<{name}"
    return f"n>{_SIZES[-1]}"


def _about(facts: Facts) -> str:
    models = " and ".join(dict.fromkeys(_named(one) for one in facts.models.values()))
    text = f"{counted(facts.rows, 'picture')} as " + (
        f"embeddings of {models}" if models else "rows without their embeddings"
    )
    text += f": version {facts.version} of the table `{facts.name}`"
    if facts.where:
        of = counted(facts.sums.rows, "row")
        text += f", of whose {of} those for which `{line(facts.where)}` holds"
    pictures = "thumbnails of them are" if "thumbnail" in dict(facts.columns) else "the pictures themselves are not"
    what = "their vectors and what is known of them" if models else "what is known of them"
    return f"{text}. It holds {what}; {pictures} in it. {facts.addresses}"


def _unproven(facts: Facts) -> str:
    models = " and ".join(dict.fromkeys(_named(one) for one in facts.models.values()))
    why = line(facts.proof.partition(": ")[2])
    return f"These vectors were imported as those of {models}; that was not shown ({why})."


def _named(fingerprint: Fingerprint) -> str:
    return line(f"{fingerprint.model} {fingerprint.pretrained}")


def _distinct(models: dict[str, Fingerprint]) -> dict[str, Fingerprint]:
    """Columns of one model together."""
    found: dict[str, tuple[list[str], Fingerprint]] = {}
    for column, one in models.items():
        found.setdefault(one.weights_sha256, ([], one))[0].append(column)
    return {", ".join(f"`{name}`" for name in columns): one for columns, one in found.values()}


def _model(columns: str, fingerprint: Fingerprint) -> str:
    pre = fingerprint.preprocess
    rows = {
        "model": _named(fingerprint),
        "weights": f"sha256 {fingerprint.weights_sha256}",
        "dimension": f"{fingerprint.dim}, {'of unit length' if fingerprint.normalized else 'not normalised'}",
        "precision": fingerprint.provenance.get("precision", "unknown"),
        "pixels": f"{pre.size_HW[0]} x {pre.size_HW[1]}, resized by {pre.resize_mode}, {pre.interpolation}",
        "mean, std": f"{_numbers(pre.mean)}; {_numbers(pre.std)}",
        "EXIF orientation, transparency": f"{fingerprint.exif}; on {fingerprint.alpha}",
        "tokenizer": fingerprint.tokenizer,
    }
    said = fingerprint.provenance.get("proof")
    if said:
        rows["shown to be of it"] = f"{said}: {fingerprint.provenance.get('proof_detail', '')}"
    return f"## Model of {columns}\n\n{_table(('', ''), list(rows.items()))}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _licenses(facts: Facts) -> str:
    text = "## Licences\n\n"
    if facts.license:
        text += f"The data set: `{facts.license}`, as whoever published it states."
    if facts.license_column:
        counts = sorted(facts.licenses.items(), key=lambda pair: (-pair[1], pair[0]))
        rows = [(name or "not stated", f"{number:,}") for name, number in counts]
        text += "\n\n" if facts.license else ""
        text += f"What the column `{facts.license_column}` says of the pictures:\n\n" + _table(
            ("licence", "rows"), rows
        )
    for column, one in _distinct(facts.models).items():
        known = facts.weights_license.get(column.partition(",")[0].strip("`"))
        says = f"`{line(known)}`, as their card says" if known else "a licence of their own, which is not known here"
        text += f"\n\nThe weights of {_named(one)}: {says}."
    return text


def _columns(facts: Facts, heads: Mapping[str, str]) -> str:
    def meaning(name: str, kind: str) -> str:
        if name == PHASH.name and kind == str(PHASH.type):
            return _PHASH_MEANING
        if name in heads:
            return f"score of a head on the vector by {line(heads[name])}" if heads[name] else "score of a head"
        base, _, beside = name.partition("__")
        if beside and base in _MEANINGS:
            return f"{_MEANINGS[base]}; of the set `{beside}` beside the one in use"
        return _MEANINGS.get(name, "kept from the source")

    rows = [(f"`{name}`", kind, meaning(name, kind)) for name, kind in facts.columns]
    vocabulary = f"\n\nTags are of the vocabulary `{line(facts.vocabulary)}`." if facts.vocabulary else ""
    return f"## Columns\n\n{_table(('column', 'type', 'meaning'), rows)}{vocabulary}"


def _ledger(facts: Facts) -> str:
    sums = facts.sums
    rows = [
        ("samples read", sums.seen),
        ("rows", sums.rows),
        ("rejected", sums.rejected),
        ("deleted since", sums.deleted),
    ]
    text = "## What became of the source\n\n"
    if facts.where:
        rows.insert(2, ("of them in this data set", facts.rows))
        text += "Of the whole table, as are the rejects: the filter chose among its rows.\n\n"
    text += _table(("", ""), [(name, f"{number:,}") for name, number in rows])
    if not sums.adds_up:
        text += "\n\nThis does not add up: the ledger no longer reaches back to this version, or the table is damaged."
    if facts.rejects:
        by = [(f"`{name}`", f"{number:,}") for name, number in sorted(facts.rejects.items())]
        text += f"\n\nRejects, each named in the configuration `rejects`:\n\n{_table(('reason', 'samples'), by)}"
    if sums.left_out:
        text += f"\n\nLeft out by their ending, because nothing here reads them: {cell(to_text(sums.left_out))}."
    if facts.masked:
        text += f"\n\nIn {counted(facts.masked, 'value')} a credential was written over by `***`."
    return text


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell(one) for one in row) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
