"""What is known of the pushed version: for the card, for programs (`clipmill.json`) and for whoever typed the command.
Nothing in it is of the moment, or of this machine."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from clipmill.jobs.planning.models import license_of
from clipmill.jobs.querying.open import Table
from clipmill.jobs.table import compat, ledger
from clipmill.jobs.table.proof import proof_of
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.status import left_out
from clipmill.schemas.columns import FINGERPRINT_KEY, HEAD_KEY, VOCABULARY_KEY, table_id
from clipmill.schemas.installed import version
from clipmill.schemas.model import Fingerprint
from clipmill.schemas.unit.receipts import LedgerState

ANY_LICENSE = "other"  # on the Hub: read the card


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Of the ledger as it was at the pushed version: seen = rows + rejected + deleted where it `adds_up`. `left_out`:
    what no reader took, by ending."""

    units: int
    seen: int
    rows: int
    rejected: int
    deleted: int
    adds_up: bool
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`models`: the fingerprint of each vector column; `weights_license`: of their weights, where it is known. `proof`:
    of imported vectors. `rows`: those that were pushed. `rejects`: by reason. `licenses`: rows by what `license_column`
    says, "" where it says nothing."""

    name: str
    version: int
    table_id: str
    where: str | None
    models: dict[str, Fingerprint]
    weights_license: dict[str, str]
    proof: str
    sums: Sums
    vocabulary: str
    form: str
    columns: tuple[tuple[str, str], ...]
    addresses: str
    clipmill: str
    rows: int = 0
    files: int = 0
    masked: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    license: str | None = None
    license_column: str | None = None
    licenses: dict[str, int] = field(default_factory=dict)

    @property
    def hub_license(self) -> str:
        """The one of the card's first lines: what was stated, else what all rows have in common."""
        if self.license:
            return self.license
        named = {_ALIASES.get(name.strip().lower(), name.strip().lower()) for name in self.licenses}
        return named.pop() if len(named) == 1 and named <= _LICENSES else ANY_LICENSE


# Those that rows of pictures usually name, as the Hub spells them.
_LICENSES = frozenset(
    (
        *("cc0-1.0", "mit", "apache-2.0", "pddl", "odbl", "odc-by"),
        *(f"cc-by{kind}-{number}" for kind in ("", "-sa", "-nc") for number in ("2.0", "3.0", "4.0")),
        *(f"cc-by{kind}-{number}" for kind in ("-nc-sa", "-nc-nd") for number in ("2.0", "3.0", "4.0")),
        "cc-by-nd-4.0",
    )
)
_ALIASES = {"cc0": "cc0-1.0", "cc0 1.0": "cc0-1.0", "cc by 4.0": "cc-by-4.0", "cc by-sa 4.0": "cc-by-sa-4.0"}


def facts_of(table: Table, tables: Tables, latest: ledger.Ledger, schema: pa.Schema, **more: Any) -> Facts:
    """All that is known before a row is read; the rest is added by `replace`."""
    models = {
        column.name: Fingerprint.from_json(column.metadata[FINGERPRINT_KEY].decode())
        for column in schema
        if FINGERPRINT_KEY in (column.metadata or {})
    }
    said = compat.stored_vocabulary(schema) if "tags" in schema.names else None
    return Facts(
        name=tables.name,
        version=table.version,
        table_id=table_id(table.schema),
        models=models,
        weights_license={column: license_of(one.model, one.pretrained) for column, one in models.items()},
        proof=proof_of(models["vector"]) if "vector" in models else "",
        sums=_sums(table, tables, latest),
        vocabulary=str((said or {}).get("name", "")),
        columns=tuple((column.name, str(column.type)) for column in schema),
        clipmill=version(),
        **more,
    )


def _sums(table: Table, tables: Tables, latest: ledger.Ledger) -> Sums:
    alive = [e for e in ledger.live(latest).values() if e.state == LedgerState.COMMITTED]
    seen, rejected = sum(e.accounted for e in alive), sum(e.rejected for e in alive)
    deleted = sum(e.deleted for e in alive)
    return Sums(
        units=len(alive),
        seen=seen,
        rows=table.num_rows,
        rejected=rejected,
        deleted=deleted,
        adds_up=seen == table.num_rows + rejected + deleted,
        left_out=dict(sorted(left_out(tables, latest, table_id(table.schema)).items())),
    )


def published(schema: pa.Schema) -> pa.Schema:
    """The schema that others get: of the metadata only what says how a column was made, without paths of weights,
    vocabularies and heads."""
    keys = {FINGERPRINT_KEY: _fingerprint, VOCABULARY_KEY: _vocabulary, HEAD_KEY: _head}
    fields = []
    for column in schema:
        kept = {key: clean(column.metadata[key]) for key, clean in keys.items() if key in (column.metadata or {})}
        fields.append(pa.field(column.name, column.type, nullable=column.nullable, metadata=kept or None))
    return pa.schema(fields)


def _fingerprint(text: bytes) -> bytes:
    found = Fingerprint.from_json(text.decode())
    kept = {name: _last_name(value) for name, value in found.provenance.items()}
    return replace(found, pretrained=_last_name(found.pretrained), provenance=kept).to_json().encode()


def _vocabulary(text: bytes) -> bytes:
    return _only(json.loads(text), ("name", "hash", "top_k", "min_score", "thresholds", "weights_sha256"))


def _head(text: bytes) -> bytes:
    names = ("hash", "file", "vector", "output", "model", "pretrained", "weights_sha256")
    return _only(json.loads(text), names)


def _only(said: Mapping[str, Any], names: tuple[str, ...]) -> bytes:
    kept = {name: said[name] for name in names if name in said}
    return json.dumps({n: _last_name(v) if isinstance(v, str) else v for n, v in kept.items()}).encode()


def _last_name(text: str) -> str:
    """Of a file, here or in a store; other words as they are."""
    if "://" in text or PurePath(text).is_absolute():
        return text.rstrip("/").rpartition("/")[2]
    return text
