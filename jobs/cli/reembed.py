"""The commands that change the model of a table: reembed, promote, drop."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from clipmill.jobs.cli.options import (
    EXIT_INTERRUPTED,
    address_option,
    allow_source_option,
    file_option,
    json_option,
    log_format_option,
    metrics_option,
    pretrained_option,
    storage_from,
    table_options,
    without_secret,
)
from clipmill.schemas.errors import EXIT_UNITS_FAILED
from clipmill.schemas.text.words import counted


@click.command(short_help="Fill a set of another model's vectors beside the present one.")
@table_options
@click.option("--model", required=True, metavar="NAME", help="Any open_clip model, hf-hub:… or local-dir:….")
@pretrained_option
@click.option("--set", "slug", default="", metavar="SLUG", help="What the set is called; default: after the model.")
@click.option("--vocabulary", metavar="FILE", help="Of the table's tags, where it is not found by its name.")
@click.option(
    "--head",
    "head_files",
    metavar="NAME=FILE",
    multiple=True,
    callback=without_secret,
    help="A head on the new model's vectors, whose scores the set gets.",
)
@click.option("--again", is_flag=True, help="Also try rows that could not be filled before.")
@click.option("--dry-run", is_flag=True, help="Only say what would be read, and what it would cost.")
@allow_source_option
@address_option
@metrics_option
@log_format_option
@json_option
def reembed(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Compute vectors, caption vectors and tags of TABLE's rows with another model, into columns beside those in use
    (vector__SLUG and so on), from the pictures where the rows say they are. Readers, and runs that add, replace or
    delete rows, are not disturbed. Running it again goes on where it stopped. `clipmill status` shows how far it is;
    exit code 3 where rows are left, 5 while another fill is under way."""
    from clipmill.jobs.migrating.reembed import reembed as run_reembed
    from clipmill.jobs.migrating.reembed_plan import ReembedOptions, plan_reembed
    from clipmill.jobs.migrating.score import read_head
    from clipmill.jobs.migrating.words import reembedded_in_words
    from clipmill.jobs.terminal.output import note, print_record, print_words, program
    from clipmill.schemas.job.config import Model

    storage = storage_from(endpoint_url, region)
    dry_run, model, pretrained = options.pop("dry_run"), options.pop("model"), options.pop("pretrained")
    named = [pair.partition("=") for pair in options.pop("head_files")]
    heads = [read_head(name, file, storage) for name, _, file in named]
    metrics = options.pop("metrics_file")
    asked = ReembedOptions(
        heads=tuple(heads),
        model=Model(name=model, pretrained=pretrained),
        resume=shlex.join([program(), *sys.argv[1:]]),
        allow_sources=options.pop("allow_sources"),
        metrics=Path(metrics).absolute() if metrics else None,
        **options,
    )
    if dry_run:
        print_record(plan_reembed(table, storage, asked), as_json=as_json)
        return
    done = run_reembed(table, storage, asked)
    print_words(done, reembedded_in_words, as_json=as_json)
    if done.interrupted:
        note("error: interrupted; what was filled is in the table")
        note(f"hint: to go on from there: {asked.resume}")
        sys.exit(EXIT_INTERRUPTED)
    if done.left:
        why = done.failed_units[0]["reason"] if done.failed_units else "rows were added meanwhile"
        note(f"error: {counted(done.left, 'row is', 'rows are')} not filled: {why}")
        note(f"hint: to try them again: {asked.resume}")
        sys.exit(EXIT_UNITS_FAILED)


@click.command(short_help="Put a filled set in use: one commit renames all columns.")
@table_options
@click.argument("slug", required=False, metavar="[SLUG]")
@click.option("--dry-run", is_flag=True, help="Only list what stands in the way, with every figure.")
@click.option("--back", "is_back", is_flag=True, help="Put the set in use again that the last promotion put aside.")
@click.option("--min-coverage", default=0.999, show_default=True, type=click.FloatRange(0, 1), help="Rows filled.")
@click.option(
    "--min-misses",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Rows not filled before their share is judged.",
)
@click.option("--min-overlap", default=0.1, show_default=True, type=click.FloatRange(0, 1), help="Of ten neighbours.")
@click.option("--min-recall", default=0.9, show_default=True, type=click.FloatRange(0, 1), help="Of the set's index.")
@file_option("--golden", what="Labels, as `clipmill evaluate` takes them: no worse than now.")
@json_option
def promote(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Put the set SLUG of TABLE in use: its columns take the names that are searched, those in use are kept beside
    under a name of their own, and `live` moves. Readers see one model or the other, never words of one and vectors of
    the other. Exit code 4 where something stands in the way; all of it is named."""
    from clipmill.jobs.migrating.promote import How, back, dry_run
    from clipmill.jobs.migrating.promote import promote as run_promote
    from clipmill.jobs.migrating.promote_gates import GateOptions
    from clipmill.jobs.migrating.words import promotion_in_words, verdict_in_words
    from clipmill.jobs.terminal.output import note, print_words
    from clipmill.schemas.errors import GateRefused, UserError

    storage = storage_from(endpoint_url, region)
    slug, only_look, is_back = options.pop("slug"), options.pop("dry_run"), options.pop("is_back")
    if bool(slug) == is_back or (is_back and only_look):
        raise UserError("promote takes a SLUG, or --back alone", "`clipmill status TABLE` lists the sets")
    if is_back:
        print_words(back(table, storage, How(say=note)), promotion_in_words, as_json=as_json)
        return
    asked = GateOptions(**options)
    if not only_look:
        print_words(run_promote(table, slug, storage, asked, How(say=note)), promotion_in_words, as_json=as_json)
        return
    verdict = dry_run(table, slug, storage, asked)
    print_words(verdict, verdict_in_words, as_json=as_json)
    if verdict.blockers:
        one = len(verdict.blockers) == 1
        found = "one thing stands" if one else f"{len(verdict.blockers)} things stand"
        raise GateRefused(f"{found} in the way: {', '.join(verdict.blockers)}")


@click.command(short_help="Remove a set of columns that is not in use.")
@table_options
@click.option("--set", "slug", required=True, metavar="SLUG", help="Which; `clipmill status TABLE` lists them.")
@json_option
def drop(table: str, endpoint_url: str | None, region: str | None, slug: str, as_json: bool) -> None:
    """Remove the columns of the set SLUG from TABLE, or the tags of a vocabulary beside (`retag --as SLUG`). The set in
    use is never removed. The space is free once the versions that still have them are gone: a week later, at the next
    `clipmill maintain`."""
    from clipmill.jobs.migrating.drop import drop as run_drop
    from clipmill.jobs.migrating.words import dropped_in_words
    from clipmill.jobs.terminal.output import note, print_words

    done = run_drop(table, slug, storage_from(endpoint_url, region), say=note)
    print_words(done, dropped_in_words, as_json=as_json)


commands: list[click.Command] = [reembed, promote, drop]
