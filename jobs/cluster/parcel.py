"""What is sent to a cluster: this very code, and the job file with what it names on this machine.

It is a folder as a wheel unpacks to, and the job's working directory: Ray puts that first on the path of the driver and
of every worker, needs no pip for it, and leaves what the nodes' image has installed where it is.
"""

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import clipmill
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile
from clipmill.workers.naming import names as model_names

JOB_FILE = "job.yaml"


def refuse_secrets(job: JobFile) -> None:
    """Raises UserError where a night on a cluster would need a secret that stands in the job file: none is sent."""
    webhook = job.nightly.webhook
    if webhook is not None and not webhook.get_secret_value().startswith("env:"):
        raise UserError(
            "nightly.webhook is an address, which counts as a secret, and no secret is sent to a cluster",
            "write `webhook: env:NAME`, and give the cluster's head a variable NAME that holds it",
        )


def pack(job: JobFile, folder: Path) -> list[str]:
    """Write everything into `folder`; the same again is the same bytes, which Ray does not upload twice. Returns what
    the job names on this machine's disk and is not sent."""
    source = Path(clipmill.__file__).parent
    shutil.copytree(source, folder / "clipmill", ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))
    try:
        found = metadata.distribution("clipmill")
    except metadata.PackageNotFoundError:
        pass  # run from a folder that was never installed: the version stays unknown there, as it is here
    else:
        info = folder / f"clipmill-{found.version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(found.read_text("METADATA") or "", "utf-8")
    values: dict[str, Any] = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    _without_secrets(values, job)
    if name := vocabulary_sent(job):
        shutil.copyfile(job.tags.vocabulary or "", folder / name)
        values["tags"]["vocabulary"] = name
    for name, head in job.heads.items():
        if Path(head.file).is_absolute() and Path(head.file).is_file():
            sent = f"head_{name}{Path(head.file).suffix}"
            shutil.copyfile(head.file, folder / sent)
            values["heads"][name]["file"] = sent
    (folder / JOB_FILE).write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")
    return named_on_disk(job)


def named_on_disk(job: JobFile, *, sent: bool = False) -> list[str]:
    """What the job names on this machine's disk, but for its vocabulary and heads; `sent`: these too."""
    named = [
        job.table,
        *job.source.uri,
        job.source.images or "",
        *model_names.on_disk(job.model),
        job.nightly.golden or "",
    ]
    named += [search.image or "" for search in job.nightly.watch.values()]
    if sent:
        named += [job.tags.vocabulary or "", *(head.file for head in job.heads.values())]
    return [path for path in dict.fromkeys(named) if path.startswith("/")]


def _without_secrets(values: dict[str, Any], job: JobFile) -> None:
    """pydantic writes a secret as stars, which no address is: a variable's name is sent, an address is left out."""
    webhook = job.nightly.webhook
    if webhook is not None:
        text = webhook.get_secret_value()
        if text.startswith("env:"):
            values["nightly"]["webhook"] = text
        else:
            del values["nightly"]["webhook"]


def vocabulary_sent(job: JobFile) -> str:
    """What the job's vocabulary is called where it is sent; empty where it is built in, in a store, or none."""
    path = job.tags.vocabulary
    return f"vocabulary{Path(path).suffix}" if path and Path(path).is_absolute() and Path(path).is_file() else ""
