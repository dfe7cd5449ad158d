"""`clipmill push TABLE hf://OWNER/NAME | DIR`: a version of a table as a data set that others load.

README.md                     the card, with the Hub's own fields in its first lines
data/train-00000-of-00003.parquet ...      the rows; or data/train.lance
rejects/...                   samples without a row, a configuration of its own
clipmill.json                 what the card says, for programs

It is made whole in a folder that nobody looks at, which then takes its name, or is uploaded as one commit.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from clipmill.jobs.pushing import files, hub
from clipmill.jobs.pushing.card import card
from clipmill.jobs.pushing.facts import Facts, facts_of, published
from clipmill.jobs.pushing.places import Places, places_of
from clipmill.jobs.pushing.request import PushOptions, check_license
from clipmill.jobs.querying.open import Query, Table
from clipmill.jobs.table.errors import check_folder
from clipmill.jobs.table.ledger import Ledger, read_ledger
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import HEAD_KEY
from clipmill.schemas.errors import UserError
from clipmill.schemas.text.plain import plain
from clipmill.schemas.text.words import counted
from clipmill.workers.store.uri import quote

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_LICENSE_COLUMNS = ("license", "licence")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """`to`: hf://OWNER/NAME, or a folder. `files`: of the whole data set, `size_bytes` of all of them. `commit`: its
    address on the Hub; empty for a folder, and where the Hub had all of it already."""

    table: str
    version: int
    to: str
    format: str
    rows: int
    rejects: int
    files: int
    size_bytes: int
    license: str
    masked: int
    commit: str = ""


def push(table: Table, options: PushOptions, *, tell: Tell = lambda _: None) -> PushReport:
    """Raises UserError before anything is written, with all that can be known by then."""
    check_license(options.license)
    tables = Tables.at(table.uri, table.storage)
    schema = published(files.output_schema(table, options))
    options = replace(options, license_column=_license_column(schema, options))
    if not table.count(Query(where=options.where)):
        which = f"no row passes --where {options.where}" if options.where else f"{table.uri} has no rows"
        raise UserError(f"{which}, so there is nothing to push", "`clipmill status TABLE` says what is in a table")
    if options.folder:
        _check_new(options.folder)
    latest = read_ledger(tables, up_to=table.version)
    places = places_of(table, latest, options)
    found = None if options.folder else hub.look(options)
    with _building(options.folder) as folder:
        facts = _write(table, tables, latest, (schema, places, options), folder, tell)
        rejects = counted(sum(facts.rejects.values()), "reject")
        tell(f"{counted(facts.rows, 'row')} and {rejects} written. {facts.addresses}")
        report = _report(table, facts, options, folder)
        if found is None:
            _take_name(folder, Path(options.folder))
            return report
        message = options.message or f"{facts.name} version {facts.version}: {counted(facts.rows, 'row')}"
        tell(f"uploading {counted(report.files, 'file')}, {report.size_bytes / 1e6:,.1f} MB, to {report.to}")
        try:
            return replace(report, commit=hub.upload(folder, found, options, message))
        except KeyboardInterrupt:
            tell(hub.resume_hint(report.to, report.files))
            raise


def _license_column(schema: pa.Schema, options: PushOptions) -> str | None:
    """Where each row says its licence. Raises UserError where nothing says under which this is published."""
    named = options.license_column
    if named is not None and named not in schema.names:
        raise UserError(f"--license-column {named} is no column that is pushed", f"there is: {', '.join(schema.names)}")
    column = named or next((name for name in _LICENSE_COLUMNS if name in schema.names), None)
    if column is not None and not pa.types.is_string(schema.field(column).type):
        raise UserError(f"--license-column {column} is {schema.field(column).type}, not text", "--license NAME")
    if column is None and options.license is None:
        raise UserError(
            "nothing says under which licence this is published: no column license, and no --license",
            "--license cc-by-4.0, or whichever it is; --license unknown says that nobody knows",
        )
    return column


def _write(
    table: Table, tables: Tables, latest: Ledger, how: tuple[pa.Schema, Places, PushOptions], folder: Path, tell: Tell
) -> Facts:
    schema, places, options = how
    rows = files.write_rows(table, schema, places, options, folder, tell=tell)
    rejects = files.write_rejects(tables, latest, places, options, folder)
    facts = facts_of(
        table,
        tables,
        latest,
        schema,
        where=places.of_filter(options.where),
        form=options.form,
        addresses=_addresses(places),
        rows=rows.rows,
        files=rows.files,
        masked=places.masked,
        rejects=dict(sorted(rejects.counts.items())),
        license=options.license,
        license_column=options.license_column,
        licenses=dict(sorted(rows.counts.items())),
    )
    heads = {column.name: _head_of(column) for column in schema if HEAD_KEY in (column.metadata or {})}
    (folder / "README.md").write_text(card(facts, options.repo, with_heads=heads), "utf-8")
    (folder / hub.MARKER).write_text(json.dumps(plain(facts), ensure_ascii=False, indent=1) + "\n", "utf-8")
    return facts


def _head_of(column: pa.Field) -> str:
    """The model on whose vectors the head gives its scores."""
    about = json.loads(column.metadata[HEAD_KEY])
    return f"{about.get('model', '')} {about.get('pretrained', '')}".strip()


def _addresses(places: Places) -> str:
    if not places.root:
        return "Addresses are those of the source."
    if places.base:
        return f"Addresses are below {places.base}."
    return "Addresses are relative to the folder of the source."


def _check_new(folder: str) -> None:
    check_folder(quote(folder))
    path = Path(folder)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{folder} is there already, and not empty", "name a new folder")
    if path.is_dir() and (os.path.ismount(path) or path.samefile(os.curdir)):  # one cannot be replaced, one is stood in
        what = "the root of a file system" if os.path.ismount(path) else "where this command runs"
        raise UserError(f"{folder} is {what}, and another folder takes its name", "name a new folder in it")


@contextmanager
def _building(folder: str) -> Iterator[Path]:
    """A folder that is gone afterwards, unless it was renamed: beside `folder`, or among the temporary ones."""
    beside = _real(folder).parent if folder else Path(tempfile.gettempdir())
    name = f".{_real(folder).name}." if folder else "clipmill-push-"
    made: Path | None = None
    try:
        beside.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=name, suffix=".part", dir=beside))
        yield made
    except OSError as error:
        if error.errno not in _FULL:
            raise
        said = f"the data set cannot be written in {beside}: {os.strerror(error.errno)}"
        raise UserError(said, "make room there, or name another place: DIR, or TMPDIR for the Hub") from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _real(folder: str) -> Path:
    """Where a link leads; a link itself gives way to no folder."""
    return Path(os.path.realpath(folder))


def _take_name(made: Path, folder: Path) -> None:
    """An empty folder of that name gives way; any other does not."""
    mask = os.umask(0)
    os.umask(mask)
    made.chmod(0o777 & ~mask)  # a temporary folder is its maker's alone
    try:
        os.rename(made, _real(str(folder)))
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}", "name a new folder") from None


def _report(table: Table, facts: Facts, options: PushOptions, folder: Path) -> PushReport:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return PushReport(
        table=table.uri,
        version=table.version,
        to=options.folder or f"hf://datasets/{options.repo}",
        format=options.form,
        rows=facts.rows,
        rejects=sum(facts.rejects.values()),
        files=len(sizes),
        size_bytes=sum(sizes),
        license=facts.hub_license,
        masked=facts.masked,
    )
