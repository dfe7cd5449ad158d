"""Writes `img2dataset/{webdataset,parquet,files}` with img2dataset itself, from a web server of its own.

    python -m venv /tmp/i2d && /tmp/i2d/bin/pip install img2dataset==1.47.0 pillow
    /tmp/i2d/bin/python tests/read/made/img2dataset_outputs.py

Of eight addresses six give the pictures of `draw`, one answers 404 and one gives a text instead of a picture.
"""

import csv
import shutil
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from draw import NUMBER, draw
from img2dataset import download  # type: ignore[import-not-found]

OUT = Path(__file__).resolve().parent / "img2dataset"
LABELS = ["cat", "dog", "a red shoe", "", "", "dog"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for n in range(NUMBER):
            Path(folder, f"{n}.png").write_bytes(draw(n))
        Path(folder, "text.png").write_text("this is no picture")
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web = f"http://127.0.0.1:{server.server_port}"
        names = ["0", "1", "absent", "2", "3", "text", "4", "5"]
        with Path(folder, "list.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["url", "caption", "label"])
            for name in names:
                number = int(name) if name.isdecimal() else -1
                label = LABELS[number] if number >= 0 else "none"
                lines.writerow([f"{web}/{name}.png", "" if number == 3 else f"picture {name}", label])
        shutil.rmtree(OUT, ignore_errors=True)
        for form in ("webdataset", "parquet", "files"):
            download(
                url_list=f"{folder}/list.csv",
                input_format="csv",
                url_col="url",
                caption_col="caption",
                save_additional_columns=["label"],
                output_folder=str(OUT / form),
                output_format=form,
                resize_mode="no",
                disable_all_reencoding=True,
                encode_format="png",
                encode_quality=9,
                processes_count=1,
                thread_count=1,
                number_sample_per_shard=5,
                retries=0,
                disallowed_header_directives=[],
            )
        server.shutdown()
        shutil.rmtree(OUT / "_tmp", ignore_errors=True)


if __name__ == "__main__":
    main()
