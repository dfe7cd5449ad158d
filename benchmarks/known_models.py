"""What `clipmill models` says beside open_clip's own lists: how large an architecture is, whether it was tried here,
what was published of its weights.

    python -m benchmarks.known_models DOCS [--results benchmarks/results] [--out schemas/models/known.json]

DOCS: the folder `docs` of a checkout of open_clip, whose openclip_results.csv has the zero-shot accuracies and whose
model_profile.csv has the operations of towers that `jobs.planning.arithmetic` does not know. What was tried is from the
newest `*-models.json` of `benchmarks.models`.
"""

import argparse
import csv
import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.models import verdict

ROOT = Path(__file__).resolve().parents[1]


def known(docs: Path, results: Path) -> dict[str, Any]:
    newest = max(results.glob("*-models.json"))
    state = json.loads(newest.read_text("utf-8"))
    profile = {row["model"]: row for row in _rows(docs / "model_profile.csv")}
    architectures: dict[str, Any] = {}
    for name, entry in state["architectures"].items():
        result, towers = state["results"].get(name), profile.get(name)
        millions = entry.get("millions") or (float(towers["mparams"]) if towers else None)
        as_reference = result is not None and verdict(result) == "as reference"
        architectures[name] = {
            "millions": millions,
            "gflops": float(towers["image_gflops"]) if towers else None,
            "tried": result["precision"] if as_reference else None,
        }
    published = {
        f"{row['name']}/{row['pretrained']}": float(row["ImageNet 1k"]) for row in _rows(docs / "openclip_results.csv")
    }
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h of %as", "--", "."], cwd=docs, capture_output=True, text=True, check=True
    )
    return {
        "about": {
            "tried": f"benchmarks/results/{newest.name}",
            "published": "open_clip (MIT), docs/openclip_results.csv and docs/model_profile.csv at "
            + commit.stdout.strip(),
        },
        "architectures": architectures,
        "imagenet": dict(sorted(published.items())),
    }


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("docs", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--out", type=Path, default=ROOT / "schemas/models/known.json")
    asked = parser.parse_args()
    text = json.dumps(known(asked.docs, asked.results), indent=1)
    asked.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
