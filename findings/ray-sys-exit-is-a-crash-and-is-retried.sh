#!/usr/bin/env bash
# Ray: a task that calls `sys.exit(3)` is done again until no retry is left, and its caller never learns the 3.
#
# One would guess: `sys.exit` is the program's own decision, like an exception: those are not retried unless
#   `retry_exceptions` says so, and SystemExit is what `ray.get` raises.
# What happens: the worker ends, Ray takes it for one that crashed, and `max_retries` (3 by default) applies: the task runs
#   again each time. What comes out in the end is WorkerCrashedError, whose text has no exit code (the log of
#   the raylet has it). A ValueError runs once.
# Why it matters: command lines and libraries that end by `sys.exit` ("nothing to do", "wrong argument") run several times
#   inside a task, side effects included. Catch SystemExit in the task and return its code.
# Versions: ray 2.60.0, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cd "$work"
RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" - <<'PY' 2> log.txt
import logging
import os
import sys

import ray

ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)


@ray.remote(max_retries=2)
def run(how, folder):
    with open(f"{folder}/{how}.txt", "a") as file:
        file.write("ran\n")
    if how == "exit":
        sys.exit(3)
    raise ValueError("3")


seen = {}
for how in ("exit", "error"):
    try:
        ray.get(run.remote(how, os.getcwd()))
    except Exception as error:
        name = type(error).__name__
    with open(f"{how}.txt") as file:
        seen[how] = (len(file.readlines()), name)
    print(f"{how}: ran {seen[how][0]} times, ray.get raised {name}")
ray.shutdown()
sys.exit(seen != {"exit": (3, "WorkerCrashedError"), "error": (1, "RayTaskError(ValueError)")})
PY
