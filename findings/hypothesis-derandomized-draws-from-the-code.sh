#!/usr/bin/env bash
# hypothesis: with derandomize=True a test draws other examples once another module of the project is loaded.
#
# One would guess: derandomized, the examples of a test are the same "until you update Hypothesis, Python, or the test
#   function", as the setting's own words are.
# What happens: strings, numbers and bytes that stand in the source of any loaded module of the project are drawn as well.
#   Which modules those are depends on the tests that ran before, and their constants change with nearly every commit.
# Why it matters: a suite that must not be lucky, at a gate or on several processes, draws new examples all the same: the
#   property test of one commit fails at another one, which touched neither it nor what it tests. No setting says otherwise.
# Versions: hypothesis 6.170.15, Python 3.11. Seen 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check hypothesis==6.170.15
mkdir "$work/project"
cd "$work/project"
echo 'COLOURS = ("ultramarine", "verdigris", "madder")' > paints.py
cat > drawing.py <<'PY'
import sys

import hypothesis.strategies as st
from hypothesis import given, settings

if "paints" in sys.argv:
    import paints

drawn = []


@settings(derandomize=True, max_examples=500)
@given(st.text())
def draw(text: str) -> None:
    drawn.append(text)


draw()
words = open("paints.py").read()
print(sorted({text for text in drawn if len(text) > 4 and text in words}), hash(tuple(drawn)))
PY
export PYTHONHASHSEED=0
alone=$("$work/venv/bin/python" drawing.py)
again=$("$work/venv/bin/python" drawing.py)
beside=$("$work/venv/bin/python" drawing.py paints)
printf 'alone:               %s\nonce more:           %s\nanother one loaded:  %s\n' "$alone" "$again" "$beside"
[ "$alone" = "$again" ] && [ "$alone" != "$beside" ] && grep -q ultramarine <<< "$beside" && ! grep -q ultramarine <<< "$alone"
