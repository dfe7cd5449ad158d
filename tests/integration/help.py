"""Jobs, runs of them in this process, and what their tables hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipmill.jobs.running import embed
from clipmill.jobs.running.options import Options
from clipmill.jobs.running.summary import Summary
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.verify import verify
from clipmill.schemas.job.config import JobFile
from tests.build import picture, tar

PARTS = ("", "units", "rejects", "runs")


def job(folder: object, source: Mapping[str, Any], **more: Any) -> JobFile:
    """A job with the stub model unless `model` is given; its table is <folder>/db/images."""
    settings = {"model": {"name": "stub"}, "workers": {"num": 1}, **more}
    return JobFile.model_validate({"table": f"{folder}/db/images", "source": dict(source), **settings})


def run(made: JobFile, **options: Any) -> Summary:
    """Run it on the cluster of this process; the summary adds up."""
    summary = embed.run(made, Options(resume="clipmill embed job.yaml", **options))
    assert summary.seen == summary.rows + sum(summary.rejects.values())
    return summary


def tables(made: JobFile) -> Tables:
    return Tables.at(made.table, made.storage)


def rows(made: JobFile, *columns: str, version: int | None = None) -> list[dict[str, Any]]:
    table = tables(made).open(version=version).to_table(columns=list(columns) or None)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def rejects(made: JobFile) -> list[dict[str, Any]]:
    """Those that count."""
    from clipmill.jobs.verifying.status import counted_rejects

    columns = ["id", "uri", "reason", "detail", "unit_id"]
    return [row for batch in counted_rejects(tables(made), columns) for row in batch.to_pylist()]


def versions(made: JobFile) -> dict[str, int]:
    """Of all four tables."""
    return {part: int(tables(made).open(part).version) for part in PARTS}


def problems(made: JobFile) -> list[str]:
    return verify(made.table, made.storage).problems


def write_tar(path: Path, seeds: range, *, bad: int = 0, size_HW: tuple[int, int] = (24, 32)) -> Path:
    """Pictures of these seeds with captions `picture N`, then `bad` that are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    members: list[tuple[str, bytes]] = []
    for seed in seeds:
        members.append((f"{seed:05d}.jpg", picture(seed, size_HW=size_HW)))
        members.append((f"{seed:05d}.txt", f"picture {seed}".encode()))
    members += [(f"bad{number}.jpg", b"this is no picture") for number in range(bad)]
    path.write_bytes(tar(members))
    return path
