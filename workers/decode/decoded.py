"""A sample between the decode stage and the model, and what it is hashed and batched by."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.unit.rejects import Reject
from clipmill.schemas.unit.samples import Picture, Sample


@dataclass(slots=True)
class Decoded:
    """A sample after the decode stage: a picture, or the reason why there is none."""

    sample: Sample
    image_hash: str
    picture: Picture | None = None
    reject: Reject | None = None
    busy_s: float = 0.0  # on the decoding thread


def weight(item: Sample | Reject) -> int:
    """Bytes that it holds while it waits, roughly."""
    return len(item.image) + 1000 if isinstance(item, Sample) else 1000


def described(batch: list[Decoded]) -> tuple[list[Sample], list[Picture], list[str]]:
    """(samples, pictures, hashes) of a batch of good ones."""
    return [d.sample for d in batch], [d.picture for d in batch if d.picture is not None], [d.image_hash for d in batch]


def pixels(decoded: Decoded) -> npt.NDArray[np.uint8]:
    """(C, H, W) uint8."""
    assert decoded.picture is not None
    return decoded.picture.pixels_CHW


def with_id(sample: Sample, image_hash: str) -> Sample:
    """Where `id` is `content`, the name is known once the bytes are."""
    return replace(sample, id=image_hash)


def hash_sample(hasher: Any, sample: Sample, image_hash: str, folder: str) -> None:
    """Key, bytes, how they lie, caption, metadata: what makes two readings of an object, wherever it is, the same."""
    key = sample.uri.rpartition("#")[2].removeprefix(folder)
    turned = [] if sample.orientation is None else [sample.orientation]
    text = json.dumps([key, image_hash, sample.caption, sample.metadata, *turned], default=str, sort_keys=True)
    hasher.update(text.encode())


def batches(items: Iterable[Decoded], size: int) -> Iterator[list[Decoded]]:
    """Of `size`, the last one perhaps smaller."""
    batch: list[Decoded] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
