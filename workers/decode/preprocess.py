"""open_clip's own image preprocessing on uint8, up to but without mean and std (those are folded into the tower).

It follows `open_clip.transform.image_transform` for evaluation (open_clip 3.3): resize with Pillow's antialiased
filter, centre crop or padding. torch's uint8 kernels compute the same filter at a third of Pillow's time and without
the GIL. Each of the two passes is within one level of Pillow's (weights of 16 bits against 22); both together differ by
two levels in less than one of 100,000 values of photographs at 224 pixels, and by at most one in the rest.

HWC, CHW: height, width, channels (RGB). Sizes are (height, width) in pixels of the upright original.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipmill.schemas.model import Preprocess
from clipmill.workers.decode.turn import swaps_sides, turn_upright

# A strip of 1 x 100,000 pixels would be enlarged to billions before its middle is cut out. Beyond this many times
# the model's area, Pillow computes only the part that is kept.
_MAX_RESIZED_AREA = 64


def preprocess(
    pixels_HWC: npt.NDArray[np.uint8],
    how: Preprocess,
    *,
    original_HW: tuple[int, int] | None = None,
    orientation: int = 1,
    exact: bool = False,
) -> npt.NDArray[np.uint8]:
    """(3, H, W) uint8 at the model's size. `original_HW` where the decoder already scaled the picture down.

    `orientation`: what the pixels are still to be turned by, 1..8; done after the resize (see `decode.Decoded`).
    `exact` lets Pillow resize, so that not one level differs from the reference.
    """
    upright_HW = original_HW or _lying(pixels_HWC.shape[:2], orientation)
    resized_HW = _resized_size(upright_HW, how)
    if resized_HW[0] * resized_HW[1] > _MAX_RESIZED_AREA * how.size_HW[0] * how.size_HW[1]:
        return _resize_the_middle(turn_upright(pixels_HWC, orientation), resized_HW, how)
    stored_HW, stored_resized_HW = _lying(upright_HW, orientation), _lying(resized_HW, orientation)
    if exact:
        resized_HWC = np.asarray(Image.fromarray(pixels_HWC).resize(stored_resized_HW[::-1], _filter(how)))
    else:
        resized_HWC = _resize(pixels_HWC, stored_HW, stored_resized_HW, bicubic=_is_bicubic(how))
    upright_HWC = turn_upright(resized_HWC, orientation)
    return np.ascontiguousarray(_crop_or_pad(upright_HWC, how).transpose(2, 0, 1))


def _lying(size_HW: tuple[int, ...], orientation: int) -> tuple[int, int]:
    """An upright size as stored, or the reverse."""
    height, width = size_HW
    return (width, height) if swaps_sides(orientation) else (height, width)


def _is_bicubic(how: Preprocess) -> bool:
    # open_clip's shortest resize for a size that is not square ignores `interpolation` and takes bicubic.
    keep_ratio = how.resize_mode == "shortest" and how.size_HW[0] != how.size_HW[1]
    return keep_ratio or how.interpolation != "bilinear"


def _filter(how: Preprocess) -> Image.Resampling:
    return Image.Resampling.BICUBIC if _is_bicubic(how) else Image.Resampling.BILINEAR


def _resized_size(source_HW: tuple[int, int], how: Preprocess) -> tuple[int, int]:
    """Height and width after the resize, with open_clip's and torchvision's rounding."""
    height, width = source_HW
    target_h, target_w = how.size_HW
    if how.resize_mode == "squash":
        return target_h, target_w
    if how.resize_mode == "shortest" and target_h == target_w:
        # torchvision.transforms.functional._compute_resized_output_size: the long side is truncated.
        if width <= height:
            return int(target_h * height / width), target_h
        return target_h, int(target_h * width / height)
    ratios = (height / target_h, width / target_w)
    ratio = max(ratios) if how.resize_mode == "longest" else min(ratios)
    # Python's round, half to even, as ResizeKeepRatio; a side of zero, where Pillow raises, becomes one.
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _resize(
    pixels_HWC: npt.NDArray[np.uint8], source_HW: tuple[int, int], resized_HW: tuple[int, int], *, bicubic: bool
) -> npt.NDArray[np.uint8]:
    if resized_HW == pixels_HWC.shape[:2]:
        return pixels_HWC
    import torch  # the exact road needs none

    batch_BCHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).unsqueeze(0)  # channels last, no copy
    kernel = torch.ops.aten._upsample_bicubic2d_aa if bicubic else torch.ops.aten._upsample_bilinear2d_aa
    scales: tuple[float | None, float | None] = (None, None)
    if source_HW != pixels_HWC.shape[:2]:
        # Scaled while decoding: a side of 1001 became 501, whose last pixel lies half outside. The true ratio keeps
        # the picture from shrinking by that half pixel.
        divisor = round(max(source_HW) / max(pixels_HWC.shape[:2]))
        scales = (resized_HW[0] * divisor / source_HW[0], resized_HW[1] * divisor / source_HW[1])
    resized_BCHW: Any = kernel(batch_BCHW, list(resized_HW), False, *scales)
    resized_HWC: npt.NDArray[np.uint8] = resized_BCHW.squeeze(0).permute(1, 2, 0).numpy()
    return resized_HWC


def _crop_or_pad(pixels_HWC: npt.NDArray[np.uint8], how: Preprocess) -> npt.NDArray[np.uint8]:
    """Centre crop, after padding where the picture is smaller; odd pixels go right and below, as in open_clip."""
    target_h, target_w = how.size_HW
    height, width = pixels_HWC.shape[:2]
    pad_h, pad_w = max(0, target_h - height), max(0, target_w - width)
    if pad_h or pad_w:
        margins = ((pad_h // 2, (pad_h + 1) // 2), (pad_w // 2, (pad_w + 1) // 2), (0, 0))
        fill = how.fill_color if how.resize_mode == "longest" else 0  # torchvision's CenterCrop pads with black
        pixels_HWC = np.pad(pixels_HWC, margins, constant_values=fill)
        height, width = pixels_HWC.shape[:2]
    top, left = _crop_start(height, target_h), _crop_start(width, target_w)
    return pixels_HWC[top : top + target_h, left : left + target_w]


def _crop_start(size_px: int, target_px: int) -> int:
    return round((size_px - target_px) / 2.0)  # half to even, as open_clip and torchvision


def _resize_the_middle(
    pixels_HWC: npt.NDArray[np.uint8], resized_HW: tuple[int, int], how: Preprocess
) -> npt.NDArray[np.uint8]:
    """Only the crop of a very long picture, by Pillow's `box`, which keeps the phase of its filter."""
    target_h, target_w = how.size_HW
    top, left = _crop_start(resized_HW[0], target_h), _crop_start(resized_HW[1], target_w)
    per_row, per_column = pixels_HWC.shape[0] / resized_HW[0], pixels_HWC.shape[1] / resized_HW[1]
    box = (left * per_column, top * per_row, (left + target_w) * per_column, (top + target_h) * per_row)
    inside = (max(0.0, box[0]), max(0.0, box[1]), min(pixels_HWC.shape[1], box[2]), min(pixels_HWC.shape[0], box[3]))
    middle = Image.fromarray(pixels_HWC).resize((target_w, target_h), _filter(how), box=inside)
    return np.ascontiguousarray(np.asarray(middle).transpose(2, 0, 1))
