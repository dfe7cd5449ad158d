"""The perceptual hash: what ImageHash gives, near for copies, far for others, the same bits everywhere."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipmill.schemas.job.config import Limits
from clipmill.workers.decode.phash import grey, hash_of_grey, phash
from clipmill.workers.decode.picture import decode

LIMITS = Limits()

# `str(imagehash.phash(picture))` of ImageHash 4.3.2 (Pillow 13.0, SciPy 1.17) for the upright picture in RGB, on white.
IMAGEHASH = {
    "clip_retrieval/test_images/123_456.jpg": "9a5c1c84b69e98eb",
    "clip_retrieval/test_images/208_495.jpg": "d2adead4423d6835",
    "clip_retrieval/test_images/416_264.jpg": "956d7a0b08e476b5",
    "clothing/shirt/29f8cf36-3ae6-4558-9f42-82f330c15b3d.jpg": "d66825b57ac2079e",
    "exif_orientation/Landscape_6.jpg": "d6cd9bb2383264e4",
    "exif_orientation/Portrait_3.jpg": "91bcb8d3cc79c30c",
    "emoji/emoji_u1f1f2.png": "bbcc9336e126e413",  # transparent
    "emoji/emoji_u2663.png": "bab0f14b43cf49b0",
}


def hashed(image: bytes, target_px: int | None = None) -> int:
    return phash(decode(image, LIMITS, target_px=target_px)) & (2**64 - 1)


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("name", IMAGEHASH)
def test_it_is_the_hash_that_imagehash_gives(real_data: Path, name: str) -> None:
    assert f"{hashed((real_data / name).read_bytes()):016x}" == IMAGEHASH[name]


@pytest.fixture(scope="module")
def photographs(real_data: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((real_data / "clothing").glob("*/*.jpg"))[::20]]


def test_copies_are_near_and_other_pictures_far(photographs: list[bytes]) -> None:
    hashes = [hashed(image) for image in photographs]
    for image, mine in zip(photographs, hashes, strict=True):
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(image))).convert("RGB")
        half = picture.resize((picture.width // 2, picture.height // 2))
        copies = [encoded(half, quality=40), encoded(picture, "WEBP", quality=60), encoded(half, "PNG")]
        assert max(distance(mine, hashed(copy)) for copy in copies) <= 4
        assert distance(mine, hashed(encoded(picture.rotate(90, expand=True)))) > 16  # another picture
    assert min(distance(one, other) for n, one in enumerate(hashes) for other in hashes[:n]) > 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_that_was_scaled_while_decoding_differs_in_two_bits_at_most(
    photographs: list[bytes], orientation: int
) -> None:
    picture = Image.open(io.BytesIO(photographs[3])).convert("RGB").resize((1801, 2403), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[0x112] = orientation
    image = encoded(picture, exif=exif)
    assert decode(image, LIMITS, target_px=224).stored_HWC.shape[1] < 1000
    assert distance(hashed(image), hashed(image, 224)) <= 2


def test_every_way_that_a_camera_was_held_gives_one_hash(real_data: Path) -> None:
    for kind in ("Landscape", "Portrait"):
        folder = real_data / "exif_orientation"
        assert len({hashed((folder / f"{kind}_{n}.jpg").read_bytes(), 224) for n in range(9)}) == 1


def test_grey_in_bands_is_pillows() -> None:
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (1500, 1001, 3), dtype=np.uint8)
    assert np.array_equal(grey(pixels_HWC), np.asarray(Image.fromarray(pixels_HWC).convert("L")))


def test_frequencies_that_are_nothing_are_bits_that_are_nothing() -> None:
    flat_NN = np.full((32, 32), 200, np.uint8)
    slope_NN = np.broadcast_to(248 - np.arange(32, dtype=np.uint8) * 8, (32, 32))
    assert hash_of_grey(flat_NN - 200) == 0
    assert hash_of_grey(flat_NN) == -(1 << 63)  # the mean alone
    assert bin(hash_of_grey(slope_NN) & (2**64 - 1)).count("1") <= 8
    assert hash_of_grey(slope_NN.T) != hash_of_grey(slope_NN)


@pytest.mark.parametrize("size_HW", [(1, 1), (1, 400), (300, 2), (32, 32)])
def test_any_size_has_one(size_HW: tuple[int, int]) -> None:
    pixels_HWC = np.random.default_rng(1).integers(0, 256, (*size_HW, 3), dtype=np.uint8)
    assert -(2**63) <= phash(decode(encoded(Image.fromarray(pixels_HWC), "PNG"), LIMITS, target_px=64)) < 2**63
