"""What a picture's file is called is told by its bytes, for every format that is decoded."""

import io

import pytest
from PIL import Image

from clipmill.workers.decode.picture import FORMATS
from clipmill.workers.decode.sniff import ending

ENDINGS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "ICO": "ico",
    "PPM": "ppm",
    "AVIF": "avif",
    "JPEG2000": "jp2",
    "HEIF": "heic",
}


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "DIB"])  # a BMP without its first 14 bytes
def test_an_ending_by_what_pillow_writes(name: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (48, 32), (200, 20, 20)).save(out, name)
    assert ending(out.getvalue()) == ENDINGS[name]


def test_other_beginnings_of_the_same_formats() -> None:
    for image, name in ((Image.new("L", (8, 8)), "pgm"), (Image.new("1", (8, 8)), "pbm")):
        out = io.BytesIO()
        image.save(out, "PPM")
        assert ending(out.getvalue()) == name
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG2000", no_jp2=True)
    assert ending(out.getvalue()) == "j2k"
    assert ending(b"<svg>") == ending(b"") == "img"
