"""The page of `make month` says what happened: where a month ended, which figure is over its limit, on which store."""

from dataclasses import replace
from pathlib import Path

from tests.publishing.month.month_page import LAST, Kept, Row, main, read
from tests.publishing.month.program import SAME_WORK

NONE = dict.fromkeys(("came", "changed", "aliased", "moved", "gone", "rejects", "looks", "log_bytes"), 0)
SIZE = {"versions": 10, "rows_versions": 5, "files": 20, "bytes": 3_000}
ROW = Row(night=2, what="", status="published", seconds=6.0, fresh_s=5.0, rows=132, **NONE, **SIZE)


def month(**last: int) -> list[Row]:
    """Whose last nights differ in what is given."""
    rows = [replace(ROW, night=night) for night in range(2, LAST + 1)]
    return [replace(row, **last) if row.night in SAME_WORK[1] else row for row in rows]


def test_what_did_not_pass_is_named_with_its_figure_and_its_limit(tmp_path: Path) -> None:
    Kept("a store", month(bytes=3_990, files=30)).write(str(tmp_path), "folder")
    Kept("a store", month()[:7]).write(str(tmp_path), "lists")
    main(str(tmp_path), f"{tmp_path}/page.md")
    page = (tmp_path / "page.md").read_text()
    assert "the bucket on a store. Made by" in page
    assert (
        "**Not passed: tars: no night ended; folder: every night was right, files 1.50, bytes 1.33 (at most 1.2); "
        "lists: ended after night 8.**\n"
    ) in page
    assert "| folder | 1.00 | 1.50 | 1.33 | 1.00 |" in page
    assert "| lists | 1.00" not in page


def test_a_month_that_passed_says_so(tmp_path: Path) -> None:
    for kind in ("folder", "lists", "tars"):
        Kept("moto's S3 server", month(), passed=True).write(str(tmp_path), kind)
    assert read(str(tmp_path))["tars"].rows == month()
    main(str(tmp_path), f"{tmp_path}/page.md")
    assert "All nights passed" in (tmp_path / "page.md").read_text()
    Kept("moto's S3 server", month()).write(str(tmp_path), "tars")  # its nights are right, and then a reader was not
    main(str(tmp_path), f"{tmp_path}/page.md")
    page = (tmp_path / "page.md").read_text()
    assert "**Not passed: tars: every night was right, what readers saw was not.** Passed: folder, lists." in page
