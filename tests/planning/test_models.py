"""`clipmill models` and docs/weights.md say what the open_clip that is installed does, and what a job is told."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from clipmill.jobs.cli.main import run
from clipmill.jobs.planning.models import Weights, by_file, by_tag, cards
from clipmill.schemas.errors import UserError
from clipmill.schemas.model import ModelSpec
from clipmill.workers.naming import names, said

ROOT = Path(__file__).resolve().parents[2]
TAGS = [one for one in by_tag() if one.name != names.TINY]


def test_every_tag_is_listed_with_the_preprocessing_that_open_clip_has_for_it() -> None:
    assert [(one.name, one.pretrained) for one in TAGS] == [
        pair for name in open_clip.list_models() for pair in open_clip.list_pretrained() if pair[0] == name
    ]
    for one in TAGS:
        entry = open_clip.get_pretrained_cfg(one.name, one.pretrained)
        default = asdict(open_clip.transform.PreprocessCfg())
        wanted = {key: entry.get(key) or default[key] for key in ("mean", "std", "interpolation", "resize_mode")}
        assert (one.mean, one.std) == (tuple(wanted["mean"]), tuple(wanted["std"])), one
        assert (one.interpolation, one.resize_mode) == (wanted["interpolation"], wanted["resize_mode"]), one


def test_licenses_and_languages_are_those_of_the_file_and_each_has_its_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of the repository that open_clip itself fetches the weights from."""
    known = cards()
    fetched = set()
    for one in TAGS:
        hub = open_clip.get_pretrained_cfg(one.name, one.pretrained)["hf_hub"]
        fetched.add("/".join(hub.split("/")[:2]))
        said_of = known["repositories"].get("/".join(hub.split("/")[:2]), {})
        assert one.license == said_of.get("license", {}).get("value"), one
        assert one.languages == said_of.get("languages", {}).get("value"), one
    assert set(known["repositories"]) <= fetched
    facts = [fact for said_of in known["repositories"].values() for fact in said_of.values()]
    assert {fact["source"] for fact in facts} == set(known["sources"])
    assert all(one.license == one.languages is None for one in by_file())
    assert run(["models", "RN50/openai", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {(one["license"], one["languages"]) for one in shown} == {("mit", "English")}


def test_tokenizer_and_context_are_those_that_open_clip_would_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded instead of made: those of the Hub need a network."""

    def record(kind: str) -> Any:
        return lambda source=None, **how: (kind, source, how["context_length"])

    for kind in ("HFTokenizer", "SimpleTokenizer", "SigLipTokenizer"):
        monkeypatch.setattr(open_clip.factory, kind, record(kind))
    for one in by_file():
        kind, source, length = open_clip.get_tokenizer(one.name)
        called = {"HFTokenizer": source, "SimpleTokenizer": "open_clip's BPE"}[kind]
        assert (one.tokenizer, one.context_length) == (called, length), one.name


def test_what_the_bpe_makes_of_scraped_captions() -> None:
    texts = [
        "a &amp;amp; b",
        "A & b",
        "caf\u00e9",
        "cafe\u0301",
        "a\u200bb",
        "ab",
        "\U0001f600",
        "\U0001f601",
        "red " * 100,
    ]
    tokens_BL = open_clip.get_tokenizer("ViT-B-32")(texts)
    unescaped, plain, composed, decomposed, split, whole, one, other, long = tokens_BL.tolist()
    assert (unescaped, composed, long[-1]) == (plain, decomposed, max(plain))
    assert split != whole
    assert one != other


@pytest.mark.parametrize("name", ["RN50-quickgelu", "EVA02-B-16", "ViT-B-32-256"])
def test_pixels_and_dimension_are_those_of_the_model(name: str) -> None:
    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained=None, device="meta")
        text_BD = model.encode_text(torch.zeros(1, model.context_length, dtype=torch.long))
    (one,) = [found for found in by_file(name) if found.name == name]
    pixels = model.visual.image_size
    assert one.pixels == (tuple(pixels) if isinstance(pixels, tuple | list) else (pixels, pixels))
    assert one.dim == text_BD.shape[1]


def told(spec: ModelSpec) -> str:
    """The hint of a refusal, empty where there is none."""
    try:
        names.resolve(spec, here=False)
    except UserError as error:
        return error.hint
    return ""


def test_the_name_to_use_is_the_one_that_a_job_is_told() -> None:
    for one in TAGS:
        hint = told(ModelSpec(name=one.name, pretrained=one.pretrained))
        assert hint == (f"use `name: {one.use}`" if one.use else ""), one
    assert any(one.use for one in TAGS)


def test_of_a_file_what_is_asked_is_what_a_job_is_asked(tmp_path: Path) -> None:
    for one in by_file():
        path, spec = tmp_path / "weights.pt", ModelSpec(name=one.name)
        if one.use or None in (one.activation, one.mean):
            asked = "activation" if one.activation is None else "preprocessing" if one.mean is None else "built with"
            with pytest.raises(UserError, match=asked):
                said.of_file(one.name, path, spec)
            continue
        assert tuple(said.of_file(one.name, path, spec).preprocess["mean"]) == one.mean
        assert one.activation == ("quickgelu" if said.is_quick(one.name) else "gelu")


def test_words_choose_and_the_name_to_use_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "rn50/openai"]) == 0
    (_, line) = capsys.readouterr().out.splitlines()
    assert line.split()[:2] == ["RN50-quickgelu", "openai"]
    assert run(["models", "no-such-model"]) == 2
    assert "lists all of them" in capsys.readouterr().err


def test_what_has_no_word_for_mean_and_std_is_written_out() -> None:
    one = next(iter(by_tag(names.TINY)))
    assert one.mean_std == "OpenAI's"
    assert (
        Weights(**{**asdict(one), "mean": (0.1, 0.2, 0.3)}).mean_std
        == "0.1, 0.2, 0.3; 0.26862954, 0.26130258, 0.27577711"
    )


def test_the_page_is_what_open_clip_says() -> None:
    made = subprocess.run(
        [sys.executable, "docs/make_weights.py"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert (ROOT / "docs" / "weights.md").read_text() == made.stdout, "run `make docs`"


def tried() -> dict[str, tuple[str, str | None]]:
    """Of docs/models.md: (millions of parameters, the precision in which it agreed) of each architecture."""
    found = {}
    for line in (ROOT / "docs/models.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[1].replace(".", "").isdigit():
            found[cells[0]] = (cells[1], cells[2] if cells[5].startswith("as reference") else None)
    return found


def test_sizes_and_what_was_tried_are_those_of_the_page() -> None:
    page = tried()
    assert len(page) > 70
    listed = {one.use or one.name: one for one in [*by_tag(), *by_file()]}
    for name in page.keys() & listed.keys():
        assert (f"{listed[name].millions:g}", listed[name].tried) == page[name], name
    assert not [name for name, one in listed.items() if one.tried and name not in page]


def test_what_was_published_is_found_under_the_name_that_is_written() -> None:
    figures = {(one.use or one.name, one.pretrained): one.imagenet for one in by_tag()}
    assert figures["ViT-L-14", "datacomp_xl_s13b_b90k"] == pytest.approx(0.792, abs=1e-3)
    assert figures["ViT-B-32-quickgelu", "openai"] == pytest.approx(0.633, abs=1e-3)
    assert figures["RN50x4-quickgelu", "openai"] == pytest.approx(0.663, abs=1e-3)
    assert sum(figure is not None for figure in figures.values()) > 100


def test_rates_are_those_of_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmill.jobs.planning.estimate.has_gpu", lambda: False)
    (on_gpu,) = by_tag("ViT-L-14/openai", gpu=True)[:1]
    assert on_gpu.pictures_per_s == pytest.approx(312, rel=0.02)  # what the arithmetic is from
    assert on_gpu.dollars_per_million(3.6) == pytest.approx(1e6 / 312 * 0.001, rel=0.02)
    here = {one.name: one.pictures_per_s for one in by_tag()}
    assert here["ViT-B-32"] > here["ViT-L-14"]  # type: ignore[operator]
    # MobileCLIP agrees in fp32 alone, and nobody counted its operations.
    assert [(one.tried, one.pictures_per_s) for one in by_file("MobileCLIP-S1")] == [("fp32", None)]
