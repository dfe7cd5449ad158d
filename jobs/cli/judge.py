"""The commands that judge and score vectors: evaluate, score, train-head. Light imports only."""

from pathlib import Path
from typing import Any

import click

from clipmill.jobs.cli.options import (
    NewFile,
    file_option,
    json_option,
    only_with,
    storage_from,
    table_options,
    vector_option,
    version_from,
    version_option,
    without_secret,
)


@click.command(short_help="Zero-shot accuracy and retrieval recall.")
@table_options
@file_option("--labels", what="CSV or parquet: id (or uri), label. Zero-shot accuracy.")
@click.option("--label-column", metavar="NAME", help="The same, with the labels in a column of the table.")
@file_option("--captions", what="CSV or parquet: id (or uri), caption. Default: the table's own captions.")
@click.option("--template", "templates", multiple=True, metavar="TEXT", help="Prompts with {label}; several: averaged.")
@click.option("--max-rows", default=10_000, show_default=True, type=click.IntRange(1, 50_000), help="More are sampled.")
@vector_option
@click.option("--plot", "plot_file", metavar="FILE.svg", type=NewFile(), help="Also draw it.")
@version_option
@json_option
def evaluate(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """How well the vectors of TABLE tell labels apart, or find captions and are found by them."""
    from clipmill.jobs.exploring.evaluate import TEMPLATES, EvaluateOptions, plot
    from clipmill.jobs.exploring.evaluate import evaluate as judge
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.terminal.output import print_record

    if sum(options[name] is not None for name in ("labels", "label_column", "captions")) > 1:
        raise click.UsageError("--labels, --label-column and --captions exclude each other")
    only_with("--labels or --label-column", "templates", given=bool(options["labels"] or options["label_column"]))
    plot_file = options.pop("plot_file")
    options["templates"] = options["templates"] or TEMPLATES
    version = version_from(options.pop("version"))
    found = judge(
        open_table(table, version=version, storage=storage_from(endpoint_url, region)), EvaluateOptions(**options)
    )
    print_record(found if as_json else _without_matrix(found), as_json=as_json)
    if plot_file:  # last: where it cannot be written, what was found is there all the same
        Path(plot_file).write_text(plot(found), "utf-8")


def _without_matrix(found: Any) -> Any:
    """For a person: the confusion matrix is in the plot and in the JSON."""
    from clipmill.schemas.text.plain import plain

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
@file_option("--labels", required=True, what="CSV or parquet: id (or uri), label; labels are 1 and 0, or names.")
@click.option("--positive", metavar="LABEL", help="The label to tell from all others, where they are names.")
@click.option("--out", required=True, metavar="FILE.safetensors", type=NewFile(), help="The head's file.")
@vector_option
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


commands: list[click.Command] = [evaluate, score, train_head]
