"""The commands that look into a table: search, status, rejects, verify."""

from typing import TYPE_CHECKING, Any

import click

from clipmill.jobs.cli.options import (
    allow_source_option,
    file_option,
    json_option,
    names_option,
    only_with,
    storage_from,
    table_options,
    tag_option,
    vector_option,
    version_from,
    version_option,
    where_option,
    without_secret,
)
from clipmill.schemas.errors import EXIT_UNITS_FAILED

if TYPE_CHECKING:
    from clipmill.schemas.job.config import Storage


_SHOWN = ("rank_score", "score", "caption", "tags", "id")  # the first that is there is what it is ordered by


@click.command(short_help="Find pictures by words, by a picture, or by one in the table.")
@table_options
@click.argument("text", required=False)
@file_option("--image", "images", multiple=True, what="Like this picture: a file or an s3:// address.")
@click.option("--like", metavar="ID", multiple=True, help="Like the row with this id. Examples may be several, mixed.")
@click.option("--not", "unlike", metavar="TEXT", multiple=True, help="Away from what these words say.")
@click.option("--not-like", "unlike_ids", metavar="ID", multiple=True, help="Away from the row with this id.")
@click.option("--also", metavar="TEXT", multiple=True, help="Words beside TEXT: what lies between them is near.")
@where_option
@tag_option
@click.option("--any-tag", "any_tags", metavar="LABEL", multiple=True, help="Only rows with at least one of these.")
@click.option("--no-tag", "no_tags", metavar="LABEL", multiple=True, help="Only rows with none of these.")
@click.option("--tags-column", default="tags", show_default=True, help="Whose tags: tags, or tags__SLUG.")
@click.option("--min-score", type=click.FloatRange(-1, 1), metavar="COSINE", help="Only hits at least so near.")
@click.option(
    "--phash-of",
    metavar="FILE|ID",
    callback=without_secret,
    help="Instead: what looks the same, by perceptual hash, as this picture, row or 16 hex digits.",
)
@click.option(
    "--max-distance", type=click.IntRange(0, 64), metavar="BITS", help="Of --phash-of. Default: 8; 0 is the same hash."
)
@click.option("--hybrid", is_flag=True, help="Also match the words against the captions.")
@click.option("--text-weight", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Their share of it.")
@click.option("-k", "k", default=10, show_default=True, type=click.IntRange(1, 10_000), help="How many to find.")
@click.option("--offset", default=0, show_default=True, type=click.IntRange(0, 9_999), help="Skip so many first.")
@vector_option
@names_option("--columns", what="What to print of each row, beside its score.")
@click.option("--exact", is_flag=True, help="Compare with every row, without the index.")
@version_option
@json_option
def search(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Find the pictures of TABLE nearest to TEXT, best first, with their cosine similarity as `score`.

    With a filter alone it lists the rows that pass. A --hybrid search is ordered by `rank_score`, which fuses the two
    rankings. Where nothing is found, it says why.
    """
    only_with("--hybrid", "text_weight", given=options["hybrid"] or options["phash_of"] is not None)
    if options["phash_of"] is not None:
        _search_phash(table, storage_from(endpoint_url, region), as_json, options)
        return
    if options.pop("max_distance") is not None:
        raise click.UsageError("--max-distance is of --phash-of: give that too")
    del options["phash_of"]
    from clipmill.jobs.querying.nothing import caveat, why_nothing
    from clipmill.jobs.querying.open import Examples, Query, open_table
    from clipmill.jobs.terminal.output import note, print_rows
    from clipmill.schemas.errors import UserError

    text, also = options.pop("text"), options.pop("also")
    examples = Examples(
        texts=(*(() if text is None else (text,)), *also), images=options.pop("images"), ids=options.pop("like")
    )
    unlike = Examples(texts=options.pop("unlike"), ids=options.pop("unlike_ids"))
    columns = options.pop("columns")
    filters = [options[name] for name in ("where", "all_tags", "any_tags", "no_tags")]
    if not len(examples) and not any(filters):
        raise UserError("nothing to search for", "give words, --image FILE or --like ID, or a filter to list rows")
    only_with("words, --image or --like", "min_score", given=len(examples) > 0)
    version = version_from(options.pop("version"))
    query = Query(positive=examples, negative=unlike, columns=columns or None, **options)
    opened = open_table(table, version=version, storage=storage_from(endpoint_url, region))
    found = opened.run(query)
    scores = [name for name in ("rank_score", "score") if name in found.column_names and name not in columns]
    shown = [*scores, *columns] if columns else [name for name in _SHOWN if name in found.column_names]
    unproven = opened.unproven(query.column)
    if unproven and as_json:
        found = found.append_column("proof", [["unproven"] * len(found)])
    print_rows(found, as_json=as_json, columns=shown, empty="")
    for said in (unproven, caveat(opened, query), "" if len(found) else f"nothing found: {why_nothing(opened, query)}"):
        if said:
            note(said)


_FILTERS = ("where", "all_tags", "any_tags", "no_tags", "tags_column", "k", "offset")


def _search_phash(table: str, storage: "Storage", as_json: bool, options: dict[str, Any]) -> None:
    from clipmill.jobs.querying.open import open_table
    from clipmill.jobs.terminal.output import note, print_rows
    from clipmill.schemas.errors import UserError

    taken = {*_FILTERS, "phash_of", "max_distance", "columns", "version"}
    context = click.get_current_context()
    for name in options.keys() - taken:
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise UserError(
                f"--phash-of compares hashes, and {name.replace('_', '-')} is of a search by vectors", "leave one out"
            )
    columns = options["columns"]
    opened = open_table(table, version=version_from(options["version"]), storage=storage)
    distance = options["max_distance"]
    found = opened.search_phash(
        options["phash_of"],
        **({} if distance is None else {"max_distance": distance}),
        columns=columns or None,
        **{name: options[name] for name in _FILTERS},
    )
    shown = ["phash_distance", *(columns or [name for name in _SHOWN if name in found.column_names])]
    print_rows(found, as_json=as_json, columns=shown, empty="")
    if not len(found):
        note("nothing found: no other row that passes is so near; --max-distance looks further")


@click.command(short_help="What is in the table, and how fresh it is.")
@table_options
@click.option("--watch", "watched", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--every", "every_s", type=click.FloatRange(min=0.5), default=5.0, show_default=True, metavar="SECONDS")
@json_option
def status(
    table: str, endpoint_url: str | None, region: str | None, watched: bool, every_s: float, as_json: bool
) -> None:
    """Rows, units, rejects, model, vocabulary, versions, indices and the last runs of TABLE. With --watch the screen is
    drawn anew; into a file or a pipe goes a line a look, or with --json a document."""
    from clipmill.jobs.terminal.output import print_record
    from clipmill.jobs.verifying.status import status as read_status

    only_with("--watch", "every_s", given=watched)
    storage = storage_from(endpoint_url, region)
    if watched:
        from clipmill.jobs.terminal.watching import watch

        watch(lambda: read_status(table, storage), every_s, as_json=as_json)
    else:
        print_record(read_status(table, storage), as_json=as_json)


@click.command(short_help="The samples that have no row, and why.")
@table_options
@click.option("--reason", metavar="WORD", help="Only this reason, such as corrupt or too_many_pixels.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1), help="How many to print.")
@click.option("--set", "slug", metavar="SLUG", help="Instead: rows that could not get this set's vector.")
@json_option
def rejects(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """The rejected samples of TABLE: id, uri, reason and detail. With --set the rows of TABLE that `reembed` or a night
    could not fill of that set."""
    from clipmill.jobs.terminal.output import print_rows
    from clipmill.jobs.verifying.status import rejects as read_rejects

    found = read_rejects(table, storage_from(endpoint_url, region), **options)
    empty = "no row that could not be filled" if options["slug"] else "no rejected samples"
    print_rows(found, as_json=as_json, columns=["reason", "detail", "id"], empty=empty)


@click.command(short_help="Check that nothing was lost and nothing is there twice.")
@table_options
@click.option(
    "--sample",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Also read N rows' images again, embed and compare; and compare all tags and heads' scores with the vectors.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Draw the same rows as before; default: by chance, printed.")
@click.option(
    "--source/--no-source",
    default=None,
    help="Count what the source holds, tars too, and compare; default: listings, lists, footers and small tars.",
)
@allow_source_option
@json_option
def verify(table: str, endpoint_url: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Check TABLE from what is stored: for every unit seen = written + rejected + moved; every file and row is there,
    once; vectors, scores, tags, hashes and places are what they can be; indices give what a scan gives. Exit code 3
    where a check fails, or something that was to be checked could not be."""
    from clipmill.jobs.terminal.output import note, print_record
    from clipmill.jobs.verifying.verify import verify as run_verify

    only_with("--sample N", "seed", given=options["sample"] > 0)
    report = run_verify(table, storage_from(endpoint_url, region), **options)
    print_record(report, as_json=as_json)
    if report.proof.startswith("unproven"):
        note(f"the model of the vectors is {report.proof}")
    if report.seed is not None:
        note(f"these rows again: --sample {options['sample']} --seed {report.seed}")
    if report.problems or report.sample_not_checked:
        raise SystemExit(EXIT_UNITS_FAILED)


commands: list[click.Command] = [search, status, rejects, verify]
