"""What is wrong with a vector that somebody else computed, row by row.

B: rows of a window. D: dimension.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipmill.jobs.importing.columns import Chosen
from clipmill.jobs.importing.read import Floats, Vectors, read
from clipmill.jobs.importing.sources import Piece
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.words import counted
from clipmill.schemas.unit.rejects import Reason

Bad = dict[int, tuple[Reason, str]]
# Scaled to unit length in half precision, a vector of a thousand numbers is off by less than this; what is not scaled
# at all is off by far more. What float16 itself costs stays as it is; the rest up to here is scaled.
UNIT_TOLERANCE = 1e-2
EXACT = 1e-3
_TOO_SHORT = 1e-6
_AT_ONCE = 256
FIRST = 256  # rows of a file that are looked at before anything is written


@dataclass(frozen=True, slots=True)
class Checked:
    """`unit_BD`: unit length, the caller's own; zeros in rows of `bad`."""

    unit_BD: npt.NDArray[np.float16]
    bad: Bad = field(default_factory=dict)

    def full(self) -> npt.NDArray[np.float32]:
        """(B, D), to compute with."""
        return self.unit_BD.astype(np.float32)


def checked(vectors: Vectors, *, normalize: bool, what: str = "vector") -> Checked:
    """`normalize`: vectors of any length are scaled to one."""
    with np.errstate(all="ignore"):
        norms_B = lengths(vectors.values_BD)
        odd = np.flatnonzero(~(np.abs(norms_B - 1) <= EXACT) | vectors.none_B)
        half_BD = np.array(vectors.values_BD, np.float16)  # a copy: a mapped file's pages leave with the window
        if not odd.size:
            return Checked(half_BD)
        full_OD = vectors.values_BD[odd].astype(np.float64)
        norms_O = np.sqrt(np.einsum("bd,bd->b", full_OD, full_OD))
        is_long_O = np.isfinite(norms_O) & (norms_O > _TOO_SHORT)
        good_O = (is_long_O if normalize else np.abs(norms_O - 1) <= UNIT_TOLERANCE) & ~vectors.none_B[odd]
        half_BD[odd] = np.where(good_O[:, None], full_OD / norms_O[:, None], 0)
    bad: Bad = {}
    for at in np.flatnonzero(~good_O).tolist():
        row = int(odd[at])
        bad[row] = _why(what, bool(vectors.none_B[row]), full_OD[at], float(norms_O[at]))
    return Checked(half_BD, bad)


def lengths(values_BD: Floats) -> npt.NDArray[np.float32]:
    """(B,), a piece at a time, so that it stays in a cache. Of float16 NaN and infinity count as some 10^5: far from 1
    all the same.

    numpy makes a float32 of each float16 by itself, which takes as long as all other checks of a row together. Shifted
    by 13 bits the exponent is 112 too small, for denormal numbers as well, and four passes over whole arrays do it.
    """
    norms_B = np.empty(len(values_BD), np.float32)
    for start in range(0, len(values_BD), _AT_ONCE):
        piece = values_BD[start : start + _AT_ONCE]
        if piece.dtype == np.float16:
            bits = piece.view(np.int16).astype(np.int32)
            bits <<= 13
            bits &= np.int32(-0x70002000)  # 0x8fffe000: the sign went into three bits of the exponent
            full_BD = bits.view(np.float32)
            full_BD *= np.float32(2.0**112)
        else:
            full_BD = piece.astype(np.float32)
        norms_B[start : start + _AT_ONCE] = np.sqrt(np.einsum("bd,bd->b", full_BD, full_BD))
    return norms_B


def _why(what: str, is_none: bool, vector_D: npt.NDArray[np.float64], norm: float) -> tuple[Reason, str]:
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
