#!/usr/bin/env bash
# Ray: an OSError that a task raised is caught as an OSError, but its `errno` and `filename` are None.
#
# One would guess: what `ray.get` raises is the task's own exception: `except OSError` takes it, and so `error.errno == ENOSPC`
#   tells a full disk from a missing file, as it does behind a ProcessPoolExecutor.
# What happens: the class is right, the fields are not. Ray makes a class on the spot, of its own and the task's, and never runs
#   the constructor of the latter; what Python keeps in an exception's C fields is as it was born: errno and filename None, an
#   ImportError's name None, a UnicodeDecodeError's start 0 and its reason None. Fields that Python code has set are
#   passed on (a CalledProcessError's returncode), as is the text, so that a printed error looks whole. `error.cause` has
#   it all.
# Why it matters: code that was moved into tasks takes its other branch: a full disk is tried again, a file that is not there is
#   a failure, and `os.strerror(error.errno)` in the handler is a TypeError. Ask `error.cause`.
# Versions: ray 2.60.0, Python 3.11, Linux. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cd "$work"
cat >look.py <<'PY'
import errno
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import ray


def full():
    raise OSError(errno.ENOSPC, "No space left on device", "vectors.bin")


def missing():
    with open("nowhere.txt"):
        pass


def no_module():
    import nothing_of_this_name  # noqa: F401


def no_text():
    b"caf\xe9".decode()


def program():
    subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], check=True)


FIELDS = {
    full: ("errno", "filename"),
    missing: ("errno", "filename"),
    no_module: ("name",),
    no_text: ("start", "reason"),
    program: ("returncode",),
}


def raised(call):
    try:
        call()
    except (OSError, ImportError, ValueError, subprocess.SubprocessError) as error:
        return error
    raise AssertionError("nothing raised")


def fields(error, names):
    return tuple(getattr(error, name) for name in names)


def main():
    seen = {}
    with ProcessPoolExecutor(1) as pool:
        for work, names in FIELDS.items():
            seen[work] = [fields(raised(lambda: pool.submit(work).result()), names)]
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="fatal")
    for work, names in FIELDS.items():
        task = ray.remote(max_retries=0)(work)
        error = raised(lambda: ray.get(task.remote()))
        seen[work] += [fields(error, names), fields(error.cause, names)]
        print(f"{type(error).__name__}: {', '.join(names)}")
        for where, what in zip(("from a process pool", "from ray.get", "from its cause"), seen[work], strict=True):
            print(f"  {where}: {what}")
    wanted = {
        full: [(errno.ENOSPC, "vectors.bin"), (None, None)],
        missing: [(errno.ENOENT, "nowhere.txt"), (None, None)],
        no_module: [("nothing_of_this_name",), (None,)],
        no_text: [(3, "unexpected end of data"), (0, None)],
        program: [(3,), (3,)],
    }
    ray.shutdown()
    sys.exit(any(seen[work] != [own, through_ray, own] for work, (own, through_ray) in wanted.items()))


if __name__ == "__main__":
    main()
PY
env -u RAY_ADDRESS RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" -W ignore look.py 2> log.txt
