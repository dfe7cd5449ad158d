"""How slow this machine is just now: for limits that must be near, because they are what is tested."""

import subprocess
import sys
import time

# On two idle cores in 2026, files in memory.
_IDLE_S = 0.7


def slowness() -> float:
    """How many times longer than on an idle machine a process takes to import what a worker does; 1 or more."""
    begun_s = time.monotonic()
    subprocess.run([sys.executable, "-c", "import lance"], check=True)
    return max(1.0, (time.monotonic() - begun_s) / _IDLE_S)
