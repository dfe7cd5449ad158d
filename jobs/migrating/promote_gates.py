"""May a set take the names that are searched? Every reason why not, by name, with its figures.

Q: sampled rows. D: dimension of a set.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.jobs.exploring.evaluate import EvaluateOptions, evaluate
from clipmill.jobs.indexing.plan import MEMORY_BYTES, plan_vector_index
from clipmill.jobs.indexing.recall import brute_force, measure
from clipmill.jobs.indexing.vector import existing_plan
from clipmill.jobs.migrating.set_index import kind_in_use
from clipmill.jobs.querying.curve import stored_report
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.querying.snapshot import ROW_ID
from clipmill.jobs.querying.vectors import as_rows, normalise
from clipmill.jobs.table.compat import stored_vocabulary
from clipmill.jobs.table.enough import passes
from clipmill.jobs.table.heads import without_scores
from clipmill.jobs.table.readers import LIVE, tags_of
from clipmill.jobs.table.sets import Coverage, coverage, missing_in_words, slug_in_use
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import set_column
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.nightly import MIN_MISSES
from clipmill.schemas.text.words import counted, part_of

K = 10
MOST_CHANGED = 20
_NORM_TOLERANCE = 0.01  # float16 itself is within 0.001
_PRODUCTS = 2e8  # rows x queries of the brute force, as `indexing.recall` allows itself


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOptions:
    """`min_misses`: rows without a vector before `min_coverage` is judged, by the rule of nights (`jobs.table.enough`).
    `golden`: a CSV file of labels as `clipmill evaluate` takes it; the new set may be `max_golden_drop` worse.
    `min_overlap`: of the ten nearest neighbours, the share that both sets agree on: vectors that are broken share next
    to none, another model some 0.3 to 0.7."""

    min_coverage: float = 0.999
    min_misses: int = MIN_MISSES
    min_overlap: float = 0.1
    min_recall: float = 0.9
    golden: str | None = None
    max_golden_drop: float = 0.0
    sample: int = 200
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """`histogram[n]`: how many of `rows` pictures share n of their `k` nearest. `changed_most`: those that share the
    fewest, id and how many."""

    rows: int
    k: int
    mean: float
    histogram: list[int]
    changed_most: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`blockers`: name -> sentence; nothing stands in the way where it is empty."""

    table: str
    version: int
    set: str
    model: str
    in_use: str
    blockers: dict[str, str]
    coverage: dict[str, Any]
    overlap: Overlap | None
    norms: dict[str, float]
    index: str
    recall: float | None
    golden: dict[str, float] | None
    notes: list[str] = field(default_factory=list)


def judge(tables: Tables, rows: Any, slug: str, options: GateOptions) -> Verdict:
    """`rows`: the table at the version that is judged. Raises UserError where there is no such set."""
    blockers: dict[str, str] = {}
    found = coverage(tables, rows, slug)
    few = _check_coverage(found, rows, options, blockers)
    if came := unpublished(rows):
        blockers["unpublished"] = (
            f"{counted(came, 'row')} came since the version that readers see, and passed no gate: "
            f"`clipmill publish {tables.database}/{tables.name}` judges them, and shows them if they pass"
        )
    norms = _norms(rows, slug, blockers)
    overlap = _overlap(rows, slug, options)
    if overlap is not None and overlap.mean < options.min_overlap:
        blockers["overlap"] = (
            f"of the {overlap.k} nearest neighbours both sets agree on {overlap.mean:.2f}, less than "
            f"{options.min_overlap:g}: --min-overlap lowers the limit where the models are that far apart"
        )
    index, recall = _index(rows, slug, options, blockers)
    golden = _golden(tables, rows, slug, options, blockers) if options.golden else None
    hidden = f"{counted(found.failed, 'row has', 'rows have')} no vector of this model: no search finds what has none"
    hidden += ": too few to judge a share by" if few else ""
    hidden += f"; `clipmill rejects {tables.database}/{tables.name} --set {slug}` names them"
    return Verdict(
        table=f"{tables.database}/{tables.name}",
        version=int(rows.version),
        set=slug,
        model=f"{found.model} {found.pretrained}".strip(),
        in_use=slug_in_use(rows.schema),
        blockers=blockers,
        coverage={**asdict(found), "left": found.left, "share": round(found.share, 6)},
        overlap=overlap,
        norms=norms,
        index=index,
        recall=recall,
        golden=golden,
        notes=[*([hidden] if found.failed else []), *_other_tags(rows, slug)],
    )


def unpublished(rows: Any) -> int:
    """Rows that readers have not seen, because a gate refused them or nobody published them yet: a promotion moves
    `live`, and must show nobody what passed no gate. 0 where nothing is published."""
    tags = tags_of(rows)
    return int(rows.count_rows(f"_row_created_at_version > {int(tags[LIVE]['version'])}")) if LIVE in tags else 0


def _check_coverage(found: Coverage, rows: Any, options: GateOptions, blockers: dict[str, str]) -> bool:
    """Whether the rows without a vector are too few to judge a share by."""
    if found.left:
        blockers["rows_changed"] = (
            f"{counted(found.left, 'row')} came or changed since the fill, or were never tried: run the reembed again"
        )
    passed, few = passes(found.filled, found.rows, options.min_coverage, options.min_misses)
    if not passed and found.rows:
        blockers["coverage"] = (
            f"{part_of(found.filled, found.rows, 'row', 'is', 'are')} filled, {found.share:.4f} is less than "
            f"{options.min_coverage:g}: {missing_in_words(found.failed, found.rejects, found.left)}"
        )
    vector, caption = set_column("vector", found.slug), set_column("caption_vector", found.slug)
    without = int(rows.count_rows(f"{vector} IS NOT NULL AND caption IS NOT NULL AND {caption} IS NULL"))
    if without:
        rows_have = counted(without, "row has", "rows have")
        blockers["captions"] = f"{rows_have} a caption and a vector, but no vector of the caption"
    if unscored := without_scores(rows, found.slug):
        named = ", ".join(f"'{name}' {count:,}" for name, count in unscored.items())
        blockers["heads"] = f"rows have a vector and no score of the set's heads ({named}): run the reembed again"
    return few


def _other_tags(rows: Any, slug: str) -> list[str]:
    """Who filters by tags would find others, or none, from then on."""
    mine, theirs = (stored_vocabulary(rows.schema, name) for name in (set_column("tags", slug), "tags"))
    if theirs is None or (mine is not None and mine["hash"] == theirs["hash"]):
        return []
    its = f"the tags of the set are of the vocabulary '{mine['name']}'" if mine else "the set has no tags"
    retag = "`clipmill retag TABLE --vocabulary FILE` after the promotion"
    return [f"{its}, those in use of '{theirs['name']}': {retag} gives these again"]


def _norms(rows: Any, slug: str, blockers: dict[str, str]) -> dict[str, float]:
    """Of every vector of the set: the shortest, the longest, and how many are not of unit length."""
    column = set_column("vector", slug)
    dim = rows.schema.field(column).type.list_size
    least, most, bad = np.inf, -np.inf, 0
    scanner = rows.scanner(columns=[column], filter=f"{column} IS NOT NULL", batch_size=8192)
    for batch in scanner.to_batches():
        if not batch.num_rows:
            continue
        norms_N = np.linalg.norm(as_rows(pa.chunked_array([batch.column(column)]), dim), axis=1)
        bad += int((~(np.abs(norms_N - 1) <= _NORM_TOLERANCE)).sum())  # NaN compares as bad
        least, most = min(least, float(np.min(norms_N))), max(most, float(np.max(norms_N)))
    if bad:
        vectors = counted(bad, "vector of the set is", "vectors of the set are")
        blockers["norms"] = f"{vectors} not of unit length, or not finite"
    return {"least": round(least, 5), "most": round(most, 5), "bad": bad} if most >= 0 else {"bad": bad}


def _overlap(rows: Any, slug: str, options: GateOptions) -> Overlap | None:
    """None where fewer than three rows have both vectors."""
    new = set_column("vector", slug)
    both = f"vector IS NOT NULL AND {new} IS NOT NULL"
    ids = rows.scanner(columns=[], filter=both, with_row_id=True).to_table()[ROW_ID].to_numpy()
    if len(ids) < 3:
        return None
    number = min(options.sample, len(ids), max(20, int(_PRODUCTS / len(ids))))
    picked_Q = np.sort(np.random.default_rng(options.seed).choice(ids, number, replace=False))
    sampled = rows._take_rows(picked_Q.tolist(), columns=["id", "vector", new])
    k = min(K, len(ids) - 1)
    near = [_neighbours(rows, column, sampled[column], picked_Q, k, both) for column in ("vector", new)]
    shared_Q = [len(one & other) for one, other in zip(*near, strict=True)]
    order = sorted(range(number), key=lambda q: (shared_Q[q], q))[:MOST_CHANGED]
    names = sampled["id"].to_pylist()
    return Overlap(
        rows=number,
        k=k,
        mean=round(float(np.mean(shared_Q)) / k, 4),
        histogram=np.bincount(shared_Q, minlength=k + 1).tolist(),
        changed_most=[{"id": names[q], "shared": shared_Q[q]} for q in order],
    )


def _neighbours(
    rows: Any, column: str, vectors: Any, own_Q: npt.NDArray[np.uint64], k: int, where: str
) -> list[set[int]]:
    queries_QD = normalise(as_rows(vectors, rows.schema.field(column).type.list_size))
    truth = brute_force(rows, column, queries_QD, k + 1, where)
    return [set([one for one in near if one != own][:k]) for near, own in zip(truth, own_Q.tolist(), strict=True)]


def _index(rows: Any, slug: str, options: GateOptions, blockers: dict[str, str]) -> tuple[str, float | None]:
    """The set needs one where the vectors in use have one, and where its size asks for one."""
    column = set_column("vector", slug)
    there = existing_plan(rows, column)
    if there is None:
        size = rows.schema.field(column).type.list_size
        asked = (stored_report(rows) or {}).get("asked", "auto")
        by_size = asked != "none" and plan_vector_index(rows.count_rows(), size, "auto", MEMORY_BYTES).kind
        kind = kind_in_use(rows)
        if kind is not None or by_size:
            like = f" --kind {kind}" if kind not in (None, "auto") else ""
            blockers["index"] = f"{column} has no index: clipmill index TABLE --column {column}{like}"
        return "", None
    _, plan, unindexed, _ = there
    if unindexed > 0.05 * max(1, rows.count_rows()):
        blockers["index"] = (
            f"{counted(unindexed, 'row is', 'rows are')} not in the index of {column}: "
            f"clipmill index TABLE --column {column}"
        )
    stored = (stored_report(rows, column) or {}).get("recall")
    recall = float(stored["recall"]) if stored else measure(rows, column).recall
    if recall < options.min_recall:
        blockers["recall"] = f"the index finds {recall:.3f} of the ten nearest, less than {options.min_recall:g}"
    return plan.kind, recall


def _golden(
    tables: Tables, rows: Any, slug: str, options: GateOptions, blockers: dict[str, str]
) -> dict[str, float] | None:
    table = open_table(f"{tables.database}/{tables.name}", version=int(rows.version), storage=tables.storage)
    found: dict[str, float] = {}
    for name, column in (("in_use", "vector"), ("new", set_column("vector", slug))):
        shot = evaluate(table, EvaluateOptions(labels=options.golden, column=column)).zero_shot
        if shot is None:
            raise UserError(f"{options.golden} holds no labels", "a CSV file with the columns id and label")
        found[name] = round(shot.top1, 4)
    if found["new"] < found["in_use"] - options.max_golden_drop:
        blockers["golden"] = (
            f"of {options.golden} the new set gets {found['new']:.3f} right, the one in use {found['in_use']:.3f}"
        )
    return found
