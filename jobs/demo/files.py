"""The demo's folder: whose it is, what of it is still good, and the job files in it."""

import contextlib
import errno
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import clipmill
from clipmill.jobs.demo.bucket import BucketSpec
from clipmill.jobs.terminal.output import shown
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage

_STAMP = "demo.json"

_JOB = """\
# Written by `clipmill demo`. The S3 server it names ends with the demo; what is in db/ stays.
# `clipmill embed` with this file finds no server then: `clipmill demo` again starts it and runs the job.
table: {table}
source:
  format: webdataset
  uri: s3://demo/scenes/*.tar
  image: jpg;png
  caption: txt
  keep: {{objects: int32, background: string, style: string}}   # from the .json beside each picture
model: {{name: clipmill-tiny}}              # comes with clipmill; it knows the demo's drawings and nothing else
tags: {{vocabulary: scenes, top_k: 1}}      # one tag of each facet
commit: {{every_rows: 500, every_s: 5}}
thumbnails: true
"""
_YOURS = """\
# The same job on your own bucket with a real model. Change the two addresses, then
#   {program} plan {here}      what it would do and cost; writes nothing
#   {program} embed {here}
# Credentials come from the standard AWS chain. Every key is described in docs/job-file.md.
table: s3://your-bucket/db/images
source:
  format: webdataset          # or files, parquet, manifest
  uri: s3://your-bucket/raw/*.tar
  image: jpg
  caption: txt
model: {{name: ViT-B-32, pretrained: laion2b_s34b_b79k}}
tags: {{vocabulary: coco}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFolder:
    """Paths inside `--out`; `root` is absolute."""

    root: Path

    @property
    def tars(self) -> Path:
        return self.root / "bucket" / "scenes"

    @property
    def table(self) -> Path:
        return self.root / "db" / "scenes"

    @property
    def job(self) -> Path:
        return self.root / "job.yaml"

    @property
    def yours(self) -> Path:
        return self.root / "your-bucket.yaml"

    @property
    def page(self) -> Path:
        return self.root / "page.html"


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[DemoFolder]:
    """The folder `out`, made where it is missing, held against a second demo. Raises UserError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / _STAMP).exists() and any(path.name != ".lock" for path in out.iterdir()):
            raise UserError(f"{shown(out)} holds files that the demo did not make", "name another folder with --out")
        with (out / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another demo is running in {shown(out)}", "wait for it, or name another folder with --out"
                ) from None
            yield DemoFolder(root=out)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{shown(out)} is not a folder", "name a folder with --out") from None
    except FileNotFoundError as error:  # such as below /proc, where nothing can be made
        raise UserError(f"{error.filename} cannot be made", "name another folder with --out") from None
    except OSError as error:
        if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
            raise
        raise UserError(f"{error.filename} cannot be written", "name another folder with --out") from None


def drop_outdated(folder: DemoFolder, spec: BucketSpec) -> list[str]:
    """Remove what another version, seed or number of scenes left in the folder; says what, for a person."""
    stamp = folder.root / _STAMP
    wanted = {"bucket": spec.digest(), "table": _table_digest(spec)}
    try:
        had = json.loads(stamp.read_text())
    except (FileNotFoundError, ValueError):
        had = {}
    gone = []
    if had and had.get("bucket") != wanted["bucket"]:
        gone.append("the pictures")
        shutil.rmtree(folder.tars.parent, ignore_errors=True)
    if had and had.get("table") != wanted["table"]:
        gone.append("the table")
        shutil.rmtree(folder.table.parent, ignore_errors=True)
    stamp.write_text(json.dumps(wanted) + "\n")
    return gone


def _table_digest(spec: BucketSpec) -> str:
    """Bucket, job, weights and vocabulary: whatever would make other rows."""
    ours = Path(clipmill.__file__).parent
    digest = hashlib.sha256(spec.digest().encode() + _JOB.encode())
    for path in ("workers/models/clipmill-tiny/model.safetensors", "schemas/vocabularies/scenes.yaml"):
        digest.update((ours / path).read_bytes())
    return digest.hexdigest()[:16]


def write_jobs(folder: DemoFolder, storage: Storage, program: str) -> None:
    """The demo's job file, and one to fill in, which is never overwritten."""
    # JSON's quoting is YAML's too, whatever the path holds.
    text = _JOB.format(table=json.dumps(shown(folder.table)))
    text += f"storage: {{endpoint_url: {json.dumps(storage.endpoint_url)}, region: {storage.region}}}\n"
    folder.job.write_text(text)
    if not folder.yours.exists():
        folder.yours.write_text(_YOURS.format(program=program, here=shown(folder.yours)))
