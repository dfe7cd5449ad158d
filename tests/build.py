"""Small pictures, tars and parquet files for tests. Everything is deterministic in its arguments."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def picture(seed: int = 0, *, size_HW: tuple[int, int] = (24, 32), kind: str = "JPEG") -> bytes:
    """An encoded RGB picture of smooth colour, different for each seed."""
    from PIL import Image

    height, width = size_HW
    noise = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def noise(seed: object, num_bytes: int) -> bytes:
    """Incompressible bytes that no decoder knows; for tests of readers, which look at no pixel."""
    return hashlib.shake_128(repr(seed).encode()).digest(num_bytes)


def tar(members: Iterable[tuple[str, bytes]], *, compress: bool = False, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of regular files in the order given; `compress`: gzip."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=0) if compress else out.getvalue()


def parquet(columns: Mapping[str, Any], *, rows_per_group: int = 1000) -> bytes:
    """A parquet file; `columns` maps names to lists or Arrow arrays."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), out, row_group_size=rows_per_group)
    return out.getvalue()
