"""The arrays of a head's file, whoever wrote it: nothing is unpickled or run, and no more is unpacked than the limits.

One of the owners of torch, for .pth: its reader for tensors alone (`weights_only`).
"""

import io
import json
import os
import zipfile
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import UserError
from clipmill.schemas.installed import require
from clipmill.schemas.job.config import Storage
from clipmill.schemas.job.heads import Floats

MAX_BYTES = 128_000_000  # of the file, and of all it unpacks to
MAX_ARRAYS = 200
_MAX_HEADER = 1_000_000
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt")
SAID = ("activation", "output", "class", "model", "pretrained", "weights_sha256")


def read_tensors(file: str, storage: Storage) -> tuple[dict[str, Floats], dict[str, str]]:
    """Arrays of floats by name, as float32, and what the file says of itself (`SAID`). Raises UserError."""
    suffix = PurePath(file).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"heads: {file} is none of {', '.join(SUFFIXES)}", "save it as .safetensors")
    require(f"the head {file}", "torch" if suffix in (".pth", ".pt") else "safetensors")
    raw = _read(file, storage)
    said: dict[str, str] = {}
    try:
        if suffix == ".safetensors":
            found, said = _safetensors(raw)
        elif suffix == ".npz":
            found = _npz(raw)
        else:
            found = _pth(raw)
    except UserError as error:
        raise UserError(f"heads: {file} {error.message}", error.hint) from None
    except Exception as error:  # a stranger's file: torch, zip, json and safetensors raise a dozen kinds
        raise UserError(
            f"heads: {file} cannot be read as weights", "a head's file holds arrays of numbers and nothing else"
        ) from error
    if len(found) > MAX_ARRAYS:
        raise UserError(f"heads: {file} holds {len(found)} arrays, too many for a head", "is it the whole model?")
    floats = {name: array for name, array in found.items() if array.dtype.kind == "f"}
    return {name: np.asarray(array, np.float32) for name, array in floats.items()}, said


def _read(file: str, storage: Storage) -> bytes:
    if "://" in file:
        from clipmill.workers.store.storage import get_bytes  # the object-store client is heavy

        raw: bytes = get_bytes(file, storage, max_bytes=MAX_BYTES)
        return raw
    try:
        if not os.path.isfile(file):
            raise UserError(f"heads: there is no file {file}", "give the head's .safetensors, .npz or .pth file")
        with open(file, "rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"heads: {file} cannot be read: {error.strerror}", "check its permissions") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"heads: {file} is larger than {MAX_BYTES:,} bytes", "give the head alone, without its model")
    return raw


def _safetensors(raw: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    from safetensors.numpy import load

    size = int.from_bytes(raw[:8], "little")
    if size > _MAX_HEADER:
        raise UserError("has a header that is too long for a head", "is it the right file?")
    about = json.loads(raw[8 : 8 + size]).get("__metadata__") or {}
    said = {key: str(about[key]) for key in SAID if key in about}
    return load(raw), said


def _members(raw: bytes) -> zipfile.ZipFile:
    """An archive that unpacks to no more than MAX_BYTES."""
    archive = zipfile.ZipFile(io.BytesIO(raw))
    if len(archive.infolist()) > 4 * MAX_ARRAYS:
        raise UserError("holds too many members for a head", "is it the whole model?")
    if sum(one.file_size for one in archive.infolist()) > MAX_BYTES:
        raise UserError(f"unpacks to more than {MAX_BYTES:,} bytes", "give the head alone, without its model")
    return archive


def _npz(raw: bytes) -> dict[str, npt.NDArray[Any]]:
    """As numpy.load reads it, but an array's shape is believed only where as many bytes are there."""
    found: dict[str, npt.NDArray[Any]] = {}
    with _members(raw) as archive:
        for one in archive.infolist():
            with archive.open(one) as member:
                version = np.lib.format.read_magic(member)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = read[version](member)
                if dtype.kind not in "fiub":
                    raise UserError(f"holds {one.filename[:60]}, which is not numbers", "keep the weights alone")
                data = member.read(MAX_BYTES)
            array = np.frombuffer(data, dtype)  # raises where the bytes are no whole number of items
            found[one.filename.removesuffix(".npy")] = array.reshape(shape, order="F" if fortran else "C")
    return found


def _pth(raw: bytes) -> dict[str, npt.NDArray[Any]]:
    if not zipfile.is_zipfile(io.BytesIO(raw)):
        raise UserError("is no file of torch.save since its version 1.6", "save it again: torch.save(state_dict, FILE)")
    _members(raw).close()
    import torch

    state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    found: dict[str, npt.NDArray[Any]] = {}
    total = 0
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            continue
        total += 4 * tensor.numel()  # one number may stand for many, by a stride of 0
        if total > MAX_BYTES:
            raise UserError(f"unpacks to more than {MAX_BYTES:,} bytes", "give the head alone, without its model")
        if tensor.is_floating_point():
            found[str(name)] = tensor.detach().float().numpy()
    return found
