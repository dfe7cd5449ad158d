"""A source that changes every day, nights over it, and readers who look on at full speed.

A day is a list of changes of shards, the same for three kinds of sources: tars, a folder of pictures, and lists that
name pictures. After each night the table is compared with one that is built from scratch from the same source.
"""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clipmill.jobs.publishing.night import Night
from clipmill.jobs.publishing.nightly import nightly
from clipmill.jobs.querying.open import open_table
from clipmill.schemas.config import JobFile
from tests.build import picture, tar
from tests.conftest import S3
from tests.integration import help

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["id", "uri", "image_hash", "caption", "tags", "vector"]
PART_BYTES = 5 * 2**20  # the least that S3 takes as a part
SOURCES: dict[str, dict[str, Any]] = {
    "tars": {"format": "webdataset", "uri": "raw/*.tar", "caption": "txt"},
    "folder": {"format": "files", "uri": "raw/", "caption": "txt"},
    "lists": {"format": "manifest", "uri": "raw/*.csv", "image": "url", "caption": "caption"},
}


@dataclass
class Shards:
    """The source: seeds of pictures by shard, put into the bucket as tars, files or lists."""

    s3: S3
    kind: str
    seeds: dict[str, list[int]] = field(default_factory=dict)

    @property
    def source(self) -> dict[str, Any]:
        found = SOURCES[self.kind]
        return {**found, "uri": f"{self.s3.uri}/{found['uri']}"}

    def put(self, name: str, seeds: list[int]) -> None:
        self.delete(name)
        self.seeds[name] = list(seeds)
        if self.kind == "tars":
            self.s3.put(f"raw/{name}.tar", self._tar(seeds))
        elif self.kind == "folder":
            for seed in seeds:
                self.s3.put(f"raw/{name}/{seed:05d}.jpg", picture(seed))
                self.s3.put(f"raw/{name}/{seed:05d}.txt", f"picture {seed}".encode())
        else:
            urls = [self.s3.put(f"pictures/{seed:05d}.jpg", picture(seed)) for seed in seeds]
            lines = [f"{url},picture {seed}" for url, seed in zip(urls, seeds, strict=True)]
            self.s3.put(f"raw/{name}.csv", "\n".join(["url,caption", *lines, ""]).encode())

    def delete(self, name: str) -> None:
        self.seeds.pop(name, None)
        for key in self.s3.keys("raw/"):
            if key.startswith((f"raw/{name}.", f"raw/{name}/")):
                self.s3.client.delete_object(Bucket=self.s3.bucket, Key=key)

    def rename(self, old: str, new: str) -> None:
        seeds = self.seeds[old]
        self.delete(old)
        self.put(new, seeds)

    def upload_again(self, name: str) -> None:
        """The same pictures in two parts, of the size that S3 asks for: another etag."""
        if self.kind != "tars":
            self.put(name, self.seeds[name])
            return
        key, data = f"raw/{name}.tar", self._tar(self.seeds[name])
        data += (
            bytes(PART_BYTES + 1 - len(data)) if len(data) <= PART_BYTES else b""
        )  # zeros after a tar's end are its padding
        made = self.s3.client.create_multipart_upload(Bucket=self.s3.bucket, Key=key)
        where = {"Bucket": self.s3.bucket, "Key": key, "UploadId": made["UploadId"]}
        parts = []
        for number, part in enumerate((data[:PART_BYTES], data[PART_BYTES:]), start=1):
            done = self.s3.client.upload_part(**where, PartNumber=number, Body=io.BytesIO(part))
            parts.append({"PartNumber": number, "ETag": done["ETag"]})
        self.s3.client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})

    def truncate(self, name: str) -> None:
        """Some of its last pictures are missing; a tar ends in the middle of one."""
        seeds = self.seeds[name]
        if self.kind == "tars":
            data = self._tar(seeds)
            whole = self._tar(seeds[:-2])
            self.s3.put(f"raw/{name}.tar", data[: len(whole) - 1024])
            self.seeds[name] = seeds[:-2]
        else:
            self.put(name, seeds[:-2])

    @staticmethod
    def _tar(seeds: list[int]) -> bytes:
        members = [
            (f"{s:05d}.{end}", data)
            for s in seeds
            for end, data in (("jpg", picture(s)), ("txt", f"picture {s}".encode()))
        ]
        return tar(members)


@dataclass
class Month:
    """Nights over one source, in this process and on its Ray cluster."""

    folder: Path
    shards: Shards
    told: list[str] = field(default_factory=list)

    def job(self, table: str = "images", **nightly_keys: Any) -> JobFile:
        storage = {"endpoint_url": self.shards.s3.endpoint, "region": "us-east-1"}
        made = help.job(self.shards.s3.uri, self.shards.source, storage=storage, commit={"every_rows": 40})
        # A tar that is cut short gives a reject, which among so few rows is more than the gates take by default.
        keys = {"gone": "delete", "max_gone": 0.25, "min_coverage": 0.9, "max_more_rejects": 0.05, **nightly_keys}
        values = made.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return JobFile.model_validate({**values, "table": f"{self.shards.s3.uri}/db/{table}", "nightly": keys})

    def night(self, **nightly_keys: Any) -> Night:
        return nightly(self.job(**nightly_keys), say=self.told.append)

    def killed_night(self, stop_at: str) -> None:
        """A driver of its own that dies inside a step of a commit, `STEP:N`."""
        import ray

        file = self.folder / "killed.yaml"
        values = self.job().model_dump(mode="json", by_alias=True, exclude_unset=True)
        file.write_text(yaml.safe_dump(values))
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "tests.publishing.month", str(file), address, stop_at]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
        assert done.returncode == -9, (done.returncode, done.stderr[-2000:])

    def equals_one_from_scratch(self, number: int) -> None:
        """Ids, hashes, captions, tags, and vectors to 1e-3."""
        fresh = self.job(f"fresh{number}")
        help.run(fresh)
        mine, theirs = self._by_id(self.job()), self._by_id(fresh)
        assert mine.keys() == theirs.keys(), (sorted(mine.keys() ^ theirs.keys())[:10], self.told[-20:])
        for row_id, row in theirs.items():
            for name in ("uri", "image_hash", "caption", "tags"):
                assert mine[row_id][name] == row[name], (row_id, name)
            assert np.abs(mine[row_id]["vector"] - row["vector"]).max() < 1e-3, row_id

    def _by_id(self, job: JobFile) -> dict[str, dict[str, Any]]:
        names = [name for name in COLUMNS if name in help.tables(job).open().schema.names]
        rows = help.rows(job, *names)
        found = {row["id"]: {**row, "vector": np.asarray(row["vector"], np.float32)} for row in rows}
        assert len(found) == len(rows), "an id is there twice"
        return found

    @contextmanager
    def readers(self) -> Iterator["Readers"]:
        watching = Readers(self.job())
        thread = threading.Thread(target=watching.look, daemon=True)
        thread.start()
        try:
            yield watching
        finally:
            watching.stop.set()
            thread.join(60)
        assert not watching.errors, watching.errors[:3]


@dataclass
class Readers:
    """Opens what readers see, again and again, and notes what is wrong with it."""

    job: JobFile
    stop: threading.Event = field(default_factory=threading.Event)
    errors: list[str] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)  # version -> rows
    looks: int = 0

    def look(self) -> None:
        while not self.stop.is_set():
            try:
                table = open_table(self.job.table, storage=self.job.storage)
                ids = table.snapshot.dataset.to_table(columns=["id"])["id"].to_pylist()
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                continue
            self.looks += 1
            if len(set(ids)) != len(ids):
                self.errors.append(f"version {table.version} has an id twice")
            if self.seen.setdefault(table.version, len(ids)) != len(ids):
                self.errors.append(f"version {table.version} changed")


def main(job_path: str, address: str, stop_at: str) -> None:
    """The driver that dies."""
    import logging
    import signal

    import ray

    from clipmill.jobs.planning.jobfile import load_job

    step_name, _, number = stop_at.partition(":")
    left = int(number)

    def hook(step: str) -> None:
        nonlocal left
        left -= step == step_name
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    nightly(load_job(job_path), say=lambda text: None, hook=hook)


if __name__ == "__main__":
    main(*sys.argv[1:])
