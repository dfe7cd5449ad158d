"""LanceDB's open-clip embedding function: rows with image bytes are added, the function fills the vector column.

It embeds one column; the captions' vectors come from its `generate_text_embeddings`, one call each, as it has no
other. Vectors are the library's float32.
"""

from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from clock import Clock, given
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

given_ = given()
clock = Clock()
open_clip = get_registry().get("open-clip").create(name=given_.model, pretrained=given_.checkpoint)
open_clip._model.eval()
DIM = open_clip.ndims()


class Row(LanceModel):
    key: str
    caption: str
    image: bytes = open_clip.SourceField()
    vector: Vector(DIM) = open_clip.VectorField()
    caption_vector: Vector(DIM)


def main():
    table = lancedb.connect(given_.out).create_table("images", schema=Row)
    paths = sorted(Path(given_.folder).glob("*.jpg"))
    clock.ready()
    for start in range(0, len(paths), given_.batch_size):
        rows = []
        for path in paths[start : start + given_.batch_size]:
            caption = path.with_suffix(".txt").read_text()
            vector = open_clip.generate_text_embeddings(caption)
            rows.append(
                {"key": path.stem, "caption": caption, "image": path.read_bytes(), "caption_vector": vector.tolist()}
            )
        table.add(rows)
    clock.done()
    stored: pa.Table = table.to_arrow()
    columns = [np.stack(stored[name].combine_chunks().to_pylist()) for name in ("vector", "caption_vector")]
    clock.report(stored["key"].to_pylist(), *columns, given_)


if __name__ == "__main__":
    main()
