"""Are the vectors of the model that is named? What was shown of that, as a value."""

from dataclasses import dataclass, field

from clipmill.jobs.table.proof import PROVEN, UNPROVEN
from clipmill.schemas.text.words import counted

# Of a vector to the same picture embedded again in fp32. Half precision, another decoder and another resize cost less
# than 0.005; the vector of another picture or of another model is far below.
PROOF_COSINE = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A row whose vector is not that of its picture. `of_row`: the row of the same file that has the picture's."""

    unit_id: str
    place: int
    id: str
    where: str
    cosine: float
    of_row: int | None = None

    def __str__(self) -> str:
        swapped = f"; row {self.of_row} holds its picture's" if self.of_row is not None else ""
        return f"{self.where}: its picture embedded again gives cosine {self.cosine:.3f}{swapped}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """`pictures` were embedded again, `captions` too; `cosine` and `caption_cosine` are the least. `wrong`: rows below
    the threshold. `why`: what is missing for a proof."""

    state: str = UNPROVEN
    threshold: float = PROOF_COSINE
    pictures: int = 0
    cosine: float | None = None
    captions: int = 0
    caption_cosine: float | None = None
    wrong: list[Wrong] = field(default_factory=list)
    why: str = ""

    @property
    def sentence(self) -> str:
        """As the table keeps it."""
        if self.state == PROVEN:
            pictures = counted(self.pictures, "picture")
            return f"{pictures} embedded again, least cosine {self.cosine:.4f} of {self.threshold}"
        return self.why or "no picture was embedded again"
