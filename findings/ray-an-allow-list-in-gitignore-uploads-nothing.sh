#!/usr/bin/env bash
# Ray: a .gitignore that names what to keep (`/*`, then `!/src/`) leaves an empty working directory.
#
# One would guess: of a `working_dir` Ray uploads what git would: "ignore all, but not these" keeps these. And
#   `excludes: [".*"]` leaves out hidden files.
# What happens: the folder itself is the first path that Ray holds against the patterns, as ".", and `/*`, `*` and `.*` take it
#   for ignored: nothing below is looked at, and an empty package is uploaded without a word. Every such project has a
#   package of the same name, 3030303030303030. A `!` in a .gitignore further down, which git follows, does nothing: what
#   one file ignores, no other returns.
# Why it matters: the job starts in an empty folder, and what is wrong looks like a wrong path or a missing module. Copy what is
#   wanted into a folder of its own, and name that one.
# Versions: ray 2.60.0, aiohttp 3.14.5 (what prepares working directories asks for it), git 2.39, Python 3.11. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 aiohttp==3.14.5
cd "$work"
env -u RAY_ADDRESS -u RAY_RUNTIME_ENV_IGNORE_GITIGNORE RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" -W ignore - <<'PY' 2> log.txt
import subprocess
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

FILES = ("job.py", "src/model.py", "src/data/names.json", "notes.txt")
PROJECTS = {
    "no .gitignore": ({}, []),
    "names what to leave out": ({".gitignore": "*.json\n/notes.txt\n"}, []),
    "names what to keep": ({".gitignore": "/*\n!/job.py\n!/src/\n"}, []),
    "keeps all Python": ({".gitignore": "*\n!*/\n!*.py\n"}, []),
    "keeps a file further down": ({".gitignore": "*.json\n", "src/data/.gitignore": "!names.json\n"}, []),
    "excludes hidden files": ({}, [".*"]),
}


def made(name, ignores):
    root = Path(name.replace(" ", "-")).absolute()
    for path, text in dict.fromkeys(FILES, "").items() | ignores.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def of_git(root):
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    asked = ["git", "ls-files", "--others", "--exclude-standard"]
    there = subprocess.run(asked, cwd=root, check=True, capture_output=True, text=True).stdout.split()
    return [path for path in FILES if path in there]


@ray.remote(num_cpus=0)
def arrived():
    return [path for path in FILES if Path(path).is_file()], Path.cwd().name


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
seen = {}
for name, (ignores, excludes) in PROJECTS.items():
    root = made(name, ignores)
    environment = {"working_dir": str(root), "excludes": excludes}
    ray.init(cluster.address, runtime_env=environment, log_to_driver=False, logging_level="fatal")
    kept, package = ray.get(arrived.remote())
    ray.shutdown()
    seen[name] = (of_git(root), kept, package)
    print(f"{name}\n  git keeps {seen[name][0]}\n  the task has {kept} in {package}", flush=True)
cluster.shutdown()
code = ["job.py", "src/model.py"]
wanted = {
    "no .gitignore": (list(FILES), list(FILES)),
    "names what to leave out": (code, code),
    "names what to keep": (list(FILES[:3]), []),
    "keeps all Python": (code, []),
    "keeps a file further down": (list(FILES), [*code, "notes.txt"]),
    "excludes hidden files": (list(FILES), []),
}
empty = {package for _, kept, package in seen.values() if not kept}
sys.exit({name: (git, kept) for name, (git, kept, _) in seen.items()} != wanted or empty != {"_ray_pkg_3030303030303030"})
PY
