"""The commands that keep files in order, take rows out, and change tags: maintain, delete, retag."""

import sys
from datetime import timedelta
from typing import Any

import click

from clipmill.jobs.cli.options import file_option, json_option, storage_from, table_options, without_secret
from clipmill.schemas.errors import EXIT_UNITS_FAILED
from clipmill.schemas.text.words import counted

_IDS = "The rows with these ids: one a line, or a .parquet or .csv with a column id; - is stdin, with --yes."


def _is_terminal() -> bool:
    return sys.stdin.isatty()


@click.command(short_help="Merge fragments, extend indices, remove old versions and orphans.")
@table_options
@click.option(
    "--keep-days",
    default=7,
    show_default=True,
    type=click.IntRange(1, 36_500),
    help="Versions that are older leave, unless a tag names them.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def maintain(
    table: str, endpoint_url: str | None, region: str | None, keep_days: int, dry_run: bool, as_json: bool
) -> None:
    """Keep the files of TABLE few and fresh: small fragments are merged, new rows enter the indices, old versions leave
    unless a tag names them, and so do files of killed runs that no version names and that are older than a day.
    `clipmill embed` does the most urgent of it by itself. Safe beside readers; exit code 5 while another run holds the
    table, 3 where the disk has no space for some of it: what is left out is named, and what frees space is done."""
    from clipmill.jobs.maintaining.maintain import maintain_table
    from clipmill.jobs.maintaining.words import maintained_in_words
    from clipmill.jobs.terminal.output import note, print_words

    storage = storage_from(endpoint_url, region)
    done = maintain_table(table, storage, say=note, keep=timedelta(days=keep_days), dry_run=dry_run)
    print_words(done, maintained_in_words, as_json=as_json)
    if done.left_out:
        raise SystemExit(EXIT_UNITS_FAILED)


@click.command(short_help="Delete rows for good: they do not come back with their source.")
@table_options
@click.option("--where", metavar="SQL", help="The rows for which this holds, such as \"license = 'nc'\".")
@file_option("--ids", allow_dash=True, what=_IDS)
@click.option("--purge", is_flag=True, help="Until the bytes are gone from disk: old versions and indices too.")
@click.option("--drop-tags", is_flag=True, help="With --purge: drop the tags whose versions hold the rows.")
@click.option("--undo", is_flag=True, help="Take tombstones back; --where is then about id, uri, image_hash, run, at.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def delete(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **asked: Any) -> None:
    """Delete rows of TABLE, by a filter or by ids, one a line. They leave in one commit and leave tombstones: the same
    picture does not come back when its source is read again, whatever becomes of its unit. --undo takes that back.

    Searches of published tables see it once the newest version is published. --purge, alone or with a filter, removes
    the bytes of everything deleted so far; it refuses while a tag keeps a version that holds them. Exit code 3 where an
    id is no row's."""
    from clipmill.jobs.maintaining.delete import Deleted, Options, Which, take_back
    from clipmill.jobs.maintaining.delete import delete as run_delete
    from clipmill.jobs.querying.lists import read_ids
    from clipmill.jobs.terminal.output import note, print_record
    from clipmill.schemas.errors import UserError

    where, ids, purge, undo = asked["where"], asked["ids"], asked["purge"], asked["undo"]
    if (where is not None and ids is not None) or (where is None and ids is None and (undo or not purge)):
        raise UserError("delete takes either --where SQL or --ids FILE", 'such as --where "width < 64" --dry-run')
    if (undo and purge) or (asked["drop_tags"] and not purge):
        raise UserError("--drop-tags goes with --purge, and --undo with neither", "`clipmill delete --help` says more")

    def confirm(found: Deleted) -> None:
        what = f"{counted(found.rows, 'row')} of {counted(found.units, 'unit')}"
        what = counted(found.already_deleted, "tombstone") if undo else what
        what += " and what was deleted before, for good," if purge else ""
        named = f", such as {', '.join(found.examples)}" if found.examples else ""
        question = f"{'take back' if undo else 'delete'} {what} of {found.table}{named}"
        if asked["yes"]:
            note(question)
        elif ids == "-" or not _is_terminal():
            raise UserError(f"nothing was done: nobody is here to be asked whether to {question}", "add --yes")
        elif not click.confirm(f"{question}?", err=True):
            raise UserError("nothing was done", "`--dry-run` only counts")

    storage = storage_from(endpoint_url, region)
    which = Which(where=where, ids=read_ids(ids, storage) if ids else None)
    if undo:
        done = take_back(table, storage, which, dry_run=asked["dry_run"], confirm=confirm, say=note)
    else:
        options = Options(dry_run=asked["dry_run"], purge=purge, drop_tags=asked["drop_tags"])
        done = run_delete(table, storage, which, options, confirm=confirm, say=note)
    print_record(done, as_json=as_json)
    if done.not_found or (done.purged and done.purged.left):
        raise SystemExit(EXIT_UNITS_FAILED)


@click.command(short_help="Tags of another vocabulary, from the stored vectors.")
@table_options
@click.option(
    "--vocabulary",
    required=True,
    metavar="FILE",
    callback=without_secret,
    help="A YAML or CSV file of labels, or a built-in vocabulary by name.",
)
@click.option(
    "--label-vectors",
    metavar="FILE.npy",
    help="The labels' vectors, a row each, where the model's text tower is not at hand.",
)
@click.option("--top-k", type=click.IntRange(1, 100), help="Tags of a row and facet at most. Default: as it is.")
@click.option("--min-score", type=click.FloatRange(0, 1), help="Probability of a tag at least. Default: as it is.")
@click.option(
    "--as", "beside", default="", metavar="SLUG", help="Beside the tags in use, as tags__SLUG and tag_scores__SLUG."
)
@file_option(
    "--calibrate", what="CSV or parquet: id (or uri), label. Each label's threshold is that with the best F1 on it."
)
@json_option
def retag(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Give every row of TABLE the tags of another vocabulary, from its vectors alone: no images, no GPU. Readers see
    the old tags until all new ones are there, and never some of both. Killed, run it again and it goes on. With --as
    both vocabularies stay, side by side; rows that come later get its tags at the end of `embed` and `nightly`. Exit
    code 5 while another run holds the table."""
    from clipmill.jobs.migrating.retag import RetagOptions
    from clipmill.jobs.migrating.retag import retag as run
    from clipmill.jobs.terminal.output import note, print_record

    done = run(table, RetagOptions(**options), storage_from(endpoint_url, region), say=note)
    print_record(done, as_json=as_json)


commands: list[click.Command] = [maintain, delete, retag]
