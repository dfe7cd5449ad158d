"""Draws the bundled self-check pictures: `python workers/clip/selfcheck_pictures/make.py`. CC0; a few kB each.

They cover what the fast road does differently: JPEG (progressive, grey, 4:2:0, turned by EXIF, large enough to be
scaled while decoding), PNG with alpha and palette, WebP, odd sizes, smaller than the model's input.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

HERE = Path(__file__).parent


def scene(width: int, height: int, seed: int) -> npt.NDArray[np.uint8]:
    """(H, W, 3): smooth colours, discs with sharp edges and fine stripes, nothing symmetric."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width, y / height
    phases = rng.uniform(0, 6.28, 3)
    channels = [128 + 90 * np.sin(4 * x * (i + 1) + 3 * y + phases[i]) for i in range(3)]
    picture = np.stack(channels, axis=-1)
    for _ in range(6):
        cx, cy, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.2)
        picture[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    stripes = (x > 0.55) & (y < 0.4) & ((x * width).astype(int) // max(2, width // 60) % 2 == 0)
    picture[stripes] = (250, 240, 20)
    drawn: npt.NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return drawn


def main() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(scene(333, 251, 1)).save(HERE / "odd_420.jpg", quality=85)
    Image.fromarray(scene(300, 200, 2)).save(HERE / "turned_444.jpg", quality=85, subsampling=0, exif=turned)
    Image.fromarray(scene(260, 340, 3)).convert("L").save(HERE / "grey.jpg", quality=85, progressive=True)
    Image.fromarray(scene(1400, 1001, 4)).save(HERE / "large.jpg", quality=50)
    alpha = Image.fromarray(scene(240, 180, 5)).convert("RGBA")
    alpha.putalpha(Image.fromarray((np.linspace(0, 255, 240)[None] * np.ones((180, 1))).astype(np.uint8)))
    alpha.quantize(64).save(HERE / "palette_alpha.png", optimize=True)
    Image.fromarray(scene(57, 93, 6)).save(HERE / "small.webp", quality=85)


if __name__ == "__main__":
    main()
