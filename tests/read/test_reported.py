"""Small files after public bug reports of tools in this field: each with its right value, or one sentence."""

from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.samples import Sample
from clipmill.workers.read import read_unit
from tests.read.help import reasons

pytestmark = pytest.mark.realdata


@pytest.fixture
def reported(real_data: Path) -> Path:
    folder = real_data / "reported"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def read_all(uri: Path, format: str, **options: Any) -> list[Any]:
    source = Source(format=format, uri=str(uri), **options)
    return [s for u in survey(source, Storage(), Limits()) for s in read_unit(u, source, Storage(), Limits())]


@pytest.mark.parametrize(
    ("name", "captions"),
    [
        ("open-quote.tsv", ['"Sunset" over the bay', '"hello, he said', "a cat", "a dog"]),
        ("cr-inside.tsv", ["first half\rsecond half", "plain"]),
        ("cr-inside.csv", ["first half\rsecond half", "plain"]),
        ("nan.jsonl", [None, "a cat"]),
        ("int-as-float.csv", ["a", "b", "c"]),
    ],
)
def test_lists(reported: Path, name: str, captions: list[str | None]) -> None:
    found = read_all(reported / name, "manifest", caption="caption")
    assert reasons(found) == {"ok": len(captions)}
    assert [sample.caption for sample in found] == captions
    pictures = [(reported / "pics" / f"p{number}.jpg").read_bytes() for number in range(len(captions))]
    assert [sample.image for sample in found] == pictures


@pytest.mark.parametrize(
    ("name", "format", "keep", "expected", "unread"),
    [
        ("nan.jsonl", "manifest", {"n": "float32"}, [{"n": None}, {"n": 3.0}], 0),
        ("nan.jsonl", "manifest", {"n": "int32"}, [{"n": None}, {"n": 3}], 0),
        ("int-as-float.csv", "manifest", {"width_px": "int32"}, [{"width_px": n} for n in (512, None, 640)], 0),
        (
            "decimal-nan.parquet",
            "parquet",
            {"price": "float64", "w": "float32"},
            [{"price": float(n), "w": w} for n, w in ((1, 1.0), (2, None), (3, 3.0), (4, None))],
            0,
        ),
        ("decimal-nan.parquet", "parquet", {"price": "int32"}, [{"price": n} for n in (1, 2, 3, 4)], 0),
        ("exif-date.jsonl", "manifest", {"t": "timestamp"}, [{"t": None}, {"t": None}], 2),
    ],
)
def test_values(
    reported: Path, name: str, format: str, keep: dict[str, str], expected: list[dict[str, Any]], unread: int
) -> None:
    found = read_all(reported / name, format, keep=keep)
    assert reasons(found) == {"ok": len(expected)}
    assert [sample.metadata for sample in found] == expected
    assert sum(len(sample.unread) for sample in found) == unread


def test_a_value_that_is_required_costs_the_sample(reported: Path) -> None:
    found = read_all(reported / "exif-date.jsonl", "manifest", keep={"t": {"type": "timestamp", "required": True}})
    assert reasons(found) == {"bad_metadata": 2}
    assert found[0].detail == "t = '2024:05:06 07:08:09' is not timestamp, and source.keep.t is required"


def test_view_types(reported: Path) -> None:
    found = read_all(reported / "binary-view.parquet", "parquet", caption="caption")
    assert [sample.caption for sample in found] == ["a", "b", "c", "d"]
    assert all(isinstance(sample, Sample) and sample.image.startswith(b"\xff\xd8") for sample in found)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cr-only.csv", "ends its lines with a carriage return alone"),
        ("utf16.csv", "is UTF-16 text"),
        ("array.json", "holds a JSON array"),
    ],
)
def test_lists_in_other_forms(reported: Path, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        read_all(reported / name, "manifest")
    assert caught.value.hint


def test_links_in_a_circle(reported: Path, tmp_path: Path) -> None:
    """The links are made here, where a copy of the folder did not keep them."""
    for one, other, name, link in (("a", "b", "one.jpg", "x"), ("b", "a", "two.jpg", "y")):
        (tmp_path / one).mkdir()
        (tmp_path / one / name).write_bytes((reported / "link-cycle" / one / name).read_bytes())
        (tmp_path / one / link).symlink_to(f"../{other}")
    found = read_all(tmp_path, "files")
    assert [sample.uri.removeprefix(f"{tmp_path}/") for sample in found] == ["a/one.jpg", "b/two.jpg"]
