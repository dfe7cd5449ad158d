"""The folder of bad and odd files: each ends as a row or as a named reject, and its batch is whole."""

import csv
from pathlib import Path

import pytest

from clipmill.schemas.job.config import Limits
from clipmill.schemas.model import ModelSpec
from clipmill.schemas.unit.rejects import Reason
from clipmill.schemas.unit.samples import BadImage, Picture
from clipmill.workers.load import load_engine
from tests.models import encoded, picture

EXPECTED = {
    "DecompressionBombError": {Reason.TOO_MANY_PIXELS},
    "UnidentifiedImageError": {Reason.UNKNOWN_FORMAT},
    "OSError": {Reason.CORRUPT, Reason.TRUNCATED},
    "ValueError": {Reason.CORRUPT, Reason.TRUNCATED},
}

# Pillow refuses them, and the picture is whole: one lacks the last byte of its end marker, one has a colour profile
# with a wrong checksum, one three notes of 2 MB each (more than 16 MB is refused: tests/decode/test_decode_odd.py).
CUT_JPEG = "Tests__images__truncated_jpeg.jpg"
WHOLE = (CUT_JPEG, "Tests__images__unknown_compression_method.png", "Tests__images__png_decompression_dos.png")

# Pillow does not recognise it, as it has no width either; its data end in the middle of a block.
CUT_GIF = "Tests__images__zero_width.gif"

pytestmark = pytest.mark.realdata


def outcomes(real_data: Path) -> list[tuple[Path, str]]:
    with (real_data / "bad_inputs_pillow13_outcomes.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))[1:]
    assert len(rows) > 80
    return [(real_data / name, outcome) for name, outcome in rows]


def outcome_of(image: bytes) -> Picture | str:
    try:
        return load_engine(ModelSpec(name="stub")).prepare(image, Limits(), thumbnail=True)
    except BadImage as refused:
        return refused.reason


def test_every_file_ends_as_its_list_says(real_data: Path) -> None:
    wrong = []
    for path, expected in outcomes(real_data):
        got = outcome_of(path.read_bytes())
        if expected.startswith("ok_") or path.name in WHOLE:
            as_said = isinstance(got, Picture) and got.width > 0 and got.thumbnail is not None
        elif path.name == CUT_GIF:
            as_said = got == Reason.TRUNCATED
        else:
            as_said = not isinstance(got, Picture) and got in EXPECTED[expected.split("@")[0]]
        if not as_said:
            wrong.append((path.name, expected, got))
    assert not wrong


def test_a_truncated_photograph_says_so(real_data: Path) -> None:
    folder = real_data / "bad_inputs" / "pillow"
    assert outcome_of((folder / "Tests__images__truncated_image.png").read_bytes()) == Reason.TRUNCATED
    image = (folder / CUT_JPEG).read_bytes()
    assert isinstance(outcome_of(image), Picture)
    assert outcome_of(image[:-2]) == Reason.TRUNCATED


def test_good_pictures_between_bad_ones_are_untouched(real_data: Path) -> None:
    engine = load_engine(ModelSpec(name="stub"))
    good = encoded(picture(1))
    alone = engine.prepare(good, Limits()).pixels_CHW
    for path, _ in outcomes(real_data)[::3]:
        outcome_of(path.read_bytes())
        assert (engine.prepare(good, Limits()).pixels_CHW == alone).all(), path.name
