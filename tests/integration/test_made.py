"""Files that other tools wrote, through whole runs: rows by hash, rejects by name, and it adds up."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import S3
from tests.integration.help import job, problems, rejects, rows, run
from tests.read.test_made import HASHES, SOURCES

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("img2dataset files", "disk"),
        ("datasets by path", "disk"),
        pytest.param("metadata.csv", "s3", marks=pytest.mark.s3),
        pytest.param("lance, blobs v2", "s3", marks=pytest.mark.s3),
    ],
)
def test_a_run_over_what_another_tool_wrote(
    name: str, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    options: dict[str, Any] = SOURCES[name](tmp_path)
    root, storage = str(tmp_path), {}
    if place == "s3":
        s3: S3 = request.getfixturevalue("s3")
        s3.upload(tmp_path)
        root, storage = s3.uri, s3.storage.model_dump()
    made = job(tmp_path, {**options, "uri": f"{root}/{options['uri']}"}, storage=storage)
    summary = run(made)
    assert summary.failed_units == []
    assert problems(made) == []
    assert sorted(row["image_hash"] for row in rows(made, "image_hash")) == sorted(HASHES)
    said = {row["reason"]: row["detail"] for row in rejects(made)}
    assert set(said) == ({"no_image", "unknown_format"} if name.startswith("img2dataset") else set())
    assert "failed_to_download: HTTP Error 404" in said.get("no_image", "failed_to_download: HTTP Error 404")
    again = run(made)
    assert (again.rows, again.rejects) == (0, {}), "nothing is done twice"
