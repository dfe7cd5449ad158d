"""The job file as frozen values. Unknown keys are errors; no I/O, no defaults taken from the machine.

`jobs.planning.jobfile.load_job` reads the YAML and turns pydantic's errors into one sentence and a hint.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from clipmill.schemas.columns import KEEP_TYPES, ORIENTATION, RESERVED, refused_kept_name
from clipmill.schemas.job.heads import MAX_HEADS, Heads
from clipmill.schemas.job.nightly import Nightly
from clipmill.schemas.job.strict import Strict
from clipmill.schemas.model import ModelSpec

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(B|iB)?\s*", re.IGNORECASE)


def parse_quantity(value: Any) -> Any:
    """'50MB' -> 50_000_000, '100M' -> 100_000_000, '4GiB' -> 4 * 2**30; numbers pass through."""
    if not isinstance(value, str):
        return value
    match = _QUANTITY.fullmatch(value)
    if not match:
        raise ValueError(f"'{value}' is not a size such as 50MB, 4GiB or 100M")
    number, letter, suffix = float(match[1]), match[2].upper(), (match[3] or "").lower()
    base = 1024 ** "_KMGT".index(letter) if suffix == "ib" and letter else _UNITS[letter]
    return int(number * base)


def _as_list(value: Any) -> Any:
    """A single string stands for a list of one; `jpg;png` is webdataset's way to name several extensions."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(";") if part.strip()]
    return value


def _uri_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Quantity = Annotated[int, BeforeValidator(parse_quantity), Field(gt=0)]


class Keep(Strict):
    """A kept metadata column: its type, and the source's field where that has another name. A value that cannot be read
    as the type is null and counted; with `required` a sample without a readable value is rejected."""

    type: Literal["string", "bool", "int32", "int64", "float32", "float64", "timestamp", "list<string>"]
    source: str | None = Field(default=None, alias="from")
    required: bool = False

    def field(self, name: str) -> str:
        """The source's field for the column `name`; `json:label` is `label`, as it is for captions."""
        return (self.source or name).removeprefix("json:")


_TAKEN = f"'{ORIENTATION}' is the column of source.orientation"
FOLDER = "path:folder"  # as a field of `keep`: the name of the folder in which a picture lies


class Source(Strict):
    """Where images and captions come from."""

    format: Literal["webdataset", "files", "zip", "parquet", "lance", "manifest"]
    uri: Annotated[tuple[str, ...], BeforeValidator(_uri_list), Field(min_length=1)]
    image: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    images: str | None = None  # of a list: where names without an address lie, if not beside it
    caption: str | None = None
    keep: dict[str, Keep] = Field(default_factory=dict)
    id: str = "uri"
    orientation: str | None = None  # the field that says how a picture lies whose bytes no longer do
    limit: Annotated[int, Field(gt=0)] | None = None  # samples, for a first trial

    @field_validator("uri")
    @classmethod
    def _no_empty_uri(cls, uris: tuple[str, ...]) -> tuple[str, ...]:
        if any(not uri.strip() for uri in uris):
            raise ValueError("a URI is empty")
        return uris

    @field_validator("id")
    @classmethod
    def _known_id(cls, value: str) -> str:
        if value in ("uri", "key", "content") or (value.startswith("column:") and value != "column:"):
            return value
        raise ValueError(f"'{value}' is none of uri, key, content, column:NAME")

    @field_validator("orientation")
    @classmethod
    def _named_field(cls, value: str | None) -> str | None:
        if value is not None and not value.removeprefix("json:").strip():
            raise ValueError("name the field that says it, such as json:exif")
        return value

    @field_validator("keep", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """`license: string` is short for `license: {type: string}`; `width` and `height` of the original are
        columns already, measured from the picture, so keeping them under their own names changes nothing."""
        if not isinstance(value, dict):
            return value
        full = {k: ({"type": v} if isinstance(v, str) else v) for k, v in value.items()}
        for name in ("width", "height"):
            if full.get(name) == {"type": "int32"}:
                del full[name]
        return full

    @field_validator("keep")
    @classmethod
    def _free_names(cls, value: dict[str, Keep]) -> dict[str, Keep]:
        for name in value:
            if name in RESERVED:
                raise ValueError(
                    f"'{name}' is a column of the table already; write `my_{name}: {{type: ..., from: {name}}}`"
                )
            if why := refused_kept_name(name):
                raise ValueError(why)
        return value

    @model_validator(mode="after")
    def _columns(self) -> "Source":
        if self.format in ("parquet", "lance", "manifest") and len(self.image) > 1:
            raise ValueError("image names one column in parquet, lance and manifest sources")
        if self.orientation is not None and ORIENTATION in self.keep:
            raise ValueError(f"{_TAKEN}; write `keep: {{my_{ORIENTATION}: {{type: ..., from: ...}}}}`")
        if self.images is not None and (self.format != "manifest" or not self.images.strip()):
            raise ValueError("images is the folder of a manifest's pictures")
        for name, keep in self.keep.items():
            if keep.source == FOLDER and self.format not in ("files", "zip"):
                raise ValueError(f"keep.{name} is from {FOLDER}, which only sources of format files and zip have")
        return self

    @property
    def id_field(self) -> str:
        """The field that names the rows where `id` is `column:NAME`; empty where it is not."""
        return self.id.removeprefix("column:").removeprefix("json:") if self.id.startswith("column:") else ""

    @property
    def keep_types(self) -> dict[str, str]:
        assert all(k.type in KEEP_TYPES for k in self.keep.values())
        return {name: k.type for name, k in self.keep.items()}

    def reader_options(self) -> dict[str, Any]:
        """What changes pixels, captions, metadata or ids of a unit, and so belongs into its id."""
        return {
            "image": list(self.image),
            "caption": self.caption,
            "keep": {
                name: [k.type, k.source, *(["required"] if k.required else [])] for name, k in sorted(self.keep.items())
            },
            "id": self.id,
            **({"orientation": self.orientation} if self.orientation else {}),
            **({"images": self.images} if self.images is not None else {}),
        }


class Preprocessing(Strict):
    """How pictures are prepared for weights in a file that does not say it: the values, or `like` which pretrained tag.

    `preprocess: TAG` is short for `preprocess: {like: TAG}`. `mean` and `std` are of RGB in 0..1.
    """

    like: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: int | None = Field(default=None, ge=0, le=255)

    @model_validator(mode="after")
    def _one_of_both(self) -> "Preprocessing":
        values = {name: getattr(self, name) for name in ("mean", "std", "interpolation", "resize_mode")}
        if self.like is not None and (any(values.values()) or self.fill_color is not None):
            raise ValueError("`like` takes all from a tag; give either it or the values")
        missing = [name for name, value in values.items() if value is None]
        if self.like is None and missing:
            raise ValueError(f"{', '.join(missing)} missing; nothing is guessed")
        return self


def _like_a_tag(value: Any) -> Any:
    return {"like": value} if isinstance(value, str) else value


class Model(Strict):
    """Any open_clip model; `pretrained` is a tag, a checkpoint path, or the word `random`."""

    name: str = "clipmill-tiny"
    pretrained: str | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    preprocess: Annotated[Preprocessing | None, BeforeValidator(_like_a_tag)] = None
    activation: Literal["gelu", "quickgelu"] | None = None

    def spec(self) -> ModelSpec:
        return ModelSpec(
            name=self.name,
            pretrained=self.pretrained,
            precision=self.precision,
            preprocess=self.preprocess.model_dump(exclude_none=True) if self.preprocess else {},
            activation=self.activation,
        )


class Tags(Strict):
    """Zero-shot tags. `vocabulary` is a built-in name (coco, imagenet) or a YAML/CSV file; none: no tags."""

    vocabulary: str | None = None
    top_k: int = Field(default=5, ge=1, le=100)
    min_score: float = Field(default=0.1, ge=0, le=1)


class Workers(Strict):
    """`num` and `batch_size` in actors and samples; `gpus` per actor, auto = 1 where the cluster has any. `max`: how
    many actors `num: auto` may come to. `wait_s`: for a cluster that has no room for a single one."""

    num: int | Literal["auto"] = "auto"
    max: int | Literal["auto"] = "auto"
    gpus: float | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    cpus: float | Literal["auto"] = "auto"
    units_in_flight: int = Field(default=3, ge=1, le=8)
    wait_s: float = Field(default=900.0, gt=0)

    @field_validator("num", "max", "batch_size", "gpus", "cpus")
    @classmethod
    def _positive(cls, value: Any, info: Any) -> Any:
        if value != "auto" and (value < 0 or (value == 0 and info.field_name != "gpus")):
            raise ValueError("must be a positive number or auto")
        return value


class Storage(Strict):
    """Never a credential: those come from the standard AWS chain only. `anonymous` and `requester_pays` are of what a
    job reads; its table is always reached with credentials (`of_table`)."""

    endpoint_url: str | None = None
    region: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    addressing: Literal["auto", "path", "virtual"] = "auto"

    @field_validator("endpoint_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/\s]", value):
            raise ValueError("must start with http:// or https://")
        return value

    @model_validator(mode="after")
    def _who_pays(self) -> "Storage":
        if self.anonymous and self.requester_pays:
            raise ValueError("anonymous and requester_pays exclude each other: a store must know who pays")
        return self

    def of_table(self) -> "Storage":
        """For the store that is written to."""
        return self.model_copy(update={"anonymous": False, "requester_pays": False})


class Limits(Strict):
    """`worker_memory` bounds what waits its turn in an actor, not the actor: the model comes on top."""

    max_image_bytes: Quantity = 50_000_000
    max_pixels: Quantity = 100_000_000
    worker_memory: Quantity = 4_000_000_000
    unit_deadline_s: float = Field(default=900.0, gt=0)
    max_attempts: int = Field(default=3, ge=1, le=10)


class Commit(Strict):
    every_rows: Quantity = 50_000
    every_s: float = Field(default=30.0, gt=0)


class PlanOptions(Strict):
    price_per_gpu_hour: float | None = Field(default=None, ge=0)


class JobFile(Strict):
    """The whole job. `table` is `<database uri>/<name>`."""

    table: str
    source: Source
    model: Model = Model()
    tags: Tags = Tags()
    heads: Heads = Field(default_factory=dict)
    workers: Workers = Workers()
    storage: Storage = Storage()
    limits: Limits = Limits()
    commit: Commit = Commit()
    thumbnails: bool = False
    phash: bool = False
    plan: PlanOptions = PlanOptions()
    nightly: Nightly = Nightly()

    @field_validator("table")
    @classmethod
    def _table_name(cls, value: str) -> str:
        if why := refused_table(value):
            raise ValueError(why)
        return value.rstrip("/")

    @field_validator("heads")
    @classmethod
    def _head_names(cls, value: Heads) -> Heads:
        if len(value) > MAX_HEADS:
            raise ValueError(f"there are {len(value)} heads; at most {MAX_HEADS} are taken")
        for name in value:
            if why := refused_head_name(name):
                raise ValueError(why)
        return value

    @model_validator(mode="after")
    def _one_column_each(self) -> "JobFile":
        if both := sorted(set(self.heads) & set(self.source.keep)):
            raise ValueError(f"'{both[0]}' is a head and a kept column; call one of them otherwise")
        if self.source.orientation is not None and ORIENTATION in self.heads:
            raise ValueError(f"{_TAKEN}; call the head otherwise")
        return self


def refused_table(address: str) -> str:
    """Why no table is made at this address; empty where one can be. `__` parts a table's name from what lies beside
    it (`jobs.table.tables`)."""
    database, _, name = address.rstrip("/").rpartition("/")
    if not database or not name:
        return f"'{address}' is not <database uri>/<name>, such as s3://lake/db/images"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or "__" in name:
        return f"'{name}' cannot be a table's name: letters, digits, dots, - and single _, a letter or digit first"
    return ""


def refused_head_name(name: str) -> str:
    """Why a head's column cannot be called so; empty where it can."""
    if name in RESERVED:
        return f"'{name}' is a column of the table already; call the head otherwise"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", name) or "__" in name:
        return f"'{name}' cannot be a head's column: letters, digits and single _ only"
    return ""
