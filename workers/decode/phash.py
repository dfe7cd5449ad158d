"""A perceptual hash: 64 bits of what a picture looks like, which scaling and compression hardly change.

The DCT hash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2), as
`imagehash.phash` of the package ImageHash 4.3 defines it: 32x32 grey pixels, DCT-II, and of its 8x8 lowest frequencies
which are greater than their median. ImageHash computes in floating point; here it is whole numbers, so that every
machine gives the same bits. How rarely they are others than ImageHash's stands in docs/table.md.

N = 32, K = 8 frequencies a side. HW: height, width; HWC: channels (RGB).
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipmill.workers.decode.picture import Decoded
from clipmill.workers.decode.turn import swaps_sides, turn_upright

SIDE_PX = 32
_FREQUENCIES = 8
_SCALE = 1 << 20  # of the cosines: 32 x 32 x 255 x 2^40 is below 2^58, and twice that in an int64
_BAND_PIXELS = 1 << 20  # made grey at once, because Pillow holds them at four bytes
_BIT_WEIGHTS = np.uint64(1) << np.arange(63, -1, -1, dtype=np.uint64)

_k_K = np.arange(_FREQUENCIES)[:, None]
_COSINES_KN = np.rint(_SCALE * np.cos(np.pi * _k_K * (2 * np.arange(SIDE_PX) + 1) / (2 * SIDE_PX))).astype(np.int64)


def phash(decoded: Decoded) -> int:
    """Of the upright picture: 64 bits as a signed number, the first (the lowest frequency) its sign."""
    grey_HW = grey(decoded.stored_HWC)
    true_HW = (decoded.height, decoded.width)
    height, width = true_HW[::-1] if swaps_sides(decoded.orientation) else true_HW
    # Scaled while decoding, a side of 1001 became 501, whose last pixel lies half outside.
    divisor = max(1, round(max(true_HW) / max(grey_HW.shape)))
    inside = (0.0, 0.0, min(width / divisor, grey_HW.shape[1]), min(height / divisor, grey_HW.shape[0]))
    small = Image.fromarray(grey_HW).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS, box=inside)
    small_NN1 = np.asarray(small)[:, :, None]
    return hash_of_grey(turn_upright(small_NN1, decoded.orientation)[:, :, 0])


def hash_of_grey(grey_NN: npt.NDArray[np.uint8]) -> int:
    """Of 32x32 grey pixels."""
    assert grey_NN.shape == (SIDE_PX, SIDE_PX), grey_NN.shape
    low_KK = _COSINES_KN @ grey_NN.astype(np.int64) @ _COSINES_KN.T
    ordered = np.sort(low_KK, axis=None)
    twice_the_median = ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]
    bits = (2 * low_KK > twice_the_median).ravel()
    return int(_BIT_WEIGHTS[bits].sum(dtype=np.uint64).astype(np.int64))


def grey(pixels_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Luma (ITU-R 601-2) as Pillow rounds it, in bands."""
    height, width = pixels_HWC.shape[:2]
    rows = max(1, _BAND_PIXELS // width)
    grey_HW = np.empty((height, width), np.uint8)
    for top in range(0, height, rows):
        grey_HW[top : top + rows] = np.asarray(Image.fromarray(pixels_HWC[top : top + rows]).convert("L"))
    return grey_HW
