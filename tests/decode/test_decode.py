"""Decoding: every format and mode against Pillow, orientation, limits, and bytes that lie."""

import io
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from clipmill.schemas.job.config import Limits
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.clip.selfcheck import reference_rgb
from clipmill.workers.decode.picture import Decoded, decode, thumbnail
from tests.examples import examples
from tests.models import encoded, picture

LIMITS = Limits()
PIXELS = picture(1, 121, 83)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def full(image: bytes) -> Decoded:
    return decode(image, LIMITS, target_px=None)


def reason(image: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(BadImage) as caught:
        decode(image, limits, target_px=None)
    assert "\n" not in caught.value.detail
    return caught.value.reason


def with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(PIXELS).convert("RGBA")
    ramp = np.linspace(0, 255, PIXELS.shape[1]).astype(np.uint8)
    image.putalpha(Image.fromarray(np.tile(ramp, (PIXELS.shape[0], 1))))
    return image.convert(mode) if mode in ("RGBA", "LA") else image.quantize(32)


COLOUR = Image.fromarray(PIXELS)
AS_PILLOW = {
    "jpeg": save(COLOUR, "JPEG"),
    "jpeg progressive": save(COLOUR, "JPEG", progressive=True),
    "jpeg 4:4:4": save(COLOUR, "JPEG", subsampling=0),
    "jpeg 4:2:2": save(COLOUR, "JPEG", subsampling=1),
    "jpeg rgb": save(COLOUR, "JPEG", keep_rgb=True),
    "jpeg grey": save(COLOUR.convert("L"), "JPEG"),
    "jpeg cmyk": save(COLOUR.convert("CMYK"), "JPEG"),
    "jpeg trailing bytes": save(COLOUR, "JPEG") + b"more",
    "png": save(COLOUR, "PNG"),
    "png palette": save(COLOUR.quantize(16), "PNG"),
    "png palette alpha": save(with_alpha("P"), "PNG"),
    "png palette one transparent": save(COLOUR.quantize(16), "PNG", transparency=3),
    "png rgb one transparent": save(COLOUR, "PNG", transparency=tuple(int(v) for v in PIXELS[0, 0])),
    "png alpha": save(with_alpha("RGBA"), "PNG"),
    "png grey alpha": save(with_alpha("LA"), "PNG"),
    "png 1 bit": save(COLOUR.convert("1"), "PNG"),
    "webp": save(COLOUR, "WEBP"),
    "webp alpha": save(with_alpha("RGBA"), "WEBP", lossless=True),
    "webp animated": save(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(90)]),
    "gif": save(COLOUR.quantize(16), "GIF"),
    "gif animated": save(COLOUR.quantize(16), "GIF", save_all=True, append_images=[COLOUR.rotate(180).quantize(16)]),
    "gif transparent": save(COLOUR.quantize(16), "GIF", transparency=2),
    "bmp": save(COLOUR, "BMP"),
    "tiff": save(COLOUR, "TIFF"),
    "tiff lzw": save(COLOUR, "TIFF", compression="tiff_lzw"),
    "tiff two pages": save(COLOUR, "TIFF", save_all=True, append_images=[COLOUR.rotate(90)]),
    "tiff cmyk": save(COLOUR.convert("CMYK"), "TIFF"),
    "ppm": save(COLOUR, "PPM"),
    "jpeg 2000": save(COLOUR, "JPEG2000", irreversible=False),
    "jpeg 2000 alpha": save(with_alpha("RGBA"), "JPEG2000", irreversible=False),
    "avif": save(COLOUR, "AVIF"),
    "avif alpha": save(with_alpha("RGBA"), "AVIF"),
}


@pytest.mark.parametrize("name", AS_PILLOW)
def test_pixels_are_pillows(name: str) -> None:
    decoded = full(AS_PILLOW[name])
    expected = np.asarray(reference_rgb(AS_PILLOW[name]))
    assert decoded.pixels_HWC.dtype == np.uint8
    assert (decoded.height, decoded.width) == expected.shape[:2] == PIXELS.shape[:2]
    assert np.array_equal(decoded.pixels_HWC, expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = save(COLOUR, kind, exif=exif)
    decoded = full(image)
    with Image.open(io.BytesIO(image)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert (decoded.height, decoded.width) == expected.shape[:2]
    assert (decoded.width > decoded.height) == (orientation < 5)
    assert np.array_equal(decoded.pixels_HWC, expected)


@pytest.mark.realdata
def test_real_orientations_all_come_out_upright(real_data: Path) -> None:
    for shape in ("Landscape", "Portrait"):
        upright = decode((real_data / f"exif_orientation/{shape}_1.jpg").read_bytes(), LIMITS, target_px=224)
        for number in range(9):
            image = (real_data / f"exif_orientation/{shape}_{number}.jpg").read_bytes()
            turned = decode(image, LIMITS, target_px=224)
            assert (turned.width, turned.height) == (upright.width, upright.height)
            difference = turned.pixels_HWC.astype(int) - upright.pixels_HWC
            assert np.abs(difference).mean() < 12, f"{shape}_{number}"  # the same scene, compressed again
            assert np.array_equal(full(image).pixels_HWC, np.asarray(reference_rgb(image)))


def test_orientation_is_read_from_xmp_where_exif_has_none() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    segment = b"http://ns.adobe.com/xap/1.0/\x00" + xmp
    plain = save(COLOUR, "JPEG")
    image = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert full(image).width == PIXELS.shape[0]
    assert np.array_equal(full(image).pixels_HWC, np.asarray(reference_rgb(image)))


@pytest.mark.parametrize(
    "exif", [b"", b"II", b"II*\x00\xff\xff\xff\xff", b"MM\x00*\x00\x00\x00\x08\xff\xff" + b"\x01" * 40]
)
def test_a_broken_exif_block_does_not_cost_the_picture(exif: bytes) -> None:
    plain = save(COLOUR, "JPEG")
    segment = b"Exif\x00\x00" + exif
    image = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert np.array_equal(full(image).pixels_HWC, full(plain).pixels_HWC)


# --- deep and odd modes ----------------------------------------------------------------------------------------------


def grey_of(values_HW: npt.NDArray[Any], kind: str = "TIFF") -> npt.NDArray[np.uint8]:
    pixels_HWC = full(save(Image.fromarray(values_HW), kind)).pixels_HWC
    assert np.array_equal(pixels_HWC[..., 0], pixels_HWC[..., 1])
    return pixels_HWC[..., 0]


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_16_bits_are_scaled_not_clipped(kind: str) -> None:
    values_HW = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    expected = np.round(values_HW / 257).astype(int)
    assert np.abs(grey_of(values_HW, kind) - expected).max() <= 1
    assert grey_of(values_HW, kind).max() == 255


def test_floats_and_wide_integers_are_stretched() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for values_HW in (ramp, ramp * 1e6 - 5e5, (ramp * 2e9 - 1e9).astype(np.int32)):
        assert np.abs(grey_of(values_HW) - ramp * 255).max() <= 1
    assert grey_of(np.full((4, 4), 7.5, np.float32)).max() == 0
    holes = ramp.copy()
    holes[0, 0], holes[0, 1] = np.nan, np.inf
    assert grey_of(holes)[7, 7] == 255


def test_16_bit_rgb_png_keeps_its_high_bytes() -> None:
    values = (picture(3, 9, 7).astype(np.uint16) << 8) | 0x7F
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 9, 7, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(full(png).pixels_HWC, picture(3, 9, 7))


def test_lab_goes_through_colour_management() -> None:
    white = Image.new("LAB", (3, 3), (255, 128, 128))
    assert full(save(white, "TIFF")).pixels_HWC.min() >= 253


def test_a_picture_converted_in_bands_is_the_one_converted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmill.workers.decode.rgb._BAND_PIXELS", 1000)
    for name in ("png palette alpha", "png rgb one transparent", "tiff cmyk", "png alpha", "png"):
        assert np.array_equal(full(AS_PILLOW[name]).pixels_HWC, np.asarray(reference_rgb(AS_PILLOW[name]))), name


# --- scaling while decoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "target_px", "expected"),
    [
        ((1000, 800), None, (1000, 800)),
        ((1000, 800), 224, (1000, 800)),  # 400 would be less than twice 224
        ((1303, 901), 224, (652, 451)),
        ((4000, 2056), 128, (500, 257)),
        ((4000, 2056), 64, (4000, 2056)),  # at such sizes the scaling shows, and the model is fast anyway
        ((3000, 300), 128, (3000, 300)),
        ((4097, 256), 128, (4097, 256)),
        ((9000, 600), 128, (4500, 300)),
        ((9700, 600), 128, (9700, 600)),  # a strip, of which only the middle is computed
    ],
)
def test_a_large_jpeg_is_scaled_as_far_as_the_model_allows(
    size: tuple[int, int], target_px: int | None, expected: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = save(Image.new("RGB", size), "JPEG", exif=exif)
    decoded = decode(image, LIMITS, target_px=target_px)
    assert (decoded.width, decoded.height) == size[::-1]
    assert decoded.pixels_HWC.shape[:2] == expected


def test_thumbnails_are_webp_of_at_most_256_pixels() -> None:
    for size, expected in (((800, 401), (256, 128)), ((90, 60), (90, 60)), ((3000, 2), (256, 1))):
        with Image.open(io.BytesIO(thumbnail(full(encoded(picture(2, *size), "PNG")).pixels_HWC))) as small:
            assert small.format == "WEBP"
            assert small.size == expected


# --- refusals --------------------------------------------------------------------------------------------------------


def test_limits_are_the_jobs() -> None:
    image = save(COLOUR, "JPEG")
    assert reason(image, Limits(max_image_bytes=len(image) - 1)) == Reason.TOO_MANY_BYTES
    full_size = PIXELS.shape[0] * PIXELS.shape[1]
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        image = save(COLOUR, kind)
        assert reason(image, Limits(max_pixels=full_size - 1)) == Reason.TOO_MANY_PIXELS
        assert decode(image, Limits(max_pixels=full_size), target_px=None).width == PIXELS.shape[1]


def test_a_bomb_is_refused_from_its_header_alone() -> None:
    jpeg = bytearray(save(COLOUR, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    assert reason(bytes(jpeg)) == Reason.TOO_MANY_PIXELS
    png = bytearray(save(COLOUR, "PNG"))
    png[16:24] = struct.pack(">II", 200_000, 200_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(BadImage) as caught:
        decode(bytes(png), Limits(), target_px=None)
    assert caught.value.reason == Reason.TOO_MANY_PIXELS
    assert caught.value.detail == "40000000000 pixels, the limit is 100000000"  # the job's own, not Pillow's


def test_a_bomb_inside_an_icon_is_refused() -> None:
    inner = bytearray(save(Image.new("RGB", (16, 16)), "PNG"))
    inner[16:24] = struct.pack(">II", 30_000, 30_000)
    inner[29:33] = struct.pack(">I", zlib.crc32(inner[12:29]))
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    assert reason(struct.pack("<HHH", 0, 1, 1) + entry + bytes(inner)) in (Reason.TOO_MANY_PIXELS, Reason.CORRUPT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_half_a_file_is_truncated_or_corrupt(kind: str) -> None:
    image = save(Image.fromarray(picture(5, 200, 150)), kind)
    assert reason(image[: len(image) // 2]) in (Reason.TRUNCATED, Reason.CORRUPT, Reason.UNKNOWN_FORMAT)
    if kind in ("JPEG", "PNG"):
        assert reason(image[: len(image) // 2]) == Reason.TRUNCATED


def test_what_is_no_image() -> None:
    assert reason(b"") == Reason.EMPTY
    assert reason(b"<html>not found</html>") == Reason.UNKNOWN_FORMAT
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n") == Reason.UNKNOWN_FORMAT
    assert reason(save(COLOUR, "JPEG")[:40]) == Reason.TRUNCATED


@examples(150)
@given(
    name=st.sampled_from(sorted(AS_PILLOW)),
    cut=st.integers(0, 4000),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
)
def test_damaged_bytes_give_pixels_or_a_named_reason(name: str, cut: int, edits: list[tuple[int, int]]) -> None:
    image = bytearray(AS_PILLOW[name][: max(1, len(AS_PILLOW[name]) - cut)])
    for place, value in edits:
        image[place % len(image)] = value
    try:
        decoded = decode(bytes(image), Limits(max_pixels=1_000_000), target_px=32)
    except BadImage as refused:
        assert refused.reason in set(Reason)  # noqa: PT017 - pixels are as good an outcome
    else:
        assert decoded.pixels_HWC.ndim == 3
        assert decoded.pixels_HWC.shape[2] == 3
        assert decoded.pixels_HWC.flags.c_contiguous


def test_threads_do_not_disturb_each_other() -> None:
    images = [*AS_PILLOW.values()] * 4
    expected = [full(image).pixels_HWC for image in images]
    bad = save(COLOUR, "PNG")[:300]
    stop = threading.Event()

    def keep_failing() -> None:
        while not stop.is_set():
            with pytest.raises(BadImage):
                full(bad)

    noise = threading.Thread(target=keep_failing)
    noise.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(full, images))
    finally:
        stop.set()
        noise.join()
    assert all(np.array_equal(result.pixels_HWC, one) for result, one in zip(results, expected, strict=True))
