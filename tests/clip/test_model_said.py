"""Weights in a file get the preprocessing and the activation they were trained with, or the user is asked."""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from safetensors.torch import save_file

from clipmill.jobs.planning.dry_run import dry_run
from clipmill.jobs.running.embed import embed
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile, Model
from clipmill.schemas.model import Fingerprint, ModelSpec
from clipmill.workers.clip.names import find
from clipmill.workers.load import load_engine
from clipmill.workers.naming import catalog as model_catalog
from clipmill.workers.naming import hub
from clipmill.workers.naming import names as model_names
from tests.models import config, encoded, picture, state_dict

KEYS = ("mean", "std", "interpolation", "resize_mode")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file that is there; nothing here reads it."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    return path


def said(name: str, path: Path, **how: Any) -> model_names.Resolved:
    found = model_names.resolve(ModelSpec(name=name, pretrained=str(path), **how))
    assert found is not None
    return found


def refused(name: str, path: Path, **how: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        said(name, path, **how)
    assert str(path) in caught.value.message + caught.value.hint
    return caught.value


def resolved_or_hint(name: str, path: Path) -> tuple[model_names.Resolved | None, str]:
    try:
        return model_names.resolve(ModelSpec(name=name, pretrained=str(path)), here=False), ""
    except UserError as error:
        return None, error.hint


def test_every_architecture_gives_a_file_what_its_tag_would_or_asks(weights: Path) -> None:
    """Against open_clip's own table: never another mean, resizing or activation than any of the tags that agree."""
    answered, asked, other_name = 0, [], []
    for name in open_clip.list_models():
        tags = {
            tag: open_clip.pretrained.get_pretrained_cfg(name, tag)
            for tag in open_clip.list_pretrained_tags_by_model(name)
        }
        built_quick = bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))
        texts = {json.dumps([entry.get(key) for key in KEYS]) for entry in tags.values()}
        # One architecture says quick_gelu in its config alone, not in its tag.
        unsaid = built_quick and not name.endswith("-quickgelu")
        quick = {bool(entry.get("quick_gelu", unsaid)) for entry in tags.values()}
        found, hint = resolved_or_hint(name, weights)
        if found is None and len(quick) == 1 and len(texts) == 1:
            assert quick != {built_quick}, f"{name}: {hint}"
            assert f"{name}-quickgelu" in hint
            other_name.append(name)
        if found is None:
            asked.append(name)
            continue
        answered += 1
        assert (len(texts), quick) == (1, {built_quick}), f"{name} answered without knowing"
        entry = next(iter(tags.values()))
        assert {key: found.preprocess[key] for key in KEYS} == {key: entry[key] for key in KEYS}, name
        assert "known tags" in found.origin
    assert answered > 90
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "convnext_tiny", "ViT-S-32"} <= set(asked)
    assert {"RN50", "RN101", "ViT-L-14-336"} <= set(other_name) <= set(asked)


def test_the_right_values_of_some_architectures(weights: Path) -> None:
    mobile = said("MobileCLIP2-S0", weights).preprocess
    assert (mobile["mean"], mobile["std"]) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert (mobile["interpolation"], mobile["resize_mode"]) == ("bilinear", "shortest")
    siglip = model_names.resolve(ModelSpec(name="ViT-B-16-SigLIP2", pretrained=str(weights)), here=False)
    assert siglip is not None
    assert (siglip.preprocess["mean"], siglip.preprocess["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")
    perception = said("PE-Core-B-16", weights).preprocess
    assert (perception["mean"], perception["interpolation"]) == ((0.5, 0.5, 0.5), "bilinear")


def test_known_weights_of_both_activations_are_asked_about(weights: Path) -> None:
    error = refused("ViT-B-32", weights)
    assert "which activation" in error.message
    assert "preprocessing" not in error.message, "all of them agree on that"
    assert "`name: ViT-B-32-quickgelu`" in error.hint
    assert "`activation: gelu`" in error.hint
    assert said("ViT-B-32-quickgelu", weights).preprocess["resize_mode"] == "shortest"
    assert said("ViT-B-32", weights, activation="gelu").preprocess["resize_mode"] == "shortest"
    assert "ViT-B-32-quickgelu" in refused("ViT-B-32", weights, activation="quickgelu").hint
    assert "ViT-B-32-quickgelu" in refused("ViT-B-32", weights, preprocess={"like": "openai"}).hint
    assert said("ViT-B-32", weights, preprocess={"like": "laion2b_s34b_b79k"}).origin.endswith("laion2b_s34b_b79k")


def test_known_preprocessings_that_differ_are_asked_about(weights: Path) -> None:
    error = refused("ViT-L-14", weights, activation="gelu")
    assert "which preprocessing" in error.message
    assert "`preprocess: laion2b_s32b_b82k`" in error.hint
    assert said("ViT-L-14", weights, preprocess={"like": "laion2b_s32b_b82k"}).preprocess["mean"] == (0.5, 0.5, 0.5)
    # DFN's QuickGELU weights squash, LAION's do not: the activation tells them apart.
    assert said("ViT-H-14", weights, activation="gelu").preprocess["resize_mode"] == "shortest"
    assert "its tags are" in refused_hint("ViT-L-14", weights, "nobody")


def refused_hint(name: str, path: Path, like: str) -> str:
    with pytest.raises(UserError, match=like) as caught:
        said(name, path, preprocess={"like": like})
    return caught.value.hint


def test_an_architecture_without_known_weights_is_asked_about(weights: Path) -> None:
    error = refused("ViT-S-32", weights)
    assert "no weights of it are known" in error.message
    assert "preprocess: {mean" in error.hint
    values = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "interpolation": "bilinear", "resize_mode": "squash"}
    found = said("ViT-S-32", weights, preprocess=Model(preprocess=values).spec().preprocess)
    assert found.preprocess["mean"] == (0.1, 0.2, 0.3)
    assert found.origin == "model.preprocess"


def test_a_config_beside_the_file_says_it(weights: Path) -> None:
    made = {"model_cfg": {"quick_gelu": False}, "preprocess_cfg": {"mean": [0.3] * 3, "std": [0.2] * 3}}
    (weights.parent / "open_clip_config.json").write_text(json.dumps(made))
    found = said("ViT-B-32", weights)
    assert found.preprocess == made["preprocess_cfg"]
    assert "beside the file" in found.origin
    made["model_cfg"]["quick_gelu"] = True
    (weights.parent / "open_clip_config.json").write_text(json.dumps(made))
    assert "ViT-B-32-quickgelu" in refused("ViT-B-32", weights).hint


def test_weights_that_say_it_themselves_are_given_no_other() -> None:
    for name, pretrained in (("ViT-B-32", "laion2b_s34b_b79k"), ("clipmill-tiny", None), ("hf-hub:a/b", None)):
        for how in ({"preprocess": {"like": "openai"}}, {"activation": "gelu"}):
            with pytest.raises(UserError, match="means nothing beside"):
                model_names.check(ModelSpec(name=name, pretrained=pretrained, **how))  # type: ignore[arg-type]


def test_the_pixels_are_prepared_so_and_the_fingerprint_finds_the_model_again(
    tmp_path: Path, small_architecture: str
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state_dict("vit"), path)
    how = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    spec = ModelSpec(name=small_architecture, pretrained=str(path), precision="fp32", preprocess=how)
    engine = load_engine(spec, device="cpu", threads=1)
    made = engine.fingerprint
    assert (made.preprocess.mean, made.preprocess.resize_mode) == ((0.0, 0.0, 0.0), "squash")
    assert (made.provenance["preprocess_from"], made.provenance["activation"]) == ("model.preprocess", "gelu")
    again = load_engine(Fingerprint.from_json(made.to_json()).spec("fp32"), device="cpu", threads=1)
    assert not again.fingerprint.differences(made)
    other = load_engine(
        ModelSpec(
            name=small_architecture, pretrained=str(path), precision="fp32", preprocess={**how, "mean": (0.5,) * 3}
        ),
        device="cpu",
        threads=1,
    )
    pixels_BCHW = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    assert not np.allclose(other.encode_images(pixels_BCHW), engine.encode_images(pixels_BCHW), atol=1e-3)
    assert other.fingerprint.differences(made), "two preprocessings must not share a column"


def test_plan_loads_weights_under_another_name_as_the_job_says(tmp_path: Path, small_architecture: str) -> None:
    """The table has them from elsewhere; that they are the same, only loading tells."""
    how = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    for place in ("there", "here"):
        (tmp_path / place).mkdir()
        save_file(state_dict("vit"), tmp_path / place / "weights.safetensors")
    spec = ModelSpec(
        name=small_architecture, pretrained=f"{tmp_path}/there/weights.safetensors", precision="fp32", preprocess=how
    )
    made = load_engine(spec, device="cpu", threads=1).fingerprint
    tables = Tables.at(f"{tmp_path}/db/t")
    tables.create(
        "",
        rows_schema(dim=48, keep={}, fingerprint_json=made.to_json(), vocabulary_json=None, thumbnails=False),
    )
    (tmp_path / "a.jpg").write_bytes(encoded(picture(1)))
    model = {"name": small_architecture, "pretrained": f"{tmp_path}/here/weights.safetensors", "precision": "fp32"}
    source = {"format": "files", "uri": f"{tmp_path}/*.jpg"}
    job = {"table": f"{tmp_path}/db/t", "source": source, "model": {**model, "preprocess": how}}
    assert dry_run(JobFile.model_validate(job)).new == 1


def test_names_are_checked_without_importing_open_clip() -> None:
    code = """
import sys
from clipmill.schemas.model import ModelSpec
from clipmill.workers.naming import catalog as model_catalog, names as model_names
assert len(model_catalog.architectures()) > 100 and "laion2b_s34b_b79k" in model_catalog.tags("ViT-B-32")
model_names.check(ModelSpec(name="ViT-B-32", pretrained="laion2b_s34b_b79k"))
from clipmill.schemas.errors import UserError
from clipmill.workers.load import load_engine, load_text_engine
for load in (load_engine, load_text_engine):  # a server whose model is not here goes on without
    try:
        load(ModelSpec(name="generated"))
    except UserError as error:
        assert "no model named 'generated'" in error.message
    else:
        raise AssertionError(load)
heavy = {"torch", "open_clip", "timm"} & set(sys.modules)
assert not heavy, heavy
import json
print(json.dumps({n: [model_catalog.config(n), model_catalog.tags(n)] for n in model_catalog.architectures()}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    alone = json.loads(done.stdout)
    asked = {n: [model_catalog.config(n), model_catalog.tags(n)] for n in model_catalog.architectures()}
    assert alone == json.loads(json.dumps(asked)), "the light list is open_clip's own"


@pytest.mark.parametrize(
    ("model", "word", "hint"),
    [
        ({"name": "ViT-B-23", "pretrained": "openai"}, "ViT-B-23", "ViT-B-32"),
        ({"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79"}, "laion2b_s34b_b79", "did you mean laion2b_s34b_b79k"),
        ({"name": "ViT-B-32"}, "without weights", "laion2b"),
        ({"name": "RN50", "pretrained": "openai"}, "QuickGELU", "RN50-quickgelu"),
    ],
)
def test_plan_and_embed_tell_it_before_a_cluster_starts(
    model: dict[str, str], word: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_cluster(*_: object, **__: object) -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setattr("clipmill.jobs.cluster.connect.connected", no_cluster)
    (tmp_path / "a.jpg").write_bytes(encoded(picture(1)))
    job = JobFile.model_validate(
        {"table": f"{tmp_path}/db/t", "source": {"format": "files", "uri": f"{tmp_path}/"}, "model": model}
    )
    for command in (embed, dry_run):
        with pytest.raises(UserError, match=word) as caught:
            command(job)
        assert hint in caught.value.hint
    assert not (tmp_path / "db").exists()


def test_files_of_other_machines_are_theirs_to_check() -> None:
    for spec in (
        ModelSpec(name="ViT-B-32", pretrained="/on/the/cluster/epoch_9"),
        ModelSpec(name="/on/the/cluster/model"),
    ):
        model_names.check(spec, here=False)
        with pytest.raises(UserError):
            model_names.check(spec)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    made = config("vit")
    made["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "bert-base-uncased"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(made))
    save_file(state_dict("vit"), tmp_path / "model.safetensors")
    for spec in (
        ModelSpec(name="ViT-B-16-SigLIP", pretrained="webli"),
        ModelSpec(name="mt5-base-ViT-B-32", pretrained="random"),
        ModelSpec(name=str(tmp_path)),
    ):
        with pytest.raises(UserError, match="library transformers, which is not installed") as caught:
            model_names.check(spec)
        assert "pip install 'clipmill[hf]'" in caught.value.hint


@pytest.fixture
def no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A host that takes connections and never says a word; the hub is there, and its cache is empty."""
    monkeypatch.setattr(hub, "TRY_S", 0.3)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        yield url


def test_without_a_network_one_short_try_is_made(no_answer: str) -> None:
    started = time.monotonic()
    for spec in (ModelSpec(name="hf-hub:org/model"), ModelSpec(name="ViT-B-32", pretrained="laion2b_s34b_b79k")):
        with pytest.raises(UserError, match=r"could not be (fetched|downloaded)") as caught:
            find(spec)
        assert "without a network" in caught.value.hint
    assert time.monotonic() - started < 5, "it was tried again and again"


def test_a_host_that_answers_anything_is_reachable() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # answers 501
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        assert hub.reachable(f"http://127.0.0.1:{server.server_port}/x")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
