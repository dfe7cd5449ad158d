"""Nights over one source, in this process and on its Ray cluster, and what each of them left behind.

After each night the table is compared with one that is built from scratch from the same source.
"""

import csv
import io
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipmill.jobs.cli import main as cli
from clipmill.jobs.exploring.evaluate import TEMPLATES
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.indexing.vector import existing_plan
from clipmill.jobs.publishing.night import Night, nights
from clipmill.jobs.publishing.nightly import nightly
from clipmill.jobs.table.readers import readers
from clipmill.schemas.job.config import JobFile, Limits
from clipmill.schemas.job.vocabulary import Label, Vocabulary
from clipmill.workers.stub import StubEngine
from clipmill.workers.tag import embed_labels
from tests.build import picture
from tests.integration import help
from tests.integration.conftest import write_job
from tests.publishing.month.shards import GOLDEN, SIZE, Shards

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = ["id", "uri", "image_hash", "caption", "tags", "vector"]
PARTS = ("", "__units", "__rejects", "__runs")
LABELS = ("red", "green", "blue", "black", "white", "grey")


@dataclass
class Month:
    """`model` and `vocabulary`: of the job file, which a person changes with the table. `indexed`: its vectors have an
    index, by hand, for so few rows ask for none. `published`: versions that readers may see."""

    folder: Path
    shards: Shards
    model: str = "stub"
    vocabulary: str = "coco"
    indexed: bool = False
    told: list[str] = field(default_factory=list)
    published: set[int] = field(default_factory=set)

    def job(self, table: str = "images", *, endpoint: str = "", **nightly_keys: Any) -> JobFile:
        uri = self.shards.s3.uri
        made = help.job(
            uri,
            self.shards.source,
            storage={"endpoint_url": endpoint or self.shards.s3.endpoint, "region": "us-east-1"},
            commit={"every_rows": 40},
            model={"name": self.model},
            tags={"vocabulary": self.vocabulary, "top_k": 8},  # over a thousand tags, which the gate of drift asks for
        )
        # A tar that is cut short gives a reject, which among so few rows is more than the gates take by default.
        keys = {"gone": "delete", "max_gone": 0.25, "min_coverage": 0.9, "max_more_rejects": 0.05}
        keys |= {"golden": f"{uri}/golden.csv", "keep_versions_d": 1, **nightly_keys}
        values = made.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return JobFile.model_validate({**values, "table": f"{uri}/db/{table}", "nightly": keys})

    def write_golden(self) -> None:
        """Labels that are all right for the pictures as they are now."""
        engine = StubEngine.from_name("stub")
        labels = tuple(Label(name=name) for name in LABELS)
        labels_LD = embed_labels(Vocabulary(name="evaluation", labels=labels, templates=TEMPLATES), engine)
        pixels = [engine.prepare(picture(seed), Limits()).pixels_CHW for seed in range(SIZE)]
        nearest_N = (engine.encode_images(np.stack(pixels)) @ labels_LD.T).argmax(axis=1)
        text = io.StringIO()
        rows = [(self.shards.uri(GOLDEN, seed), LABELS[at]) for seed, at in enumerate(nearest_N)]
        csv.writer(text).writerows([("uri", "label"), *rows])
        self.shards.s3.put("golden.csv", text.getvalue().encode())

    def night(self, **job_keys: Any) -> Night:
        found = nightly(self.job(**job_keys), say=self.told.append)
        self.note_published()
        return found

    def note_published(self) -> int:
        live = readers(help.tables(self.job()).open()).live
        assert live is not None
        self.published.add(live)
        return live

    def by_command(self) -> tuple[int, Night]:
        """`clipmill nightly`: its exit code, and the night that the log remembers."""
        code = cli.run(["nightly", str(write_job(self.folder / "job.yaml", self.job()))])
        self.note_published()
        return code, nights(help.tables(self.job()))[-1]

    def driver(self, what: str, stop_at: str = "", **env: str) -> None:
        """`tests.publishing.driver`; with `stop_at` (STEP:N) it has to die there."""
        import ray

        file = write_job(self.folder / "driver.yaml", self.job())
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "tests.publishing.driver", str(file), address, what, stop_at]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=240)
        assert done.returncode == (-9 if stop_at else 0), (what, done.returncode, done.stderr[-3000:])
        self.note_published()

    def equals_one_from_scratch(self, number: int) -> float:
        """Ids, hashes, captions, tags, and vectors to 1e-3. Returns how many seconds it took to build that one."""
        fresh = self.job(f"fresh{number}")
        seconds = help.run(fresh).seconds
        mine, theirs = self._by_id(self.job()), self._by_id(fresh)
        assert mine.keys() == theirs.keys(), (sorted(mine.keys() ^ theirs.keys())[:10], self.told[-20:])
        for row_id, row in theirs.items():
            for name in ("uri", "image_hash", "caption", "tags"):
                assert mine[row_id][name] == row[name], (row_id, name)
            assert np.abs(mine[row_id]["vector"] - row["vector"]).max() < 1e-3, row_id
        s3 = self.shards.s3
        for key in s3.keys(f"db/fresh{number}"):
            s3.client.delete_object(Bucket=s3.bucket, Key=key)
        return seconds

    def _by_id(self, job: JobFile) -> dict[str, dict[str, Any]]:
        rows = help.rows(job, *COLUMNS)
        found = {row["id"]: {**row, "vector": np.asarray(row["vector"], np.float32)} for row in rows}
        assert len(found) == len(rows), "an id is there twice"
        return found

    def index(self) -> None:
        job = self.job()
        build_index(job.table, IndexOptions(kind="hnsw_sq", columns=("vector",)), job.storage, tell=self.told.append)
        self.indexed = True

    def is_covered(self) -> bool:
        """Whether the index of the newest version has every row."""
        found = existing_plan(help.tables(self.job()).open(), "vector")
        return found is not None and found[2] == 0

    def size(self) -> dict[str, int]:
        """Files, bytes and versions of the table and those beside it, as they lie in the bucket; the bytes of the run
        log apart, because a log grows."""
        s3 = self.shards.s3
        pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket=s3.bucket, Prefix="db/images")
        found = {item["Key"]: int(item["Size"]) for page in pages for item in page.get("Contents", [])}
        return {
            "files": len(found),
            "bytes": sum(size for key, size in found.items() if not key.startswith("db/images__runs.lance/")),
            "log_bytes": sum(size for key, size in found.items() if key.startswith("db/images__runs.lance/")),
            "versions": sum("/_versions/" in key for key in found),
            "rows_versions": sum(key.startswith("db/images.lance/_versions/") for key in found),
        }
