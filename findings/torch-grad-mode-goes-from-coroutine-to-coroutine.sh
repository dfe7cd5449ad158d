#!/usr/bin/env bash
# torch: `no_grad`, `inference_mode` and `autocast` with an `await` inside go over to other coroutines, and stay on afterwards.
#
# One would guess: what a `with` block switches off is on again behind it, and holds for the code inside; Python's own
#   such switches (`decimal.localcontext`) follow the coroutine. Two requests that wait at the same time do not see each other.
# What happens: the mode belongs to the thread, and each block puts back what it found. Let A enter, then B, then A leave: A
#   switches gradients on while B is still inside, so B's forward pass records a graph; then B puts back what it found when it
#   entered, "off", and so the thread stays: a forward pass outside any block makes no graph to train by, and after
#   `autocast` it is bfloat16. Where B leaves first, as nested blocks would, all is well. As a decorator of an `async def`
#   the switch does nothing at all: it is over before the body begins.
# Why it matters: in an asynchronous server or actor that awaits pictures or a queue inside the block, forward passes keep graphs
#   that nobody asked for, or vectors change their precision, by the order in which requests happened to end. Await first, and
#   enter the block only around the model's call, which awaits nothing.
# Versions: torch 2.15.0 (CPU), numpy 2.4.6, Python 3.11. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$work"
cat >look.py <<'PY'
import asyncio
import decimal
import sys
from functools import partial

import torch

BLOCKS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
}
model, row = torch.nn.Linear(4, 4), torch.ones(1, 4)


def forward():
    """What a forward pass makes here and now."""
    vector = model(row)
    return f"{'with' if vector.requires_grad else 'no'} graph, {str(vector.dtype).removeprefix('torch.')}"


async def first(block, entered, leave):
    with block():
        entered.set()
        await leave.wait()


async def second(block, entered, leave, seen):
    await entered.wait()
    with block():
        seen["B alone in its block"] = forward()
        leave.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen["B after A left"] = forward()


async def crossed(block, seen):
    entered, leave = asyncio.Event(), asyncio.Event()
    await asyncio.gather(first(block, entered, leave), second(block, entered, leave, seen))


async def nested(block):
    """B enters after A and leaves before it."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def inner():
        await entered.wait()
        with block():
            await asyncio.sleep(0)
        leave.set()

    await asyncio.gather(first(block, entered, leave), inner())


block = BLOCKS[sys.argv[1]]
seen = {"before": forward()}
asyncio.run(nested(block))
seen["after A and B, B left first"] = forward()


@block()
async def decorated():
    return forward()


seen["in a decorated coroutine"] = asyncio.run(decorated())
asyncio.run(crossed(block, seen))
seen["after A and B, A left first"] = forward()
digits = []


async def request(number, turns):
    with decimal.localcontext(prec=number):
        for _ in range(turns):
            await asyncio.sleep(0)
        digits.append(decimal.getcontext().prec == number)


async def decimals():
    await asyncio.gather(request(3, 1), request(5, 3))


asyncio.run(decimals())
print(f"{sys.argv[1]}:")
for when, what in seen.items():
    print(f"  {when}: {what}")
inside = "with graph, bfloat16" if sys.argv[1] == "autocast" else "no graph, float32"
outside = "with graph, float32"
wanted = {
    "before": outside,
    "after A and B, B left first": outside,
    "in a decorated coroutine": outside,
    "B alone in its block": inside,
    "B after A left": outside,
    "after A and B, A left first": inside,
}
sys.exit(seen != wanted or digits != [True, True] or decimal.getcontext().prec != 28)
PY
changed=0
for block in no_grad inference_mode autocast; do
  "$work/venv/bin/python" -W ignore look.py "$block" || changed=1
done
exit "$changed"
