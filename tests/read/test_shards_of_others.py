"""docs/shards.md: the habits of the tools that write shards, on files that the tools themselves wrote."""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.jobs.cli.main import run
from clipmill.jobs.planning import turned as planned
from clipmill.jobs.planning.turned import turned
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.decode.picture import decode
from clipmill.workers.read import read_unit
from clipmill.workers.read.census import Census
from tests.build import picture
from tests.read.help import read_tar, reasons, samples, unit_of
from tests.read.made.draw import draw

MADE = Path(__file__).parent / "made"
TURNED, KEPT, DOTTED = (
    MADE / f"{name}.tar" for name in ("img2dataset-turned", "img2dataset-kept", "webdataset-dotted")
)


def told(uri: Path, **options: Any) -> str | None:
    source = Source(format="webdataset", uri=str(uri), **options)
    return turned(unit_of(str(uri), "webdataset"), source, Storage(), Limits())


def red_corner(sample: Sample) -> str:
    """Where the red corner of img2dataset_turned.py's scene is, which is drawn at the top left."""
    pixels_HWC = decode(sample.image, Limits(), target_px=None).pixels_HWC.astype(int)
    height, width = pixels_HWC.shape[:2]
    y, x = np.unravel_index(np.argmax(pixels_HWC[..., 0] - pixels_HWC[..., 2]), (height, width))
    return f"{'top' if y < height / 2 else 'bottom'} {'left' if x < width / 2 else 'right'}"


def test_img2dataset_leaves_pictures_turned_and_its_json_knows() -> None:
    found = samples(read_tar(str(TURNED), caption="txt", keep={"exif": "string"})).values()
    corners = {sample.caption: red_corner(sample) for sample in found}
    assert corners == {"one": "top left", "none": "top left", "six": "bottom left", "three": "bottom right"}
    said = {sample.caption: json.loads(sample.metadata["exif"]).get("Image Orientation") for sample in found}
    assert said == {"one": "Horizontal (normal)", "six": "Rotated 90 CW", "three": "Rotated 180", "none": None}


def test_without_reencoding_its_pictures_are_turned_by_their_own_exif() -> None:
    found = samples(read_tar(str(KEPT), caption="txt")).values()
    assert {sample.caption: red_corner(sample) for sample in found} == dict.fromkeys(
        ("one", "none", "six", "three"), "top left"
    )
    assert told(KEPT) is None


def test_plan_says_that_pictures_lie_turned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(TURNED, tmp_path / "a.tar")
    (tmp_path / "job.yaml").write_text(
        f"table: {tmp_path}/db/t\nsource: {{format: webdataset, uri: '{tmp_path}/*.tar', caption: txt}}\n"
    )
    assert run(["plan", str(tmp_path / "job.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["turned"].startswith("2 of the first 4 pictures of ")
    assert "docs/shards.md" in found["turned"]


def packed(path: Path, members: list[tuple[str, bytes]], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def exif(orientation: str) -> bytes:
    return json.dumps({"exif": json.dumps({"Image Orientation": orientation})}).encode()


def test_plan_says_that_a_picture_lies_turned_exactly_where_embed_would_turn_it(tmp_path: Path) -> None:
    said = {
        b"": False,
        b"{": False,
        b"[1]": False,
        b'{"exif": "[]"}': False,
        b'{"exif": null}': False,
        b'{"exif": 9}': False,
        exif("Horizontal (normal)"): False,
        exif("0"): False,
        exif("Rotated by hand"): False,
        exif("Rotated 180"): True,
        exif("6"): True,
        b'{"exif": 6}': True,
        b'{"exif": {"Image Orientation": "Mirrored vertical"}}': True,
    }
    for number, (text, lies) in enumerate(said.items()):
        members = [("a.jpg", picture(1)), ("a.json", text), ("b.json", exif("Rotated 180"))]
        tar = packed(tmp_path / f"{number}.tar", members)
        embedded = samples(read_tar(str(tar), orientation="json:exif")).values()
        assert any(one.orientation not in (None, 1) for one in embedded) == lies, text
        assert (told(tar) is not None) == lies, text


def test_a_turned_picture_is_found_in_any_order_packed_or_not_and_of_the_first_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg = picture(1)
    pair = [("d/a.json", exif("Rotated 90 CCW")), ("d/a.jpg", jpeg)]
    assert "1 of the first 1 picture of" in str(told(packed(tmp_path / "a.tar.gz", pair, "w:gz")))
    assert "1 of the first 1 picture of" in str(told(packed(tmp_path / "a.tar", pair[::-1])))
    late = packed(tmp_path / "late.tar", [("long.txt", bytes(20_000)), *pair])
    assert told(late) is not None
    monkeypatch.setattr(planned, "LOOK_BYTES", 20_000)
    assert told(late) is None, "plan does not read a tar to its end"
    whole = packed(tmp_path / "whole.tar", pair).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:1600])
    (tmp_path / "zip.tar").write_bytes(b"PK\x03\x04" + whole)
    assert told(tmp_path / "cut.tar") is None, "embed names what is cut"
    assert told(tmp_path / "zip.tar") is None


def test_webdataset_writes_dotted_keys_that_no_reader_finds_again() -> None:
    found = read_tar(str(DOTTED), caption="txt")
    assert reasons(found) == {"ok": 1, "no_image": 4}
    assert [sample.image for sample in samples(found).values()] == [draw(0)]
    details = [item.detail for item in found if isinstance(item, Reject)]
    assert all("a key ends at the first dot" in detail for detail in details)
    assert {item.uri.rpartition("#")[2] for item in found if isinstance(item, Reject)} == {
        "v1.0-first.png", "v1.0-second.png", "inputs.left.png", "inputs.right.png"
    }  # fmt: skip
    # As the rejects say: the part after the first dot can be named.
    (left,) = samples(read_tar(str(DOTTED), image="left.png")).values()
    assert left.image == draw(3)


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
def test_a_folder_packed_by_tar_with_a_macs_companions(tmp_path: Path) -> None:
    """Names begin with `./`, folders are members; a Mac's tar puts `._a.jpg` beside `a.jpg`, as AppleDouble."""
    folder = tmp_path / "shoot"
    (folder / "day").mkdir(parents=True)
    (folder / "day" / "a.jpg").write_bytes(picture(1))
    (folder / "day" / "a.txt").write_text("first")
    (folder / "day" / "IMG_0001").write_bytes(picture(2))  # a picture without an ending
    for name in ("a.jpg", "a.txt"):
        (folder / "day" / f"._{name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(50))
    subprocess.run(["tar", "-cf", str(tmp_path / "s.tar"), "-C", str(folder), "."], check=True)
    census = Census()
    source = Source(format="webdataset", uri=f"{tmp_path}/s.tar", caption="txt")
    unit = unit_of(f"{tmp_path}/s.tar", "webdataset")
    (only,) = read_unit(unit, source, Storage(), Limits(), census)
    assert isinstance(only, Sample)
    assert (only.caption, only.uri.rpartition("#")[2]) == ("first", "day/a.jpg")
    assert census.left_out == {"hidden": 2, "no extension": 1}


def test_a_folder_where_equal_files_are_one_is_packed_as_links_and_each_of_them_is_named(tmp_path: Path) -> None:
    """As tools against duplicates leave a folder: the second of two equal files is another name of the first."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in (("1.jpg", picture(1)), ("1.txt", b"no title"), ("2.jpg", picture(2)), ("3.txt", b"Rex")):
        (folder / name).write_bytes(data)
    (folder / "2.txt").hardlink_to(folder / "1.txt")
    (folder / "3.jpg").hardlink_to(folder / "1.jpg")
    shards = {}
    for dereference in (False, True):
        shards[dereference] = tmp_path / f"{dereference}.tar"
        with tarfile.open(shards[dereference], "w", dereference=dereference) as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name)
    found = read_tar(str(shards[False]), caption="txt")
    rejects = {item.uri.rpartition("#")[2]: (item.reason, item.detail) for item in found if isinstance(item, Reject)}
    assert rejects == {
        "2.jpg": (Reason.BAD_METADATA, "txt is a link or a sparse file"),
        "3.jpg": (Reason.NO_IMAGE, "a link to '1.jpg', without bytes of its own"),
    }
    assert {name: sample.caption for name, sample in samples(found).items()} == {"1.jpg": "no title"}
    whole = samples(read_tar(str(shards[True]), caption="txt"))
    assert {name: sample.caption for name, sample in whole.items()} == {
        "1.jpg": "no title", "2.jpg": "no title", "3.jpg": "Rex"
    }  # fmt: skip
