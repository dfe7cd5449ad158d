"""What names a row, and what a row carries: ids of each kind, duplicates and their turn, kept metadata, thumbnails."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from clipmill.jobs.planning import dry_run
from clipmill.schemas.job.config import JobFile
from tests.build import parquet, picture, tar
from tests.integration.help import job, problems, rejects, rows, run, versions

pytestmark = pytest.mark.ray


def put_tar(path: Path, seeds: dict[str, int]) -> None:
    """Member name -> seed of its picture."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tar([(f"{name}.jpg", picture(seed)) for name, seed in seeds.items()]))


def places(made: JobFile) -> set[str]:
    return {row["uri"].rpartition("/")[2] for row in rows(made, "uri")}


def losers(made: JobFile) -> dict[str, str]:
    """Name of a sample rejected as a duplicate -> name of the sample that won."""
    found = {}
    for reject in rejects(made):
        assert reject["reason"] == "duplicate_id"
        found[reject["uri"].rpartition("/")[2]] = reject["detail"].rpartition("/")[2]
    return found


def test_equal_pictures_are_one_row_and_the_next_takes_its_turn(here: Path) -> None:
    raw = here / "raw"
    put_tar(raw / "a.tar", {"one": 1, "two": 2})
    put_tar(raw / "b.tar", {"three": 3, "uno": 1, "tres": 3})
    made = job(here, {"format": "webdataset", "uri": f"{raw}/*.tar", "id": "content"})
    first = run(made)
    assert (first.seen, first.rows, first.rejects) == (5, 3, {"duplicate_id": 2})
    found = rows(made, "id", "image_hash")
    assert len({row["id"] for row in found}) == 3
    assert all(row["id"] == row["image_hash"] for row in found)
    assert problems(made) == []
    lost = losers(made)
    assert lost["b.tar#tres.jpg"] == "b.tar#three.jpg"
    loser = next(name for name in lost if name != "b.tar#tres.jpg")  # which of the two comes first is nobody's promise
    assert {loser, lost[loser]} == {"a.tar#one.jpg", "b.tar#uno.jpg"}
    assert run(made).note.startswith("nothing to do")

    put_tar(raw / "c.tar", {"again": 2})  # against the table, not only within a commit
    assert run(made).rejects == {"duplicate_id": 1}
    assert losers(made)["c.tar#again.jpg"] == "a.tar#two.jpg"

    put_tar(raw / "a.tar", {"other": 7})  # both winners of a.tar leave
    run(made)
    run(made)  # whose turn has come is seen once the winner is gone
    assert places(made) >= {"a.tar#other.jpg", "c.tar#again.jpg", "b.tar#uno.jpg"}
    assert losers(made) == {"b.tar#tres.jpg": "b.tar#three.jpg"}
    assert problems(made) == []
    before = versions(made)
    assert run(made).note.startswith("nothing to do")
    assert versions(made) == before


def test_ids_from_a_column_and_kept_metadata_have_their_types(here: Path) -> None:
    seeds = list(range(5))
    (here / "list.parquet").write_bytes(
        parquet(
            {
                "image": [picture(seed) for seed in seeds],
                "sku": ["a'1", "b2", "b2", None, "e5"],  # a quote, a duplicate, a missing one
                "licence": ["CC0", None, "MIT", "MIT", "MIT"],
                "views": pa.array([1, 2**31 - 1, 3, 4, 2**40]),  # the last is too large for int32
                "when": pa.array([datetime(2026, 1, 2, tzinfo=UTC)] * 5, pa.timestamp("us", tz="UTC")),
                "labels": pa.array([["x", "y"], [], None, None, None], pa.list_(pa.string())),
            }
        )
    )
    made = job(
        here,
        {
            "format": "parquet",
            "uri": f"{here}/list.parquet",
            "id": "column:sku",
            "keep": {
                "license": {"type": "string", "from": "licence"},
                "views": "int32",
                "when": "timestamp",
                "labels": "list<string>",
            },
        },
    )
    summary = run(made)
    assert (summary.seen, summary.rows, summary.unread) == (5, 3, {"views": 1})
    assert "views = 1099511627776 is not int32" in summary.unread_first["views"]
    found = {row["id"]: row for row in rows(made)}
    assert found.keys() == {"a'1", "b2", "e5"}
    assert found["e5"]["views"] is None
    assert (found["a'1"]["license"], found["a'1"]["views"], found["a'1"]["labels"]) == ("CC0", 1, ["x", "y"])
    assert (found["b2"]["license"], found["b2"]["views"], found["b2"]["labels"]) == (None, 2**31 - 1, [])
    assert found["b2"]["when"] == datetime(2026, 1, 2, tzinfo=UTC)
    reasons = {reject["uri"].rpartition("#")[2]: reject for reject in rejects(made)}
    assert {place: reject["reason"] for place, reject in reasons.items()} == {
        "row=2": "duplicate_id",
        "row=3": "bad_metadata",
    }
    assert reasons["row=2"]["detail"].endswith("list.parquet#row=1")
    assert problems(made) == []


def test_thumbnails_and_metadata_of_tar_members(here: Path) -> None:
    from PIL import Image

    members: list[tuple[str, bytes]] = []
    for seed in range(3):
        members.append((f"{seed}.jpg", picture(seed, size_HW=(300, 600))))
        members.append((f"{seed}.json", json.dumps({"title": f"picture {seed}", "n": seed, "extra": [1]}).encode()))
    (here / "raw.tar").write_bytes(tar(members))
    source = {
        "format": "webdataset",
        "uri": f"{here}/raw.tar",
        "caption": "json:title",
        "keep": {"n": "int64"},
        "id": "key",
    }
    made = job(here, source, thumbnails=True)
    assert run(made).rows == 3
    for row in rows(made):
        assert (row["id"], row["caption"]) == (str(row["n"]), f"picture {row['n']}")
        assert (row["width"], row["height"]) == (600, 300)
        small = Image.open(io.BytesIO(row["thumbnail"]))
        assert (small.format, small.size) == ("WEBP", (256, 128))
        data = (here / "raw.tar").read_bytes()[row["image_offset"] :][: row["image_size"]]
        assert data == picture(row["n"], size_HW=(300, 600))
    assert problems(made) == []
    plan = dry_run.dry_run(made)
    assert (plan.new, plan.changed, plan.done) == (0, 0, 1)
