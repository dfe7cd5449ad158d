"""From what a `ModelSpec` means (`naming.names`) to weights on this machine's disk, downloaded where need be."""

import fcntl
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipmill.schemas.errors import UserError
from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip.library import WHOLE, Library
from clipmill.workers.naming.hub import reachable, without_waiting
from clipmill.workers.naming.names import CONFIG, HF_HUB_PREFIX, Resolved, needs_library, read_config, resolve


def find(spec: ModelSpec, library: Library = WHOLE) -> Resolved:
    """Raises UserError for an unknown name or tag, and where there are no weights."""
    resolved = resolve(spec)
    assert resolved is not None, "only files elsewhere resolve to nothing"
    if not resolved.to_fetch:
        return resolved
    hub = library.part("pretrained")
    if resolved.tag is not None:
        return replace(resolved, checkpoint=_of_tag(resolved, hub))
    repo = resolved.open_clip_name.removeprefix(HF_HUB_PREFIX)
    try:
        with without_waiting():
            config = hub.download_pretrained_from_hf(repo, filename=CONFIG)
            checkpoint = hub.download_pretrained_from_hf(repo)
    except Exception as error:  # the hub's client and its transport raise some twenty kinds
        raise _no_download(f"{spec.name} could not be fetched from the Hugging Face Hub", error) from error
    needs_library(spec.name, read_config(Path(config))["text_cfg"])
    return replace(resolved, checkpoint=Path(checkpoint))


def _of_tag(resolved: Resolved, hub: Any) -> Path:
    assert resolved.tag is not None
    try:
        if url := "" if resolved.tag.get("hf_hub") else str(resolved.tag.get("url", "")):
            return _once(url, dict(resolved.tag), hub)
        with without_waiting():  # the hub's client takes a lock itself
            return Path(hub.download_pretrained(dict(resolved.tag)))
    except Exception as error:  # urllib, the hub's client and its transport raise some twenty kinds
        what = f"the weights '{resolved.pretrained}' of {resolved.open_clip_name} could not be downloaded"
        raise _no_download(what, error) from error


def _once(url: str, tag: dict[str, Any], hub: Any) -> Path:
    """One process of a machine fetches, the others wait and read its file: open_clip writes right at the place where it
    looks for a whole one, so that a second actor would take a half. Killed on the way, it leaves nothing there."""
    cached = Path("~/.cache/clip").expanduser() / Path(url).name  # as open_clip names it
    if cached.is_file():
        return Path(hub.download_pretrained(tag))  # which compares the hash where the name has one
    cached.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{cached}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, or its process gone
        if not cached.is_file():
            if not reachable(url):
                raise ConnectionError("no answer")
            with tempfile.TemporaryDirectory(prefix=f"{cached.name}.", dir=cached.parent) as folder:
                os.replace(hub.download_pretrained(tag, cache_dir=folder), cached)
    return cached


def _no_download(what: str, error: Exception) -> UserError:
    return UserError(
        f"{what} ({type(error).__name__})",
        "without a network, point `pretrained` at a checkpoint file or `name` at a folder that holds "
        f"{CONFIG} and the weights",
    )
