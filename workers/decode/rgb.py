"""Any Pillow mode to uint8 RGB, in bands of rows so that a large picture is not held four times over.

| mode                                | becomes                                                                  |
|-------------------------------------|--------------------------------------------------------------------------|
| RGB, L, P, 1, CMYK, YCbCr, HSV, ... | `convert("RGB")`                                                         |
| with an alpha channel or tRNS       | laid on white                                                            |
| a fourth channel of zeros that the  | `convert("RGB")`: as alpha it would hide all of the picture              |
| file does not declare to be alpha   |                                                                          |
| I;16 in its byte orders             | divided by 257 (by 4095 / 255 for a TIFF that says 12 bits), not clipped |
| I within 0..65535                   | as I;16                                                                  |
| I beyond that, F                    | no agreed range: stretched from its own minimum to its own maximum       |
| LAB                                 | through littlecms to sRGB                                                |

A TIFF may say that zero is white (photometric 0). Pillow turns 8 bits and fewer, and leaves the rest to be turned here.

HWC: height, width, channels (RGB).
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

_BAND_PIXELS = 4_000_000
_BITS_PER_SAMPLE, _PHOTOMETRIC, _EXTRA_SAMPLES = 258, 262, 338  # TIFF tags
_WHITE_IS_ZERO = 0
_ALPHA_SAMPLES = (1, 2)  # associated and unassociated alpha; 0 is "unspecified"
# A BMP's header says where an alpha would be, not that it was written; icons hold such a BMP with a mask beside it; the
# fourth component of a JPEG 2000 need not be declared at all.
_MAY_LEAVE_ALPHA_EMPTY = ("BMP", "DIB", "ICO", "JPEG2000")


def to_rgb_HWC(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, 3) of a loaded picture. Raises what Pillow raises."""
    width, height = picture.size
    if picture.mode == "I" or picture.mode == "F" or picture.mode.startswith("I;16"):
        return _grey_HWC(picture)
    if picture.mode in ("RGBA", "LA") and _alpha_is_none(picture):
        picture = picture.convert("RGB")
    if picture.mode == "RGB" and not picture.has_transparency_data and width * height <= _BAND_PIXELS:
        return np.array(picture)
    pixels_HWC = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels_HWC[top:bottom] = np.asarray(_to_rgb(picture.crop((0, top, width, bottom))))
    return pixels_HWC


def _alpha_is_none(picture: Image.Image) -> bool:
    """Whether the last channel is all zeros, and nothing says that it is an alpha channel."""
    if picture.format == "TIFF":
        extra = getattr(picture, "tag_v2", {}).get(_EXTRA_SAMPLES, ())
        declared = any(sample in _ALPHA_SAMPLES for sample in (extra if isinstance(extra, tuple) else (extra,)))
    else:
        declared = picture.format not in _MAY_LEAVE_ALPHA_EMPTY
    return not declared and picture.getextrema()[-1] == (0, 0)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    if picture.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
        assert converted is not None  # None only with inPlace
        return converted
    return picture.convert("RGB")


def _grey_HWC(picture: Image.Image) -> npt.NDArray[np.uint8]:
    values_HW = np.asarray(picture)
    if picture.mode == "F" or (picture.mode == "I" and (values_HW.min() < 0 or values_HW.max() > 65535)):
        grey_HW = _stretch(values_HW.astype(np.float32))
    else:
        top = 4095 if _is_12_bit(picture) else 65535
        grey_HW = np.minimum(values_HW.astype(np.float32) * (255.0 / top) + 0.5, 255.0).astype(np.uint8)
    if getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey_HW = 255 - grey_HW
    if picture.mode.startswith("I"):
        transparent = picture.info.get("transparency")
        if isinstance(transparent, int):
            grey_HW[values_HW == transparent] = 255
    return np.repeat(grey_HW[:, :, None], 3, axis=2)


def _is_12_bit(picture: Image.Image) -> bool:
    bits = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE)
    return bits in (12, (12,))


def _stretch(values_HW: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    finite = np.isfinite(values_HW)
    low = float(values_HW[finite].min()) if finite.any() else 0.0
    high = float(values_HW[finite].max()) if finite.any() else 0.0
    if high <= low:
        return np.zeros(values_HW.shape, np.uint8)
    scaled_HW = (np.where(finite, values_HW, low) - low) * (255.0 / (high - low))
    return np.clip(scaled_HW + 0.5, 0, 255).astype(np.uint8)
