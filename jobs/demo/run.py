"""`clipmill demo`: draw a bucket, serve it as S3, and run the real job on it, from the pictures to the page.

No network, no GPU, no account. Each step prints the command that does the same; a second run draws and embeds nothing
again, and one that was interrupted goes on.
"""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clipmill.jobs.demo import bucket, server
from clipmill.jobs.demo.console import Console
from clipmill.jobs.demo.files import DemoFolder, claimed, drop_outdated, write_jobs
from clipmill.jobs.demo.findings import Findings, Found, count_facets, filling_run, search_all
from clipmill.jobs.demo.page import write_page
from clipmill.jobs.demo.scene_types import Scene
from clipmill.jobs.demo.searches import suggestions
from clipmill.jobs.terminal.output import program, shown
from clipmill.schemas.errors import UnitsFailed
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.words import counted

_SHOWN_HITS = 3
_PREFIX = "scenes/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`number` of scenes; `quiet` leaves out what the commands would print on stdout."""

    out: Path
    number: int = 2000
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The demo in numbers. `searches`: right answers of `HITS` by the search's words. `accuracy`: by facet."""

    table: str
    page: str
    seen: int
    rows: int
    rejects: dict[str, int]
    new_rows: int
    samples_per_s: float
    searches: dict[str, int]
    accuracy: dict[str, float] = field(default_factory=dict)
    seconds: float


def demo(options: Options) -> Report:
    """Raises UserError where the folder or a part cannot be used; KeyboardInterrupt where the run was stopped."""
    started = time.monotonic()
    out = options.out.absolute()
    with _here_again(), claimed(out) as folder:
        return _Demo(options, folder, program()).run(started)


@contextmanager
def _here_again() -> Iterator[None]:
    """A run leaves the current folder (see `jobs.cluster.connect`); the caller gets it back."""
    here = Path.cwd()
    try:
        yield
    finally:
        os.chdir(here)


class _Demo:
    """The steps, in the order in which they stand."""

    def __init__(self, options: Options, folder: DemoFolder, called: str) -> None:
        self.folder, self.called = folder, called
        self.spec = bucket.BucketSpec(number=options.number)
        self.console = Console(7, quiet=options.quiet)
        # Now, as a person would write them: the run will change the current folder.
        self.table, self.job = shown(folder.table), shown(folder.job)
        self.page, self.yours, self.root = shown(folder.page), shown(folder.yours), shown(folder.root)

    def run(self, started: float) -> Report:
        from clipmill.jobs.terminal.output import note

        note(
            f"clipmill demo: {self.spec.number:,} drawn pictures, a local S3 server, and the real job. "
            f"All of it stays in {self.root}/."
        )
        for gone in drop_outdated(self.folder, self.spec):
            note(f"     removed {gone} of another version, to be made again")
        self._draw()
        with server.local_s3(self.folder.root / "s3-server.log") as storage:
            self._upload(storage)
            new_rows = self._embed(storage)
        scenes = bucket.choose_scenes(self.spec)
        findings = self._look(scenes)
        tries = [search.command(self.called, self.table, k=None) for search in suggestions(scenes)]
        write_page(findings, self.folder.page, table=self.table, called=self.called, tries=tries)
        self.console.say(f"all of this as one page: {self.page} (nothing was opened)")
        self._what_next(tries)
        return Report(
            table=str(self.folder.table),
            page=str(self.folder.page),
            seen=findings.status.seen,
            rows=findings.status.rows,
            rejects=findings.status.rejects,
            new_rows=new_rows,
            samples_per_s=findings.run.get("samples_per_s", 0.0),
            searches={one.title: one.num_right for one in findings.searches},
            accuracy={facet.name: round(facet.accuracy, 4) for facet in findings.facets},
            seconds=round(time.monotonic() - started, 1),
        )

    def _draw(self) -> None:
        self.console.step(f"draw {self.spec.number:,} scenes into {len(self.spec.tars)} webdataset tars")
        ticks = bucket.draw(self.spec, self.folder.tars, processes=os.cpu_count() or 1)
        self.console.bar(ticks, "tars")
        num_bytes = sum(path.stat().st_size for path in self.folder.tars.glob("*.tar"))
        self.console.say(f"{num_bytes / 1e6:.0f} MB, with {bucket.NUM_BROKEN} broken samples among them on purpose")

    def _upload(self, storage: Storage) -> None:
        self.console.step(f"put them into s3://{server.BUCKET}/{_PREFIX} on a local S3 server")
        self.console.bar(server.upload(self.folder.tars, _PREFIX, storage), "tars")
        self.console.say(
            f"it listens on {storage.endpoint_url} until the demo ends; `clipmill demo` again starts it again"
        )

    def _embed(self, storage: Storage) -> int:
        """The job itself; returns how many rows it added."""
        from clipmill.jobs.planning.jobfile import load_job
        from clipmill.jobs.running import embed
        from clipmill.jobs.running.options import Options as RunOptions

        write_jobs(self.folder, storage, self.called)
        self.console.step("embed: read, decode, embed, tag, write, commit, index")
        self.console.command(shlex.join([self.called, "embed", self.job]))
        again = shlex.join([self.called, "demo", "--out", self.root])
        summary = embed.run(load_job(self.job), RunOptions(resume=again))
        if summary.drained:  # though it may have finished its last units: who pressed Ctrl-C wants no page now
            raise KeyboardInterrupt
        if summary.failed_units:
            names = ", ".join(unit["uri"] for unit in summary.failed_units)
            units = counted(len(summary.failed_units), "unit")
            raise UnitsFailed(f"{units} failed: {names}", f"to try them again: {again}")
        if summary.note:
            self.console.say(summary.note)
        else:
            self.console.say(
                f"{summary.rows:,} rows and {sum(summary.rejects.values())} rejects from {summary.seen:,} samples; "
                f"{summary.samples_per_s:,.0f} samples/s after {summary.startup_s:.0f} s of starting up, "
                f"limited by {summary.limited_by}"
            )
        return summary.rows

    def _look(self, scenes: Sequence[Scene]) -> Findings:
        from clipmill.jobs.indexing.build import build_index
        from clipmill.jobs.querying.open import open_table
        from clipmill.jobs.table.tables import Tables
        from clipmill.jobs.verifying.status import rejects, status

        uri, local = str(self.folder.table), Storage()
        self.console.step("index")
        self.console.command(shlex.join([self.called, "index", self.table]))
        report = build_index(uri, tell=lambda _: None)
        vectors = report.vectors[0]
        how = vectors.kind or f"none yet, {vectors.rows:,} are compared one by one"
        self.console.say(f"vectors: {how}; filters: {len(report.scalar)} columns indexed")

        self.console.step("six searches (✓: by what was drawn, which the model was not told)")
        table = open_table(uri)
        found = search_all(table, scenes, program=self.called, shown=self.table, tell=self._tell_search)

        self.console.step("tags: one of each facet, zero-shot")
        self.console.command(shlex.join([self.called, "tags", self.table]))
        facets = count_facets(table, scenes)
        for facet in facets:
            first = " · ".join(f"{label} {count:,}" for label, count in facet.values[:4])
            self.console.data(f"{facet.name:<11} {facet.accuracy:>4.0%} as drawn   {first} …")

        self.console.step("what was rejected, and why")
        self.console.command(shlex.join([self.called, "rejects", self.table]))
        rejected = sorted(rejects(uri, local).to_pylist(), key=lambda row: str(row["reason"]))
        for row in rejected:
            name = str(row["uri"]).rpartition("/")[2]
            self.console.data(f"{row['reason']:<16} {name:<38} {row['detail']}")
        run = filling_run(Tables.at(uri, local))
        return Findings(status=status(uri, local), run=run, searches=found, facets=facets, rejects=rejected)

    def _tell_search(self, found: Found) -> None:
        self.console.command(found.command)
        for hit in found.hits[:_SHOWN_HITS]:
            self.console.data(f"{hit.score:.3f} {'✓' if hit.right else '✗'} {hit.caption}")
        rest = len(found.hits) - _SHOWN_HITS
        self.console.data(f"… and {rest} more; {found.num_right} of {len(found.hits)} right")

    def _what_next(self, tries: Sequence[str]) -> None:
        from clipmill.jobs.terminal.output import note

        searches = "\n  ".join(tries)
        note(
            f"""
Try next:
  {searches}
  {self.called} status {self.table}
  {self.called} serve {self.table}        pictures and search in the browser
The demo's S3 server has ended: originals, `verify --sample` and `embed` find these pictures only while a demo runs.
On your own bucket, with a real model: fill in two addresses in {self.yours}, then
  {self.called} plan {self.yours}         what it would do and cost; writes nothing
  {self.called} embed {self.yours}
  {self.called} search s3://your-bucket/db/images "a red shoe"
"""
        )
