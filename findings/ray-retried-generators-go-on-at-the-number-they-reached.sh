#!/usr/bin/env bash
# Ray: a generator that is tried again goes on at the number it had reached, whatever stands at that number now.
#
# One would guess: when the worker of a streaming generator is lost, its reader sees an error, or the retry starts anew and the
#   reader gets all items of it, some of them a second time: at least once, as with every retry.
# What happens: tasks are tried again 3 times by default, generators too. The second attempt runs from its beginning; as many
#   of its items as were delivered before are thrown away, and the reader gets what follows, without an error. A
#   task that takes boxes from a shelf, dies at the fourth and is tried again delivers 0, 1, 2 and then 7, 8, 9: four boxes
#   were taken and nobody ever had them. Names in another order (a set, a listing, a shuffle) come twice or never: a, b, c,
#   c, b, a. With `max_retries=0` the reader gets WorkerCrashedError at that place.
# Why it matters: streaming work from a queue, or from a listing that other programs change, is what generators are for; one
#   worker out of memory loses items, and nothing but a line of the raylet on the terminal says so. Hand out what is to be read as
#   an argument that fixes the order, or set `max_retries=0` and deal with the error.
# Versions: ray 2.60.0, Python 3.11. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cd "$work"
env -u RAY_ADDRESS RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" -W ignore - <<'PY' 2> log.txt
import os
import sys
import time

import ray
from ray.exceptions import WorkerCrashedError

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="fatal")


@ray.remote(num_cpus=0)
class Shelf:
    """Ten boxes, each handed out once; how many items the reader has, and how many attempts there were."""

    def __init__(self):
        self.boxes, self.delivered, self.attempts = list(range(10)), 0, 0

    def begin(self):
        self.attempts += 1
        return self.attempts

    def box(self):
        return self.boxes.pop(0) if self.boxes else None

    def deliver(self):
        self.delivered += 1

    def state(self):
        return self.delivered, self.attempts


def die_once(shelf, attempt):
    """Ends as a worker does that runs out of memory, in the first attempt, once three items have arrived."""
    while attempt == 1:
        if ray.get(shelf.state.remote())[0] == 3:
            os._exit(1)
        time.sleep(0.05)


@ray.remote
def from_shelf(shelf):
    attempt = ray.get(shelf.begin.remote())
    while (box := ray.get(shelf.box.remote())) is not None:
        if box == 3:
            die_once(shelf, attempt)
        yield box


@ray.remote
def in_another_order(shelf):
    attempt = ray.get(shelf.begin.remote())
    for number, name in enumerate("abcdef" if attempt == 1 else "fedcba"):
        if number == 3:
            die_once(shelf, attempt)
        yield name


def received(task, **options):
    shelf, items = Shelf.remote(), []
    try:
        for item in task.options(**options).remote(shelf):
            items.append(ray.get(item))
            ray.get(shelf.deliver.remote())
    except WorkerCrashedError as error:
        items.append(type(error).__name__)
    attempts = ray.get(shelf.state.remote())[1]
    print(f"{task._function.__name__} {options or ''}: in {attempts} attempts the reader got {items}", flush=True)
    return items


ok = received(from_shelf) == [0, 1, 2, 7, 8, 9]
ok &= received(in_another_order) == ["a", "b", "c", "c", "b", "a"]
ok &= received(from_shelf, max_retries=0) == [0, 1, 2, "WorkerCrashedError"]
sys.exit(0 if ok else "a retried generator goes on otherwise now")
PY
