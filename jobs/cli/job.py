"""The commands that take a job file."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipmill.jobs.cli.options import (
    EXIT_INTERRUPTED,
    address_option,
    job_argument,
    json_option,
    log_format_option,
    metrics_option,
)

if TYPE_CHECKING:
    from clipmill.schemas.job.config import Storage


@click.command(short_help="Dry run: what embed would do and what it would cost.")
@job_argument
@click.option("--price-per-gpu-hour", type=click.FloatRange(min=0), metavar="DOLLARS", help="Default: the job file's.")
@click.option(
    "--measure",
    type=click.IntRange(min=1),
    metavar="N",
    help="Embed the first N samples here, writing nothing, and estimate from that; loads the model.",
)
@click.option("--reembed", metavar="MODEL[,TAG]", help="Instead: what `clipmill reembed` with this model would do.")
@json_option
def plan(
    job_file: str, price_per_gpu_hour: float | None, measure: int | None, reembed: str | None, as_json: bool
) -> None:
    """Read the source and the table, and say what `embed` would do: units, samples, bytes, what is new, changed, moved
    or gone. Rate, hours, dollars and the limiting stage are an estimate: from the table's last run, else by arithmetic;
    `basis` says which. Writes nothing."""
    if reembed and measure is not None:
        raise click.UsageError("--measure and --reembed exclude each other")
    from clipmill.jobs.planning.jobfile import load_job

    job = load_job(job_file)  # before the heavy imports: a mistake in the file is told at once
    from clipmill.jobs.planning.dry_run import dry_run
    from clipmill.jobs.terminal.output import note, print_record

    if reembed:
        from clipmill.jobs.migrating.reembed_plan import ReembedOptions, plan_reembed
        from clipmill.schemas.job.config import Model

        name, _, tag = reembed.partition(",")
        price = price_per_gpu_hour if price_per_gpu_hour is not None else job.plan.price_per_gpu_hour
        asked = ReembedOptions(model=Model(name=name, pretrained=tag or None), price_per_gpu_hour=price)
        print_record(plan_reembed(job.table, job.storage, asked), as_json=as_json)
        return
    found = dry_run(job, price_per_gpu_hour=price_per_gpu_hour, measure=measure or 0, say=note)
    print_record(found, as_json=as_json)


@click.command(short_help="Embed the source into the table; again: resume, or do nothing.")
@job_argument
@address_option
@click.option("--publish", is_flag=True, help="Move the tag `live`, which readers follow, to the result.")
@click.option("--leave-sets", is_flag=True, help="Do not fill other models' sets beside the one in use.")
@metrics_option
@log_format_option
@json_option
def embed(
    job_file: str, address: str | None, publish: bool, leave_sets: bool, metrics_file: str | None, as_json: bool
) -> None:
    """Read images and captions, compute their vectors and tags, and commit them to the table. Rows that came while
    `clipmill reembed` has filled another model's set get that one too.

    Running it again resumes where it stopped, takes in what changed, or does nothing. Exit code 3 means that it
    finished but some units failed; the summary names them.
    """
    from clipmill.jobs.planning.jobfile import load_job

    job = load_job(job_file)
    from clipmill.jobs.migrating.beside import with_sets
    from clipmill.jobs.running.embed import run as run_embed
    from clipmill.jobs.running.options import Options
    from clipmill.jobs.running.summary import describe
    from clipmill.jobs.terminal.output import note, print_json, printable, program
    from clipmill.schemas.errors import EXIT_UNITS_FAILED
    from clipmill.schemas.text.words import units_without_rows

    called = program()  # before the run, which leaves this folder
    again = shlex.join([called, "embed", job_file, *(["--address", address] if address else [])])
    metrics = Path(metrics_file).absolute() if metrics_file else None
    summary = run_embed(job, Options(address=address, publish=publish, resume=again, metrics=metrics))
    if not leave_sets and not summary.drained:
        summary = with_sets(summary, job, say=note, address=address)
    if as_json:
        print_json(summary)
    else:
        click.echo(printable(describe(summary)))
        note(what_next(called, summary.table, job.storage))
    if summary.interrupted:
        note("error: interrupted; what was finished is in the table")
        note(f"hint: to go on from there: {again}")
        sys.exit(EXIT_INTERRUPTED)
    if summary.failed_units:
        note(f"error: {units_without_rows(summary.failed_units)}")
        note(f"hint: the summary names each; to try them alone again: {again}")
        sys.exit(EXIT_UNITS_FAILED)


def what_next(called: str, table: str, storage: "Storage") -> str:
    """The two commands that show the table, as they must be typed."""
    where = [table]
    where += ["--endpoint-url", storage.endpoint_url] if storage.endpoint_url else []
    where += ["--region", storage.region] if storage.region else []
    search, serve = shlex.join([called, "search", *where, "a few words"]), shlex.join([called, "serve", *where])
    return f"look at it: {search}\n            {serve}"


@click.command(short_help="What a job can take as its model, and what each expects.")
@click.argument("word", required=False, default="")
@click.option("--files", is_flag=True, help="Instead: what a checkpoint file with nothing beside it is taken for.")
@click.option(
    "--price",
    type=click.FloatRange(min=0, min_open=True),
    metavar="DOLLARS",
    help="Of a GPU-hour: what a million pictures cost on GPUs.",
)
@json_option
def models(word: str, files: bool, price: float | None, as_json: bool) -> None:
    """The weights that open_clip knows, or those with WORD in name or tag: pixels, resizing, mean and std, activation,
    tokenizer, context length, dimension, GFLOPs of a picture. From its own lists: no weights, no network. Beside them
    millions of parameters, the published zero-shot accuracy on ImageNet, the precision in which the architecture agreed
    with open_clip when it was tried (docs/models.md), and pictures a second of one worker by the arithmetic of `plan`:
    of this machine, or of a GPU where it has one or --price is given. Last the license and the languages, where the
    weights' card or their makers were read (schemas/models/cards.json names the source): a dash says nothing.

    Of names that differ in the activation the one to write is shown; with --json both, one of them saying `use`. With
    --files a dash stands for what the job file has to say itself."""
    from clipmill.jobs.planning.models import by_file, by_tag
    from clipmill.jobs.terminal.output import print_json, print_rows

    found = (by_file if files else by_tag)(word, gpu=price is not None)
    dollars = [None if price is None else one.dollars_per_million(price) for one in found]
    if as_json:
        print_json([{**asdict(one), "dollars_per_million": cost} for one, cost in zip(found, dollars, strict=True)])
        return
    rows = {
        (one.use or one.name, one.pretrained): {
            "name": one.use or one.name,
            "pretrained": one.pretrained or None,
            "pixels": "x".join(map(str, dict.fromkeys(one.pixels))),
            "resize": one.resize_mode,
            "by": one.interpolation,
            "mean, std": one.mean_std,
            "activation": one.activation,
            "dim": str(one.dim),
            "M params": one.millions,
            "GFLOPs": one.gflops,
            "ImageNet": one.imagenet,
            "tried": one.tried,
            "pictures/s": one.pictures_per_s,
            **({} if price is None else {"$/million": cost}),
            "context": str(one.context_length),
            "tokenizer": one.tokenizer,
            "license": one.license,
            "languages": one.languages,
        }
        for one, cost in zip(found, dollars, strict=True)
    }
    print_rows(list(rows.values()), as_json=False)


commands: list[click.Command] = [plan, embed, models]
