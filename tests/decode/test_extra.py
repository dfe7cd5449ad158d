"""HEIC, where its extra is installed, within the bounds of all pictures; and the endings that need none."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit import left_out
from clipmill.schemas.unit.samples import BadImage, Sample
from clipmill.workers.decode import picture as decoder
from clipmill.workers.decode.picture import decode
from clipmill.workers.read import read_unit

HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def scene(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels_HWC = np.zeros((size[1], size[0], 3), np.uint8)
    pixels_HWC[:, : size[0] // 2, 0] = 220
    pixels_HWC[:, size[0] // 2 :, 2] = 220
    return Image.fromarray(pixels_HWC)


def encoded(kind: str, picture: Image.Image | None = None, **options: object) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    elif kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    out = io.BytesIO()
    (picture or scene()).save(out, kind, **options)
    return out.getvalue()


def sides(image: bytes) -> tuple[bool, bool]:
    """Whether the left is red and the right is blue."""
    pixels_HWC = decode(image, Limits(), target_px=None).pixels_HWC.astype(int)
    assert pixels_HWC.shape == (48, 64, 3)
    left, right = pixels_HWC[24, 8], pixels_HWC[24, 56]
    return bool(left[0] > 150 > left[2]), bool(right[2] > 150 > right[0])


def in_folder(folder: Path, name: str, data: bytes) -> Source:
    (folder / name).write_bytes(data)
    return Source(format="files", uri=f"{folder}/")


def in_tar(folder: Path, name: str, data: bytes) -> Source:
    with tarfile.open(folder / "a.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return Source(format="webdataset", uri=f"{folder}/")


def in_zip(folder: Path, name: str, data: bytes) -> Source:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return Source(format="zip", uri=f"{folder}/")


@pytest.mark.parametrize("pack", [in_folder, in_tar, in_zip])
@pytest.mark.parametrize(
    ("ending", "kind"),
    [("avif", "AVIF"), ("jp2", "JPEG2000"), ("jfif", "JPEG"), ("jpe", "JPEG"), ("heic", "HEIF"), ("HEIF", "HEIF")],
)
def test_endings_that_are_read_from_folders_tars_and_zips(tmp_path: Path, ending: str, kind: str, pack: object) -> None:
    data = encoded(kind)
    source: Source = pack(tmp_path, f"a.{ending}", data)  # type: ignore[operator]
    if kind == "HEIF":  # takes an extra, so a job names it
        source = source.model_copy(update={"image": ("jpg", ending.lower())})
    (unit,) = survey(source, Storage(), Limits())
    (found,) = read_unit(unit, source, Storage(), Limits())
    assert isinstance(found, Sample)
    assert found.image == data
    assert sides(found.image) == (True, True)


def test_heic_within_the_bounds_of_all_pictures() -> None:
    data = encoded("HEIF")
    with pytest.raises(BadImage, match="too_many_pixels"):
        decode(data, Limits(max_pixels=64 * 48 - 1), target_px=None)
    with pytest.raises(BadImage, match="too_many_bytes"):
        decode(data, Limits(max_image_bytes=100), target_px=None)
    for cut in (len(data) // 2, len(data) - 40, 40):
        with pytest.raises(BadImage, match=r"truncated|corrupt|unknown_format"):
            decode(data[:cut], Limits(), target_px=None)
    large = encoded("HEIF", scene((800, 600)))
    with pytest.raises(BadImage, match="800x600"):  # by its header: nothing of that size is made
        decode(large, Limits(max_pixels=400_000), target_px=None)


def test_heic_of_a_phone_is_upright() -> None:
    """Stored on its side with an EXIF orientation, as phones write it."""
    exif = Image.Exif()
    exif[274] = 6  # turn it by 90 degrees to the right
    assert sides(encoded("HEIF", scene().rotate(90, expand=True), exif=exif.tobytes())) == (True, True)


def test_without_the_extra_a_picture_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "FORMATS", tuple(name for name in decoder.FORMATS if name != "HEIF"))
    with pytest.raises(BadImage, match=r"unknown_format.*clipmill\[heic\]"):
        decode(HEIC_HEAD, Limits(), target_px=None)
    with pytest.raises(BadImage, match="JPEG XL, which is not decoded"):
        decode(b"\xff\x0a" + bytes(100), Limits(), target_px=None)


def test_what_is_left_out_says_what_would_read_it(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.heic", "c.HEIC"):
        (tmp_path / name).write_bytes(b"x")
    counted: dict[str, int] = {}
    list(survey(Source(format="files", uri=f"{tmp_path}/"), Storage(), Limits(), left_out=counted))
    assert counted == {"heic": 2}
    assert "'clipmill[heic]'" in left_out.hint_for(counted)
    assert left_out.hint_for({"jxl": 3, "hidden": 1}) == ""
