"""What a picture costs before the model sees it, and what scaling a large JPEG while it is decoded does to its vector.

    python -m benchmarks.decode [--pictures 24] [--out benchmarks/results]

Three roads from the same bytes to the model's pixels, each on one thread: `worker`, as a unit takes it (a large JPEG is
decoded at 1/2, 1/4 or 1/8); `full size`, the same without that scaling; `pillow`, open_clip's own. The cosine is that
of a road's vector with Pillow's, both from the same tower in fp32, so only pixels differ. Originals are mosaics of
photographs at their own size: enlarged pictures would have no detail to lose.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks import machine, pictures
from benchmarks.peers.checkpoint import make_checkpoint
from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec, Preprocess

Pixels = npt.NDArray[np.uint8]  # (3, H, W)
Road = Callable[[bytes], Pixels]

TILE_PX = 384
TILES = 5  # to a side: 1,920 px
QUALITY = 90


def mosaics(photos: Sequence[Path], count: int) -> list[bytes]:
    """`count` JPEGs of TILES x TILES photographs each, which are cut, not resized."""
    random = np.random.default_rng(1)
    return [_mosaic([photos[i] for i in random.integers(len(photos), size=TILES**2)]) for _ in range(count)]


def _mosaic(photos: Sequence[Path]) -> bytes:
    canvas = Image.new("RGB", (TILES * TILE_PX, TILES * TILE_PX))
    for place, photo in enumerate(photos):
        with Image.open(photo) as opened:
            tile = opened.convert("RGB")
        tile = tile.crop((0, 0, TILE_PX, TILE_PX))
        canvas.paste(tile, (place % TILES * TILE_PX, place // TILES * TILE_PX))
    out = io.BytesIO()
    canvas.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def roads(how: Preprocess) -> dict[str, Road]:
    from clipmill.workers.decode.picture import decode
    from clipmill.workers.decode.preprocess import preprocess

    limits = Limits()

    def road(target_px: int | None, *, exact: bool) -> Road:
        def to_pixels(jpeg: bytes) -> Pixels:
            decoded = decode(jpeg, limits, target_px=target_px)
            size_HW = (decoded.height, decoded.width)
            return preprocess(
                decoded.stored_HWC, how, original_HW=size_HW, orientation=decoded.orientation, exact=exact
            )

        return to_pixels

    return {
        "worker": road(max(how.size_HW), exact=False),
        "full size": road(None, exact=False),
        "pillow": road(None, exact=True),
    }


def measure(jpegs: Sequence[bytes], engine: Any) -> dict[str, Any]:
    """`ms`: CPU milliseconds a picture. `levels`: mean distance from Pillow's pixels, of 255. `cosine`: with its
    vectors, the least and the median. `apart`: the median cosine of two different pictures, for scale."""
    made: dict[str, npt.NDArray[Any]] = {}
    found: dict[str, Any] = {}
    for name, road in roads(engine.fingerprint.preprocess).items():
        road(jpegs[0])
        start = time.process_time()
        made[name] = np.stack([road(jpeg) for jpeg in jpegs])
        found[name] = {"ms": round(1000 * (time.process_time() - start) / len(jpegs), 2)}
    true_BD = engine.encode_images(made["pillow"])
    for name in ("worker", "full size"):
        cosines_B = (engine.encode_images(made[name]) * true_BD).sum(axis=1)
        levels = np.abs(made[name].astype(np.int16) - made["pillow"].astype(np.int16)).mean()
        found[name] |= {
            "levels": round(float(levels), 3),
            "cosine": {"min": round(float(cosines_B.min()), 5), "median": round(float(np.median(cosines_B)), 5)},
        }
    apart = float(np.median((true_BD[:-1] * true_BD[1:]).sum(axis=1)))
    return {**found, "pictures": len(jpegs), "mean_bytes": round(np.mean([*map(len, jpegs)])), "apart": round(apart, 3)}


def small(photos: Sequence[Path], count: int) -> list[bytes]:
    """The pictures of the other benchmarks: 256 px, about 25 kB."""
    random = np.random.default_rng(1)
    return [pictures.cut(photos[int(random.integers(len(photos)))], pictures.Kind(), random) for _ in range(count)]


def sensitive(name: str, jpegs: list[bytes], folder: Path) -> str | None:
    """A checkpoint that tells pictures apart; None where the model is trained."""
    if name == "clipmill-tiny":
        return None
    random = np.random.default_rng(1)
    captions = [pictures.caption(number, random) for number in range(len(jpegs))]
    return str(make_checkpoint(folder / "made.pt", name, jpegs, captions))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24, help="of each kind, at least two")
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "clipmill-tiny"])
    parser.add_argument("--out", type=Path, help="folder for the dated result; none: print only")
    options = parser.parse_args(arguments)
    import torch

    from clipmill.workers.load import load_engine

    torch.set_num_threads(1)
    photos = pictures.photographs()
    kinds = {"256 px": small(photos, options.pictures), "1920 px": mosaics(photos, options.pictures)}
    cases: dict[str, Any] = {}
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = sensitive(name, kinds["256 px"], Path(folder))
            activation = "gelu" if checkpoint else None  # random weights: any is right
            spec = ModelSpec(name=name, pretrained=checkpoint, precision="fp32", activation=activation)
            engine = load_engine(spec, device="cpu", threads=1)
            cases[name] = {kind: measure(jpegs, engine) for kind, jpegs in kinds.items()}
    result = {"at": machine.now(), "machine": machine.machine(), "cases": cases}
    print(json.dumps(result, indent=1))
    if options.out is not None:
        machine.save(machine.dated(options.out, "decode"), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
