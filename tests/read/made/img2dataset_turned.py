"""Writes `img2dataset-turned.tar`, `.parquet` and the folder `img2dataset-turned`, and `img2dataset-kept.tar`, with
img2dataset itself, from a web server of its own.

    python -m venv /tmp/i2d && /tmp/i2d/bin/pip install img2dataset==1.47.0 pillow
    /tmp/i2d/bin/python tests/read/made/img2dataset_turned.py

One scene four times over: stored upright, turned with EXIF orientations 6 and 3, and upright without EXIF. `turned` is
by img2dataset's default, which writes pictures anew, as JPEG (tar), PNG (files) and WebP (parquet); `kept` by
`disable_all_reencoding`.
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
        keep_ratio = {"image_size": 64, "resize_mode": "keep_ratio"}
        for name, form, how in (
            ("turned", "webdataset", keep_ratio),
            ("kept", "webdataset", {"disable_all_reencoding": True, "resize_mode": "keep_ratio"}),
            ("turned", "files", {**keep_ratio, "encode_format": "png", "encode_quality": 9}),
            ("turned", "parquet", {**keep_ratio, "encode_format": "webp"}),
        ):
            out = Path(folder, f"{name}-{form}")
            download(
                url_list=f"{folder}/list.csv",
                input_format="csv",
                url_col="url",
                caption_col="caption",
                output_folder=str(out),
                output_format=form,
                processes_count=1,
                thread_count=1,
                disallowed_header_directives=[],
                **how,
            )
            ending = {"webdataset": ".tar", "files": "", "parquet": ".parquet"}[form]
            copy = shutil.copytree if form == "files" else shutil.copy
            copy(f"{out}/00000{ending}", HERE / f"img2dataset-{name}{ending}")
        server.shutdown()


if __name__ == "__main__":
    main()
