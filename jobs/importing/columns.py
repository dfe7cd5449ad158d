"""Which columns of somebody's files become which of ours. Decided once, by the first file, and held for all."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from clipmill.jobs.importing.request import ROW_NUMBER, Names
from clipmill.schemas.columns import KEEP_TYPES, RESERVED, refused_kept_name
from clipmill.schemas.errors import UserError

# The usual names, the likeliest first. `image_path` is what clip-retrieval calls the key, or the path, of a picture.
IDS = ("id", "image_path")
URIS = ("uri", "url", "image_url", "image_path")
CAPTIONS = ("caption", "text", "TEXT")
VECTORS = ("vector", "embedding", "image_embedding", "img_emb")
CAPTION_VECTORS = ("caption_vector", "text_embedding", "text_emb")
SIZES = ("width", "height")
_KEPT: tuple[tuple[tuple[pa.DataType, ...], str], ...] = (
    ((pa.string(), pa.large_string(), pa.string_view()), "string"),
    ((pa.bool_(),), "bool"),
    ((pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()), "int32"),
    ((pa.int64(), pa.uint32()), "int64"),
    ((pa.float16(), pa.float32()), "float32"),
    ((pa.float64(),), "float64"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Names of columns in the files; empty where there is none. `keep`: column -> a key of columns.KEEP_TYPES."""

    id: str = ""
    uri: str = ""
    caption: str = ""
    vector: str = ""
    caption_vector: str = ""
    sizes: tuple[str, ...] = ()
    keep: dict[str, str] = field(default_factory=dict)

    @property
    def beside(self) -> list[str]:
        """All but the vectors."""
        names = (self.id, self.uri, self.caption, *self.sizes, *self.keep)
        return [name for name in dict.fromkeys(names) if name]

    def check(self, schema: pa.Schema, uri: str) -> None:
        """Raises UserError for a file that lacks one of them, or holds something else in it."""
        wanted = [*self.beside, *filter(None, (self.vector, self.caption_vector))]
        if lacking := [name for name in wanted if name not in schema.names]:
            raise UserError(
                f"{uri} has no column {', '.join(lacking)}, which the first file has",
                f"its columns are {_listed(schema.names)}; import files of one kind at a time",
            )
        kept = {name: KEEP_TYPES[kind] for name, kind in self.keep.items()}
        texts = dict.fromkeys(filter(None, (self.id, self.uri, self.caption)), pa.string())
        for name, wanted_kind in (*texts.items(), *dict.fromkeys(self.sizes, pa.int64()).items(), *kept.items()):
            kind = schema.field(name).type
            if not _becomes(kind, wanted_kind) or (name in kept and _mixed(kind, wanted_kind)):
                what = "text" if wanted_kind == pa.string() else str(wanted_kind)
                raise UserError(
                    f"column {name} of {uri} holds {kind}, and {what} is wanted", "name another, or convert it"
                )
        for name in filter(None, (self.vector, self.caption_vector)):
            if not is_vector(schema.field(name).type):
                raise UserError(f"column {name} of {uri} holds {schema.field(name).type}", "lists of floats are wanted")


def choose(schema: pa.Schema, names: Names, uri: str, *, vectors: bool, texts: bool) -> Chosen:
    """`vectors`: the files hold them too, as clip-retrieval's metadata do not. Raises UserError that names what is
    missing."""

    def pick(option: str, asked: str, usual: Sequence[str]) -> str:
        if asked and asked not in schema.names:
            raise UserError(f"{uri} has no column {asked}, which {option} names", _its(schema))
        return asked or next((name for name in usual if name in schema.names), "")

    captions = [n for n in CAPTION_VECTORS if n in schema.names and is_vector(schema.field(n).type)]
    sizes = SIZES if all(n in schema.names and pa.types.is_integer(schema.field(n).type) for n in SIZES) else ()
    return Chosen(
        id="" if names.id == ROW_NUMBER else pick("--id", names.id, IDS),
        uri=pick("--uri", names.uri, URIS),
        caption=pick("--caption", names.caption, CAPTIONS),
        vector=_vector(schema, pick("--vector", names.vector, VECTORS), uri) if vectors else "",
        caption_vector=pick("--caption-vector", names.caption_vector, captions) if vectors and texts else "",
        sizes=sizes,
        keep={name: _kept(schema, name, uri) for name in names.keep},
    )


def _becomes(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of this kind can be turned into the other at all; each of them may still fail. Nothing but nulls
    is what a file without one value holds."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    try:
        pa.nulls(0, kind).cast(wanted)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def _mixed(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether one is text and the other is not: most values would fail."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(plain != pa.null() and (plain in _KEPT[0][0]) != (wanted == pa.string()))


def _vector(schema: pa.Schema, found: str, uri: str) -> str:
    if found and is_vector(schema.field(found).type):
        return found
    # Of the names of our own columns only those of `VECTORS` hold a picture's vector; `tag_scores` are floats too.
    able = [f.name for f in schema if is_vector(f.type) and f.name not in RESERVED]
    if not found and len(able) == 1:
        return str(able[0])
    what = f"column {found} of {uri} holds {schema.field(found).type}" if found else f"{uri} has no column of vectors"
    hint = f"name it: --vector {' or '.join(able)}" if able else f"a column of lists of floats; {_its(schema)}"
    raise UserError(what if found or not able else f"{uri} has several columns of vectors", hint)


def is_vector(kind: pa.DataType) -> bool:
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _kept(schema: pa.Schema, name: str, uri: str) -> str:
    if name not in schema.names:
        raise UserError(f"{uri} has no column {name}, which --keep names", _its(schema))
    if name in RESERVED:
        raise UserError(f"--keep {name}: the table has a column of that name already", "it needs no --keep")
    if why := refused_kept_name(name):
        raise UserError(f"--keep: {why}", "call it otherwise in the files, or leave it out")
    kind = schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_timestamp(kind):
        return "timestamp"
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return "list<string>"
    for kinds, said in _KEPT:
        if kind in kinds:
            return said
    raise UserError(f"column {name} of {uri} is {kind}, which the table cannot keep", "convert it, or leave it out")


def _its(schema: pa.Schema) -> str:
    return f"its columns are {_listed(schema.names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
