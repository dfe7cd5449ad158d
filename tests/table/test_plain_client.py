"""A LanceDB client that has never heard of clipmill: it opens the table, searches with words, filters, and follows
tags. Run in a process of its own that cannot import the project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying.open import open_table
from clipmill.jobs.table.lancedb_function import KEY, embedding_functions_metadata
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.model import Fingerprint, ModelSpec
from tests.tables import KEEP, TableOptions, batch, fingerprint

CLIENT = """
import importlib.util, json, sys
assert importlib.util.find_spec("jobs") is None and importlib.util.find_spec("schemas") is None, sys.path
import lancedb, logging
database, name, words, variables = sys.argv[1:5]
for key, value in json.loads(variables).items():
    lancedb.embeddings.get_registry().set_var(key, value)
table = lancedb.connect(database).open_table(name)
def ids(query):
    return [row["id"] for row in query.limit(5).to_list()]
print(json.dumps({
    "words": ids(table.search(words, vector_column_name="vector").distance_type("cosine")),
    "tags": ids(table.search(words, vector_column_name="vector").distance_type("cosine")
                .where("array_has_any(tags, ['red']) AND license = 'cc0'", prefilter=True)),
    "fts": ids(table.search("number 43", query_type="fts", fts_columns="caption")),
    "rows": table.count_rows("views < 10"),
    "indices": sorted(index.name for index in table.list_indices()),
}))
"""


def tiny_open_clip(folder: Path) -> tuple[str, str]:
    """A small random open_clip model with its checkpoint: architecture and file."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    model = open_clip.CLIP(**{**config, "vision_cfg": config["vision_cfg"], "text_cfg": config["text_cfg"]})
    save_file(model.state_dict(), folder / "model.safetensors")
    return str(folder), ""


def table_of(folder: Path, model: str) -> tuple[str, Fingerprint]:
    """A table whose vectors are the model's of each caption, made through clipmill's own engine."""
    import lance

    from clipmill.workers.load import load_engine

    engine = load_engine(ModelSpec(name=model, precision="fp32"), device="cpu")
    rows = batch(TableOptions(rows=120))
    vectors_ND = engine.encode_texts([" ".join(tags) for tags in rows["tags"].to_pylist()]).astype(np.float16)
    schema = rows_schema(
        dim=engine.dim, keep=KEEP, fingerprint_json=engine.fingerprint.to_json(), vocabulary_json=None, thumbnails=False
    ).with_metadata(embedding_functions_metadata(engine.fingerprint))
    vectors = pa.array(list(vectors_ND), schema.field("vector").type)
    columns = {**{name: rows[name] for name in schema.names}, "vector": vectors, "caption_vector": vectors}
    arrays = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in (columns[n] for n in schema.names)]
    lance.write_dataset(
        pa.Table.from_arrays(arrays, schema=schema), folder / "images.lance", enable_stable_row_ids=True
    )
    build_index(str(folder / "images"), IndexOptions(kind="none"))
    return str(folder / "images"), engine.fingerprint


def ask_plain_client(uri: str, folder: Path, words: str, variables: dict[str, str]) -> dict:
    """Only site-packages and an empty folder: `-I` keeps the checkout off the path, and the finder of an editable
    install is taken out."""
    script = folder / "client.py"
    hide = "import sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    script.write_text(hide + "sys.path = [p for p in sys.path if 'site-packages' in p or 'python3' in p]\n" + CLIENT)
    database, _, name = uri.rpartition("/")
    result = subprocess.run(
        [sys.executable, "-I", str(script), database, name, words, json.dumps(variables)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    answer: dict = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


@pytest.mark.slow
def test_a_client_without_clipmill_searches_filters_and_reads(tmp_path: Path) -> None:
    model_folder = tmp_path / "model"
    model_folder.mkdir()
    name, _ = tiny_open_clip(model_folder)
    uri, _ = table_of(tmp_path, name)
    answer = ask_plain_client(uri, tmp_path, "red shoe", {})
    ours = open_table(uri).search("red shoe", k=5, exact=True)
    assert set(answer["words"]) & set(ours["id"].to_pylist())
    rows = open_table(uri).get(answer["tags"], ("tags", "license")).to_pylist()
    assert len(rows) == 5
    assert all("red" in row["tags"] and row["license"] == "cc0" for row in rows)
    assert answer["fts"][0] == "row-000043"
    assert answer["rows"] == 10
    assert {"id_idx", "tags_idx", "caption_idx"} <= set(answer["indices"])
    # The client may have the checkpoint elsewhere.
    model_folder.rename(there := tmp_path / "there")
    assert ask_plain_client(uri, tmp_path, "red shoe", {"clipmill_model": f"local-dir:{there}"}) == answer


@pytest.mark.parametrize(
    ("model", "pretrained", "expected"),
    [
        ("ViT-B-32", "laion2b_s34b_b79k", {"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}),
        ("ViT-B/32", "openai", {"name": "ViT-B-32", "pretrained": "openai"}),
        ("hf-hub:org/repo", "", {"name": "hf-hub:org/repo", "pretrained": ""}),
        ("ViT-B-32", "/a/b.pt", {"name": "ViT-B-32", "pretrained": "$var:clipmill_weights:/a/b.pt"}),
        ("/a/model", "", {"name": "$var:clipmill_model:local-dir:/a/model", "pretrained": ""}),
    ],
)
def test_hub_names_and_local_checkpoints_are_named(model: str, pretrained: str, expected: dict) -> None:
    raw = fingerprint()
    made = Fingerprint(**{**{f: getattr(raw, f) for f in raw.__slots__}, "model": model, "pretrained": pretrained})
    entry = json.loads(embedding_functions_metadata(made)[KEY])[0]
    assert entry["model"] == expected
    assert entry["vector_column"] == "vector"


def test_what_nobody_else_can_load_is_not_offered() -> None:
    raw = fingerprint()
    for model, pretrained in (("stub", ""), ("stub:8", ""), ("ViT-B-32", "random")):
        made = Fingerprint(**{**{f: getattr(raw, f) for f in raw.__slots__}, "model": model, "pretrained": pretrained})
        assert embedding_functions_metadata(made) == {}
