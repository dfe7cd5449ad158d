"""clip-retrieval's back end for the serving benchmark, run by the Python of an environment that has it.

    python benchmarks/serving_clip_retrieval.py index EMBEDDINGS INDEX
    python benchmarks/serving_clip_retrieval.py serve EMBEDDINGS INDEX PORT

EMBEDDINGS: what `clipmill export --format clip-retrieval` made. Its own index (autofaiss, as its `index` calls it), its
own service under its own Flask. The model is left out, and with it torch: only vectors are asked. It listens on
this machine alone, where its `back` would listen to everybody.
"""

import sys
import time
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def main() -> None:
    # Its package imports all of it (inference, wandb, torch) at once; the modules wanted here need none of that.
    package = types.ModuleType("clip_retrieval")
    found = find_spec("clip_retrieval")
    assert found is not None
    package.__path__ = list(found.submodule_search_locations or [])
    sys.modules["clip_retrieval"] = package
    if sys.argv[1] == "index":
        index(*sys.argv[2:])
    else:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))


def index(embeddings: str, folder: str) -> None:
    from clip_retrieval.clip_index import quantize

    start, cpu = time.perf_counter(), time.process_time()
    Path(folder).mkdir(parents=True, exist_ok=True)
    quantize(f"{embeddings}/img_emb", folder, "image", "4G", "16G", None)
    print({"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu})


def serve(embeddings: str, folder: str, port: int) -> None:
    sys.modules["torch"] = types.ModuleType("torch")  # imported for every question, used for words and pictures only
    from clip_retrieval.clip_back import ClipResource, KnnService, ParquetMetadataProvider, load_index
    from flask import Flask
    from flask_restful import Api

    unused: dict[str, Any] = dict.fromkeys(ClipResource.__dataclass_fields__)
    resource = ClipResource(
        **unused
        | {
            "metadata_provider": ParquetMetadataProvider(f"{embeddings}/metadata"),
            "image_index": load_index(f"{folder}/image.index", False),
            "columns_to_return": ["id", "caption"],  # tags are lists, which its JSON has no form for
            "metadata_is_ordered_by_ivf": False,
        }
    )
    app = Flask(__name__)
    Api(app).add_resource(KnnService, "/knn-service", resource_class_kwargs={"clip_resources": {"table": resource}})
    app.run(host="127.0.0.1", port=port, debug=False)


if __name__ == "__main__":
    main()
