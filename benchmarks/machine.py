"""What a figure was measured on, and the dated file it goes into."""

import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine(packages: Iterable[str] = ("torch", "open_clip_torch", "ray", "pylance", "pyarrow")) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line for line in lines if line.startswith("model name")]
    family = next((line.partition(":")[2].strip() for line in lines if line.startswith("cpu family")), "")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "family": family,  # a name such as AMD EPYC stands for several: 25 is Zen 3 and 4, 26 is Zen 5
        "cores": os.cpu_count(),
        "bf16": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "int8": [flag for flag in ("avx512_vnni", "avx_vnni", "amx_int8") if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}"


def dated(out: Path, name: str) -> Path:
    return out / f"{datetime.now(UTC):%Y-%m-%d}-{name}.json"


def save(path: Path, result: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def load(path: Path) -> Any:
    return json.loads(path.read_text())
