"""What is wrong with a vector that somebody else computed, row by row.

B: rows of a window. D: dimension.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipmill.jobs.importing.columns import Chosen
from clipmill.jobs.importing.read import Floats, Vectors, read
from clipmill.jobs.importing.sources import Piece
from clipmill.schemas.config import Storage
from clipmill.schemas.errors import UserError
from clipmill.schemas.rejects import Reason
from clipmill.schemas.words import counted

Bad = dict[int, tuple[Reason, str]]
# Scaled to unit length in half precision, a vector of a thousand numbers is off by less than this; what is not scaled
# at all is off by far more. What float16 itself costs stays as it is; the rest up to here is scaled.
UNIT_TOLERANCE = 1e-2
EXACT = 1e-3
_TOO_SHORT = 1e-6
FIRST = 256  # rows of a file that are looked at before anything is written


@dataclass(frozen=True, slots=True)
class Checked:
    """`unit_BD`: float16, unit length, a copy only where one was needed; rows of `bad` mean nothing."""

    unit_BD: npt.NDArray[np.float16]
    full_BD: npt.NDArray[np.float32]
    bad: Bad = field(default_factory=dict)


def checked(vectors: Vectors, *, normalize: bool, what: str = "vector") -> Checked:
    """`normalize`: vectors of any length are scaled to one."""
    full_BD = vectors.values_BD.astype(np.float32)
    with np.errstate(all="ignore"):
        norms_B = np.sqrt(np.einsum("bd,bd->b", full_BD, full_BD))
        off_B = np.abs(norms_B - 1)
        fine_B = (off_B <= EXACT) & ~vectors.none_B
        if fine_B.all():
            return Checked(_half(vectors.values_BD), full_BD)
        long_B = np.isfinite(norms_B) & (norms_B > _TOO_SHORT)
        near_B = long_B if normalize else off_B <= UNIT_TOLERANCE
        scaled_B = near_B & ~fine_B & ~vectors.none_B
        full_BD[scaled_B] /= norms_B[scaled_B, None]
    bad: Bad = {}
    for row in np.flatnonzero(~(fine_B | scaled_B)).tolist():
        bad[row] = _why(what, bool(vectors.none_B[row]), full_BD[row], float(norms_B[row]))
        full_BD[row] = 0
    return Checked(full_BD.astype(np.float16), full_BD, bad)


def _half(values_BD: Floats) -> npt.NDArray[np.float16]:
    """Of a mapped file a copy: its pages leave with the window."""
    return np.array(values_BD, np.float16)


def _why(what: str, is_none: bool, vector_D: npt.NDArray[np.float32], norm: float) -> tuple[Reason, str]:
    if is_none:
        return Reason.BAD_METADATA, f"the {what} is null, or has another length than the model's"
    if not np.isfinite(vector_D).all():
        place = int(np.flatnonzero(~np.isfinite(vector_D))[0])
        return Reason.NOT_FINITE, f"the {what} has {vector_D[place]} at place {place}"
    if not norm > _TOO_SHORT:
        return Reason.NOT_FINITE, f"the {what} is zero"
    return Reason.NOT_UNIT, f"the {what} has length {norm:.4g}, not 1"


def look(piece: Piece, chosen: Chosen, dim: int, storage: Storage, *, normalize: bool) -> None:
    """At the first rows of a file, before anything is written. Raises UserError where its vectors have another
    dimension, or most are not of unit length: those are no bad rows, but of another convention."""
    for window in read(piece, chosen, dim, storage, range(min(FIRST, piece.rows))):
        bad = checked(window.vectors, normalize=normalize).bad.values()
        off = [detail for reason, detail in bad if reason == Reason.NOT_UNIT]
        if len(off) * 2 > len(window):
            raise UserError(
                f"{len(off):,} of the first {counted(len(window), 'vector')} of {piece.unit.uri} "
                f"{'is' if len(off) == 1 else 'are'} not of unit length: "
                f"{off[0]}",
                "--normalize scales every vector to unit length",
            )
        return
