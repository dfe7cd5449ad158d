"""Label vectors that come from a file instead of a text tower. L: labels. D: dimension of the shared space."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import UserError
from clipmill.schemas.job.vocabulary import Vocabulary
from clipmill.schemas.text.words import counted

MAX_BYTES = 2_000_000_000


def load_label_vectors(path: str, vocabulary: Vocabulary, dim: int) -> npt.NDArray[np.float32]:
    """The array of a .npy file as unit vectors (L, D), row n the vector of the vocabulary's label n.

    They need not be of unit length. Raises UserError where the shape is another, or a row is zero or not finite.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no file {path}", "give a .npy file with a row of numbers for each label")
    if file.stat().st_size > MAX_BYTES:
        raise UserError(
            f"{path} has {file.stat().st_size:,} bytes, too many for label vectors", "is it the right file?"
        )
    try:
        stored = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise UserError(f"{path} is no .npy file of plain numbers", "write it with numpy.save") from None
    if not isinstance(stored, np.ndarray) or stored.dtype.kind != "f" or stored.ndim != 2:
        raise UserError(f"{path} is no .npy file with one matrix of floats", "a row of floats for each label")
    labels = len(vocabulary.labels)
    if stored.shape != (labels, dim):
        raise UserError(
            f"{path} holds {counted(stored.shape[0], 'vector')} of {stored.shape[1]} numbers; the vocabulary "
            f"'{vocabulary.name}' has {counted(labels, 'label')} and the table's vectors {dim} numbers",
            "one row for each label, in the vocabulary's order, by the model that made the table's vectors",
        )
    vectors_LD = np.asarray(stored, np.float64)
    lengths_L = np.linalg.norm(vectors_LD, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths_L) & (lengths_L > 1e-6)))
    if bad.size:
        raise UserError(
            f"{path}, row {bad[0]}: the vector of '{vocabulary.labels[bad[0]].name}' is zero or not finite",
            "export the vectors again",
        )
    return np.asarray(vectors_LD / lengths_L[:, None], np.float32)
