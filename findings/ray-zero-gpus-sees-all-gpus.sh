#!/usr/bin/env bash
# Ray: an actor that asks for no GPU sees all of them.
#
# One would guess: `num_gpus=0` hides the GPUs of the node from the actor, as `num_gpus=1` hides all but one.
# What happens: CUDA_VISIBLE_DEVICES is left as the node has it, so whatever looks for a device finds them all, and takes
#   the first: the one that Ray gave to somebody else.
# Why it matters: "CPU workers" of a GPU node fill the first GPU's memory and slow its owner, and nothing of Ray's own
#   accounting shows it. Choose the device by what Ray assigned (`ray.get_runtime_context().get_accelerator_ids()`).
# Versions: ray 2.60.0, Python 3.11. No GPU is needed: what is looked at is the environment. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cd "$work"
CUDA_VISIBLE_DEVICES=0,1 RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" - <<'PY'
import logging
import os
import sys

import ray

ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)


@ray.remote(num_cpus=1)
class Worker:
    def sees(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES"), ray.get_runtime_context().get_accelerator_ids()["GPU"]


seen = {gpus: ray.get(Worker.options(num_gpus=gpus).remote().sees.remote()) for gpus in (0, 1)}
ray.shutdown()
for gpus, (visible, assigned) in seen.items():
    print(f"num_gpus={gpus}: CUDA_VISIBLE_DEVICES={visible!r}, assigned by Ray: {assigned}")
sys.exit(seen[0] != ("0,1", []) or len(seen[1][1]) != 1)
PY
