"""Writes `info-zip.zip` with Info-ZIP's own `zip` 3.0.

    python tests/read/made/info_zip.py

Class folders with texts beside the pictures, as data sets are handed round; what a Mac adds is made by hand.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from draw import NUMBER, draw

LABELS = ["cat", "dog", "a red shoe", "none of them", "none of them", "dog"]


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        for n in range(NUMBER):
            path = Path(made) / "set" / LABELS[n] / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw(n))
            path.with_suffix(".txt").write_text("" if n == 3 else f"picture {n}")
        beside = Path(made) / "__MACOSX" / "set" / "cat" / "._0.png"
        beside.parent.mkdir(parents=True)
        beside.write_bytes(b"\0\5\x16\7")
        to = Path(__file__).resolve().parent / "info-zip.zip"
        to.unlink(missing_ok=True)
        subprocess.run(["zip", "-q", "-r", str(to), "set", "__MACOSX"], cwd=made, check=True)


if __name__ == "__main__":
    main()
