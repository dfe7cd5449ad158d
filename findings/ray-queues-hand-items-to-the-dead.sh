#!/usr/bin/env bash
# Ray: a consumer that dies while it waits at an empty queue keeps its place there, and takes an item with it later.
#
# One would guess: an item of `ray.util.queue.Queue` is lost at worst when a consumer dies that has it in hand. One that dies
#   while it waits has nothing; what is put afterwards is for the living.
# What happens: `get()` is a call to the queue's actor that waits there. When the caller dies, that call is not called off: the
#   next item wakes it, is taken off the queue and returned to nobody. Each consumer that died at the empty queue costs an
#   item, put seconds later (three of them took three, in one run four), and neither `put` nor the other consumers see
#   anything. A wait with a timeout that has run out by then costs nothing.
# Why it matters: idle consumers are what an operator or a scheduler takes away first. The first items after a quiet hour are
#   missing, as many as consumers went, and a driver that counts results waits for them for ever. Wait in short turns
#   (`get(timeout=...)` in a loop), or hand out work by calls whose failure the driver sees.
# Versions: ray 2.60.0, Python 3.11. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cd "$work"
env -u RAY_ADDRESS RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" -W ignore - <<'PY' 2> log.txt
import asyncio
import sys
import time

import ray
from ray.exceptions import ActorDiedError
from ray.util.queue import Queue

ITEMS, TIMEOUT_S, QUIET_S = ["a", "b", "c", "d", "e"], 3, 8

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="fatal")


@ray.remote(num_cpus=0)
class Consumer:
    def __init__(self, queue):
        self.queue = queue

    async def stand_in_line(self, timeout_s):
        """Returns once the queue has this consumer's `get`: of one caller it takes one call after the other."""
        self.waiting = asyncio.ensure_future(self.queue.get_async(timeout=timeout_s))
        await asyncio.sleep(0)
        return await self.queue.actor.qsize.remote()


def left_after(deaths, timeout_s):
    """What a living consumer gets of ITEMS, put long after some others died while they waited."""
    queue = Queue()
    consumers = [Consumer.remote(queue) for _ in range(deaths)]
    assert ray.get([one.stand_in_line.remote(timeout_s) for one in consumers]) == [0] * deaths
    for one in consumers:
        ray.kill(one)
    for one in consumers:
        try:
            ray.get(one.stand_in_line.remote(timeout_s))
        except ActorDiedError:
            continue
        sys.exit("a killed actor answers")
    time.sleep(QUIET_S)
    for item in ITEMS:
        queue.put(item)
    return [queue.get() for _ in range(queue.qsize())]


seen = {}
for deaths, timeout_s in ((0, None), (1, None), (3, None), (3, TIMEOUT_S)):
    seen[deaths, timeout_s] = left_after(deaths, timeout_s)
    print(f"{deaths} died at the empty queue, timeout {timeout_s}: of {ITEMS} came {seen[deaths, timeout_s]}", flush=True)
ray.shutdown()
whole = all(seen[case] == ITEMS for case in ((0, None), (3, TIMEOUT_S)))
sys.exit(not (whole and all(len(seen[deaths, None]) <= len(ITEMS) - deaths for deaths in (1, 3))))
PY
