"""Files as other tools write them: clip-retrieval's layout, parquet, Lance; of pictures with the stub's vectors.

N: rows. D: dimension, 16 as the stub's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from clipmill.schemas.job.config import Limits, Model
from clipmill.workers.stub import StubEngine
from tests.models import encoded, picture

DIM = 16
MODEL = Model(name="stub")
Vectors = npt.NDArray[np.float32]


def write_partition(
    folder: Path,
    number: str,
    *,
    vectors_ND: npt.NDArray[np.floating],
    texts_ND: npt.NDArray[np.floating] | None = None,
    metadata: dict[str, Sequence[object]],
) -> None:
    """As clip-retrieval 2.45.0 does it (clip_inference/writer.py, OutputSink.__write_batch): np.save into img_emb and
    text_emb, and a DataFrame of image_path, caption and whatever the samples' JSON held, by `to_parquet`."""
    for name, matrix_ND in (("img_emb", vectors_ND), ("text_emb", texts_ND)):
        if matrix_ND is not None:
            (folder / name).mkdir(parents=True, exist_ok=True)
            buffer = BytesIO()
            np.save(buffer, matrix_ND)
            (folder / name / f"{name}_{number}.npy").write_bytes(buffer.getbuffer())
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(data=list(zip(*metadata.values(), strict=True)), columns=list(metadata))
    frame.to_parquet(folder / "metadata" / f"metadata_{number}.parquet")


@dataclass
class Pictures:
    """Pictures in a folder, each with the stub's vector, and a caption with its own."""

    folder: Path
    count: int
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        engine = StubEngine(DIM)
        pixels = []
        for number in range(self.count):
            data = encoded(picture(number), "PNG")
            self.names.append(f"{number:05d}.png")
            (self.folder / self.names[-1]).write_bytes(data)
            pixels.append(engine.prepare(data, Limits()).pixels_CHW)
        self.captions = [f"picture number {number}" for number in range(self.count)]
        self.vectors_ND = engine.encode_images(np.stack(pixels))
        self.texts_ND = engine.encode_texts(self.captions)

    def clip_retrieval(self, out: Path, number: str = "0", rows: slice = slice(None), *, texts: bool = True) -> Path:
        write_partition(
            out,
            number,
            vectors_ND=self.vectors_ND[rows].astype(np.float16),
            texts_ND=self.texts_ND[rows].astype(np.float16) if texts else None,
            metadata={
                "image_path": self.names[rows],
                "caption": self.captions[rows],
                "similarity": [0.25] * len(self.names[rows]),
            },
        )
        return out

    def table(self) -> pa.Table:
        vector = pa.list_(pa.float32(), DIM)
        return pa.table(
            {
                "key": self.names,
                "caption": self.captions,
                "embedding": pa.array(list(self.vectors_ND), vector),
            }
        )
