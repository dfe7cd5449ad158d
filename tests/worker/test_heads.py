"""Heads: LAION's shapes as their files have them, each computed as torch computes it; files that are none; whose they
are."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile
from clipmill.schemas.job.heads import Head, HeadFile, same_model
from clipmill.workers.heads import load_head, scores


def load(path: Path, **given: Any) -> Head:
    return load_head("aesthetic", HeadFile.model_validate({"file": str(path), **given}))


def units(dim: int) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((7, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sequential(dim: int, widths: list[int], between: str) -> nn.Module:
    """As LAION wrote theirs: Dropout after some, ReLU or nothing between, nothing before the last in the linear MSE."""
    layers: list[nn.Module] = []
    for at, width in enumerate(widths):
        layers.append(nn.Linear(dim, width))
        left = len(widths) - at - 1
        if between == "linearMSE" and left > 1:
            layers.append(nn.Dropout(0.2))
        if between == "reluMSE" and left:
            layers += [nn.ReLU(), nn.Dropout(0.2)] if left > 1 else [nn.ReLU()]
        if between == "h14" and left > 1:
            layers += [nn.ReLU(), nn.Dropout(0.2)]
        dim = width
    with torch.no_grad():
        for layer in layers:
            for value in layer.parameters():
                value.mul_(2)  # so that scores differ by more than the rounding
    module = nn.Module()
    module.layers = nn.Sequential(*layers)
    module.forward = module.layers.forward
    return module


AESTHETIC = [1024, 128, 64, 16, 1]


@pytest.mark.parametrize(
    ("dim", "widths", "between"),
    [
        (768, AESTHETIC, "linearMSE"),
        (768, AESTHETIC, "reluMSE"),
        (1024, [1024, 2048, 1024, 256, 128, 16, 1], "h14"),
    ],
)
def test_laions_mlps_are_known_by_their_layers(tmp_path: Path, dim: int, widths: list[int], between: str) -> None:
    torch.manual_seed(0)
    module = sequential(dim, widths, between).eval()
    torch.save(module.state_dict(), tmp_path / "head.pth")
    head = load(tmp_path / "head.pth")
    with torch.no_grad():
        expected = module(torch.from_numpy(units(dim)))[:, 0].numpy()
    np.testing.assert_allclose(scores(head, units(dim)), expected, rtol=1e-3, atol=1e-4)
    assert len(set(np.round(expected, 4))) > 3
    # The same numbers in another kind of file are the same head.
    save_file({name: value.numpy() for name, value in module.state_dict().items()}, tmp_path / "head.safetensors")
    assert load(tmp_path / "head.safetensors").hash == head.hash


def test_laions_nsfw_head_for_b32_normalises_and_ends_in_a_sigmoid(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second, third = nn.Linear(512, 32), nn.Linear(32, 32), nn.Linear(32, 1)
    mean, variance = torch.randn(512) * 0.01, torch.rand(512) * 0.002 + 0.001
    state = {"norm.mean": mean, "norm.variance": variance}
    for number, layer in enumerate((first, second, third), start=1):
        state |= {f"linear_{number}.weight": layer.weight.detach(), f"linear_{number}.bias": layer.bias.detach()}
    torch.save(state, tmp_path / "clip_ViT-B-32_openai_binary_nsfw_head.pth")
    head = load(tmp_path / "clip_ViT-B-32_openai_binary_nsfw_head.pth", trained_on="ViT-B-32,openai")
    x = (torch.from_numpy(units(512)) - mean) / (variance.sqrt() + 1e-10)
    with torch.no_grad():
        expected = torch.sigmoid(third(torch.relu(second(torch.relu(first(x))))))[:, 0].numpy()
    np.testing.assert_allclose(scores(head, units(512)), expected, atol=1e-5)
    assert (head.model, head.pretrained) == ("ViT-B-32", "openai")


def test_heads_of_ones_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    one, two = rng.standard_normal((5, 8)).astype(np.float32), rng.standard_normal((2, 5)).astype(np.float32)
    np.savez_compressed(tmp_path / "mlp.npz", **{"net.0.weight": one, "net.2.weight": two})
    with pytest.raises(UserError, match="2 numbers for a picture"):
        load(tmp_path / "mlp.npz", activation="silu")
    with pytest.raises(UserError, match=r"8 → 5 → 2.*does not say what is between"):
        load(tmp_path / "mlp.npz")
    head = load(tmp_path / "mlp.npz", activation="silu", output="softmax", **{"class": 1})
    module = nn.Sequential(nn.Linear(8, 5, bias=False), nn.SiLU(), nn.Linear(5, 2, bias=False), nn.Softmax(dim=1))
    module.load_state_dict({"0.weight": torch.from_numpy(one), "2.weight": torch.from_numpy(two)})
    with torch.no_grad():
        np.testing.assert_allclose(scores(head, units(8)), module(torch.from_numpy(units(8)))[:, 1], atol=1e-6)
    # scikit-learn's names, and what a safetensors file says of itself.
    np.savez(tmp_path / "sk.npz", coef_=one[:1], intercept_=np.float32([0.5]), classes_=np.array([0, 1]))
    linear = load(tmp_path / "sk.npz", output="sigmoid")
    np.testing.assert_allclose(scores(linear, units(8)), 1 / (1 + np.exp(-(units(8) @ one[0] + 0.5))), atol=1e-6)
    said = {"output": "sigmoid", "model": "ViT-B-32", "pretrained": "openai", "weights_sha256": "ab" * 32}
    save_file({"weight": one[:1]}, tmp_path / "said.safetensors", metadata=said)
    found = load(tmp_path / "said.safetensors")
    assert (found.output, found.weights_sha256, found.hash != linear.hash) == ("sigmoid", "ab" * 32, True)
    for given, word in (({"output": "none"}, "says output"), ({"trained_on": "a,b"}, "says itself")):
        with pytest.raises(UserError, match=word):
            load(tmp_path / "said.safetensors", **given)
    np.testing.assert_equal(scores(head, np.full((2, 8), np.nan, np.float32)), [np.nan, np.nan])


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, ("was-here", "w"))


def _bad_files(folder: Path) -> dict[str, str]:
    """File -> a word of what is said of it."""
    bad = {}

    def note(name: str, word: str) -> Path:
        bad[name] = word
        return folder / name

    torch.save({"weight": torch.ones(1, 4), "evil": Evil()}, note("evil.pth", "cannot be read"))
    note("pickle.pth", "since its version 1.6").write_bytes(pickle.dumps({"weight": np.ones((1, 4))}))
    np.savez(note("object.npz", "not numbers"), weight=np.array([{}, {}]))
    with zipfile.ZipFile(note("bomb.npz", "unpacks to more"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weight.npy", bytes(130_000_000))
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(lying, {"descr": "<f4", "fortran_order": False, "shape": (1, 10**12)})
    with zipfile.ZipFile(note("lying.npz", "cannot be read"), "w") as archive:
        archive.writestr("weight.npy", lying.getvalue())
    torch.save({"weight": torch.ones(1).expand(1, 10**9)}, note("stride.pth", "unpacks to more"))
    note("long.safetensors", "header").write_bytes((10**9).to_bytes(8, "little") + b"{}")
    note("deep.safetensors", "cannot be read").write_bytes((90_000).to_bytes(8, "little") + b"[" * 90_000)
    note("text.safetensors", "cannot be read").write_text("hi")
    note("head.h5", "none of").write_text("hello")
    np.savez(note("nan.npz", "not finite"), weight=np.full((1, 4), np.nan))
    np.savez(note("huge.npz", "overflow"), weight=np.full((1, 4), 3e38, np.float32))
    np.savez(note("wide.npz", "chain"), weight=np.zeros((1, 20_000), np.float32))
    np.savez(note("apart.npz", "chain"), **{"0.weight": np.ones((3, 4)), "1.weight": np.ones((1, 5))})
    np.savez(note("norm.npz", "chain"), **{"0.weight": np.ones((3, 4)), "1.running_mean": np.ones(3)})
    save_file({"weight": np.ones((1, 4), np.float32)}, note("said.safetensors", "not known"), {"output": "x" * 999})
    bad["absent.pth"] = "there is no file"
    return bad


def test_files_that_are_no_heads_are_one_sentence_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, word in _bad_files(tmp_path).items():
        with pytest.raises(UserError, match=word) as told:
            load(tmp_path / name)
        assert len(told.value.message) < 500, name
    assert not (tmp_path / "was-here").exists()


def test_the_model_of_a_head_is_told_by_name_whatever_its_spelling() -> None:
    assert same_model("ViT-L/14,openai", "ViT-L-14-quickgelu", "openai")
    assert same_model("ViT-B-32,weights.pt", "ViT-B-32", "/models/weights.pt")
    assert same_model("clipmill-tiny", "clipmill-tiny", "")
    assert not same_model("ViT-L-14,openai", "ViT-L-14", "laion2b_s32b_b82k")


@pytest.mark.parametrize("name", ["tags", "a__b", "1st", "license"])
def test_names_that_cannot_be_a_heads_column(name: str) -> None:
    source = {"format": "files", "uri": "s3://b/x/", "keep": {"license": "string"}}
    with pytest.raises(ValueError, match=name):
        JobFile.model_validate({"table": "s3://b/t", "source": source, "heads": {name: "a.npz"}})
    job = JobFile.model_validate({"table": "s3://b/t", "source": source, "heads": {"a": "a.npz"}})
    assert json.loads(job.model_dump_json())["heads"]["a"]["file"] == "a.npz"
