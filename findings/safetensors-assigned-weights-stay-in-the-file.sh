#!/usr/bin/env bash
# safetensors and torch: a model that takes its weights with `assign=True` goes on living in the file.
#
# One would guess: `load_file` reads the file, and once it returned, the model and the file have nothing to do with each
#   other: replacing the checkpoint under the same name is for the next start.
# What happens: the tensors lie in a private mapping of the file. Written over in place (as `cp`, `rsync --inplace` and many
#   download tools do), pages that the process has not touched yet come from the new bytes: the running model computes with
#   weights that were never trained together, without an error. A copy (`load_state_dict` without assign), or a file that
#   is renamed into place, keeps the old ones.
# Why it matters: `assign=True` is the advised way to load without having everything in memory twice. Either copy whatever
#   stays in fp32, or write checkpoints anew and rename them.
# Versions: torch 2.15.0 (CPU), safetensors 0.8.0, numpy 2.4.6, Python 3.11, Linux. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import os
import sys

import torch
from safetensors.torch import load_file, save_file

SIZE = 1024


def checkpoint(path, value):
    save_file({"weight": torch.full((SIZE, SIZE), value)}, path)


def loaded(path, *, assign):
    model = torch.nn.Linear(SIZE, SIZE, bias=False)
    model.load_state_dict(load_file(path), assign=assign)
    return model


def answer(model):
    return model(torch.ones(1, SIZE)).mean().item()


def written_over(path, *, in_place):
    """The sum of a row of ones by weights of 1.0, after the file got weights of 2.0."""
    checkpoint("new.safetensors", 2.0)
    if not in_place:
        os.replace("new.safetensors", path)
        return
    with open("new.safetensors", "rb") as new, open(path, "r+b") as old:
        old.write(new.read())


seen = {}
for assign in (False, True):
    for in_place in (False, True):
        checkpoint("model.safetensors", 1.0)
        model = loaded("model.safetensors", assign=assign)
        written_over("model.safetensors", in_place=in_place)
        seen[assign, in_place] = answer(model)
        print(f"assign={assign}, {'written over in place' if in_place else 'renamed into place'}: {seen[assign, in_place]:.0f}")
sys.exit(seen != {(False, False): SIZE, (False, True): SIZE, (True, False): SIZE, (True, True): 2 * SIZE})
PY
