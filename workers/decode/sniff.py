"""What bytes are, by how they begin, where a browser shall show them."""

# What browsers show and decoders read; SVG and HTML, which can run scripts, are not among them.
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


def sniff(data: bytes) -> str | None:
    """Media type by the first bytes, None for anything that is not a plain picture."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


_ENDINGS = {"image/jpeg": "jpg", "image/tiff": "tif"}  # others are called as their media type
_OTHERS = (
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "j2k"),
    (b"II+\x00", "tif"),
    (b"MM\x00+", "tif"),
    (b"\x00\x00\x01\x00", "ico"),
    *((b"P" + kind + space, "ppm") for kind in (b"3", b"6") for space in (b"\n", b" ", b"\r", b"\t")),
    *((b"P" + kind + space, "pgm") for kind in (b"2", b"5") for space in (b"\n", b" ", b"\r", b"\t")),
    *((b"P" + kind + space, "pbm") for kind in (b"1", b"4") for space in (b"\n", b" ", b"\r", b"\t")),
)


def ending(data: bytes) -> str:
    """What a file of these bytes is called after the dot, whatever it was called before; `img` if it is unknown."""
    if kind := sniff(data):
        return _ENDINGS.get(kind, kind.removeprefix("image/"))
    if data[4:8] == b"ftyp":  # ISO base media: the brands follow, the main one first
        brands = data[8 : min(int.from_bytes(data[:4], "big"), 64)]
        if b"avif" in brands or b"avis" in brands:
            return "avif"
        return "heic" if b"mif1" in brands or b"msf1" in brands or brands[:2] == b"he" else "img"
    return next((name for magic, name in _OTHERS if data.startswith(magic)), "img")
