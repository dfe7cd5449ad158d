"""The command line that runs on a cluster, made of what `submit` was asked for, and the files of this machine it names.

Every option of the commands that can be submitted is in one of two lists: `PASSED_ON`, or `KEPT_BACK` with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmill.jobs.cluster.parcel import JOB_FILE, vocabulary_sent
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile, Model
from clipmill.workers.naming import names as model_names

# The option as it is typed -> the commands that take it. They mean there what they mean here.
PASSED_ON = {
    "--publish": ("embed",),
    "--leave-sets": ("embed",),
    "--model": ("reembed",),
    "--pretrained": ("reembed",),
    "--set": ("reembed",),
    "--vocabulary": ("reembed",),
    "--head": ("reembed",),
    "--again": ("reembed",),
    "--allow-source": ("reembed",),
    "--log-format": ("embed", "nightly", "reembed"),
}
# The option -> (why it is not passed on, what to do instead).
KEPT_BACK = {
    "--metrics": (
        "its file would be kept on the cluster's head",
        "Ray's exporter there has the same figures, at port 8080 of the head",
    ),
    "--report": (
        "its page would be written on the cluster's head",
        "write it here when the night has ended: clipmill report TABLE --night last --html FILE",
    ),
    "--dry-run": ("it needs no cluster", "clipmill reembed TABLE --model NAME --dry-run says it from here"),
    "--endpoint-url": ("the run has the job file's store", "write storage.endpoint_url into the job file"),
    "--region": ("the run has the job file's store", "write storage.region into the job file"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`words`: after `clipmill`. `files`: name there -> path here of what is sent beside the job file; `paths`: of this
    machine, which are named and not sent, because a checkpoint or its folder may be gigabytes."""

    words: tuple[str, ...]
    files: Mapping[str, str]
    paths: tuple[str, ...] = ()


def refuse(option: str) -> None:
    """Raises UserError for one of `KEPT_BACK`."""
    why, instead = KEPT_BACK[option]
    raise UserError(f"{option} is not passed on to the cluster: {why}", instead)


def line(job: JobFile, command: str, asked: Mapping[str, Any]) -> Line:
    """`asked`: option -> True, a text, or several; what is empty was not asked for. Raises UserError where an option is
    none of this command's, or a file is not there."""
    asked = {option: value for option, value in asked.items() if value}
    for option in asked:
        if command not in PASSED_ON[option]:
            raise UserError(
                f"{option} goes with --command {' or '.join(PASSED_ON[option])}, not {command}",
                f"leave it out, or add --command {PASSED_ON[option][0]}",
            )
    if command == "reembed":
        return _reembed(job, asked)
    return Line(words=(command, JOB_FILE, *_words(asked), "--address", "auto"), files={})


def _reembed(job: JobFile, asked: dict[str, Any]) -> Line:
    """On the job's table, with its vocabulary and store."""
    if "--model" not in asked:
        raise UserError("--command reembed needs --model", "such as --model ViT-L-14 --pretrained laion2b_s32b_b82k")
    files: dict[str, str] = {}
    if given := asked.get("--vocabulary"):
        asked["--vocabulary"] = _file(files, "--vocabulary", given, "given_vocabulary")
    elif name := vocabulary_sent(job):
        asked["--vocabulary"] = name
    heads = []
    for pair in asked.get("--head", ()):
        name, _, file = pair.partition("=")
        heads.append(f"{name}={_file(files, '--head', file, f'given_head_{name}')}" if file else pair)
    asked["--head"] = heads
    model = model_names.absolute(Model(name=asked["--model"], pretrained=asked.get("--pretrained")))
    asked |= {"--model": model.name, "--pretrained": model.pretrained}
    asked |= {"--endpoint-url": job.storage.endpoint_url, "--region": job.storage.region}
    words = ("reembed", job.table, *_words(asked), "--address", "auto")
    return Line(words=words, files=files, paths=tuple(model_names.on_disk(model)))


def _words(asked: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for option, value in asked.items():
        if value is True:
            found.append(option)
        else:
            found += [w for one in ([value] if isinstance(value, str) else value or ()) for w in (option, one)]
    return found


def _file(files: dict[str, str], option: str, given: str, name: str) -> str:
    """What it is called there; an object in a store is read from there."""
    if "://" in given:
        return given
    path = Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"{option}: there is no file {given}", "check its name, or give a URI that nodes can read")
    files[f"{name}{path.suffix}"] = str(path.absolute())
    return f"{name}{path.suffix}"
