"""Pictures that were cut off say so, in each format and wherever they end; damaged ones of full length do not."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipmill.schemas.job.config import Limits
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.decode import cut
from clipmill.workers.decode.picture import decode
from clipmill.workers.decode.sniff import ending
from tests.examples import examples

SIDE_PX = 48
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name -> mode, Pillow's format and options
    "jpeg": ("RGB", "JPEG", {}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "cmyk": ("CMYK", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "png8": ("P", "PNG", {}),
    "webp": ("RGB", "WEBP", {}),
    "webp_lossless": ("RGBA", "WEBP", {"lossless": True}),
    "webp_exif": ("RGB", "WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
    "gif": ("P", "GIF", {"comment": b"a comment"}),
    "bmp": ("RGB", "BMP", {}),
    "bmp8": ("P", "BMP", {}),
    "ico": ("RGBA", "ICO", {"sizes": [(16, 16), (48, 48)]}),
    "ico_bmp": ("RGBA", "ICO", {"sizes": [(16, 16), (48, 48)], "bitmap_format": "bmp"}),
    "ppm": ("RGB", "PPM", {}),
    "jp2": ("RGB", "JPEG2000", {}),
    "j2k": ("RGB", "JPEG2000", {"no_jp2": True}),
    "avif": ("RGB", "AVIF", {}),
    "tiff": ("RGB", "TIFF", {}),
    "big_tiff": ("RGB", "TIFF", {"big_tiff": True}),
    "lzw": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "deflate": ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "packbits": ("RGB", "TIFF", {"compression": "packbits"}),
    "tiff_jpeg": ("RGB", "TIFF", {"compression": "jpeg"}),
    "group4": ("1", "TIFF", {"compression": "group4"}),
    "two_strips": ("RGB", "TIFF", {"compression": "tiff_lzw", "strip_size": SIDE_PX * 3 * 8}),
}


def written(kind: str) -> bytes:
    mode, form, options = KINDS[kind]
    if form not in Image.SAVE:
        Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {form}")
    blocks = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8)
    picture = Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8)))
    encoded = io.BytesIO()
    picture.convert(mode).save(encoded, form, **options)
    return encoded.getvalue()


def reason_of(image: bytes) -> Reason | None:
    try:
        decode(image, Limits(), target_px=None)
    except BadImage as refused:
        return refused.reason
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_it_ends_it_is_truncated(kind: str) -> None:
    """Once its first bytes say what it is. What lacks only an end that nobody needs is the picture."""
    whole = written(kind)
    assert reason_of(whole) is None
    assert not cut.ends_early(whole)
    step = max(1, len(whole) // 150)
    wrong, whole_from = [], len(whole)
    for end in sorted({*range(1, 40), *range(40, len(whole), step), *range(len(whole) - 20, len(whole))}):
        found = reason_of(whole[:end])
        known = ending(whole[:end]) != "img"
        if found is None:
            whole_from = min(whole_from, end)
        elif found != (Reason.TRUNCATED if known else Reason.UNKNOWN_FORMAT) and not (not known and end < 12):
            wrong.append((end, found))
    assert not wrong
    assert whole_from > 0.9 * len(whole) or kind == "progressive"  # whose first passes are a coarse picture


@pytest.mark.parametrize("kind", ["webp", "jp2", "j2k", "avif", "lzw", "tiff_jpeg", "two_strips", "ico_bmp"])
def test_damage_in_a_file_of_full_length_is_no_cut(kind: str) -> None:
    whole = written(kind)
    assert not cut.ends_early(whole)
    third = len(whole) // 3
    assert not cut.ends_early(whole[:third] + bytes(8) + whole[third + 8 :])
    assert not cut.ends_early(whole + b"what somebody wrote behind it") or kind == "j2k"  # its end has no other mark


def test_what_an_avif_has_in_front_of_its_pixels_is_not_all_of_it() -> None:
    """Cut between its boxes."""
    whole = written("avif")
    assert reason_of(whole[: whole.index(b"mdat") - 4]) == Reason.TRUNCATED


def test_a_cut_picture_of_a_format_that_nothing_here_decodes_says_what_decodes_it() -> None:
    heic = written("avif").replace(b"avif", b"heic").replace(b"mif1", b"heix")
    assert cut.ends_early(heic[:-10])
    with pytest.raises(BadImage) as refused:
        decode(heic[:-10], Limits(), target_px=None)
    assert refused.value.reason in (Reason.UNKNOWN_FORMAT, Reason.TRUNCATED)  # the latter with clipmill[heic]


@given(start=st.sampled_from([written(kind)[:64] for kind in KINDS if kind != "avif"]), rest=st.binary(max_size=200))
@examples(300)
def test_bytes_of_anybodys_making_end_the_look(start: bytes, rest: bytes) -> None:
    assert cut.ends_early(start + rest) in (True, False)
    assert cut.ends_early(start[:8] + rest) in (True, False)


def test_a_file_of_a_million_parts_is_not_looked_through() -> None:
    """Nor is it called cut: nobody knows."""
    gif = b"GIF89a" + bytes(7) + b"!\xfe" + b"\x01a" * 1_000_000
    assert not cut.ends_early(gif)


@pytest.mark.realdata
def test_bad_files_of_others_cut_in_half_are_never_of_unknown_format(real_data: Path) -> None:
    """Where the whole file is a picture."""
    wrong = []
    for path in sorted((real_data / "bad_inputs").rglob("*")):
        image = path.read_bytes() if path.is_file() else b""
        half = image[: len(image) // 2]
        if len(image) < 200 or reason_of(image) is not None or ending(half) == "img":
            continue
        if (found := reason_of(half)) not in (None, Reason.TRUNCATED):
            wrong.append((path.name, found))
    assert not wrong
