"""`source.orientation`: pictures that another tool left lying on their side are turned by what it wrote beside them."""

import io
import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from clipmill.jobs.cli.main import run
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.planning.turned import turned
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.samples import BadImage, Sample
from clipmill.workers.decode.picture import decode
from clipmill.workers.read import read_unit
from clipmill.workers.read.orientation import lacking, stamped, stated
from tests.build import picture, tar
from tests.read.help import read_tar, samples, unit_of

MADE = Path(__file__).parent / "made"
EXIF = 0x0112


def encoded(kind: str, *, orientation: int | None = None, **options: Any) -> bytes:
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8))
    if options.pop("alpha", False):
        drawn.putalpha(200)
    exif, out = Image.Exif(), io.BytesIO()
    if orientation is not None:
        exif[EXIF] = orientation
        options["exif"] = exif
    drawn.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": True, "alpha": True}),
        ("WEBP", {"icc_profile": b"odd"}),  # extended already
    ],
)
def test_bytes_carry_an_orientation_as_pillow_and_the_decoder_read_it(kind: str, options: dict[str, Any]) -> None:
    image = encoded(kind, **options)
    stored_HWC = decode(image, Limits(), target_px=None).pixels_HWC
    assert lacking(image)
    assert stamped(image, None) is image
    for orientation in range(1, 9):
        made = stamped(image, orientation)
        assert Image.open(io.BytesIO(made)).getexif()[EXIF] == orientation
        turned = Image.fromarray(stored_HWC)
        turned.getexif()[EXIF] = orientation
        wanted_HWC = np.asarray(ImageOps.exif_transpose(turned))
        np.testing.assert_array_equal(decode(made, Limits(), target_px=None).pixels_HWC, wanted_HWC)
        assert stamped(made, 3) is made, "it says it itself now"
    own = encoded(kind, orientation=6, **options)
    assert not lacking(own)
    assert stamped(own, 3) is own


def test_what_cannot_carry_it_stays_as_it_is() -> None:
    for image in (b"", b"GIF89a" + bytes(20), b"RIFF\x0c\0\0\0WEBPVP8X", b"RIFF\x0c\0\0\0WEBPVP8 ", encoded("BMP")):
        assert stamped(image, 6) == image


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_picture_that_is_cut_off_is_rejected_as_it_is_without_an_orientation(kind: str) -> None:
    image = encoded(kind)
    for length in (20, 40, len(image) // 2, len(image) - 100):
        reasons = []
        for made in (image[:length], stamped(image[:length], 6)):
            with pytest.raises(BadImage) as error:
                decode(made, Limits(), target_px=None)
            reasons.append((error.value.reason, error.value.detail))
        assert reasons[0] == reasons[1], length


def test_the_words_for_it() -> None:
    words = "Mirrored horizontal then rotated 90 CCW"
    said = {
        json.dumps({"Image Orientation": "Rotated 90 CW", "Image Make": "x"}): 6,
        words: 5,
        "8": 8,
        "Rotated 180": 3,
    }
    other = [(6, 6), (6.0, 6), (Decimal("6.0"), 6), ({"Image Orientation": "Rotated 90 CCW"}, 8)]
    for value, orientation in [*said.items(), *((text.encode(), n) for text, n in said.items()), *other]:
        assert stated(value) == orientation, value
    for nothing in (None, "", "{}", {}, 0, "0", float("nan"), '{"Image Make": "x"}'):
        assert stated(nothing) is None, nothing
    for wrong in ("{", 9, -1, True, "sideways", [6], 2.5, b"\xff"):
        with pytest.raises(ValueError):
            stated(wrong)


def corner(sample: Sample) -> str:
    """Where the red corner of img2dataset_turned.py's scene is, which is drawn at the top left."""
    image = stamped(sample.image, sample.orientation)
    pixels_HWC = decode(image, Limits(), target_px=None).pixels_HWC.astype(int)
    height, width = pixels_HWC.shape[:2]
    y, x = np.unravel_index(np.argmax(pixels_HWC[..., 0] - pixels_HWC[..., 2]), (height, width))
    return f"{'top' if y < height / 2 else 'bottom'} {'left' if x < width / 2 else 'right'}"


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("webdataset", "img2dataset-turned.tar"),
        ("files", "img2dataset-turned/"),
        ("parquet", "img2dataset-turned.parquet"),
    ],
)
def test_what_img2dataset_turned_comes_upright_in_each_of_its_layouts(form: str, name: str) -> None:
    caption, field = ("caption", "exif") if form == "parquet" else ("txt", "json:exif")
    uri = str(MADE / name)
    source = Source.model_validate({"format": form, "uri": uri, "caption": caption, "orientation": field})
    if form == "files":
        (unit,) = survey(source, Storage(), Limits())
    else:
        unit = unit_of(uri, form)
    found = [item for item in read_unit(unit, source, Storage(), Limits()) if isinstance(item, Sample)]
    assert {item.caption: corner(item) for item in found} == dict.fromkeys(("one", "six", "three", "none"), "top left")
    said = {item.caption: item.orientation for item in found}
    assert said == {"one": 1, "six": 6, "three": 3, "none": None}
    told = turned(unit, source.model_copy(update={"orientation": None}), Storage(), Limits())
    assert "2 of the first" in str(told)
    assert f"`source.orientation: {field}`" in str(told)
    assert turned(unit, source, Storage(), Limits()) is None


def test_a_picture_that_says_it_itself_is_turned_once() -> None:
    """`disable_all_reencoding`: the bytes are the originals, and the .json says the same."""
    found = samples(read_tar(str(MADE / "img2dataset-kept.tar"), caption="txt", orientation="json:exif")).values()
    assert {item.caption: corner(item) for item in found} == dict.fromkeys(("one", "six", "three", "none"), "top left")
    assert {item.orientation for item in found} == {None}


def test_what_is_said_and_is_no_orientation_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar([("a.jpg", picture(1)), ("a.json", b'{"exif": "upside down"}'), ("b.jpg", picture(2))]))
    found = samples(read_tar(str(path), orientation="json:exif"))
    assert found["a.jpg"].orientation is None
    assert "'upside down' is no EXIF orientation" in found["a.jpg"].unread["orientation"]
    assert found["b.jpg"].unread == {}


def test_a_table_without_the_column_and_a_kept_column_of_its_name_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"'orientation' is the column of source\.orientation"):
        Source.model_validate(
            {"format": "files", "uri": "x/", "orientation": "json:exif", "keep": {"orientation": "string"}}
        )
    assert "orientation" not in Source.model_validate({"format": "files", "uri": "x/"}).reader_options()
    with pytest.raises(UserError, match="has no column exif"):
        list(
            read_unit(
                unit_of(str(MADE / "datasets-embedded.parquet"), "parquet"),
                Source.model_validate({"format": "parquet", "uri": "x", "orientation": "exif"}),
                Storage(),
                Limits(),
            )
        )


@pytest.mark.parametrize("form", ["zip", "lance"])
def test_plan_looks_at_a_zip_and_at_a_lance_table_of_what_img2dataset_wrote(tmp_path: Path, form: str) -> None:
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for path in (MADE / "img2dataset-turned").iterdir():
                archive.write(path, path.name)
    else:
        lance.write_dataset(pq.read_table(MADE / "img2dataset-turned.parquet"), tmp_path / "a.lance")
    source = Source.model_validate({"format": form, "uri": f"{tmp_path}/a.{form}"})
    (unit,) = survey(source, Storage(), Limits())
    told = str(turned(unit, source, Storage(), Limits()))
    assert "2 of the first 4 pictures" in told
    assert f"`source.orientation: {'json:exif' if form == 'zip' else 'exif'}`" in told


@pytest.mark.parametrize("with_json", [True, False])
def test_plan_looks_at_a_folder_where_it_holds_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], with_json: bool
) -> None:
    (tmp_path / "raw").mkdir()
    for path in (MADE / "img2dataset-turned").iterdir():
        if with_json or path.suffix != ".json":
            (tmp_path / "raw" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "job.yaml").write_text(f"table: {tmp_path}/db/t\nsource: {{format: files, uri: '{tmp_path}/raw/'}}\n")
    assert run(["plan", str(tmp_path / "job.yaml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["turned"]
    assert (told is not None) == with_json
    assert not with_json or "2 of the first 4 pictures" in told


def test_plan_counts_only_what_the_option_would_turn(tmp_path: Path) -> None:
    """A GIF gets no EXIF, and a WebP has its own behind all pixels."""
    side = b'{"exif": "{\\"Image Orientation\\": \\"Rotated 90 CW\\"}"}'
    drawn, webp, exif = (
        np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8),
        io.BytesIO(),
        Image.Exif(),
    )
    exif[EXIF] = 6
    Image.fromarray(drawn).save(webp, "WEBP", lossless=True, exif=exif)
    assert len(webp.getvalue()) > 100_000
    members = [("a.gif", encoded("GIF")), ("a.json", side), ("b.webp", webp.getvalue()), ("b.json", side)]
    path = tmp_path / "a.tar"
    path.write_bytes(tar(members))
    source = Source(format="webdataset", uri=str(path))
    assert turned(unit_of(str(path), "webdataset"), source, Storage(), Limits()) is None
    path.write_bytes(tar([*members, ("c.jpg", picture(1)), ("c.json", side)]))
    assert "1 of the first 3 pictures" in str(turned(unit_of(str(path), "webdataset"), source, Storage(), Limits()))
