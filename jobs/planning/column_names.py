"""What columns are called in lists that many people have (LAION, COYO, DataComp), said before they are missed."""

from collections.abc import Sequence

from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.lists.lines import open_rows
from clipmill.workers.read.tables.columns import IMAGE_NAMES, image_column, link_names, recognised
from clipmill.workers.read.tables.lance_table import open_table
from clipmill.workers.store.storage import open_stream

_CAPTIONS = ("caption", "text", "TEXT", "captions", "alt_text")
# Scores and marks of these lists, by the type that a kept column takes.
_SCORES = {
    "similarity": "float32",
    "punsafe": "float32",
    "pwatermark": "float32",
    "AESTHETIC_SCORE": "float32",
    "aesthetic": "float32",
    "NSFW": "string",
    "LICENSE": "string",
    "LANGUAGE": "string",
    "clip_similarity_vitb32": "float32",
    "clip_similarity_vitl14": "float32",
    "nsfw_score_opennsfw2": "float32",
    "watermark_score": "float32",
    "aesthetic_score_laion_v2": "float32",
    "clip_b32_similarity_score": "float32",
    "clip_l14_similarity_score": "float32",
}


def said_of_columns(unit: WorkUnit, source: Source, storage: Storage) -> str | None:
    """A sentence about the columns of the object that the first unit is of; None where there is nothing to say, or it
    cannot be read, which `embed` will say."""
    try:
        names = _names(unit, source, storage)
    except (OSError, ValueError, ClipmillError):
        return None
    told = []
    candidates = link_names(unit.uri) if unit.format == "manifest" else IMAGE_NAMES
    taken = recognised(names, source, candidates)
    if taken is not source:
        image = image_column(names, source, candidates)
        told.append(f"{image} is read as the address and {taken.caption} as the caption, as LAION's lists have them")
    elif source.caption is None and (caption := next((name for name in _CAPTIONS if name in names), None)):
        told.append(f"no caption is read: source.caption: {caption} takes it from that column")
    fields = {keep.field(name) for name, keep in source.keep.items()}
    scores = [f"{name}: {kind}" for name, kind in _SCORES.items() if name in names and name not in fields]
    if scores:
        told.append(f"source.keep: {{{', '.join(scores)}}} would carry more of its columns")
    return "; ".join(told) or None


def _names(unit: WorkUnit, source: Source, storage: Storage) -> Sequence[str]:
    if unit.format == "manifest":
        with open_rows(unit.uri, source, storage) as rows:
            return rows.names
    if unit.format == "lance":
        return [str(name) for name in open_table(unit.uri, storage).schema.names]
    if unit.format != "parquet":
        return ()
    import pyarrow.parquet as pq

    with open_stream(unit.uri, storage) as stream:
        return [str(name) for name in pq.ParquetFile(stream, pre_buffer=False).schema_arrow.names]
