"""The table's Arrow schema, and those of the tables beside it: the contract for everyone downstream.

D: dimension of the model's shared space.
"""

import re
from collections.abc import Mapping

import pyarrow as pa

# Keys of field metadata.
FINGERPRINT_KEY = b"clipmill.fingerprint"  # on vector and caption_vector
VOCABULARY_KEY = b"clipmill.vocabulary"  # on tags: JSON {name, hash, top_k, min_score}; of retag also file, thresholds
HEAD_KEY = b"clipmill.head"  # on a head's column: JSON {hash, file, vector, output, model, pretrained, weights_sha256}
TABLE_ID_KEY = b"clipmill.table_id"  # metadata of the schema itself: made with the table, never changed
PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}

# EXIF 1..8 where the source says how a picture lies and its bytes do not. Its type tells it from a kept column of the
# same name, which tables without the option may have.
ORIENTATION = "orientation"
ORIENTATION_FIELD = pa.field(ORIENTATION, pa.int8())
# 64 bits of what the picture looks like (`workers.decode.phash`), where the job asks for them. A signed number: Lance
# indexes it, DuckDB, polars and Spark have exclusive-or and a count of bits for it; Spark and Java know no unsigned
# ones, and polars has no exclusive-or of a fixed_size_binary.
PHASH = pa.field("phash", pa.int64())


def has_phash(schema: pa.Schema) -> bool:
    """Whether rows have a perceptual hash; an older table may keep something else under that name."""
    return PHASH.name in schema.names and bool(schema.field(PHASH.name).type == PHASH.type)


# An image_hash that begins so is not of the picture's bytes, which nobody saw, but of the imported vector: equal ones
# count as copies. A picture's own hash begins so once in four thousand millions.
UNSEEN_HASH = "0" * 8

KEEP_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "list<string>": pa.list_(pa.string()),
}


def has_orientation(schema: pa.Schema) -> bool:
    """Whether rows may say how their pictures lie."""
    return any(is_orientation(field) for field in schema)


def is_orientation(field: pa.Field) -> bool:
    return bool(field.equals(ORIENTATION_FIELD))


def rows_schema(
    *,
    dim: int,
    keep: Mapping[str, str],
    fingerprint_json: str,
    vocabulary_json: str | None,
    thumbnails: bool,
    more: pa.Schema | None = None,
) -> pa.Schema:
    """Schema of the main table. `keep` maps a kept column to a key of KEEP_TYPES; `more`: what else the job asks for,
    PHASH and the columns of its heads (`head_field`)."""
    vector = pa.list_(pa.float16(), dim)
    model_meta = {FINGERPRINT_KEY: fingerprint_json.encode()}
    tags_meta = {VOCABULARY_KEY: vocabulary_json.encode()} if vocabulary_json else {}
    fields = [
        pa.field("id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("image_offset", pa.int64()),
        pa.field("image_size", pa.int64()),
        pa.field("source_etag", pa.string(), nullable=False),
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("image_hash", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("vector", vector, metadata=model_meta),
        pa.field("caption_vector", vector, metadata=model_meta),
        pa.field("caption_score", pa.float32()),
        pa.field("tags", pa.list_(pa.string()), metadata=tags_meta),
        pa.field("tag_scores", pa.list_(pa.float32())),
    ]
    if thumbnails:
        fields.append(pa.field("thumbnail", pa.binary()))
    fields += list(more or ())
    fields += [pa.field(name, KEEP_TYPES[kind]) for name, kind in keep.items()]
    return pa.schema(fields)


_OURS = rows_schema(
    dim=1, keep={}, fingerprint_json="{}", vocabulary_json=None, thumbnails=True, more=pa.schema([PHASH])
)
RESERVED = frozenset(_OURS.names)
ALWAYS_FILLED = frozenset(field.name for field in _OURS if not field.nullable)

# Which rows table an entry beside it is of: one that was dropped and made again has another id, and the old entries
# count for nothing. Null in entries made before tables had ids. A column that an older table lacks must be nullable,
# because `Tables.ensure_side_tables` adds it.
TABLE_ID = pa.field("table_id", pa.string())

# What a set of another model fills beside the columns in use: `vector__slug` and so on, until it takes their names.
SET_COLUMNS = ("vector", "caption_vector", "caption_score", "tags", "tag_scores")
SET_KEY = b"clipmill.set"  # metadata of `vector`: the slug of a set that was filled beside another
_SETS = frozenset(SET_COLUMNS)
# `attempt` of a reject that says why a row could not be filled: no unit has it, so it counts in no balance.
FILL_ATTEMPT = 0


def of_set(name: str) -> bool:
    """Whether a column's name is one of a set under way, or of a vocabulary beside; no kept column may be called so."""
    base, mark, _ = name.partition("__")
    return bool(mark) and base in _SETS


def refused_kept_name(name: str) -> str:
    """Why a kept column cannot be called so; empty where it can."""
    if of_set(name):
        return f"'{name}' is how the columns of a second model are called; write `my_{name}`"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", name):
        return f"'{name}' cannot be a column name: letters, digits and _ only"
    return ""


# Of columns that are being computed from stored vectors, until they take their names; and of what they replace, from
# then until it is dropped.
COMPUTED, REPLACED = "__retag", "__before"


def waiting(schema: pa.Schema) -> frozenset[str]:
    """Columns that nobody reads by name yet: those of sets under way, and of a computation under way."""
    slugs = tuple(f"__{slug}" for slug in sets_in(schema))
    ends = (COMPUTED, REPLACED, *slugs)
    return frozenset(f.name for f in schema if (of_set(f.name) or is_head(f)) and f.name.endswith(ends))


def head_field(name: str, about_json: str) -> pa.Field:
    """A head's column: a score for each row that has a vector."""
    return pa.field(name, pa.float32(), metadata={HEAD_KEY: about_json.encode()})


def is_head(field: pa.Field) -> bool:
    return HEAD_KEY in (field.metadata or {})


def heads_of(schema: pa.Schema, slug: str = "") -> list[str]:
    """Names of the heads whose columns the set in use has, or the set `slug` beside it (without their `__slug`)."""
    end = f"__{slug}" if slug else ""
    names = [field.name.removesuffix(end) for field in schema if is_head(field) and field.name.endswith(end)]
    return [name for name in names if "__" not in name]


def set_column(base: str, slug: str) -> str:
    """The name of one of SET_COLUMNS while its set is not in use."""
    return f"{base}__{slug}"


def sets_in(schema: pa.Schema) -> list[str]:
    """Slugs of the sets beside the one in use."""
    return [name.removeprefix("vector__") for name in schema.names if name.startswith("vector__")]


def vocabularies_in(schema: pa.Schema) -> list[str]:
    """Slugs of the vocabularies beside the one in use: tags of the vectors in use, by other labels."""
    slugs = [name.removeprefix("tags__") for name in schema.names if name.startswith("tags__")]
    hidden = waiting(schema)
    return [slug for slug in slugs if set_column("tags", slug) not in hidden]


def set_fields(slug: str, *, dim: int, fingerprint_json: str, vocabulary_json: str | None) -> pa.Schema:
    """The five columns of a set."""
    whole = rows_schema(
        dim=dim, keep={}, fingerprint_json=fingerprint_json, vocabulary_json=vocabulary_json, thumbnails=False
    )
    found = []
    for base in SET_COLUMNS:
        field = whole.field(base)
        more = {SET_KEY: slug.encode()} if base == "vector" else {}
        found.append(field.with_name(set_column(base, slug)).with_metadata({**(field.metadata or {}), **more}))
    return pa.schema(found)


UNITS = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("start", pa.string(), nullable=False),
        pa.field("end", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("seen", pa.int64(), nullable=False),
        pa.field("written", pa.int64(), nullable=False),
        pa.field("rejected", pa.int64(), nullable=False),
        pa.field("table_version", pa.int64(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("alias_of", pa.string(), nullable=False),
        TABLE_ID,
        pa.field("left_out", pa.string()),  # JSON, see left_out.py; null where an older clipmill did not count
        pa.field("moved", pa.int64()),  # rows that left for another unit's; null from an older clipmill
        pa.field("deleted", pa.int64()),  # of the written rows, those that a person had deleted
        pa.field("deleted_by", pa.string()),  # the run of the last such delete; its tombstones count by this
    ]
)

REJECTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),  # first 16 hex digits of the weights' hash
        TABLE_ID,
    ]
)

RUNS = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("command", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),  # started | finished | drained | failed | reference | night | …
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("detail", pa.string(), nullable=False),  # JSON: job file without secrets, or summary
        TABLE_ID,
    ]
)


DELETED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("image_hash", pa.string(), nullable=False),  # empty: a duplicate_id reject whose winner was deleted
        pa.field("everywhere", pa.bool_(), nullable=False),  # no other row had these bytes: under no id again
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
        TABLE_ID,
    ]
)


def table_id(schema: pa.Schema) -> str:
    """The id in a rows table's schema; empty for one that was made before tables had ids."""
    stored: bytes = (schema.metadata or {}).get(TABLE_ID_KEY, b"")
    return stored.decode()


def of_table(schema: pa.Schema, table_id: str) -> str:
    """Filter on a table beside the rows, of `schema`: its entries of the rows table with this id."""
    if TABLE_ID.name not in schema.names:
        return "false" if table_id else "true"  # an older clipmill's, and so of a table without an id
    if not table_id:
        return "(table_id IS NULL OR table_id = '')"
    assert table_id.isalnum(), table_id
    return f"table_id = '{table_id}'"
