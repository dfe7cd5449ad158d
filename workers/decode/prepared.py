"""From the bytes of an image to what a model and a row get of it."""

from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import Preprocess
from clipmill.schemas.unit.samples import Picture
from clipmill.workers.decode.phash import phash as make_phash
from clipmill.workers.decode.picture import decode
from clipmill.workers.decode.picture import thumbnail as make_thumbnail
from clipmill.workers.decode.preprocess import preprocess


def prepared(
    image: bytes,
    limits: Limits,
    how: Preprocess,
    *,
    exact: bool,
    thumbnail: bool = False,
    phash: bool = False,
) -> Picture:
    """See `workers.engine.Engine.prepare`. `exact`: no scaling while a JPEG is decoded, and Pillow's own resize."""
    decoded = decode(image, limits, target_px=None if exact else max(how.size_HW))
    pixels_CHW = preprocess(
        decoded.stored_HWC,
        how,
        original_HW=(decoded.height, decoded.width),
        orientation=decoded.orientation,
        exact=exact,
    )
    small = make_thumbnail(decoded.pixels_HWC) if thumbnail else None
    return Picture(
        pixels_CHW=pixels_CHW,
        width=decoded.width,
        height=decoded.height,
        thumbnail=small,
        phash=make_phash(decoded) if phash else None,
    )
