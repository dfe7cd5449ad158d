"""The proof: a sample of the pictures is embedded again, and gives the vectors that were imported, or not.

Nearly all different: the vectors are of another model, or in another order, and nothing is imported. A few different:
those rows are named. No pictures: the table says that nobody has shown it. S: rows of the sample. D: dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.jobs.importing.check import checked
from clipmill.jobs.importing.columns import Chosen
from clipmill.jobs.importing.places import Pictures
from clipmill.jobs.importing.proof import PROOF_COSINE, Proof, Wrong
from clipmill.jobs.importing.read import read
from clipmill.jobs.importing.request import Say
from clipmill.jobs.importing.sources import Piece
from clipmill.jobs.table.proof import PROVEN, UNPROVEN
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Storage
from clipmill.schemas.text.words import counted, part_of
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.engine import Engine

TRIES = 4  # rows that are looked at for each picture that is wanted: some pictures are gone by now
SEARCHED = 8  # wrong rows whose picture's vector is looked for in the whole file
_SEED = 0  # the same rows at every run, so that what was found is found again
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the sample, with its vectors as float32 (D,); `text_D`: None where it has no caption, or none came."""

    piece: Piece
    place: int
    id: str
    uri: str
    names: list[str]
    caption: str | None
    vector_D: Floats
    text_D: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prover:
    engine: Engine
    chosen: Chosen
    pictures: Pictures
    storage: Storage
    normalize: bool = False
    say: Say = lambda text: None

    def prove(self, pieces: Sequence[Piece], wanted: int) -> Proof:
        """Embeds up to `wanted` pictures of these pieces again. Raises UserError where most rows have a vector of
        another model, or of another row."""
        total = sum(piece.rows for piece in pieces)
        if not wanted or not total:
            return Proof(why="no proof was asked for" if not wanted else "there are no rows")
        self.say(f"proving the vectors: up to {counted(wanted, 'picture is', 'pictures are')} embedded again")
        rows = self._drawn(pieces, min(total, TRIES * wanted))
        captions, caption_cosine = self._captions(rows[:wanted])
        checked_rows, cosines = self._again(rows, wanted)
        bad = [
            (row, vector, c) for (row, vector), c in zip(checked_rows, cosines, strict=True) if not c >= PROOF_COSINE
        ]
        wrong = [self._wrong(row, v, cosine, search=n < SEARCHED) for n, (row, v, cosine) in enumerate(bad)]
        self._refuse_most(wrong, len(checked_rows))
        enough = min(wanted, total)
        if wrong:
            why = part_of(len(wrong), len(checked_rows), "row", "of the sample has", "of the sample have")
            why += " a vector that is not their picture's"
        elif len(checked_rows) < enough:
            why = (
                f"{len(checked_rows)} of {counted(enough, 'picture')} could be read"
                if checked_rows
                else "no picture was at hand"
            )
        else:
            why = ""
        return Proof(
            state=UNPROVEN if why else PROVEN,
            pictures=len(checked_rows),
            cosine=round(min(cosines), 6) if cosines else None,
            captions=captions,
            caption_cosine=caption_cosine,
            wrong=wrong,
            why=why,
        )

    def _drawn(self, pieces: Sequence[Piece], count: int) -> list[Row]:
        """Rows by chance, in chance order."""
        starts = np.cumsum([0, *(piece.rows for piece in pieces)])
        rng = np.random.default_rng(_SEED)
        picks = np.sort(rng.choice(int(starts[-1]), size=count, replace=False))
        found: list[Row] = []
        for piece, first, stop in zip(pieces, starts[:-1], starts[1:], strict=True):
            mine = picks[(picks >= first) & (picks < stop)] - first
            if mine.size:
                found += self._rows(piece, mine.tolist())
        return [found[at] for at in rng.permutation(len(found)).tolist()]

    def _rows(self, piece: Piece, places: list[int]) -> list[Row]:
        """Those of them that have a vector at all."""
        found = []
        for window in read(piece, self.chosen, self.engine.dim, self.storage, places):
            images = checked(window.vectors, normalize=True)
            full_BD = images.full()
            texts = checked(window.texts, normalize=True) if window.texts is not None else None
            addresses = self.pictures.own(piece, window.places_B)
            uris, own = self.pictures.uris(window, addresses).to_pylist(), addresses.to_pylist()
            names = [window.strings(n).to_pylist() for n in (self.chosen.uri, self.chosen.id) if n]
            ids = window.strings(self.chosen.id).to_pylist() if self.chosen.id else own
            captions = window.strings(self.chosen.caption).to_pylist()
            for at, place in enumerate(window.places_B.tolist()):
                if at in images.bad:
                    continue
                has_text = texts is not None and captions[at] is not None and at not in texts.bad
                row = Row(
                    piece=piece,
                    place=place,
                    id=ids[at] or own[at],
                    uri=uris[at],
                    names=[said[at] for said in names if said[at]],
                    caption=captions[at],
                    vector_D=full_BD[at],
                    text_D=texts.full()[at] if texts is not None and has_text else None,
                )
                found.append(row)
        return found

    def _again(self, rows: Sequence[Row], wanted: int) -> tuple[list[tuple[Row, Floats]], list[float]]:
        """Rows whose picture is at hand, with its vector embedded now, and the cosines of old and new."""
        done: list[tuple[Row, Floats]] = []
        cosines: list[float] = []
        for row in rows:
            if len(done) >= wanted:
                break
            image = self.pictures.bytes_of(row.uri, row.names, self.storage)
            if image is None:
                continue
            try:
                pixels_CHW = self.engine.prepare(image, Limits()).pixels_CHW
            except BadImage:
                continue
            vector_D = self.engine.encode_images(pixels_CHW[None])[0]
            done.append((row, vector_D))
            cosines.append(float(vector_D @ row.vector_D))
        return done, cosines

    def _captions(self, rows: Sequence[Row]) -> tuple[int, float | None]:
        """How many captions were embedded again, and the least cosine. Raises UserError where most differ."""
        there = [(row.caption, row.text_D) for row in rows if row.text_D is not None and row.caption is not None]
        if not there:
            return 0, None
        vectors_SD = self.engine.encode_texts(self.engine.prepare_texts([caption for caption, _ in there]))
        cosines_S = np.array([float(new_D @ old_D) for new_D, (_, old_D) in zip(vectors_SD, there, strict=True)])
        if (wrong := int((~(cosines_S >= PROOF_COSINE)).sum())) * 2 > len(there):
            raise UserError(
                f"the caption vectors are not of model {self._model}: of {counted(len(there), 'caption')} embedded "
                f"again, {wrong} give another vector (cosines {cosines_S.min():.3f} to {cosines_S.max():.3f})",
                "name the model that made them, or leave them out: --no-caption-vectors",
            )
        return len(there), round(float(cosines_S.min()), 6)

    def _wrong(self, row: Row, vector_D: Floats, cosine: float, *, search: bool) -> Wrong:
        """`search`: with the row of the same file that has this picture's vector, where there is one."""
        best, of_row = PROOF_COSINE, None
        for window in read(row.piece, self.chosen, self.engine.dim, self.storage) if search else ():
            full_BD = checked(window.vectors, normalize=True).full()
            cosines_B = full_BD @ vector_D
            at = int(np.nan_to_num(cosines_B, nan=-1.0).argmax())
            if cosines_B[at] >= best:
                best, of_row = float(cosines_B[at]), int(window.places_B[at])
        return Wrong(
            unit_id=row.piece.unit.unit_id,
            place=row.place,
            id=row.id,
            where=row.piece.where(row.place),
            cosine=round(cosine, 6),
            of_row=of_row,
        )

    @property
    def _model(self) -> str:
        fingerprint = self.engine.fingerprint
        return f"{fingerprint.model} {fingerprint.pretrained}".strip()

    def _refuse_most(self, wrong: Sequence[Wrong], looked_at: int) -> None:
        if len(wrong) * 2 <= looked_at:
            return
        elsewhere = [one for one in wrong if one.of_row is not None]
        if len(elsewhere) * 2 > min(len(wrong), SEARCHED):
            raise UserError(
                f"the vectors are in another order than the rows: of {counted(looked_at, 'picture')} embedded again, "
                f"{len(wrong)} have the vector of another row, such as {elsewhere[0]}",
                "put vectors and metadata into one order; nothing was imported",
            )
        raise UserError(
            f"these vectors are not of model {self._model}: of {counted(looked_at, 'picture')} embedded again, "
            f"{len(wrong)} give "
            f"another vector, such as {wrong[0]}",
            "name the model that made them: --model NAME --pretrained TAG; nothing was imported",
        )
