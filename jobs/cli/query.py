"""The commands for those who query: index, tags, dedup, export, evaluate, score, serve. Light imports only; each
command loads what it needs."""

from typing import Any

import click

from clipmill.jobs.cli.options import (
    AnyFile,
    NewFile,
    allow_source_option,
    json_option,
    storage_from,
    table_options,
    version_from,
    where_option,
    without_secret,
)
from clipmill.schemas.errors import EXIT_UNITS_FAILED
from clipmill.schemas.words import counted


@click.command(short_help="Build or update the indices that make queries fast.")
@table_options
@click.option(
    "--kind",
    type=click.Choice(["auto", "none", "ivf_rq", "hnsw_sq"]),
    default="auto",
    show_default=True,
    help="auto: the kind that is there; else none for a small table, IVF_RQ for others.",
)
@click.option("--column", "columns", multiple=True, help="Vector columns. Default: vector, and those with an index.")
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
    figure is older than the rows. An index keeps its kind until another is asked for."""
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
    from clipmill.schemas.config import parse_quantity
    from clipmill.schemas.errors import UserError

    try:
        return int(parse_quantity(text))
    except ValueError as error:
        raise UserError(str(error), "write a size such as 4GB") from None


@click.command(short_help="Count tags, or the values of other columns.")
@table_options
@where_option
@click.option("--column", "columns", multiple=True, default=("tags",), show_default=True, help="What to count.")
@click.option("--top", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Values per column.")
@click.option("--near", "text", metavar="TEXT", help="Count only the best hits for these words.")
@click.option("--hits", default=200, show_default=True, type=click.IntRange(1, 10_000), help="How many, with --near.")
@json_option
def tags(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """How many rows of TABLE have each tag, or each value of --column."""
    from clipmill.jobs.exploring.facets import facets
    from clipmill.jobs.querying.open import Examples, Query, open_table
    from clipmill.jobs.terminal.output import print_record, print_rows

    text = options["text"]
    query = Query(positive=Examples(texts=(text,) if text else ()), where=options["where"])
    found = facets(
        open_table(table, storage=storage_from(endpoint_url, region)),
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
@click.option("--keep-list", metavar="FILE", type=NewFile(), help="Write the ids to keep, a line each.")
@json_option
def dedup(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Groups of pictures of TABLE that are byte for byte, or nearly, the same. Nothing is deleted."""
    from clipmill.jobs.exploring.dedup import EXACT_ONLY, keep_list
    from clipmill.jobs.exploring.dedup import dedup as find_copies
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.terminal.output import note, print_record, print_rows

    if options["phash"] is not None and options["exact"]:
        raise click.UsageError("--exact and --phash exclude each other")
    opened = open_table(table, storage=storage_from(endpoint_url, region))
    threshold = EXACT_ONLY if options["exact"] else options["threshold"]
    asked = {name: options[name] for name in ("phash", "where", "prefer")}
    report = find_copies(opened, threshold=threshold, tell=note, **asked)
    if options["keep_list"]:
        with open(options["keep_list"], "w", encoding="utf-8") as file:
            file.writelines(f"{row_id}\n" for row_id in keep_list(opened, report, options["where"]))
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
@click.option(
    "--tag", "all_tags", metavar="LABEL", multiple=True, help="Only rows with this tag; several: all of them."
)
@click.option("--near", "text", metavar="TEXT", help="The best hits for these words.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, 10_000), help="How many, with --near.")
@click.option(
    "--ids",
    metavar="FILE",
    type=AnyFile(),
    callback=without_secret,
    help="Only these ids: a line each, or a .parquet or .csv with a column id.",
)
@click.option("--column", "columns", multiple=True, help="Columns of parquet; default: all but vectors.")
@click.option("--float32", is_flag=True, help="Vectors in float32, for programs that cannot take the table's float16.")
@allow_source_option
@json_option
def export(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Write what a filter, a search or a list of ids selects from TABLE. Exit code 3 where something that was asked for
    is not there, or nothing was selected."""
    from clipmill.jobs.exploring.export import ExportOptions
    from clipmill.jobs.exploring.export import export as write
    from clipmill.jobs.maintaining.id_list import read_ids
    from clipmill.jobs.querying.open import Examples, Query, open_table
    from clipmill.jobs.terminal.output import note, print_record

    storage = storage_from(endpoint_url, region)
    text, listed = options["text"], options["ids"]
    query = Query(
        positive=Examples(texts=(text,) if text else ()),
        where=options["where"],
        all_tags=options["all_tags"],
        k=options["limit"],
    )
    chosen = ExportOptions(
        to=options["to"],
        format=options["form"],
        query=query,
        ids=read_ids(listed, storage) if listed else None,
        columns=options["columns"] or None,
        float32=options["float32"],
        allow_sources=options["allow_sources"],
    )
    report = write(open_table(table, storage=storage), chosen, storage, tell=note)
    print_record(report, as_json=as_json)
    if report.left_out:
        note(f"left out: {report.left_out}")
        raise SystemExit(EXIT_UNITS_FAILED)


@click.command(short_help="Zero-shot accuracy and retrieval recall.")
@table_options
@click.option("--labels", metavar="FILE", help="CSV: id (or uri), label. Zero-shot accuracy.")
@click.option("--label-column", metavar="NAME", help="The same, with the labels in a column of the table.")
@click.option("--captions", metavar="FILE", help="CSV: id (or uri), caption. Default: the table's own captions.")
@click.option("--template", "templates", multiple=True, metavar="TEXT", help="Prompts with {label}; several: averaged.")
@click.option("--max-rows", default=10_000, show_default=True, type=click.IntRange(1, 50_000), help="More are sampled.")
@click.option("--column", default="vector", show_default=True, help="The vectors to judge.")
@click.option("--plot", "plot_file", metavar="FILE.svg", type=NewFile(), help="Also draw it.")
@click.option(
    "--version", metavar="TAG|N", help="Judge this version; default: live where there is one, else the newest."
)
@json_option
def evaluate(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """How well the vectors of TABLE tell labels apart, or find captions and are found by them."""
    from pathlib import Path

    from clipmill.jobs.exploring.evaluate import TEMPLATES, EvaluateOptions, plot
    from clipmill.jobs.exploring.evaluate import evaluate as judge
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.terminal.output import print_record

    plot_file = options.pop("plot_file")
    options["templates"] = options["templates"] or TEMPLATES
    version = version_from(options.pop("version"))
    found = judge(
        open_table(table, version=version, storage=storage_from(endpoint_url, region)), EvaluateOptions(**options)
    )
    if plot_file:
        Path(plot_file).write_text(plot(found), "utf-8")
    print_record(found if as_json else _without_matrix(found), as_json=as_json)


def _without_matrix(found: Any) -> Any:
    """For a person: the confusion matrix is in the plot and in the JSON."""
    from clipmill.schemas.plain import plain

    shown = plain(found)
    if shown["zero_shot"]:
        for name in ("labels", "confusion"):
            del shown["zero_shot"][name]
    return {key: value for key, value in shown.items() if value is not None}


@click.command(short_help="A head, such as an aesthetic score, as a column.")
@table_options
@click.option(
    "--head",
    required=True,
    metavar="FILE",
    callback=without_secret,
    help="Weights: .safetensors, .npz, or .pth (read as data only).",
)
@click.option("--column", default="aesthetic", show_default=True, help="The column to fill.")
@click.option("--source", default="vector", show_default=True, help="The vectors to score.")
@click.option("--trained-on", metavar="MODEL,TAG", help="On whose vectors, where the file does not say it.")
@click.option("--activation", type=click.Choice(["none", "relu", "silu", "tanh"]), help="Between an MLP's layers.")
@click.option("--output", type=click.Choice(["none", "sigmoid", "softmax"]), help="Of its last layer.")
@click.option("--class", "pick", type=click.IntRange(0, 999), metavar="N", help="Of several outputs, from 0.")
@json_option
def score(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """The score of a head, a linear layer or an MLP, for every row of TABLE, from the stored vectors. Rows without a
    score get one; where the column is of another head, all of them do, and readers see the old scores until then. The
    job file's `heads:` keeps such columns up by itself."""
    from clipmill.jobs.migrating.score import read_head
    from clipmill.jobs.migrating.score import score as fill
    from clipmill.jobs.terminal.output import note, print_record

    storage, column, source = storage_from(endpoint_url, region), options.pop("column"), options.pop("source")
    head = read_head(column, options.pop("head"), storage, **{"class": options.pop("pick")}, **options)
    print_record(fill(table, head, storage, source=source, say=note), as_json=as_json)


@click.command("train-head", short_help="A head of one's own, from labels, for `score` and the job file.")
@table_options
@click.option("--labels", required=True, metavar="FILE", help="CSV: id (or uri), label; labels are 1 and 0, or names.")
@click.option("--positive", metavar="LABEL", help="The label to tell from all others, where they are names.")
@click.option("--out", required=True, metavar="FILE.safetensors", type=NewFile(), help="The head's file.")
@click.option("--column", default="vector", show_default=True, help="The vectors to train on.")
@click.option("--held-out", default=0.2, show_default=True, type=click.FloatRange(0.05, 0.5), help="To judge it by.")
@json_option
def train_head(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Fit a logistic head to labels of TABLE's rows, on their stored vectors, and say how good it is on rows that were
    held out (copies of one picture are never on both sides). The file says which model it is for; `heads:` in the job
    file and `clipmill score` take it."""
    from clipmill.jobs.exploring.train_head import TrainOptions
    from clipmill.jobs.exploring.train_head import train_head as train
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.terminal.output import note, print_record
    from clipmill.schemas.errors import UserError

    if not options["out"].endswith(".safetensors"):
        raise UserError(f"--out {options['out']} is no .safetensors file", "such as --out red.safetensors")
    opened = open_table(table, storage=storage_from(endpoint_url, region))
    print_record(train(opened, TrainOptions(**options), tell=note), as_json=as_json)


@click.command(short_help="HTTP API and picture page.")
@table_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Beyond this machine a token is needed.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65_535))
@click.option(
    "--version", metavar="TAG|N", help="Serve this version; default: live where there is one, else the newest."
)
@click.option(
    "--memory", default="2GB", show_default=True, metavar="SIZE", help="For vectors, so that filters are fast."
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
        originals=not options["no_originals"],
        allow_sources=options["allow_sources"],
    )
    run(table, settings, storage_from(endpoint_url, region), version=version_from(version), tell=note)


commands: list[click.Command] = [index, tags, dedup, export, evaluate, score, train_head, serve]
