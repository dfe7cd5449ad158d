"""Writes `img2dataset-turned.tar` and `img2dataset-kept.tar` with img2dataset itself, from a web server of its own.

    python -m venv /tmp/i2d && /tmp/i2d/bin/pip install img2dataset==1.47.0 pillow
    /tmp/i2d/bin/python tests/read/made/img2dataset_turned.py

One scene four times over: stored upright, turned with EXIF orientations 6 and 3, and upright without EXIF. The first
tar is by img2dataset's default, which writes pictures anew; the second by `disable_all_reencoding`.
"""

import io
import shutil
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from img2dataset import download  # type: ignore[import-not-found]
from PIL import Image

HERE = Path(__file__).resolve().parent
STORED = {1: None, 6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}  # what EXIF's turn undoes


def scene() -> Image.Image:
    """96 x 64: sky over grass, and a red corner at the top left."""
    picture = Image.new("RGB", (96, 64), (40, 90, 200))
    picture.paste((60, 150, 60), (0, 32, 96, 64))
    picture.paste((220, 40, 40), (0, 0, 24, 16))
    return picture


def stored(orientation: int | None) -> bytes:
    picture, exif, out = scene(), Image.Exif(), io.BytesIO()
    if orientation is None:
        picture.save(out, "JPEG")
        return out.getvalue()
    exif[0x0112] = orientation
    turn = STORED[orientation]
    (picture if turn is None else picture.transpose(turn)).save(out, "JPEG", exif=exif)
    return out.getvalue()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, orientation in (("one", 1), ("six", 6), ("three", 3), ("none", None)):
            Path(folder, f"{name}.jpg").write_bytes(stored(orientation))
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web = f"http://127.0.0.1:{server.server_port}"
        lines = [f"{web}/{name}.jpg,{name}" for name in ("one", "six", "three", "none")]
        Path(folder, "list.csv").write_text("\n".join(["url,caption", *lines]))
        for name, how in (("turned", {"image_size": 64}), ("kept", {"disable_all_reencoding": True})):
            download(
                url_list=f"{folder}/list.csv",
                input_format="csv",
                url_col="url",
                caption_col="caption",
                output_folder=f"{folder}/{name}",
                output_format="webdataset",
                resize_mode="keep_ratio",
                processes_count=1,
                thread_count=1,
                disallowed_header_directives=[],
                **how,
            )
            shutil.copy(f"{folder}/{name}/00000.tar", HERE / f"img2dataset-{name}.tar")
        server.shutdown()


if __name__ == "__main__":
    main()
