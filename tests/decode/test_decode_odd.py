"""Files that other tools write and that decoders get wrong: whole but refused, or half but taken."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from clipmill.schemas.job.config import Limits
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.decode.picture import Decoded, decode
from tests.models import picture

PIXELS = picture(1, 121, 83)
COLOUR = Image.fromarray(PIXELS)
PHOTO = Image.fromarray(
    np.random.default_rng(7).integers(0, 255, (40, 50, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
)
EOI = b"\xff\xd9"


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def full(image: bytes) -> npt.NDArray[np.uint8]:
    return decoded(image).pixels_HWC


def decoded(image: bytes, target_px: int | None = None) -> Decoded:
    return decode(image, Limits(), target_px=target_px)


def refused(image: bytes) -> BadImage:
    with pytest.raises(BadImage) as caught:
        decode(image, Limits(), target_px=None)
    return caught.value


# --- JPEG: whole without its end marker, half with one ---------------------------------------------------------------

JPEGS = {
    "baseline": save(PHOTO, "JPEG", quality=85),
    "progressive": save(PHOTO, "JPEG", quality=85, progressive=True),
    "restarts": save(PHOTO, "JPEG", quality=85, restart_marker_rows=1),
    "grey": save(PHOTO.convert("L"), "JPEG", quality=85),
    "cmyk": save(PHOTO.convert("CMYK"), "JPEG", quality=85),
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(name: str) -> None:
    whole = JPEGS[name]
    assert whole.endswith(EOI)
    for missing in (1, 2):
        assert np.array_equal(full(whole[:-missing]), full(whole))


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_cut_in_its_middle_is_truncated_whatever_stands_behind(name: str) -> None:
    whole = JPEGS[name]
    for cut in np.linspace(whole.index(b"\xff\xda") + 50, len(whole) - 40, 8).astype(int):
        half = whole[: cut - 1] + b"\x55" if whole[cut - 1] == 0xFF else whole[:cut]
        for image in (half, half + EOI, half + EOI + whole[cut:]):
            assert refused(image).reason == Reason.TRUNCATED, (cut, len(whole))
        assert refused(half[: len(half) // 8 * 7] + half[-40:] + EOI).reason in (Reason.TRUNCATED, Reason.CORRUPT)


def test_a_cut_jpeg_is_noticed_at_a_reduced_size_too() -> None:
    whole = save(PHOTO.resize((1200, 1100)), "JPEG", quality=85)
    assert decoded(whole, 224).pixels_HWC.shape[:2] == (550, 600)
    for image in (whole[: len(whole) // 2], whole[: len(whole) // 2] + EOI):
        with pytest.raises(BadImage) as caught:
            decoded(image, 224)
        assert caught.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize("place", [5, 7], ids=["height", "width"])
def test_a_jpeg_without_height_or_width_is_corrupt(place: int) -> None:
    whole = JPEGS["baseline"]
    start = whole.index(b"\xff\xc0") + place
    image = whole[:start] + bytes(2) + whole[start + 2 :]
    assert refused(image).reason == Reason.CORRUPT
    assert refused(image).detail.endswith(" pixels")


def test_what_libjpeg_only_remarks_on_costs_no_picture() -> None:
    whole = JPEGS["baseline"]
    with_padding = whole[:-2] + bytes(5) + EOI  # "extraneous bytes before marker"
    assert np.array_equal(full(with_padding), full(whole))


# --- PNG: what stands beside the picture -----------------------------------------------------------------------------


def chunk(name: bytes, body: bytes, *, damaged: bool = False) -> bytes:
    checksum = zlib.crc32(name + body) ^ damaged
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def png_with(*chunks: bytes, behind: bytes = b"") -> bytes:
    plain = save(COLOUR, "PNG")
    end = plain.index(b"IDAT") - 4
    return plain[:end] + b"".join(chunks) + plain[end:-12] + behind + plain[-12:]


def text_of(size: int) -> bytes:
    return b"workflow\x00\x00" + zlib.compress(bytes(size))


@pytest.mark.parametrize(
    "image",
    [
        png_with(chunk(b"iCCP", text_of(3_000_000))),
        png_with(chunk(b"zTXt", text_of(3_000_000))),
        png_with(chunk(b"iTXt", b"notes\x00\x01\x00\x00\x00" + zlib.compress(bytes(3_000_000)))),
        png_with(behind=chunk(b"zTXt", text_of(3_000_000))),
        png_with(chunk(b"tEXt", b"a\x00b", damaged=True)),
        png_with(chunk(b"tEXt", b"a\x00b", damaged=True), chunk(b"gAMA", bytes(4), damaged=True)),
        png_with(behind=chunk(b"tIME", bytes(7), damaged=True)),
    ],
    ids=["profile", "text", "international", "text behind", "checksum", "two checksums", "checksum behind"],
)
def test_what_a_png_says_beside_its_picture_does_not_cost_it(image: bytes) -> None:
    assert np.array_equal(full(image), PIXELS)


def test_what_a_png_unpacks_beside_its_picture_is_bounded() -> None:
    assert refused(png_with(chunk(b"zTXt", text_of(40_000_000)))).reason == Reason.CORRUPT
    assert refused(png_with(*[chunk(b"zTXt", text_of(12_000_000))] * 8)).reason == Reason.CORRUPT


def test_a_png_whose_picture_is_damaged_names_the_chunk() -> None:
    plain = save(COLOUR, "PNG")
    for name, image in (
        ("IHDR", plain[:29] + bytes([plain[29] ^ 1]) + plain[30:]),
        ("PLTE", png_with(chunk(b"PLTE", bytes(6), damaged=True))),
        ("tRNS", png_with(chunk(b"tRNS", bytes(6), damaged=True))),
    ):
        assert refused(image).reason == Reason.CORRUPT
        assert name in refused(image).detail


# --- TIFF, BMP, ICO: whose zero is white, which page, what is no alpha -----------------------------------------------


def retagged(tiff: bytes, tag: int, value: int) -> bytes:
    """With another short value in the first directory."""
    order = "<" if tiff[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for place in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from(order + "H", tiff, place)[0] == tag:
            return tiff[: place + 8] + struct.pack(order + "HH", value, 0) + tiff[place + 12 :]
    raise AssertionError(f"no tag {tag}")


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_whose_zero_is_white_is_no_negative(dtype: type, compression: str) -> None:
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    ramp = (np.linspace(0, 1, 64).reshape(8, 8) * top).astype(dtype)
    black_is_zero = save(Image.fromarray(ramp), "TIFF", compression=compression)
    white_is_zero = retagged(save(Image.fromarray(top - ramp), "TIFF", compression=compression), 262, 0)
    difference = full(black_is_zero).astype(int) - full(white_is_zero)
    assert np.abs(difference).max() <= 1
    assert full(white_is_zero)[7, 7].min() == 255


def pages(*sizes_and_kinds: tuple[Image.Image, int]) -> bytes:
    out = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(out, new=True) as writer:
        for image, kind in sizes_and_kinds:
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[254] = kind
            image.save(writer, "TIFF", tiffinfo=tags)
            writer.newFrame()
    return out.getvalue()


def test_a_tiff_gives_its_picture_not_its_thumbnail_or_mask() -> None:
    small = COLOUR.resize((30, 20))
    mask = Image.new("L", (200, 200))
    for first in ([(small, 1)], [(small, 1), (mask, 4)], [(mask, 4)], [(small, 3)]):
        assert np.array_equal(full(pages(*first, (COLOUR, 0))), PIXELS), first
    assert np.array_equal(full(pages((COLOUR, 0), (small, 1))), PIXELS)
    assert np.array_equal(full(pages((COLOUR, 2), (COLOUR.rotate(180), 2))), PIXELS)  # pages of a document: the first
    assert np.array_equal(full(pages((small, 1), (mask, 4), (COLOUR, 1))), PIXELS)  # all marked: the largest
    assert full(pages((small, 1))).shape == (20, 30, 3)


def test_the_page_that_is_taken_is_held_to_the_limits() -> None:
    image = pages((COLOUR.resize((30, 20)), 1), (COLOUR, 0))
    with pytest.raises(BadImage) as caught:
        decode(image, Limits(max_pixels=30 * 20 + 1), target_px=None)
    assert caught.value.reason == Reason.TOO_MANY_PIXELS


def bmp_with_mask(alpha: int) -> bytes:
    """A BITMAPV5 of 32 bits whose header names an alpha mask."""
    height, width = PIXELS.shape[:2]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, 0, 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(64)
    fourth = np.full((height, width, 1), alpha, np.uint8)
    body = np.concatenate([PIXELS[::-1, :, ::-1], fourth], axis=2).tobytes()
    return struct.pack("<2sIHHI", b"BM", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


def icon_without_alpha() -> bytes:
    """An icon of 32 bits whose fourth byte nobody wrote, as before Windows XP."""
    bgr = np.array(COLOUR.resize((32, 32)))[::-1, :, ::-1]
    body = np.concatenate([bgr, np.zeros((32, 32, 1), np.uint8)], axis=2).tobytes() + bytes(32 * 4)
    dib = struct.pack("<IiiHHIIiiII", 40, 32, 64, 1, 32, 0, len(body), 0, 0, 0, 0) + body
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(dib), 22) + dib


def test_a_fourth_channel_of_zeros_that_is_no_alpha_hides_nothing() -> None:
    clear = COLOUR.copy()
    clear.putalpha(0)
    declared = save(clear, "TIFF")
    entry = struct.pack("<HHI", 338, 3, 1)
    assert declared.count(entry) == 1
    undeclared = declared.replace(entry, struct.pack("<HHI", 65000, 3, 1))
    for image in (bmp_with_mask(0), bmp_with_mask(255), undeclared):
        assert np.array_equal(full(image), PIXELS)
    assert np.array_equal(full(icon_without_alpha()), np.asarray(COLOUR.resize((32, 32))))


def test_a_declared_alpha_of_zeros_hides_the_picture() -> None:
    clear = COLOUR.copy()
    clear.putalpha(0)
    for kind in ("PNG", "TIFF", "WEBP"):
        assert full(save(clear, kind)).min() == 255, kind
    assert full(bmp_with_mask(128)).mean() > PIXELS.mean() + 20  # one that was written counts in a BMP as well


def test_the_transparent_value_of_a_deep_grey_png_is_white() -> None:
    values_HW = np.linspace(0, 60_000, 64).astype(np.uint16).reshape(8, 8)
    grey_HW = full(save(Image.fromarray(values_HW), "PNG", transparency=int(values_HW[0, 3])))[..., 0]
    assert grey_HW[0, 3] == 255
    assert np.abs(np.delete(grey_HW.ravel().astype(int) - np.round(values_HW.ravel() / 257), 3)).max() <= 1


# --- the files as reported -------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_reported_files_hold_the_picture_they_hold(real_data: Path) -> None:
    folder = real_data / "reported"
    base = full((folder / "base.png").read_bytes())
    for name in (
        "v5-alpha-zero.bmp",
        "rgbx_noextra.tif",
        "thumb-first.tif",
        "icc-big.png",
        "itxt-big.png",
        "text-badcrc.png",
    ):
        assert np.array_equal(full((folder / name).read_bytes()), base), name
    black, white = ((folder / f"minis{zero}16.tif").read_bytes() for zero in ("black", "white"))
    assert np.abs(full(black).astype(int) - full(white)).max() <= 1
    assert full((folder / "no-eoi.jpg").read_bytes()).shape == (240, 320, 3)
    for name in ("photo.JPE", "photo.avif", "photo.jfif"):
        image = (folder / "odd-extensions" / name).read_bytes()
        with Image.open(io.BytesIO(image)) as opened:
            assert np.array_equal(full(image), np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))), name
