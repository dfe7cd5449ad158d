"""What the source holds, counted again and compared with the ledger.

A balance says that every sample which a reader yielded is a row or a reject, and nothing of what it never yielded. So
here names, lines and footers are counted by other code than the readers': keys of a listing by their endings, lines of
a list, entries of a COCO document, rows of a parquet footer, members of a tar. Only units that stand in the ledger as
they are listed now are compared; what is new, changed or gone since is no damage. Memory: the units of one prefix or
list at a time.
"""

import contextlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, cast

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.table import ledger
from clipmill.jobs.table.originals import is_local, source_storage
from clipmill.jobs.table.runs import last_job, last_source
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.coco import pictures_of
from clipmill.jobs.verifying.imported import check_imported
from clipmill.jobs.verifying.report import Problems, Report
from clipmill.jobs.verifying.status import counted_rejects
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.text import words
from clipmill.schemas.unit.left_out import from_json
from clipmill.schemas.unit.receipts import LedgerEntry, LedgerState
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.units import IMPORTED, WorkUnit
from clipmill.workers.read.census import BEHIND_A_DOT, Census
from clipmill.workers.read.fields import Wanted
from clipmill.workers.read.folders.archive import open_archive
from clipmill.workers.read.folders.keys import Digest, earlier_patterns, is_asked_for, pattern_of, wanted_keys
from clipmill.workers.read.folders.zipped import span_of
from clipmill.workers.read.lists.coco import PICTURE
from clipmill.workers.read.lists.lines import CocoRows, open_rows
from clipmill.workers.read.tars.packed import unpack
from clipmill.workers.read.tars.tar import BadTar, TarReader
from clipmill.workers.store.listing import list_keys
from clipmill.workers.store.storage import open_stream
from clipmill.workers.store.uri import split_uri

SMALL_BYTES = 64_000_000  # of tars that are read without being asked for
_TABULAR = (".parquet", ".parq", ".pq")


@dataclass(slots=True)
class _Counted:
    """Of one unit: samples that it must have brought, None where nobody counted; `exactly`, or at least so many."""

    pictures: int | None
    exactly: bool = True


@dataclass(slots=True)
class _Look:
    source: Source
    storage: Storage
    say: Problems
    tar_bytes: int | None  # None: all tars are read
    of_none: Counter[str] = field(default_factory=Counter)  # by unit: rejects of a tar that are no picture's
    unread_tars: int = 0


def check_source(
    tables: Tables, latest: ledger.Ledger, report: Report, say: Problems, *, asked: bool | None = None
) -> None:
    """`latest`: the ledger. `asked`: tars of any size are read too; None: only what is cheap; False: nothing."""
    if asked is False:
        return
    alive = ledger.live(latest)
    check_imported(tables, [e for e in alive.values() if e.state == LedgerState.COMMITTED], report, say)
    source = _source_of(tables, latest, report)
    if source is None:
        return
    storage = source_storage(tables)
    look = _Look(source, storage, say, None if asked else SMALL_BYTES)
    with contextlib.suppress(ClipmillError, OSError, ValueError):  # the balance says what is wrong with the rejects
        look.of_none = _texts_alone(tables, source, latest)
    counts = dict.fromkeys(("compared", "not in the table yet"), 0)
    try:
        for uri, group in groupby(survey(source, storage, Limits()), key=lambda unit: unit.uri):
            units = list(group)
            known = [_entry(alive, unit.unit_id) for unit in units]
            counts["not in the table yet"] += known.count(None)
            if any(known):
                counts["compared"] += _compare(uri, units, known, look)
    except (ClipmillError, OSError, ValueError) as error:
        report.not_checked.append(f"the source: {' '.join(str(error).split())[:300]}")
        return
    report.source_units = (report.source_units or 0) + counts["compared"]
    report.source_new_units = counts["not in the table yet"]
    if look.unread_tars:
        report.not_checked.append(f"what lies in {words.counted(look.unread_tars, 'tar')}: --source reads them")


def _source_of(tables: Tables, latest: ledger.Ledger, report: Report) -> Source | None:
    """The source of the last run, its local names as that run had them; None, and why, where it may not be read."""
    source, folder = last_source(tables), str(last_job(tables).get("folder", ""))
    if source is None:
        if not any(e.format == IMPORTED for e in latest.values()):
            report.not_checked.append("the source: no run in this table says which it is")
        return None
    if source.limit is not None:
        report.not_checked.append(
            f"the source: the last run took {words.counted(source.limit, 'sample')} of it (source.limit)"
        )
        return None
    uris = [uri if "://" in uri else os.path.join(folder, uri) for uri in source.uri]
    schemes = {split_uri(uri)[0] for uri in uris}
    if "file" in schemes and not is_local(tables):
        report.not_checked.append("the source: a table in a store does not reach files of this machine")
        return None
    if schemes & {"http", "https"}:
        report.not_checked.append("the source: a list on the web is not read again")
        return None
    return source.model_copy(update={"uri": tuple(uris)})


def _texts_alone(tables: Tables, source: Source, latest: ledger.Ledger) -> Counter[str]:
    """Rejects of keys that have no picture, by unit: else each would stand in for one that its tar's reader lost."""
    alone: Counter[str] = Counter()
    if source.format != "webdataset":
        return alone
    for batch in counted_rejects(tables, ["unit_id", "uri"], f"reason = '{Reason.NO_IMAGE}'", latest=latest):
        for unit_id, uri in zip(batch["unit_id"].to_pylist(), batch["uri"].to_pylist(), strict=True):
            # A key ends at the first dot of a name, and every picture has one behind it.
            alone[unit_id] += "." not in uri.rpartition("#")[2].rpartition("/")[2]
    return alone


def _entry(alive: ledger.Ledger, unit_id: str) -> LedgerEntry | None:
    """Of the unit, or of the one whose rows stand for it."""
    entry = alive.get(unit_id)
    return alive.get(entry.alias_of) if entry is not None and entry.state == LedgerState.ALIAS else entry


def _compare(uri: str, units: list[WorkUnit], known: list[LedgerEntry | None], look: _Look) -> int:
    counters: dict[str, Callable[[str, list[WorkUnit], _Look], list[_Counted]]] = {
        "files": _of_listing,
        "manifest": _of_list,
        "parquet": _of_footers,
        "lance": _of_footers,
        "log": _of_footers,
        "webdataset": _of_tar,
        "zip": _of_zip,
    }
    compared = 0
    for unit, entry, counted in zip(units, known, counters[units[0].format](uri, units, look), strict=True):
        if entry is None or counted.pictures is None:
            continue
        compared += 1
        # Pictures of a tar that are passed over by name are in the ledger too; an older one did not count them.
        passed_over = sum(n for key, n in from_json(entry.left_out).items() if key.startswith(BEHIND_A_DOT))
        # One of an older release, which counted nothing that it left out, may have rejects of pictures by their keys.
        texts_alone = look.of_none[entry.unit_id] if entry.left_out else 0
        there = entry.seen + passed_over - texts_alone
        lost = counted.pictures - there
        if lost > 0 or (counted.exactly and lost):
            where = f"{uri} [{unit.start}, {unit.end}]" if unit.end else uri
            pictures = words.counted(counted.pictures, "picture")
            look.say("source", f"{where} holds {pictures}, the ledger accounts for {there:,}")
    return compared


def _of_listing(uri: str, units: list[WorkUnit], look: _Look) -> list[_Counted]:
    """Keys with an image's ending, by the slice (start, end] that they lie in."""
    pattern, wanted = pattern_of(uri), Wanted.of(look.source)
    before = earlier_patterns(look.source, uri, look.storage)
    numbers = [0] * len(units)
    at = 0
    for key in list_keys(pattern, look.storage):
        base = key.name.rpartition("/")[2]
        if base.startswith(".") or not base.lower().endswith(tuple(f".{ending}" for ending in wanted.image)):
            continue
        if before and not is_asked_for(key.name, pattern, before):
            continue
        while at < len(units) and _raw(key.name) > _raw(units[at].end):
            at += 1
        if at < len(units) and _raw(key.name) > _raw(units[at].start):
            numbers[at] += 1
        else:
            look.say("source", f"{uri}: {key.name} is in no unit")
    counted = [_Counted(number) for number in numbers]
    for one, unit in zip(counted, units, strict=True):
        if one.pictures != unit.num_samples and _has_changed(unit, look):
            one.pictures = None  # between the two listings
    return counted


def _has_changed(unit: WorkUnit, look: _Look) -> bool:
    digest = Digest()
    before = earlier_patterns(look.source, unit.uri, look.storage)
    pattern = pattern_of(unit.uri)
    for key in wanted_keys(pattern, look.source, look.storage, before=before, between=(unit.start, unit.end)):
        digest.add(key)
    return digest.hexdigest() != unit.etag


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _of_list(uri: str, units: list[WorkUnit], look: _Look) -> list[_Counted]:
    """Rows by the slice that they lie in; and every line of the file belongs to one, be it to go on inside quotes."""
    numbers = [0] * len(units)
    at = in_rows = of_images = 0
    with open_rows(uri, look.source, look.storage) as rows:
        in_rows += rows.header.count(b"\n")
        for raw, position in rows.raw():
            in_rows += 1
            of_images += raw.startswith(PICTURE)
            while at < len(units) and position > int(units[at].end):
                at += 1
            if at < len(units):
                numbers[at] += bool(raw.strip())
            elif raw.strip():
                look.say("source", f"{uri}: the row before {rows.unit} {position} is in no unit")
        in_rows += rows.continued
    if isinstance(rows, CocoRows):  # one document without lines
        with open_stream(uri, look.storage) as stream:
            pictures = pictures_of(stream)
        if pictures > of_images:
            look.say("source", f"{uri} holds {words.counted(pictures, 'picture')}, and {of_images:,} of them were read")
        return [_Counted(number) for number in numbers]
    lines = _rows_of_footer(uri, look) if uri.lower().endswith(_TABULAR) else _lines(uri, look)
    if lines != in_rows:
        look.say("source", f"{uri} holds {lines:,} lines, and {in_rows:,} of them were read")
    return [_Counted(number) for number in numbers]


def _lines(uri: str, look: _Look) -> int:
    """By line feeds alone; what follows the last one is a line too."""
    number, last = 0, b"\n"
    with io.BufferedReader(cast(io.RawIOBase, open_stream(uri, look.storage))) as stream:
        while block := stream.read(1 << 20):
            number += block.count(b"\n")
            last = block[-1:]
    return number + (last != b"\n")


def _rows_of_footer(uri: str, look: _Look) -> int:
    import pyarrow.parquet as pq

    with open_stream(uri, look.storage) as stream:
        return int(pq.ParquetFile(stream, pre_buffer=False).metadata.num_rows)


def _of_footers(uri: str, units: list[WorkUnit], look: _Look) -> list[_Counted]:
    """The survey has the rows of each unit from the footer (of a log, from its column of statuses; of a Lance table,
    from its lists of fragments and deletions), and the reader its own from the pages."""
    return [_Counted(unit.num_samples) for unit in units]


def _of_tar(uri: str, units: list[WorkUnit], look: _Look) -> list[_Counted]:
    """Pictures by the names of the members. The place where a tar is cut is a reject as well, so the ledger may have
    more."""
    found = []
    for unit in units:
        if look.tar_bytes is not None:
            look.tar_bytes -= unit.size_bytes
        if look.tar_bytes is not None and look.tar_bytes < 0:
            look.unread_tars += 1
            found.append(_Counted(None))
        else:
            found.append(_Counted(_members(unit, look), exactly=False))
    return found


def _of_zip(uri: str, units: list[WorkUnit], look: _Look) -> list[_Counted]:
    """Pictures by the names in the directory. An archive without a byte is a reject of its own."""
    if not units[0].size_bytes:
        return [_Counted(None) for _ in units]
    counted = []
    with open_archive(uri, look.storage, expected_etag=units[0].etag) as archive:
        for unit in units:
            census = Census()
            names = ((info.filename, info.header_offset) for info in archive.members)
            census.entries(names, span_of(unit), Wanted.of(look.source))
            counted.append(_Counted(census.pictures))
    return counted


def _members(unit: WorkUnit, look: _Look) -> int:
    if not unit.size_bytes:
        return 0
    census, start = Census(), int(unit.start or 0)
    with open_stream(unit.uri, look.storage, expected_etag=unit.etag, start=start) as stream:
        plain, is_packed = unpack(stream, unit.uri, start=start)
        stop = int(unit.end) if unit.end else None
        members: Iterator[Any] = iter(TarReader(plain, position=start, stop=stop, seekable=not is_packed))
        try:
            for _ in census.members(members, Wanted.of(look.source)):
                pass
        except BadTar:
            pass  # up to there; the ledger has it as a reject
    return census.pictures
