"""The pages in a real browser: they stand alone, fit a phone, and complain of nothing."""

import os
from pathlib import Path

import pytest

from clipmill.jobs.reporting.night import NightOptions, find_night, night_report
from clipmill.jobs.reporting.page import render, write_page
from clipmill.jobs.reporting.table import table_report
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import Storage
from clipmill.schemas.job.nightly import Saved
from tests.reporting.conftest import ROWS

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(reported_uri: str, nights: tuple[str, int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    write_page(folder / "table.html", render("table.html.j2", r=table_report(reported_uri, Storage())))
    tables = Tables.at(nights[0])
    saved = {"red things": Saved(like=f"row-{ROWS + 30:06d}", k=6), "gone": Saved(like="no such row")}
    night = night_report(tables, find_night(tables, "last"), NightOptions(watch=saved))
    write_page(folder / "night.html", render("night.html.j2", r=night))
    refused = night_report(tables, find_night(tables, "night28"))
    write_page(folder / "refused.html", render("night.html.j2", r=refused))
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_and_stands_alone(browser, pages: dict[str, Path], width: int, scheme: str) -> None:
    for name, path in pages.items():
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda m, said=complaints: said.append(m.text))
        page.on("pageerror", lambda error, said=complaints: said.append(str(error)))
        page.on("dialog", lambda d, said=complaints: (said.append(d.message), d.dismiss()))
        page.on(
            "request", lambda r, said=complaints: said.append(r.url) if not r.url.startswith(("file:", "data:")) else 0
        )
        page.goto(f"file://{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate("[...document.images].every(i => !i.complete || i.naturalWidth > 0)")
        assert page.evaluate("document.querySelectorAll('svg path').length") > 0
        if folder := os.environ.get("CLIPMILL_SCREENSHOTS"):
            page.screenshot(path=str(Path(folder) / f"report-{name}-{width}-{scheme}.png"), full_page=True)
        context.close()
        assert complaints == []
