#!/usr/bin/env bash
# img2dataset: pictures of phones come out lying on their side, and nothing in the picture says so any more.
#
# One would guess: a tool that writes pictures anew turns them by their EXIF orientation, or keeps the tag.
# What happens: by default it does neither. The pixels are as they were stored, the new JPEG has no EXIF, and the
#   orientation stands as a phrase ("Rotated 90 CW") inside a JSON text inside the .json beside the picture. With
#   `disable_all_reencoding` the bytes are the originals and the tag is there.
# Why it matters: whatever is trained or computed on such shards sees part of all photographs turned. Download with
#   `disable_all_reencoding`, or turn each by what its .json says.
# Versions: img2dataset 1.47.0, Pillow 13.0.0, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check img2dataset==1.47.0 pillow==13.0.0
cd "$work"
cat > look.py <<'PY'
import json
import sys
import tarfile
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

warnings.simplefilter("ignore")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def main():
    from img2dataset import download
    from PIL import Image

    Path("web").mkdir()
    stored, exif = Image.new("RGB", (40, 80), "blue"), Image.Exif()  # lying: upright it is 80 wide
    exif[0x0112] = 6
    stored.save("web/phone.jpg", exif=exif)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Path("list.txt").write_text(f"http://127.0.0.1:{server.server_port}/phone.jpg\n")
    seen = {}
    for name, how in (("default", {}), ("kept", {"disable_all_reencoding": True})):
        download(url_list="list.txt", output_folder=name, output_format="webdataset", resize_mode="no", processes_count=1,
                 thread_count=1, disallowed_header_directives=[], **how)
        with tarfile.open(f"{name}/00000.tar") as tar:
            with Image.open(tar.extractfile("000000000.jpg")) as picture:
                size, tag = picture.size, picture.getexif().get(0x0112)
            said = json.loads(json.load(tar.extractfile("000000000.json"))["exif"]).get("Image Orientation")
        seen[name] = (size, tag, said)
    server.shutdown()
    print("stored: (40, 80), orientation 6")
    for name, (size, tag, said) in seen.items():
        print(f"{name}: {size}, orientation {tag}, its .json says {said!r}")
    return seen != {"default": ((40, 80), None, "Rotated 90 CW"), "kept": ((40, 80), 6, "Rotated 90 CW")}


if __name__ == "__main__":
    sys.exit(main())
PY
"$work/venv/bin/python" look.py 2> log.txt || { tail -5 log.txt; exit 1; }
