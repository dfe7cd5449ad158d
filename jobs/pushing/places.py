"""Addresses as others may see them: relative to the source's folder, not as paths of this machine, and without
credentials."""

import os
import re
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.pushing.request import PushOptions
from clipmill.jobs.querying.open import Table
from clipmill.jobs.table.ledger import Ledger
from clipmill.schemas.errors import UserError
from clipmill.schemas.text.secrets import CHAIN_HINT, PATTERNS, masked, secret_in
from clipmill.workers.read.folders.keys import pattern_of
from clipmill.workers.store.uri import absolute_uri, join_uri

_LOCAL = "uri LIKE '/%'"  # how absolute_uri spells what lies on a disk
_ROOT_HINT = "--root FOLDER says what addresses are written relative to, --base URI what stands in its place"
_BEFORE_A_PATH = r"(^|[\s'\"(=])(?:file://)?"
ELSEWHERE = "…/"  # in the place of the folders of a reject that is not below the root


@dataclass(kw_only=True)
class Places:
    """`root`: ends in `/`, or is empty where addresses stay as they are; `base`: what stands in its place. `masked`:
    values in which a credential was written over, counted on the way."""

    root: str
    base: str
    masked: int = 0
    _own: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        home = os.path.expanduser("~").rstrip("/") + "/"
        first = "/".join(self.root.split("/")[:2]) + "/" if self.root.startswith("/") else ""
        self._own = tuple(one for one in (home, first) if len(one) > 2)

    def of_rows(self, rows: pa.Table) -> pa.Table:
        """Every address in columns of strings, but for captions, which are nobody's address. Raises UserError where a
        path of this machine is left."""
        for index, column in enumerate(rows.schema):
            if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
                self._check(column.name, pc.list_flatten(rows[column.name]))
                rows = rows.set_column(index, column, self._masked_lists(rows[column.name]))
            if pa.types.is_string(column.type):
                values = rows[column.name]
                if column.name != "caption":
                    values = self._relative(values)
                    self._check(column.name, values)
                rows = rows.set_column(index, column, self._masked(values))
        return rows

    def of_rejects(self, rejects: pa.Table) -> pa.Table:
        """The same for id, uri and detail. A reject may name any place, also one where nothing may be read: of what is
        not below the root the last name is left."""
        for index, column in enumerate(rejects.schema):
            values = self._relative(rejects[column.name])
            if column.name == "detail":
                if self.root:
                    values = _replaced(values, _BEFORE_A_PATH + re.escape(self.root), r"\1" + _escaped(self.base))
                values = _replaced(values, _BEFORE_A_PATH + r"/(?:[^\s'\"/]+/)+", r"\1" + ELSEWHERE)
            else:
                values = _replaced(values, "^(?:file://)?/(?:[^#]*/)?", ELSEWHERE)
            rejects = rejects.set_column(index, column, self._masked(values))
        return rejects

    def of_filter(self, sql: str | None) -> str | None:
        """A filter as others may read it: its addresses as in the rows, of folders above the root nothing."""
        if sql is None or self.root == "/" or self.base.startswith("/"):  # asked for
            return sql and masked(sql)
        if self.root:
            sql = re.sub(rf"'(?:file://)?{re.escape(self.root)}", lambda _: f"'{self.base}", sql)
        return masked(re.sub(r"'(?:file:/*)?/(?:[^'/]*/)*", f"'{ELSEWHERE}", sql))

    def _relative(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        if not self.root:
            return values
        return _replaced(values, f"^(?:file://)?{re.escape(self.root)}", _escaped(self.base))

    def _check(self, name: str, values: pa.ChunkedArray) -> None:
        starts = ("/", "file:") if name == "uri" else self._own
        if self.base.startswith("/") or self.root == "/":
            return  # asked for
        for start in starts:
            found = values.filter(pc.fill_null(pc.starts_with(values, start), False))
            if len(found):
                more = "" if name == "uri" else "; --column names those that are pushed"
                raise UserError(f"the column {name} holds a path of this machine, {found[0]}", _ROOT_HINT + more)

    def _masked(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        bad = None
        for pattern in PATTERNS:
            hit = pc.fill_null(pc.match_substring_regex(values, pattern), False)
            bad = hit if bad is None else pc.or_(bad, hit)
        number = pc.sum(bad).as_py() or 0
        if not number:
            return values
        self.masked += number
        texts = [None if text is None else masked(text) for text in values.to_pylist()]
        return pa.chunked_array([pa.array(texts, values.type)])

    def _masked_lists(self, lists: pa.ChunkedArray) -> pa.ChunkedArray:
        texts = pc.list_flatten(lists)
        if self._masked(texts) is texts:
            return lists
        found = [one and [text and masked(text) for text in one] for one in lists.to_pylist()]
        return pa.chunked_array([pa.array(found, lists.type)])


def _replaced(values: pa.ChunkedArray, pattern: str, by: str) -> pa.ChunkedArray:
    return pc.replace_substring_regex(values, pattern, by)


def _escaped(text: str) -> str:
    """For what a pattern is replaced by."""
    return text.replace("\\", "\\\\")


def places_of(table: Table, latest: Ledger, options: PushOptions) -> Places:
    """What the addresses of this table are relative to. Raises UserError where nothing but `/` is."""
    if what := secret_in(options.base) or secret_in(options.root or ""):
        raise UserError(f"--base or --root carries {what}", CHAIN_HINT)
    base = options.base if not options.base or options.base.endswith("/") else options.base + "/"
    if options.root is not None:
        return Places(root=absolute_uri(options.root).rstrip("/") + "/", base=base)
    found = sorted({*_folders(latest), *_of_rows(table)})
    if not found:
        if base:
            raise UserError("--base stands in the place of a folder, and no address is of this machine", _ROOT_HINT)
        return Places(root="", base="")
    root = os.path.commonpath(found)
    if root == "/":
        raise UserError(
            f"the pictures lie in folders of this machine that have nothing in common, such as {found[0]} and "
            f"{found[-1]}",
            "push those of one folder by --where and --root, or say --root / if others may see those paths",
        )
    return Places(root=root + "/", base=base)


def _folders(latest: Ledger) -> set[str]:
    """Of the sources on this machine's disks: what a folder or a glob begins with, and where tars and tables lie."""
    found = set()
    for entry in latest.values():
        if entry.format not in ("files", "webdataset", "zip", "parquet", "lance") or not entry.uri.startswith("/"):
            continue
        whole = join_uri("file", pattern_of(entry.uri).root) if entry.format == "files" else entry.uri
        found.add(whole.rpartition("/")[0] or "/")
    return found


def _of_rows(table: Table) -> set[str]:
    """The folders of the first and the last local address: what these two have in common, all have."""
    ends: list[str] = []
    for batch in table.snapshot.dataset.scanner(columns=["uri"], filter=_LOCAL, batch_size=65_536).to_batches():
        both: dict[str, Any] = pc.min_max(batch.column(0)).as_py()
        ends = [*ends, *(one for one in both.values() if one is not None)]
        ends = [min(ends), max(ends)] if ends else []
    return {one.partition("#")[0].rpartition("/")[0] or "/" for one in ends}
