"""Formats whose decoder an extra brings: HEIC by pillow-heif, where that is installed.

Not among them is JPEG XL. pillow-jxl-plugin 1.3 (GPL) decodes a picture while it is opened, and reading the size from
the header before that bounds nothing: each frame has a size of its own (ISO/IEC 18181-1, frame header), those that are
only referred to may be larger than the picture, metadata is compressed without a bound, and the plugin gives libjxl
none for its memory.
"""

import importlib.util

from PIL import Image

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def register() -> tuple[str, ...]:
    """Tell Pillow of what is here; the formats' names. One thread a picture, because many are decoded at once."""
    if importlib.util.find_spec("pillow_heif") is None:
        return ()
    import pillow_heif  # type: ignore[import-not-found, import-untyped, unused-ignore]

    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return ("HEIF",) if "HEIF" in Image.OPEN else ()


def missing_for(image: bytes) -> str:
    """What would decode these bytes, which nothing here does; empty where nothing is known to."""
    if image[4:8] == b"ftyp" and image[8:12] in _HEIF_BRANDS:
        return "HEIC, which workers with clipmill[heic] decode"
    if image[:2] == b"\xff\x0a" or image[4:8] == b"JXL ":
        return "JPEG XL, which is not decoded"
    return ""
