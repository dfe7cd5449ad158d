"""The command that takes vectors which somebody else computed: import."""

import sys
from typing import Any

import click

from clipmill.jobs.cli.options import (
    json_option,
    log_format_option,
    names_option,
    pretrained_option,
    storage_from,
    storage_options,
    without_secret,
)
from clipmill.schemas.errors import EXIT_UNITS_FAILED
from clipmill.schemas.text.words import counted


@click.command(name="import", short_help="Make a table of vectors that are there already.")
@click.argument("vectors", metavar="VECTORS", callback=without_secret)
@click.option("--to", "table", metavar="TABLE", required=True, help="The table to make, or to add to.")
@click.option("--model", required=True, metavar="NAME", help="The model that made them: `clipmill models` lists names.")
@pretrained_option
@click.option("--id", "id", default="", metavar="COLUMN", help="Default: id, image_path; '#row': its place.")
@click.option("--uri", default="", metavar="COLUMN", help="Where the pictures are. Default: uri, url, image_path.")
@click.option("--caption", default="", metavar="COLUMN", help="Default: caption, text.")
@click.option("--vector", default="", metavar="COLUMN", help="Default: vector, embedding; else the only one of floats.")
@click.option("--caption-vector", default="", metavar="COLUMN", help="Default: caption_vector, text_embedding.")
@click.option("--no-caption-vectors", is_flag=True, help="Leave them out, such as those of another text model.")
@names_option("--keep", what="Further columns that rows keep, for filters.")
@click.option("--normalize", is_flag=True, help="Scale every vector to unit length, instead of rejecting it.")
@click.option("--vocabulary", metavar="NAME|FILE", help="Tag the rows from their vectors: coco, or a file.")
@click.option(
    "--prove",
    default=16,
    show_default=True,
    type=click.IntRange(0, 10_000),
    metavar="N",
    help="Embed so many pictures again and compare; 0: none, and the table says that it is unproven.",
)
@click.option("--pictures", metavar="FOLDER", callback=without_secret, help="Where the pictures are, by id or uri.")
@click.option("--no-index", is_flag=True, help="Leave the indices to `clipmill index`.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing.")
@storage_options
@log_format_option
@json_option
def import_(vectors: str, table: str, as_json: bool, **options: Any) -> None:
    """Take vectors from a folder of clip-retrieval's (img_emb, text_emb, metadata), from parquet files or from a Lance
    table, and make TABLE of them, as `embed` would. What is wrong with a row is a reject with its reason.

    Running it again goes on where it stopped, replaces what changed, or does nothing. Exit code 3 where a picture
    that was embedded again shows a row with another row's vector.
    """
    from clipmill.jobs.importing.request import ImportOptions, Names
    from clipmill.jobs.importing.run import import_vectors
    from clipmill.jobs.importing.words import describe
    from clipmill.jobs.terminal.output import note, print_words
    from clipmill.schemas.job.config import Model

    columns = {name: options[name] for name in ("id", "uri", "caption", "vector", "caption_vector")}
    asked = ImportOptions(
        vectors=vectors,
        model=Model(name=options["model"], pretrained=options["pretrained"]),
        names=Names(keep=options["keep"], **columns),
        texts=not options["no_caption_vectors"],
        normalize=options["normalize"],
        vocabulary=options["vocabulary"],
        prove=options["prove"],
        pictures=options["pictures"],
        index=not options["no_index"],
        dry_run=options["dry_run"],
    )
    storage = storage_from(options["endpoint_url"], options["region"])
    done = import_vectors(table, asked, storage, say=note)
    print_words(done, describe, as_json=as_json)
    if done.proof.wrong:
        note(f"error: {counted(len(done.proof.wrong), 'row has', 'rows have')} a vector that is not their picture's")
        note("hint: the rejects name those that the sample met; put vectors and metadata in one order")
        sys.exit(EXIT_UNITS_FAILED)


commands: list[click.Command] = [import_]
