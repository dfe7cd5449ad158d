"""Writes `datasets-embedded.parquet` and `datasets-by-path.parquet` with Hugging Face `datasets` itself.

    python -m venv /tmp/ds && /tmp/ds/bin/pip install datasets==5.2.0 pillow
    /tmp/ds/bin/python tests/read/made/datasets_parquet.py

The pictures are drawn by `draw`, the same for every tool of this folder.
"""

import os
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from datasets import ClassLabel, Dataset, Features, Image, List, Value  # type: ignore[import-not-found]
from datasets.table import embed_table_storage  # type: ignore[import-not-found]
from draw import NUMBER, draw

HERE = Path(__file__).resolve().parent
CLASSES = ["cat", "dog", "a red shoe"]
FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=CLASSES),
        "captions": List(Value("string")),
        "parts": List(ClassLabel(names=["head", "tail"])),
        "boxes": List({"category": ClassLabel(names=["small", "large"]), "area": Value("float32")}),
        "price": Value("decimal128(9, 2)"),
        "title": Value("string_view"),
        "blob": Value("binary_view"),
        "license": Value("large_string"),
    }
)


def rows(pictures: list[str]) -> dict[str, list[object]]:
    number = len(pictures)
    return {
        "image": list(pictures),
        "label": [0, 1, 2, -1, None, 1][:number],
        "captions": [[f"picture {n}", f"the same, number {n}"] if n != 3 else [] for n in range(number)],
        "parts": [[1, 0] if n % 2 else [] for n in range(number)],
        "boxes": [[{"category": n % 2, "area": n / 2}] for n in range(number)],
        "price": [Decimal(n) / 4 for n in range(number)],
        "title": [f"title {n}" for n in range(number)],
        "blob": [b"bytes that are no picture"] * number,
        "license": ["CC0"] * number,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder, "repository")
        (here / "pictures").mkdir(parents=True)
        names = [f"pictures/{n}.png" for n in range(NUMBER - 1)] + ["../outside.png"]
        for n, name in enumerate(names):
            (here / name).write_bytes(draw(n))
        os.chdir(here)
        # `to_parquet` of pictures given by path writes the paths as they were given, and no bytes.
        by_path = Dataset.from_dict(rows(names), features=FEATURES)
        by_path.to_parquet(str(HERE / "datasets-by-path.parquet"), batch_size=4)
        # And this is what `push_to_hub` does before it uploads.
        embedded = by_path.with_format("arrow").map(embed_table_storage, batched=True, keep_in_memory=True)
        embedded.to_parquet(str(HERE / "datasets-embedded.parquet"), batch_size=4)


if __name__ == "__main__":
    main()
