"""Writes `webdataset-dotted.tar` with webdataset's own TarWriter.

    python -m venv /tmp/wds && /tmp/wds/bin/pip install webdataset==1.0.2 pillow
    /tmp/wds/bin/python tests/read/made/webdataset_dotted.py

Keys with a dot and without, a class number beside one, and a picture under an ending of no picture format.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from draw import draw
from webdataset import TarWriter  # type: ignore[import-not-found]


def main() -> None:
    with TarWriter(str(Path(__file__).resolve().parent / "webdataset-dotted.tar"), mtime=0) as tar:
        tar.write({"__key__": "plain", "png": draw(0), "txt": "a plain key", "cls": 3})
        tar.write({"__key__": "v1.0-first", "png": draw(1), "txt": "a dotted key"})
        tar.write({"__key__": "v1.0-second", "png": draw(2), "txt": "another"})
        tar.write({"__key__": "inputs", "left.png": draw(3), "right.png": draw(4)})


if __name__ == "__main__":
    main()
