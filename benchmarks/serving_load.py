"""The clients of the serving benchmark: a process of its own that asks one server for some seconds.

    python -m benchmarks.serving_load < a JSON object: url, bodies (JSON texts), clients, seconds

Each client keeps one connection and asks the next body as soon as it has its answer. Prints a JSON object.
"""

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import numpy as np


async def load(url: str, bodies: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """Answers by body (the last one of each), and the time each took; an answer that is not 200 is an error."""
    times_ms: list[float] = []
    answers: dict[int, Any] = {}
    errors: dict[str, int] = {}
    until = time.perf_counter() + seconds
    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        async def client(number: int) -> None:
            n = number * len(bodies) // clients
            while time.perf_counter() < until:
                n = (n + 1) % len(bodies)
                start = time.perf_counter()
                async with session.post(
                    url, data=bodies[n].encode(), headers={"content-type": "application/json"}
                ) as answer:
                    text = await answer.read()
                if answer.status != 200:
                    errors[str(answer.status)] = errors.get(str(answer.status), 0) + 1
                    continue
                times_ms.append((time.perf_counter() - start) * 1e3)
                answers[n] = text

        began = time.perf_counter()
        await asyncio.gather(*(client(number) for number in range(clients)))
        took = time.perf_counter() - began
    p50, p99 = np.percentile(times_ms, (50, 99)).tolist() if times_ms else (None, None)
    return {
        "requests": len(times_ms),
        "per_s": len(times_ms) / took,
        "p50_ms": p50,
        "p99_ms": p99,
        "errors": errors,
        "client_cpu_s": time.process_time(),
        "answers": {n: json.loads(text) for n, text in answers.items()},
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(**json.load(sys.stdin)))))
