"""The commands for those who query: index, tags, dedup, export, serve. Light imports only; each command loads what it
needs."""

from typing import Any

import click

from clipmill.jobs.cli.options import (
    NewFile,
    allow_source_option,
    file_option,
    float32_option,
    json_option,
    names_option,
    only_with,
    storage_from,
    table_options,
    tag_option,
    version_from,
    version_option,
    where_option,
    without_secret,
)
from clipmill.schemas.errors import EXIT_UNITS_FAILED
from clipmill.schemas.text.words import counted

HITS = 1000  # of `export --near` without --limit


@click.command(short_help="Build or update the indices that make queries fast.")
@table_options
@click.option(
    "--kind",
    type=click.Choice(["auto", "none", "ivf_rq", "hnsw_sq"]),
    default="auto",
    show_default=True,
    help="auto: the kind that is there; else none for a small table, IVF_RQ for others.",
)
@names_option("--column", "columns", what="Of vectors. Default: vector, and those with an index.")
@click.option("--memory", metavar="SIZE", help="What a query may keep of the index. Default: as it is, or 4GB.")
@click.option("--rebuild", is_flag=True, help="Pick, train and build everything anew.")
@click.option(
    "--address", metavar="ADDRESS", callback=without_secret, help="Build segments on this Ray cluster's nodes."
)
@json_option
def index(
    table: str, endpoint_url: str | None, region: str | None, as_json: bool, memory: str | None, **options: Any
) -> None:
    """Build what is missing, add new rows to what is there, and measure recall@10 against brute force where the last
    figure is older than the rows. An index keeps its kind until another is asked for. A long build uses a GPU that is
    there and half free; CUDA_VISIBLE_DEVICES= hides it."""
    from clipmill.jobs.indexing.build import IndexOptions, build_index
    from clipmill.jobs.terminal.output import note, print_record, print_rows

    options["memory_bytes"] = _size(memory) if memory else None
    report = build_index(table, IndexOptions(**options), storage_from(endpoint_url, region), tell=note)
    if as_json:
        print_record(report, as_json=True)
        return
    shown = [
        {
            "column": v.column,
            "index": v.kind or "none (small: searched exactly)",
            "partitions": v.num_partitions,
            "rows": v.rows,
            "recall@10": v.recall.recall if v.recall else None,
            "p50 ms": v.recall.p50_ms if v.recall else None,
            "done": v.done,
        }
        for v in report.vectors
    ]
    shown += [{"column": name, "index": "scalar", "rows": None, "done": done} for name, done in report.scalar.items()]
    print_rows(shown, as_json=False)


def _size(text: str) -> int:
    from clipmill.schemas.errors import UserError
    from clipmill.schemas.job.config import parse_quantity

    try:
        return int(parse_quantity(text))
    except ValueError as error:
        raise UserError(str(error), "write a size such as 4GB") from None


@click.command(short_help="Count tags, or the values of other columns.")
@table_options
@where_option
@names_option("--column", "columns", default=("tags",), what="What to count.")
@click.option("--top", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Values per column.")
@click.option("--near", "text", metavar="TEXT", help="Count only the best hits for these words.")
@version_option
@click.option("--hits", default=200, show_default=True, type=click.IntRange(1, 10_000), help="How many, with --near.")
@json_option
def tags(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """How many rows of TABLE have each tag, or each value of --column."""
    only_with("--near", "hits", given=bool(options["text"]))
    from clipmill.jobs.exploring.facets import facets
    from clipmill.jobs.querying.open import Examples, Query, open_table
    from clipmill.jobs.terminal.output import print_record, print_rows

    text = options["text"]
    query = Query(positive=Examples(texts=(text,) if text else ()), where=options["where"])
    found = facets(
        open_table(table, version=version_from(options["version"]), storage=storage_from(endpoint_url, region)),
        query,
        columns=options["columns"],
        top=options["top"],
        hits=options["hits"] if text else 0,
    )
    if as_json:
        print_record({f.column: f for f in found}, as_json=True)
        return
    rows = [{"column": f.column, "value": value, "rows": count} for f in found for value, count in f.values]
    print_rows(rows, as_json=False, columns=["column", "value", "rows"])


@click.command(short_help="Find pictures that are the same, or nearly.")
@table_options
@where_option
@click.option("--threshold", default=0.95, show_default=True, type=float, help="Least cosine of a near copy.")
@click.option("--exact", is_flag=True, help="Only equal bytes.")
@click.option(
    "--phash",
    metavar="BITS",
    type=click.IntRange(0, 10),
    help="Instead of vectors: perceptual hashes that differ in at most so many bits; 4 is near.",
)
@click.option(
    "--prefer", type=click.Choice(["largest", "first"]), default="largest", show_default=True, help="Which to keep."
)
@click.option(
    "--keep-list",
    metavar="FILE",
    type=NewFile(stores=True),
    callback=without_secret,
    help="Write the ids to keep: a line each, or by its name a .parquet or .csv; local or s3://…",
)
@version_option
@json_option
def dedup(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Groups of pictures of TABLE that are byte for byte, or nearly, the same. Nothing is deleted."""
    from clipmill.jobs.exploring.dedup import EXACT_ONLY, keep_list
    from clipmill.jobs.exploring.dedup import dedup as find_copies
    from clipmill.jobs.querying.lists import write_ids
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.terminal.output import note, print_record, print_rows

    by_vectors = options["phash"] is None
    if not by_vectors and options["exact"]:
        raise click.UsageError("--exact and --phash exclude each other")
    only_with("vectors: --exact and --phash leave them out", "threshold", given=not options["exact"] and by_vectors)
    storage = storage_from(endpoint_url, region)
    opened = open_table(table, version=version_from(options["version"]), storage=storage)
    threshold = EXACT_ONLY if options["exact"] else options["threshold"]
    asked = {name: options[name] for name in ("phash", "where", "prefer")}
    report = find_copies(opened, threshold=threshold, tell=note, **asked)
    if options["keep_list"]:
        write_ids(keep_list(opened, report, options["where"]), options["keep_list"], storage)
    if as_json:
        print_record(report, as_json=True)
        return
    # `how` is how near a row is to the one that is kept, which is no copy of itself.
    shown = [{**row, "how": None if row["keep"] else row["how"]} for row in report.groups.to_pylist()]
    print_rows(shown, as_json=False, columns=["group", "keep", "how", "id", "uri"], empty="no copies")
    rows = counted(report.rows, "row")
    note(f"{rows}: {report.exact:,} exact and {report.near:,} near copies, {report.surplus:,} surplus")


@click.command(short_help="Write selected rows, images or vectors as files.")
@table_options
@where_option
@click.option("--to", required=True, metavar="DIR", callback=without_secret, help="A new folder, local or s3://…")
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "webdataset", "clip-retrieval", "embedding-atlas", "fiftyone", "coco"]),
    default="parquet",
    show_default=True,
    help="webdataset, fiftyone and coco hold the images themselves, embedding-atlas small ones.",
)
@tag_option
@click.option("--near", "text", metavar="TEXT", help="The best hits for these words.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="At most so many rows. Default: all; with --near 1000.",
)
@file_option("--ids", what="Only these ids: a line each, or a .parquet or .csv with a column id.")
@names_option("--column", "columns", what="Of parquet. Default: all but vectors.")
@float32_option
@version_option
@allow_source_option
@json_option
def export(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Write what a filter, a search or a list of ids selects from TABLE. Exit code 3 where something that was asked for
    is not there, or nothing was selected."""
    only_with("--format parquet", "columns", given=options["form"] == "parquet")
    from clipmill.jobs.exploring.export import ExportOptions
    from clipmill.jobs.exploring.export import export as write
    from clipmill.jobs.querying.lists import read_ids
    from clipmill.jobs.querying.open import Examples, Query, open_table
    from clipmill.jobs.terminal.output import note, print_record

    storage = storage_from(endpoint_url, region)
    text, listed, limit = options["text"], options["ids"], options["limit"]
    query = Query(
        positive=Examples(texts=(text,) if text else ()),
        where=options["where"],
        all_tags=options["all_tags"],
        k=limit or HITS if text else 1,
    )
    chosen = ExportOptions(
        to=options["to"],
        format=options["form"],
        query=query,
        ids=read_ids(listed, storage) if listed else None,
        limit=None if text else limit,
        columns=options["columns"] or None,
        float32=options["float32"],
        allow_sources=options["allow_sources"],
    )
    opened = open_table(table, version=version_from(options["version"]), storage=storage)
    report = write(opened, chosen, storage, tell=note)
    print_record(report, as_json=as_json)
    if report.left_out:
        note(f"left out: {report.left_out}")
        raise SystemExit(EXIT_UNITS_FAILED)


@click.command(short_help="HTTP API and picture page.")
@table_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Beyond this machine a token is needed.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65_535))
@version_option
@click.option("--memory", default="2GB", show_default=True, metavar="SIZE", help="For vectors and rows at hand.")
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="That answer; one uses little more than one core.",
)
@click.option("--no-originals", is_flag=True, help="Only thumbnails, never the full images.")
@allow_source_option
def serve(table: str, endpoint_url: str | None, region: str | None, version: str | None, **options: Any) -> None:
    """Serve TABLE until interrupted. CLIPMILL_SERVE_TOKEN holds the token that clients must send; it is needed where
    --host is not this machine."""
    import os

    from clipmill.jobs.serving.serve import serve as run
    from clipmill.jobs.serving.settings import Settings
    from clipmill.jobs.terminal.output import note

    settings = Settings(
        host=options["host"],
        port=options["port"],
        token=os.environ.get("CLIPMILL_SERVE_TOKEN") or None,
        warm_bytes=_size(options["memory"]),
        processes=options["processes"],
        originals=not options["no_originals"],
        allow_sources=options["allow_sources"],
    )
    run(table, settings, storage_from(endpoint_url, region), version=version_from(version), tell=note)


commands: list[click.Command] = [index, tags, dedup, export, serve]
