"""The pictures of this folder: the same bytes from every tool that puts them into a file. Needs Pillow alone."""

import io

from PIL import Image

NUMBER = 6


def draw(n: int) -> bytes:
    """A PNG of 24 x 20 pixels, different for each n. Palette-free and without compression levels that vary."""
    picture = Image.new("RGB", (24, 20))
    places = [(x, y) for y in range(20) for x in range(24)]
    picture.putdata([((x * 9 + n * 40) % 256, (y * 11 + n * 25) % 256, (x * y + n * 60) % 256) for x, y in places])
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
