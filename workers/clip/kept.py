"""The reference vectors of the self-check, kept from one start to the next in the user's cache folder.

They are a second of two cores in every start, and the same every time. The verdict is not kept: what an engine computes
is compared at each start. Kept vectors can only agree; where they do not, they are computed anew and decide, so neither
a damaged file nor one of another processor's faults makes a model fail.

A folder or file that is not ours alone to write is not read. Where nothing can be kept, it is as if there were none.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.load import Loaded, config_of
from clipmill.workers.origin import origin

_MOST_FILES = 64
_MOST_BYTES = 1 << 20  # of one file; those of a model of 1,024 numbers have 45 kB
_DIGEST_BYTES = 32
_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "pillow", "transformers", "timm", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Those of one model on one kind of device. `key`: a digest of all that the vectors depend on but the weights."""

    key: str
    num_images: int
    num_texts: int
    dim: int

    @staticmethod
    def of(loaded: Loaded, device: torch.device, *, words: bool) -> "Kept":
        """`words`: of the texts alone."""
        resolved, pictures = loaded.resolved, {} if words else selfcheck.pictures()
        parts: dict[str, Any] = {
            "model": [resolved.open_clip_name, config_of(resolved, loaded.library), asdict(loaded.preprocess)],
            "tokenizer": loaded.tokenizer_id,
            "checkpoint": _which(resolved.checkpoint),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "libraries": [_version(name) for name in _LIBRARIES],
            "code": origin()[1],
            "pictures": [[name, hashlib.sha256(image).hexdigest()] for name, image in pictures.items()],
            "texts": selfcheck.TEXTS,
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
        return Kept(key=key[:32], num_images=len(pictures), num_texts=len(selfcheck.TEXTS), dim=loaded.dim)

    def is_likely(self) -> bool:
        """Whether there is a file for a model like this one, of whatever weights: their hash takes a while."""
        with _opened() as folder, contextlib.suppress(OSError):
            return folder is not None and any(name.startswith(self.key) for name in os.listdir(folder))
        return False

    def read(self, weights: str) -> selfcheck.Reference | None:
        """`weights`: their hash."""
        size = (self.num_images + self.num_texts) * self.dim * 4
        content = b""
        with _opened() as folder, contextlib.suppress(OSError):
            if folder is not None:
                content = _content(folder, self._name(weights), _DIGEST_BYTES + size)
        digest, vectors = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if len(vectors) != size or digest != self._digest(weights, vectors):
            return None
        vectors_ND = np.frombuffer(vectors, np.float32).reshape(-1, self.dim)
        return selfcheck.Reference(images_ND=vectors_ND[: self.num_images], texts_ND=vectors_ND[self.num_images :])

    def write(self, weights: str, reference: selfcheck.Reference) -> None:
        vectors = np.concatenate([reference.images_ND, reference.texts_ND]).astype(np.float32).tobytes()
        if len(vectors) > _MOST_BYTES:
            return
        with contextlib.suppress(OSError, RuntimeError):
            _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            with _opened() as folder:
                if folder is not None:
                    _put(folder, self._name(weights), self._digest(weights, vectors) + vectors)

    def _name(self, weights: str) -> str:
        return f"{self.key}-{weights[:32]}"

    def _digest(self, weights: str, vectors: bytes) -> bytes:
        return hashlib.sha256(f"{self.key} {weights} ".encode() + vectors).digest()


def _folder() -> Path:
    """Raises RuntimeError where there is no home."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(home):
        return Path(home) / "clipmill" / "references"
    if os.environ.get("HOME") == "":  # taken for the root of all folders
        raise RuntimeError("no home")
    return Path.home() / ".cache" / "clipmill" / "references"


@contextlib.contextmanager
def _opened() -> Iterator[int | None]:
    """The folder's descriptor; None where there is none, or others may write to it."""
    folder = None
    with contextlib.suppress(OSError, RuntimeError):
        folder = os.open(_folder(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield folder if folder is not None and _is_ours(os.fstat(folder)) else None
    finally:
        if folder is not None:
            os.close(folder)


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _content(folder: int, name: str, size: int) -> bytes:
    """Of a file that is ours and as long as it has to be; else nothing."""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with open(file, "rb") as opened:
        found = os.fstat(file)
        good = stat.S_ISREG(found.st_mode) and _is_ours(found) and found.st_size == size
        return opened.read(size) if good else b""


def _put(folder: int, name: str, content: bytes) -> None:
    """Whole or not at all; the oldest files go where there are too many."""
    part = f".{name}-{secrets.token_hex(8)}"
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        with open(file, "wb") as opened:
            opened.write(content)
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(part, dir_fd=folder)  # on a full disk every start would leave one
        raise
    by_age = sorted(os.listdir(folder), key=lambda one: os.stat(one, dir_fd=folder, follow_symlinks=False).st_mtime_ns)
    for one in by_age[:-_MOST_FILES]:
        with contextlib.suppress(OSError):  # a folder, which is somebody's else
            os.unlink(one, dir_fd=folder)


def _which(checkpoint: Path | None) -> list[Any]:
    """The file as its folder tells it: of another one the vectors are computed before the weights are hashed."""
    if checkpoint is None:
        return []
    found = checkpoint.stat()
    return [str(checkpoint.resolve()), found.st_size, found.st_mtime_ns]


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""
