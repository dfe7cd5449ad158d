"""Where a table and those beside it live, and how they are opened. One of the owners of lance.

<db>/<name>.lance            the rows
<db>/<name>__units.lance     the ledger
<db>/<name>__rejects.lance   samples without a row
<db>/<name>__runs.lance      what ran, the lease, the reference vectors of the self-check
<db>/<name>__deleted.lance   what people had deleted, once somebody did (`table.tombstones`)

The rows table gets an id when it is made, and what the others say carries it: whoever drops the rows alone and
makes them again gets a table of another id, of which the old ledger says nothing.
"""

import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa

from clipmill.jobs.table.errors import is_conflict, no_place_for_a_table, no_table, writing
from clipmill.schemas import columns
from clipmill.schemas.errors import ClipmillError, UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.secrets import CHAIN_HINT, secret_in
from clipmill.workers.store import lance_log
from clipmill.workers.store.errors import StoreBusy, of_table
from clipmill.workers.store.uri import absolute_uri, lance_address, split_uri

T = TypeVar("T")

# The commit protocol rests on the conflict resolver of this release; another may differ silently.
PYLANCE = "13.0.0"
SIDE_TABLES = {"runs": columns.RUNS, "units": columns.UNITS, "rejects": columns.REJECTS}
MAX_CONFLICTS = 50
TOLD_BY = ("id", "unit_id", "image_hash", "vector")  # a rows table has all of these, those beside it have not


def lance_module() -> Any:
    """Import lance, refusing a release whose conflict rules were not tried."""
    lance_log.quiet()
    import lance
    import lance.commit  # its errors; importing lance alone does not bring them

    if lance.__version__ != PYLANCE:
        raise UserError(
            f"pylance {lance.__version__} is installed, but commits are only proven safe with {PYLANCE}",
            f"pip install pylance=={PYLANCE}",
        )
    return lance


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """A descriptor: URIs and storage options, no open handle; it pickles."""

    database: str
    name: str
    storage: Storage = field(default_factory=Storage)
    options: dict[str, str] = field(default_factory=dict, repr=False)  # may hold credentials: never printed

    @staticmethod
    def at(table: str, storage: Storage | None = None) -> "Tables":
        """Parse `<database uri>/<name>`; raises UserError where it is not one."""
        from clipmill.workers.store.storage import lance_options

        storage = (storage or Storage()).of_table()
        if what := secret_in(table):
            raise UserError(f"the table's address carries {what}", CHAIN_HINT)
        typed = table.rstrip("/")
        database, _, name = absolute_uri(typed).rpartition("/")
        name = name.removesuffix(".lance")
        is_named = "/" in typed and typed.rpartition("/")[2] not in (".", "..")
        if not is_named or not name or not database or re.fullmatch(r"\w+:/?", database):  # s3://lake: only a bucket
            raise UserError(f"'{table}' is not a table", "write <database uri>/<name>, such as s3://lake/db/images")
        return Tables(database=database, name=name, storage=storage, options=lance_options(database, storage))

    def place(self, part: str = "") -> str:
        """The folder, for whatever lists or reads its files by itself. `part`: empty for the rows, else units, rejects,
        runs or deleted."""
        return f"{self.database}/{self.name}{'__' + part if part else ''}.lance"

    def uri(self, part: str = "") -> str:
        """The same as Lance takes it."""
        return lance_address(self.place(part))

    def is_at(self, uri: str) -> bool:
        """Whether the Lance table at `uri`, with or without `.lance`, is this one's rows: by whatever spelling, and on
        a disk by whatever link."""
        typed, mine = absolute_uri(uri.rstrip("/") or "/"), self.place()
        return any(one == mine or _is_same_folder(one, mine) for one in (typed, f"{typed}.lance"))

    @property
    def rows(self) -> str:
        return self.uri()

    def exists(self, part: str = "") -> bool:
        return self.open(part, missing_ok=True) is not None

    def open(
        self,
        part: str = "",
        *,
        version: int | None = None,
        missing_ok: bool = False,
        cache_bytes: int | None = None,
        index_bytes: int | None = None,
    ) -> Any:
        """The LanceDataset, at its latest version unless one is given. UserError, or None, where there is none. For the
        version that a tag names: `table.readers.tags_of`.

        `cache_bytes`: of metadata to keep in memory, for a caller that touches every file once. `index_bytes`: of
        indices; Lance's default is 6 GiB.
        """
        address = self.uri(part)
        if missing_ok and self._has_no_folder(part):
            return None  # nor need Lance be imported to see that
        for cut_off in (False, True):
            try:
                found = lance_module().dataset(
                    address,
                    version=version,
                    storage_options=self.options or None,
                    metadata_cache_size_bytes=cache_bytes,
                    index_cache_size_bytes=index_bytes,
                )
            except (ValueError, OSError) as error:
                self._raise_unless_missing(error, part)
            else:
                self._refuse_foreign(found.schema, part)
                return found
            if version is not None or not self._is_there(part):
                break
            if cut_off:  # twice: not another driver that made the table in between
                raise StoreBusy(f"the store of {address} lists nothing where there is something", "try it later")
        if missing_ok:
            return None
        if part and self.exists():
            raise UserError(
                f"the table {self.database}/{self.name} is there, but not {self.name}__{part}, which lay beside it",
                f"`clipmill maintain {self.database}/{self.name}` makes it again; what only it told is lost",
            )
        raise no_table(self.database, self.name)

    def _raise_unless_missing(self, error: Exception, part: str) -> None:
        if "Failed to resolve region" in str(error):
            raise UserError(
                f"{self.database}: no S3 server says in which region this bucket is",
                "check the bucket's name, or set storage.region or storage.endpoint_url",
            ) from None
        told = of_table(error, self.uri(part))
        if told is not error:
            raise told from None
        if place := no_place_for_a_table(error, self.database):
            raise place from None
        if not _is_missing(error):
            raise error

    def _refuse_foreign(self, schema: pa.Schema, part: str) -> None:
        """Rows of another tool's: no command may read them as ours, let alone build indices on them."""
        if not part and (lacks := [name for name in TOLD_BY if name not in schema.names]):
            raise UserError(
                f"the table {self.database}/{self.name} exists, but clipmill did not make it: it has no column "
                f"`{lacks[0]}`",
                "check the name, or give the job another table name; `clipmill import` takes in another tool's vectors",
            )

    def _has_no_folder(self, part: str) -> bool:
        """On a disk; whatever else there is to say of the place is Lance's to say."""
        scheme, path = split_uri(self.place(part))
        try:
            return scheme == "file" and not os.lstat(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _is_there(self, part: str) -> bool:
        """Lance takes a listing that is cut off for an empty one, and the table for missing; then everything would be
        embedded once more. So the store is asked by another client, which knows the difference."""
        from clipmill.workers.store.storage import has_any

        return self.uri(part).startswith("s3://") and has_any(f"{self.place(part)}/_versions/", self.storage)

    def create(self, part: str, schema: pa.Schema) -> Any:
        """Create an empty table, or open the one that another driver made in the same moment. Rows get a new id, unless
        the schema brings one."""
        lance = lance_module()
        if not part:
            schema = schema.with_metadata({columns.TABLE_ID_KEY: new_id(), **(schema.metadata or {})})
        try:
            with writing(self.uri(part)):
                return lance.write_dataset(
                    schema.empty_table(),
                    self.uri(part),
                    schema=schema,
                    mode="create",
                    enable_stable_row_ids=True,
                    storage_options=self.options or None,
                )
        except OSError as error:
            if "already exists" not in str(error):
                raise
            return self.open(part)

    def id(self) -> str | None:
        """Of the rows table as it is now, empty for an old one; None where there is none."""
        rows = self.open(missing_ok=True)
        return None if rows is None else columns.table_id(rows.schema)

    def ensure_side_tables(self) -> None:
        """Make those that are missing; give those of an older clipmill the columns they lack, all null (a commit of
        metadata alone). To be called under the lease where the tables exist, because an older writer does not know
        the columns."""
        for part, schema in SIDE_TABLES.items():
            found = self.open(part, missing_ok=True)
            if found is None:
                if part == "units":
                    self._refuse_to_forget()
                found = self.create(part, schema)
            lacking = [one for one in schema if one.name not in found.schema.names]
            if lacking:
                assert all(one.nullable for one in lacking), lacking
                self.add_columns(part, lacking)

    def _refuse_to_forget(self) -> None:
        """With an empty ledger all rows are a crash's, which leave, but for those whose commit can still be read."""
        rows = self.open(missing_ok=True)
        if rows is None or not rows.count_rows():
            return
        if not set(range(2, rows.version)) <= {int(one["version"]) for one in rows.versions()}:
            raise ClipmillError(
                f"{self.place('units')}, the ledger, is gone, and with old versions of the rows what it could be made "
                "of again: nothing writes this table, as its rows would be taken for left by a crash and removed",
                "put that folder back from a copy; the rows can be searched, and a job with another table name makes "
                "them again",
            )

    def change(
        self, change: Callable[[Any], T], part: str = "", *, what: str, check: Callable[[], None] = lambda: None
    ) -> T:
        """Make one commit by `change`, of the newest version, and again of the next while another commit is in the way.
        `check` is called before each try, such as a lease's; `what`: in words, what could not be done."""
        for _ in range(MAX_CONFLICTS):
            dataset = self.open(part)
            check()
            try:
                with writing(self.uri(part)):
                    return change(dataset)
            except OSError as error:
                if not is_conflict(error):
                    raise
        raise ClipmillError(
            f"{what}: {MAX_CONFLICTS} tries met other commits",
            "run the command again when fewer rows are being added, or stop what writes this table all the time",
        )

    def add_columns(self, part: str, fields: list[pa.Field]) -> None:
        """Those that are lacking, all null: a commit of metadata alone. To be called under the lease. In the way may be
        a late append of a run that ended, or another driver's same columns."""

        def add(dataset: Any) -> None:
            if lacking := [one for one in fields if one.name not in dataset.schema.names]:
                dataset.add_columns(pa.schema(lacking))

        self.change(add, part, what=f"columns of {self.place(part)} could not be added")

    def append(self, part: str, table: pa.Table) -> None:
        """Plain append, for the side tables only: rows are added by `jobs.committing.commit` and nothing else."""
        assert part, "rows are never appended"
        with writing(self.uri(part)):
            lance_module().write_dataset(table, self.uri(part), mode="append", storage_options=self.options or None)

    def log_run(self, run: str, command: str, event: str, detail: str, *, table_id: str | None = None) -> None:
        """`table_id`: of the rows table it is about; None for what is true of any, or where there is none yet."""
        row = {"run": run, "command": command, "event": event, "at": datetime.now(UTC), "detail": detail}
        row["table_id"] = table_id
        self.append("runs", pa.Table.from_pylist([row], schema=columns.RUNS))


def new_id() -> str:
    """Of a rows table, at its making: 16 hex digits."""
    return secrets.token_hex(8)


def _is_same_folder(uri: str, other: str) -> bool:
    (scheme, folder), (other_scheme, other_folder) = split_uri(uri), split_uri(other)
    try:
        return scheme == other_scheme == "file" and os.path.samefile(folder, other_folder)
    except (OSError, ValueError):  # not there, or no name for a file
        return False


def _is_missing(error: Exception) -> bool:
    text = str(error).lower()
    return "not found" in text or "does not exist" in text
