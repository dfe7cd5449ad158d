#!/usr/bin/env bash
# torchvision, timm, open_clip: importing them imports torch's compiler, which nothing has asked for.
#
# One would guess: `torch._dynamo` is loaded by the first `torch.compile`; `import torch` takes care of that, and a library of
#   resizing and cropping adds little to it.
# What happens: `import torchvision.transforms` runs torchvision's own __init__, whose operators ask whether compiling is
#   supported and thereby import `torch._dynamo` with sympy and some thousand modules; timm does so by a decorator, and
#   open_clip imports both. That takes about as long as torch itself, in every process: each worker, each data loader that
#   is spawned, each shell command that only wants a tokenizer.
# Why it matters: a command that resizes pictures by Pillow, or needs open_clip's text tower alone, starts a second later
#   than it has to; load those files of a library that are needed, or import late.
# Versions: torch 2.15.0, torchvision 0.29.2, timm 1.0.31, open_clip_torch 3.3.0, Python 3.11 (CPU). Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 timm==1.0.31 open_clip_torch==3.3.0
cd "$work"
cat >look.py <<'PY'
import resource
import sys

import torch  # noqa: F401 - what is looked at is what comes on top of it


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


before_s, before = cpu_s(), len(sys.modules)
__import__(sys.argv[1])
loaded = "torch._dynamo" in sys.modules
print(f"{sys.argv[1]}: {len(sys.modules) - before} modules more, {cpu_s() - before_s:.2f} s of CPU, the compiler: {loaded}")
sys.exit(not loaded)
PY
changed=0
for module in torchvision.transforms timm open_clip; do
  "$work/venv/bin/python" -W ignore look.py "$module" || changed=1
done
if "$work/venv/bin/python" -W ignore look.py torch.nn; then changed=1; fi
exit "$changed"
