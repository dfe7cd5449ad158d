"""EXIF orientation: its values, and turning pixels by it.

HWC: height, width, channels (RGB).
"""

import numpy as np
import numpy.typing as npt

ORIENTATION = 0x0112  # EXIF and TIFF tag


def orientation_in(value: object) -> int:
    """1..8; 1 for what is no orientation."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def swaps_sides(orientation: int) -> bool:
    return orientation >= 5


def turn_upright(pixels_HWC: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Contiguous. EXIF 2.3 table 6: how row 0 and column 0 of the stored image lie in the scene."""
    if orientation == 1:
        return pixels_HWC
    turned = {
        2: pixels_HWC[:, ::-1],
        3: pixels_HWC[::-1, ::-1],
        4: pixels_HWC[::-1],
        5: pixels_HWC.transpose(1, 0, 2),
        6: np.rot90(pixels_HWC, -1),
        7: pixels_HWC[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels_HWC, 1),
    }[orientation]
    return np.ascontiguousarray(turned)
