"""What is to be imported, and how it went. Values only."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from clipmill.jobs.committing.commit import Hook, no_hook
from clipmill.jobs.committing.holder import TTL_S
from clipmill.jobs.importing.proof import Proof
from clipmill.schemas.job.config import Commit, Model

ROW_NUMBER = "#row"  # as --id: the file's address and the row's number
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Columns of the files, as a person names them; empty: the usual names, where they are there."""

    id: str = ""
    uri: str = ""
    caption: str = ""
    vector: str = ""
    caption_vector: str = ""
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """`vectors`: a folder of clip-retrieval's, parquet, or a Lance table. `texts`: caption vectors are taken too.
    `prove`: pictures that are embedded again; `pictures`: the folder below which they lie, where no column says it.
    `hook` is called at each step of a commit, for tests that kill there."""

    vectors: str
    model: Model
    names: Names = Names()
    texts: bool = True
    normalize: bool = False
    vocabulary: str | None = None
    prove: int = 16
    pictures: str | None = None
    index: bool = True
    dry_run: bool = False
    commit: Commit = field(default_factory=Commit)
    lease_ttl_s: float = TTL_S
    hook: Hook = no_hook

    def to_log(self) -> dict[str, Any]:
        """As the run log keeps it."""
        said = asdict(self)
        for name in ("hook", "commit", "lease_ttl_s", "dry_run"):
            said.pop(name)
        return {**said, "model": self.model.model_dump(exclude_none=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """`seen == rows + sum(rejects.values())`, of this call; with `dry_run`, what would be. `refused` names the first
    rejects, a sentence each. `rows_s`: until the last row was committed, without proof and indices."""

    table: str
    form: str
    run: str = ""
    dry_run: bool = False
    units: int = 0
    already_done: int = 0
    replaced_units: int = 0
    healed_units: int = 0
    seen: int = 0
    rows: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    proof: Proof = field(default_factory=Proof)
    commits: int = 0
    table_version: int = 0
    rows_s: float = 0.0
    seconds: float = 0.0
    note: str = ""
