#!/usr/bin/env bash
# pycocotools: a file of captions that has a list of categories, also an empty one, cannot be loaded.
#
# One would guess: the lists of COCO's JSON are independent of each other, and an empty one says that there is nothing.
# What happens: as soon as `categories` is there, every annotation is asked for its `category_id`; a caption has none, and the
#   constructor ends with KeyError. COCO's own files of captions have no such list.
# Why it matters: writers that always give all five lists make captions that no program on pycocotools reads. Leave out
#   `categories` where annotations have none.
# Versions: pycocotools 2.0.11, numpy 2.4.6, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import contextlib
import io
import json
import sys

from pycocotools.coco import COCO

captions = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 4, "height": 3}],
    "annotations": [{"id": 1, "image_id": 7, "caption": "a red shoe"}],
}


def answer(name: str, document: dict) -> str:
    with open(name, "w") as file:
        json.dump(document, file)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = COCO(name)
    except KeyError as error:
        return f"KeyError {error}"
    return found.loadAnns(found.getAnnIds(imgIds=7))[0]["caption"]


seen = [answer("without.json", captions), answer("with.json", {**captions, "categories": []})]
print("without categories: ", seen[0])
print("\"categories\": []:   ", seen[1])
sys.exit(seen != ["a red shoe", "KeyError 'category_id'"])
PY
