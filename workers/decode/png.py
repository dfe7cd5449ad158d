"""A PNG whose comments are damaged is still the picture it was.

Pillow refuses a PNG for a wrong checksum in any chunk; libpng, and with it browsers, pass over those that only add to
the picture. Looked at only after Pillow refused. Chunks: PNG specification, section 5.
"""

import struct
import zlib

from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.samples import BadImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TURNS_OR_HIDES = (b"tRNS", b"eXIf")  # without them it would be another picture


def without_damaged_chunks(image: bytes) -> bytes | None:
    """The PNG without the ancillary chunks whose checksum is wrong; None if there are none.

    Raises BadImage, corrupt, with the chunk's name where one is damaged that the picture cannot do without.
    """
    kept, position = [SIGNATURE], len(SIGNATURE)
    dropped = False
    while position + 12 <= len(image):
        (length,) = struct.unpack_from(">I", image, position)
        name, end = image[position + 4 : position + 8], position + 12 + length
        if end > len(image):
            break  # cut off: Pillow says so
        chunk = image[position:end]
        if zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big"):
            kept.append(chunk)
        elif _is_ancillary(name) and name not in _TURNS_OR_HIDES:
            dropped = True
        else:
            raise BadImage(Reason.CORRUPT, f"wrong checksum in the PNG's chunk {name.decode('ascii', 'replace')}")
        position = end
    return b"".join([*kept, image[position:]]) if dropped else None


def _is_ancillary(name: bytes) -> bool:
    return name.isalpha() and name[:1].islower()
