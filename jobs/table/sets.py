"""Sets of columns beside the one in use: what they are called, how far they are filled, and what could not be.

A set is `vector__slug`, `caption_vector__slug`, `caption_score__slug`, `tags__slug` and `tag_scores__slug`. A row of
which `vector__slug` is null is either not done yet, or failed: then `__rejects` names it with the set's fingerprint,
and with attempt 0, which no unit has.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import FILL_ATTEMPT, FINGERPRINT_KEY, SET_KEY, of_table, set_column, sets_in, table_id
from clipmill.schemas.errors import UserError
from clipmill.schemas.model import Fingerprint

_MAX_SLUG = 60


def slug_of(model: str, pretrained: str | None) -> str:
    """A name for columns, of lower-case letters, digits and single underscores: vit_b_32_laion2b_s34b_b79k."""
    parts = [_last(model), _last(pretrained or "")]
    text = re.sub(r"[^a-z0-9]+", "_", "_".join(part for part in parts if part).lower()).strip("_")
    return text[:_MAX_SLUG].strip("_") or "model"


def _last(name: str) -> str:
    """Of a path its last part without an ending, of a hub's name the last part."""
    plain = name.removeprefix("hf-hub:").removeprefix("local-dir:")
    return PurePath(plain).stem if "/" in plain else plain


def check_slug(slug: str) -> str:
    """Raises UserError for what cannot be part of a column's name."""
    if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", slug) or len(slug) > _MAX_SLUG:
        raise UserError(
            f"'{slug}' cannot be part of a column's name",
            "lower-case letters and digits with single _ between, such as vit_b_32",
        )
    return slug


def fingerprint_of(schema: pa.Schema, slug: str) -> Fingerprint:
    """Raises UserError where the table has no such set."""
    name = set_column("vector", slug)
    if name not in schema.names:
        found = sets_in(schema)
        raise UserError(
            f"the table has no set '{slug}'",
            f"there is: {', '.join(found)}" if found else "fill one: clipmill reembed TABLE --model M --pretrained P",
        )
    return Fingerprint.from_json(schema.field(name).metadata[FINGERPRINT_KEY].decode())


def slug_in_use(schema: pa.Schema) -> str:
    """What the set in use is called once it leaves the names that are searched: as it was called when it was filled,
    else by its model; with a piece of the weights' hash where another set has that name."""
    metadata = schema.field("vector").metadata or {}
    if SET_KEY in metadata:
        return str(metadata[SET_KEY].decode())
    fingerprint = Fingerprint.from_json(metadata[FINGERPRINT_KEY].decode())
    slug = slug_of(fingerprint.model, fingerprint.pretrained)
    return f"{slug}_{fingerprint.weights_sha256[:8]}" if slug in sets_in(schema) else slug


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Of the rows of a set: `filled`, `failed` (a reject names each), and `left` that nobody has tried yet."""

    slug: str
    model: str
    pretrained: str
    dim: int
    rows: int
    filled: int
    failed: int
    rejects: dict[str, int] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.rows - self.filled - self.failed

    @property
    def share(self) -> float:
        return self.filled / self.rows if self.rows else 1.0


def missing_in_words(failed: int, rejects: Mapping[str, int], left: int) -> str:
    """Rows without a vector of the set: those that were tried, by reason, apart from those that nobody tried yet. Empty
    for none."""
    named = f" ({', '.join(f'{reason} {count:,}' for reason, count in rejects.items())})" if rejects else ""
    parts = [f"{failed:,} could not be filled{named}"] if failed else []
    parts += [f"{left:,} {'is' if left == 1 else 'are'} not done yet"] if left else []
    return ", ".join(parts)


def coverage(tables: Tables, rows: Any, slug: str) -> Coverage:
    """`rows`: the table at the version that is looked at."""
    fingerprint = fingerprint_of(rows.schema, slug)
    known = failures(tables, rows, fingerprint)
    column = set_column("vector", slug)
    total = int(rows.count_rows())
    missing = int(rows.count_rows(f"{column} IS NULL"))
    found: dict[str, int] = {}
    if known and missing:
        for batch in rows.scanner(columns=["id", "unit_id"], filter=f"{column} IS NULL").to_batches():
            for key in zip(batch["id"].to_pylist(), batch["unit_id"].to_pylist(), strict=True):
                if key in known:
                    found[known[key]] = found.get(known[key], 0) + 1
    return Coverage(
        slug=slug,
        model=fingerprint.model,
        pretrained=fingerprint.pretrained,
        dim=fingerprint.dim,
        rows=total,
        filled=total - missing,
        failed=sum(found.values()),
        rejects=dict(sorted(found.items())),
    )


def failures(tables: Tables, rows: Any, fingerprint: Fingerprint, *, run: str = "") -> dict[tuple[str, str], str]:
    """(id, unit) -> reason of every row that could not be filled with this model, or not by this run alone. A row that
    was replaced since is of another unit, so it is tried."""
    return {key: reason for key, (reason, _, _) in _told(tables, rows, fingerprint, run=run).items()}


def failed_rows(tables: Tables, rows: Any, slug: str) -> list[dict[str, str]]:
    """reason, id, uri and detail of every row that has no vector of the set because it could not be filled."""
    known = _told(tables, rows, fingerprint_of(rows.schema, slug))
    found: list[dict[str, str]] = []
    where = f"{set_column('vector', slug)} IS NULL"
    for batch in rows.scanner(columns=["id", "unit_id"], filter=where).to_batches() if known else ():
        for key in zip(batch["id"].to_pylist(), batch["unit_id"].to_pylist(), strict=True):
            if key in known:
                reason, uri, detail = known[key]
                found.append({"reason": reason, "id": key[0], "uri": uri, "detail": detail})
    return found


def _told(
    tables: Tables, rows: Any, fingerprint: Fingerprint, *, run: str = ""
) -> dict[tuple[str, str], tuple[str, str, str]]:
    """(id, unit) -> reason, uri, detail."""
    dataset = tables.open("rejects", missing_ok=True)
    if dataset is None:
        return {}
    where = f"attempt = {FILL_ATTEMPT} AND fingerprint = '{fingerprint.weights_sha256[:16]}'"
    where += f" AND {of_table(dataset.schema, table_id(rows.schema))}"
    where += f" AND run = '{run}'" if run else ""
    columns = ["id", "unit_id", "reason", "uri", "detail"]
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    for batch in dataset.scanner(columns=columns, filter=where).to_batches():
        names = (batch[name].to_pylist() for name in columns)
        found.update({(id_, unit): (why, uri, said) for id_, unit, why, uri, said in zip(*names, strict=True)})
    return found


def add_set(tables: Tables, slug: str, fields: pa.Schema, fingerprint: Fingerprint) -> None:
    """The set's columns, all null: a commit of metadata alone. Nothing where they are there for this model. Raises
    UserError where a set of that name is another model's. Needs no lease of the rows: whoever adds rows meanwhile
    conflicts with it, and so does it, and both try again."""

    def add(rows: Any) -> None:
        if set_column("vector", slug) not in rows.schema.names:
            rows.add_columns(fields)
        elif differences := fingerprint.differences(fingerprint_of(rows.schema, slug)):
            raise UserError(
                f"the set '{slug}' of this table is of another model: {differences[0]}",
                "name this one otherwise: --set NAME; or remove that one: clipmill drop TABLE --set " + slug,
            )

    tables.change(add, what=f"the columns of the set '{slug}' could not be added")


def all_coverage(tables: Tables, rows: Any) -> Iterator[Coverage]:
    for slug in sets_in(rows.schema):
        yield coverage(tables, rows, slug)
