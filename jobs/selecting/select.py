"""`clipmill select TABLE RECIPE`: the rows of one version of a table that a recipe leaves, and a count after each step.

```python
import clipmill

found = clipmill.select("s3://lake/db/images", "datacomp-basic")  # or a file, or the steps as a list
found.ids, found.steps
```
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.exploring.dedup import check_distance
from clipmill.jobs.querying.encoder import image_bytes
from clipmill.jobs.querying.filters import check_where
from clipmill.jobs.querying.open import Table, open_table
from clipmill.jobs.selecting import alike, steps
from clipmill.jobs.selecting.language import detector
from clipmill.jobs.selecting.mirror import mirror
from clipmill.jobs.selecting.outcome import Outcome, Place
from clipmill.jobs.selecting.recipe import recipe_of
from clipmill.jobs.selecting.rows import Rows, every_row
from clipmill.jobs.selecting.selection import Report, Selection, StepReport
from clipmill.schemas.columns import FINGERPRINT_KEY, table_id
from clipmill.schemas.errors import UserError
from clipmill.schemas.installed import version as clipmill_version
from clipmill.schemas.job.config import Storage
from clipmill.schemas.job.recipe import Caption, Duplicates, Mirror, Near, Recipe, Score, Step, Tags, Where

_RUN: Mapping[str, Callable[[Rows, Any, Place], Outcome]] = {
    "where": steps.where,
    "size": steps.size,
    "tags": steps.tags,
    "caption": steps.caption,
    "score": steps.score,
    "near": alike.near,
    "mirror": mirror,
    "duplicates": alike.duplicates,
    "per_cluster": alike.per_cluster,
    "diverse": alike.diverse,
    "sample": steps.sample,
}


def select(
    table: str | PathLike[str] | Table,
    recipe: Any,
    *,
    version: int | str | None = None,
    storage: Storage | None = None,
    allow_sources: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Selection:
    """Run a recipe. `table`: one that is open, or where it is (`version`, `storage` as `open_table` has them).
    `recipe`: the name of one that comes with clipmill, a YAML file, or the steps as a list. `allow_sources`: places
    beside the table's own source that `mirror` may read pictures from.

    The same recipe on the same version gives the same rows. Raises UserError, for what the table lacks before anything
    is read.
    """
    asked = recipe_of(recipe)
    if not isinstance(table, Table):
        table = open_table(fspath(table), version=version, storage=storage)
    elif version is not None or storage is not None:
        raise UserError("version and storage are of a table's address", "this table is open: leave them out")
    check(asked, table)
    rows = every_row(table)
    reports = []
    operators: list[str] = []
    for step in asked.steps:
        nth = operators.count(step.operator)
        place = Place(nth=nth, allow=tuple(allow_sources), tell=tell)
        operators.append(step.operator)
        with _of_step(asked, step):
            done = _RUN[step.operator](rows, step.asked, place)
        before = len(rows)
        if done.values is not None:
            rows = rows.with_values(*done.values)
        rows = rows.keep(done.keep)
        reports.append(_report(step, before, len(rows), done))
        tell(f"step {step.number}, {step.said}: {before - len(rows):,} leave, {len(rows):,} stay")
    return Selection(report=_whole(asked, table, tuple(reports), len(rows)), rows=_listed(rows))


def check(recipe: Recipe, table: Table) -> None:
    """Whether the table has what each step asks for; no column is read. Raises UserError naming the step."""
    for step in recipe.steps:
        with _of_step(recipe, step):
            _check(step.asked, table)


def _check(asked: Any, table: Table) -> None:
    schema = table.schema
    if isinstance(asked, Where):
        check_where(asked.sql, schema.names)
    elif isinstance(asked, Caption):
        if asked.language:
            detector(asked.language)
    elif isinstance(asked, Tags):
        _tags(table, asked.column)
    elif isinstance(asked, Near):
        table.snapshot.fingerprint(asked.column)
        if asked.picture is not None:
            image_bytes(asked.picture, storage=table.storage)
    elif isinstance(asked, Mirror):
        table.snapshot.fingerprint("caption_vector")
    elif isinstance(asked, Score):
        if asked.column is not None:
            _numbers(schema, asked.column)
        else:
            _tags(table, asked.tags)
    else:
        _check_alike(asked, table)


def _check_alike(asked: Any, table: Table) -> None:
    if getattr(asked, "column", None) is not None:
        table.snapshot.dim(asked.column)
    if getattr(asked, "order_by", None) is not None:
        _numbers(table.schema, asked.order_by)
    if isinstance(asked, Duplicates) and asked.phash is not None:
        check_distance(table, asked.phash)


def _tags(table: Table, column: str) -> None:
    if column != "tags":
        table.snapshot.check_tags(column)


def _numbers(schema: pa.Schema, name: str) -> None:
    numeric = [f.name for f in schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    if name in numeric:
        return
    near = difflib.get_close_matches(name, numeric, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there is: {', '.join(numeric)}"
    if name in schema.names:
        raise UserError(f"the column {name} holds no numbers", hint)
    raise UserError(f"{name} is no column of the table", f"{hint} (a head's column is made by `clipmill score`)")


@contextmanager
def _of_step(recipe: Recipe, step: Step) -> Iterator[None]:
    """A user's mistake is told with the file, the line and the step that it stands in."""
    try:
        yield
    except UserError as error:
        line = f", line {step.line}" if step.line else ""
        raise UserError(
            f"{recipe.where}{line}, step {step.number} ({step.operator}): {error.message}", error.hint
        ) from None


def _report(step: Step, before: int, after: int, done: Outcome) -> StepReport:
    return StepReport(
        step=step.number,
        operator=step.operator,
        does=step.said,
        before=before,
        left=before - after,
        after=after,
        without_value=done.without_value,
        least=done.least,
        seed=getattr(step.asked, "seed", None),
        note=done.note,
    )


def _whole(recipe: Recipe, table: Table, reports: tuple[StepReport, ...], selected: int) -> Report:
    metadata = table.schema.field("vector").metadata or {}
    fingerprint = table.snapshot.fingerprint("vector") if FINGERPRINT_KEY in metadata else None
    return Report(
        table=table.uri,
        version=table.version,
        table_id=table_id(table.schema),
        rows=table.num_rows,
        selected=selected,
        recipe=recipe.name,
        description=recipe.description,
        recipe_hash=recipe.hash,
        recipe_text=recipe.text,
        model=f"{fingerprint.model} {fingerprint.pretrained}".strip() if fingerprint else "",
        weights_sha256=fingerprint.weights_sha256 if fingerprint else "",
        clipmill=clipmill_version(),
        steps=reports,
    )


def _listed(rows: Rows) -> pa.Table:
    """id and uri of the rows and the scores that were used, by id."""
    schema = pa.schema([pa.field(name, pa.large_string()) for name in ("id", "uri")])  # string ends at 2 GB
    places, parts = [], []
    for some, found in rows.batches(["id", "uri"]):
        places.append(pa.array(some))
        parts.append(found.cast(schema))
    listed = schema.empty_table()
    if parts:
        order = pc.array_sort_indices(pa.chunked_array(places).combine_chunks())
        listed = pa.concat_tables(parts).combine_chunks().take(order)
    for name, values_N in rows.values.items():
        listed = listed.append_column(name, pa.array(values_N, from_pandas=True))  # NaN is null
    return listed
