"""Runs on the cluster before a job does: which versions the head and a worker have, and whether there is a worker.

`python -m clipmill.jobs.cluster.preflight WAIT_S GPUS` prints one line that begins with MARK; `wrong` reads it where
the job is submitted.
"""

import json
import sys
from typing import Any

MARK = "clipmill-preflight "
LIBRARIES = ("ray", "torch", "open_clip_torch", "pylance", "lancedb")  # what the table or the vectors depend on


def here() -> dict[str, str]:
    """Versions of the process that this runs in; what is not installed is left out."""
    from importlib import metadata

    from clipmill.workers.origin import origin

    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "digest": origin()[1]}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def wrong(found: dict[str, Any]) -> list[str]:
    """What the nodes lack for the code of this process, one part of a sentence each; empty: they fit."""
    from importlib import metadata

    from packaging.requirements import Requirement

    needed = {one.name: one.specifier for one in map(Requirement, metadata.requires("clipmill") or [])}
    said = []
    for where in ("head", "worker"):
        there = found[where]
        for name in LIBRARIES:
            version = there.get(name)
            if version is None:
                said.append(f"the {where} has no {name}")
            elif name in needed and not needed[name].contains(version, prereleases=True):
                said.append(f"the {where} has {name} {version}, not {needed[name]}")
        if there["digest"] != here()["digest"]:
            said.append(f"the {where} runs another clipmill than this one, which was sent")
    differ = [name for name in ("python", *LIBRARIES) if found["head"].get(name) != found["worker"].get(name)]
    if not said and differ:
        said += [
            f"{name} is {found['head'].get(name)} on the head, {found['worker'].get(name)} on a worker"
            for name in differ
        ]
    return said


def main(wait_s: float, gpus: float) -> None:
    from clipmill.jobs.cluster.connect import connected
    from clipmill.jobs.cluster.nodes import nodes

    with connected("auto"):
        import ray

        # Asking for a CPU makes an autoscaler start a node; a head that only schedules has none.
        asked = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(here).remote()
        ready, _ = ray.wait([asked], timeout=wait_s)
        found: dict[str, Any] = {"head": here(), "worker": None, "nodes": len(nodes())}
        if ready:
            found["worker"] = ray.get(asked)
    print(f"{MARK}{json.dumps(found)}", flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
