"""A driver that tells what it does and can be made to stop inside a step of a commit, so that a test can kill it there.

    python -m tests.chaos.driver JOB.yaml ADDRESS LOG [STEP:N]

Writes a line per event into LOG (`receipt UNIT`, `step NAME`, `stopped NAME`). With STEP:N it stops for ever inside
the Nth occurrence of STEP, after `stopped` is on disk; with a file (STEP:N:FILE), until that is there.
"""

import json
import os
import sys
import time

from clipmill.jobs.planning.jobfile import load_job
from clipmill.jobs.running import embed as embed_module
from clipmill.jobs.running.collect import Collector
from clipmill.jobs.running.options import Options
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.text.plain import plain


def _join(address: str) -> None:
    """Join before `embed` does, so that the stub's settings reach actors: a raylet keeps its first environment."""
    import logging

    import ray

    stub = {name: value for name, value in os.environ.items() if name.startswith("CLIPMILL_STUB_")}
    ray.init(address, runtime_env={"env_vars": stub}, log_to_driver=False, logging_level=logging.ERROR)


def _leave() -> None:
    """Before the last word: Ray prints of dead workers as long as it is connected."""
    import ray

    ray.shutdown()


def main(job_path: str, address: str, log_path: str, stop_at: str = "") -> int:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    step_name, _, rest = stop_at.partition(":")
    number, _, go_on = rest.partition(":")
    left = int(number or 0)

    def write(line: str) -> None:
        os.write(log, f"{time.time():.3f} {line}\n".encode())

    def hook(step: str) -> None:
        nonlocal left
        write(f"step {step}")
        if step != step_name:
            return
        left -= 1
        if left == 0:
            write(f"stopped {step}")
            while not (go_on and os.path.exists(go_on)):
                time.sleep(0.05)
            write(f"woke {step}")

    offer = Collector.offer

    def logged_offer(self: Collector, receipt) -> None:  # type: ignore[no-untyped-def]
        write(f"receipt {receipt.unit_id}")
        offer(self, receipt)

    Collector.offer = logged_offer  # type: ignore[method-assign]
    _join(address)
    ttl_s = float(os.environ.get("CHAOS_LEASE_TTL_S", "30"))
    try:
        options = Options(address=address, hook=hook, lease_ttl_s=ttl_s)
        summary = embed_module.run(load_job(job_path), options)
    except ClipmillError as error:
        _leave()
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        return error.exit_code
    _leave()
    print(json.dumps(plain(summary)), flush=True)
    return 3 if summary.failed_units else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
