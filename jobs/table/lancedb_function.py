"""The metadata that lets a plain LanceDB client, without clipmill, search the table with words.

LanceDB reads the key `embedding_functions` of the schema, and `table.search("a red shoe", vector_column_name="vector")`
encodes the words with its own open-clip function. The column must be named, because the table has two of vectors.

A checkpoint on disk is named by its path here, behind a LanceDB variable, so that a client elsewhere can say where it
has the same weights: `lancedb.embeddings.get_registry().set_var("clipmill_model", "local-dir:/its/folder")` for a model
folder, `set_var("clipmill_weights", "/its/file")` for a checkpoint file.
"""

import json
from pathlib import Path

from clipmill.schemas.model import Fingerprint

KEY = b"embedding_functions"
MODEL_VARIABLE = "clipmill_model"
WEIGHTS_VARIABLE = "clipmill_weights"
_HUB = "hf-hub:"
_LOCAL = "local-dir:"
_TINY = "clipmill-tiny"


def embedding_functions_metadata(fingerprint: Fingerprint) -> dict[bytes, bytes]:
    """Schema metadata that names LanceDB's open-clip function for `vector`; empty where no other program can load the
    model (the stub, random weights)."""
    model = _model(fingerprint)
    if model is None:
        return {}
    # One entry only: LanceDB loads the model once per entry when it opens the table. The source is what the vector
    # was made from, as LanceDB would do it for rows added without one.
    function = {"name": "open-clip", "model": model, "source_column": "uri", "vector_column": "vector"}
    return {KEY: json.dumps([function]).encode()}


def _model(fingerprint: Fingerprint) -> dict[str, str] | None:
    """Arguments of LanceDB's open-clip function."""
    name, pretrained = fingerprint.model, fingerprint.pretrained
    if name.split(":")[0] == "stub" or pretrained == "random":
        return None
    if name.startswith(_HUB):
        return {"name": name, "pretrained": ""}
    if name == _TINY:
        folder = Path(__file__).resolve().parents[2] / "workers" / "models" / _TINY
        return {"name": f"$var:{MODEL_VARIABLE}:{_LOCAL}{folder}", "pretrained": ""}
    if not pretrained:
        folder = Path(name.removeprefix(_LOCAL)).expanduser().resolve()
        return {"name": f"$var:{MODEL_VARIABLE}:{_LOCAL}{folder}", "pretrained": ""}
    if "/" in pretrained or pretrained.startswith("~"):  # a file; tags of open_clip have no slash
        return {"name": name, "pretrained": f"$var:{WEIGHTS_VARIABLE}:{Path(pretrained).expanduser().resolve()}"}
    return {"name": name.replace("/", "-"), "pretrained": pretrained}
