"""Every architecture of open_clip that builds without a network, through the default road, beside reference open_clip.

    python -m benchmarks.models [--most 10] [--timeout-s 900] [--out benchmarks/results] [--page docs/models.md]

One child process each (`benchmarks.model_trial`), bounded in time and memory; one of each family first, then the rest,
smallest first. Each result is kept at once, and what is there already is not done again: after an interruption, or with
`--most`, the same command goes on. The photographs are those of the folder that CLIPMILL_TEST_DATA names. The page has
every architecture in it, also those that were not tried.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import machine, pictures

MOST_MILLIONS = 500
PHOTOS = 12
# What a vector may differ from reference open_clip: as the self-check, and with the mean over all photos taken off.
FLOORS = {"fp32": (0.99999, 0.999), "bf16": (0.999, 0.98), "fp16": (0.999, 0.98)}
INTRODUCTION = """\
# Which models were tried

"Any open_clip model" is a promise; this is how far it was tried. `python -m benchmarks.models` writes this page: it
sends each architecture of open_clip under 500 M parameters that builds without a network through the default road
(`precision: auto`), and compares the vectors of 12 photographs and 8 texts with reference open_clip (its own transform,
fp32). Weights cannot be had without a network: they are random, with every branch switched on and BatchNorm calibrated.
*Least cosine* is to the reference, *centred* the same after the mean over all photographs (or texts) is taken off,
which a small mistake does not pass; *others* is the mean cosine of two different ones. Untrained weights amplify
rounding more than trained ones do: what is fp32 here may well be bf16 with real weights. Names ending in `-quickgelu`
and the sizes of one family run through the same code. The figures are those of the newest `*-models.json` in
`benchmarks/results/`.
"""


def sizes() -> dict[str, Any]:
    """Millions of parameters of each architecture and its family, or why it does not build here."""
    import logging

    import open_clip
    import torch

    logging.disable(logging.CRITICAL)
    found: dict[str, Any] = {}
    for name in open_clip.list_models():
        config: Any = open_clip.get_model_config(name)
        entry: dict[str, Any] = {"family": family(config)}
        try:
            with torch.device("meta"):  # shapes without memory
                model = open_clip.create_model(name, load_weights=False, pretrained_text=False, device="meta")
            entry["millions"] = round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1)
        except RuntimeError as error:
            needs = config["text_cfg"].get("hf_model_name")
            entry["refused"] = f"its text tower is {needs} of the Hugging Face Hub" if needs else str(error)[:200]
        found[name] = entry
    return found


def family(config: Any) -> str:
    """Architectures of one family are built of the same layers."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    kind = "resnet" if isinstance(vision.get("layers"), list) else "vit"
    if timm := vision.get("timm_model_name"):
        kind = "timm " + re.split(r"[_\d]", timm)[0] + (" siglip" if "siglip" in timm else "")
    if "mci3" in str(timm) or "mci4" in str(timm):
        kind += " large"
    quick = " quickgelu" if config.get("quick_gelu") else ""
    other = "".join(f" {key}" for key in ("no_causal_mask", "no_ln_pre") if text.get(key) or vision.get(key))
    return kind + quick + (" coca" if "multimodal_cfg" in config else "") + other


def order(known: dict[str, Any]) -> list[str]:
    """What is to be tried: the smallest of each family, then the rest, smallest first."""
    names = sorted(
        (name for name, entry in known.items() if entry.get("millions", MOST_MILLIONS) < MOST_MILLIONS),
        key=lambda name: known[name]["millions"],
    )
    first = {known[name]["family"]: name for name in reversed(names)}
    return sorted(names, key=lambda name: (first[known[name]["family"]] != name, known[name]["millions"]))


def trial(name: str, photos: list[Path], timeout_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.model_trial", name, *map(str, photos)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no result after {timeout_s:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1][:300] if lines else f"ended with status {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def verdict(result: dict[str, Any]) -> str:
    """`as reference`, or what is wrong."""
    if "failed" in result:
        return f"failed: {result['failed']}"
    plain, centred = FLOORS[result["precision"]]
    wrong = [
        f"{kind} {result[kind]['cosine']:.5f} ({result[kind]['centred']:.4f} centred)"
        for kind in ("images", "texts")
        if not (result[kind]["cosine"] >= plain and result[kind]["centred"] >= centred)
    ]
    return f"differs: {', '.join(wrong)}" if wrong else "as reference"


def page(state: dict[str, Any]) -> str:
    """docs/models.md."""
    known, results = state["architectures"], state["results"]
    facts = state["machine"]
    todo = order(known)
    good = sum(verdict(results[name]) == "as reference" for name in todo if name in results)
    lines = [
        *INTRODUCTION.splitlines(),
        "",
        f"{facts['cpu']}, {facts['cores']} cores, torch {facts['torch']}, open_clip {facts['open_clip_torch']}; begun "
        f"{state['begun']}, last result {state['last']}. {len(known)} architectures: {good} as reference, "
        f"{sum(name in results for name in todo) - good} not, {sum(name not in results for name in todo)} not run, "
        f"{len(known) - len(todo)} not meant to be (larger, or a text tower of the Hugging Face Hub).",
        "",
        "| architecture | M parameters | precision | images: least cosine, centred, others | texts | result |",
        "|---|---|---|---|---|---|",
        *(_line(name, known[name], results.get(name)) for name in sorted(todo, key=lambda n: known[n]["millions"])),
        "",
        "Not tried, because they do not build without a network or have 500 M parameters and more:",
        "",
        *(f"- {name}: {_why_not(known[name])}" for name in sorted(set(known) - set(todo))),
        "",
    ]
    return "\n".join(lines)


def _line(name: str, entry: dict[str, Any], result: dict[str, Any] | None) -> str:
    cells = [name, f"{entry['millions']:g}", "", "", "", "not run"]
    if result is not None:
        cells[5] = verdict(result)
    if result is not None and "failed" not in result:
        cells[2] = result["precision"]
        cells[3:5] = [
            f"{kind['cosine']:.6f}, {kind['centred']:.5f}, {kind['others']:.2f}"
            for kind in (result["images"], result["texts"])
        ]
        cells[5] += "".join(f"; {text}" for text in (result["note"], result["changed"]) if text)
    return f"| {' | '.join(cells)} |"


def _why_not(entry: dict[str, Any]) -> str:
    return str(entry["refused"]) if "refused" in entry else f"{entry['millions']:g} M parameters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1000, help="architectures to try this time")
    parser.add_argument("--timeout-s", type=float, default=900.0, help="for one architecture")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/models.md"))
    options = parser.parse_args()
    path = max(options.out.glob("*-models.json"), default=machine.dated(options.out, "models"))
    if path.exists():
        state = machine.load(path)
    else:
        state = {"begun": machine.now(), "machine": machine.machine(), "architectures": sizes(), "results": {}}
    found = pictures.photographs()
    photos = found[:: max(1, len(found) // PHOTOS)][:PHOTOS]
    left = [name for name in order(state["architectures"]) if name not in state["results"]]
    for name in left[: options.most]:
        result = trial(name, photos, options.timeout_s)
        state["results"][name] = result
        state["last"] = machine.now()
        machine.save(path, state)
        options.page.write_text(page(state))
        print(f"{name}: {verdict(result)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
