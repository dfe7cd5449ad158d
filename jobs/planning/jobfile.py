"""The job file: YAML in, a frozen `JobFile` out, and every mistake in it as one sentence with a hint.

Credentials are refused wherever they stand: they come from the standard AWS chain only.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clipmill.jobs.planning.jobfile_errors import explain
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile, Storage
from clipmill.schemas.job.strict_yaml import Lines, load_yaml
from clipmill.schemas.text.secrets import CHAIN_HINT, masked, secret_in
from clipmill.workers.naming import names as model_names
from clipmill.workers.tag import load_vocabulary

_MAX_BYTES = 1_000_000
_CREDENTIAL_KEY = re.compile(
    r"(aws_)?(secret|secret_?key|access_?key(_?id)?|secret_?access_?key|session_?token|security_?token|token|password"
    r"|passwd|credentials?|api_?key|account_?key|sas_?token|connection_?string)",
    re.IGNORECASE,
)


def load_job(path: str | Path, *, overrides: Mapping[str, Any] | None = None) -> JobFile:
    """Read and check a job file: a local path, or a URI with a scheme.

    `overrides` maps dotted keys (`model.name`) to values that replace those of the file. Relative local paths in the
    file are taken from the current directory, like those on the command line, and come back absolute.
    A vocabulary that the file names is read too. Raises UserError: one sentence naming file, line and key.
    """
    name = str(path)
    data, lines = load_yaml(_read(name), name)
    if not isinstance(data, dict):
        what = "it is empty" if data is None else f"it holds {'a list' if isinstance(data, list) else 'one value'}"
        raise UserError(
            f"{name} is not a job file: {what} instead of keys and values",
            "start it with `table: s3://lake/db/images` and a `source:` section; see docs/job-file.md",
        )
    for dotted, value in (overrides or {}).items():
        _set(data, dotted, value)
    _refuse_credentials(data, (), lines, name)
    try:
        job = JobFile.model_validate(data)
    except ValidationError as error:
        raise explain(error, data, lines, name) from None
    job = _absolute(job)
    if job.tags.vocabulary is not None:
        load_vocabulary(job.tags.vocabulary, job.storage)  # its mistakes are told now, not by the first worker
    return job


def redacted(job: JobFile) -> dict[str, Any]:
    """The job as plain JSON values for the runs table, with anything that looks like a credential masked.

    `load_job` refuses credentials already; a `JobFile` made in Python did not pass it.
    """
    return {key: _mask(value) for key, value in job.model_dump(mode="json", by_alias=True).items()}


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mask(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mask(item) for item in value]
    if isinstance(value, str):
        return masked(value)
    return value


def _read(name: str) -> str:
    if "://" in name and not name.startswith("file://"):
        from clipmill.workers.store.storage import (
            get_bytes,  # the object-store client is heavy, and most job files are local
        )

        raw: bytes = get_bytes(name, Storage(), max_bytes=_MAX_BYTES)
    else:
        raw = _read_local(name.removeprefix("file://"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not a job file: byte {error.start} is not UTF-8 text", "give a YAML file, saved as UTF-8"
        ) from None


def _names_a_table(path: str) -> bool:
    """Vocabularies, recipes and other people's YAML lie beside job files."""
    try:
        with open(path, "rb") as file:
            return re.search(rb"^[\"']?table[\"']?\s*:", file.read(_MAX_BYTES), re.MULTILINE) is not None
    except OSError:
        return False


def _read_local(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        there = sorted(str(path) for path in Path(name).parent.glob("*.y*ml"))
        near = difflib.get_close_matches(name, there, n=20, cutoff=0.0)  # the likeliest first
        near = [path for path in near if _names_a_table(path)][:5]
        hint = f"job files there: {', '.join(near)}" if near else "check the path; examples are in deploy/jobs"
        raise UserError(f"the job file {name} does not exist", hint) from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder, not a job file", "name the YAML file inside it") from None
    except OSError as error:
        raise UserError(f"the job file {name} cannot be read: {error.strerror}", "check its permissions") from None
    if len(raw) > _MAX_BYTES:
        raise UserError(f"{name} is larger than {_MAX_BYTES:,} bytes, which no job file is", "is it the right file?")
    return raw


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        child = data.setdefault(section, {})
        if not isinstance(child, dict):
            raise UserError(f"'{dotted}' cannot be set: '{section}' holds no keys", "fix the job file first")
        data = child
    data[last] = value


def _refuse_credentials(value: Any, path: tuple[str | int, ...], lines: Lines, name: str) -> None:
    """Runs before the values are checked, so that no later message can repeat a secret."""
    where = f"{name}, line {lines[path]}" if path in lines else name
    dotted = ".".join(map(str, path))
    if isinstance(value, dict):
        for key, item in value.items():
            here = (*path, key)
            # A kept metadata column may be called `token`; its type is all that stands there.
            if path[:2] != ("source", "keep") and _CREDENTIAL_KEY.fullmatch(str(key)):
                at = f"{name}, line {lines[here]}" if here in lines else name
                raise UserError(
                    f"{at}: '{'.'.join(map(str, here))}' would put a credential into the job file", CHAIN_HINT
                )
            _refuse_credentials(item, here, lines, name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_credentials(item, (*path, index), lines, name)
    elif isinstance(value, str) and (what := secret_in(value)):
        raise UserError(f"{where}: '{dotted}' carries {what}", CHAIN_HINT)


def _absolute(job: JobFile) -> JobFile:
    """Local paths made absolute: actors run in another directory, so a relative path would mean another file."""

    def local(uri: str) -> str:
        if "://" in uri:
            return uri
        end = "/" if uri.endswith("/") else ""  # a trailing slash marks a prefix
        return str(Path(uri).expanduser().absolute()) + end

    def if_file(text: str | None) -> str | None:
        """Names of built-ins stay; what exists here is a path."""
        return local(text) if text and Path(text).expanduser().exists() and ("/" in text or "." in text) else text

    images = local(job.source.images) if job.source.images else None
    source = job.source.model_copy(update={"uri": tuple(local(uri) for uri in job.source.uri), "images": images})
    tags = job.tags.model_copy(update={"vocabulary": if_file(job.tags.vocabulary)})
    its_heads = {name: head.model_copy(update={"file": if_file(head.file)}) for name, head in job.heads.items()}
    golden = job.nightly.golden
    watch = {
        name: saved.model_copy(update={"image": local(saved.image)}) if saved.image else saved
        for name, saved in job.nightly.watch.items()
    }
    nightly = job.nightly.model_copy(update={"golden": local(golden) if golden else None, "watch": watch})
    return job.model_copy(
        update={
            "table": local(job.table),
            "source": source,
            "model": model_names.absolute(job.model),
            "tags": tags,
            "heads": its_heads,
            "nightly": nightly,
        }
    )
