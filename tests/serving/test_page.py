"""The page in a real browser: type, click, drop a picture, filter, go back, share, by keyboard, in the dark."""

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path

import lance
import pytest

from clipmill.jobs.querying.open import open_table
from clipmill.workers.tag import load_vocabulary
from tests.served import running
from tests.tables import TableOptions, WordEngine, make_table, picture

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from clipmill.jobs.indexing.build import build_index

    folder = tmp_path_factory.mktemp("page")
    (folder / "pictures").mkdir()
    uri = make_table(folder, TableOptions(rows=300, images=folder / "pictures"))
    build_index(uri)
    with running(open_table(uri, engine=WordEngine())) as url:
        yield url


@pytest.fixture
def page(browser, base: str) -> Iterator[object]:
    """A fresh visitor. The test fails on any error in the page, and on any request that leaves this server."""
    context = browser.new_context(base_url=base, viewport={"width": 1280, "height": 860}, color_scheme="light")
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console", lambda m: complaints.append(m.text) if m.type == "error" and "Failed to load" not in m.text else 0
    )
    opened.on("request", lambda r: complaints.append(r.url) if not r.url.startswith((base, "data:", "blob:")) else 0)
    opened.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    opened.goto("/")
    opened.wait_for_selector("#grid .card")
    yield opened
    context.close()
    assert complaints == []


def look(page, name: str) -> None:
    """Keep a screenshot where CLIPMILL_SCREENSHOTS names a folder, for a person to look at."""
    if folder := os.environ.get("CLIPMILL_SCREENSHOTS"):
        page.wait_for_timeout(400)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def until(page, expression: str, arg: object = None, timeout_s: float = 15) -> None:
    """Wait for a JavaScript expression. Playwright's own wait evaluates inside the page, which its policy forbids."""
    deadline = time.monotonic() + timeout_s
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, expression
        time.sleep(0.03)


def settled(page) -> None:
    until(page, "!document.getElementById('grid').classList.contains('stale')")


def tags(page) -> list[set[str]]:
    settled(page)
    return [set(card.locator(".tags button").all_inner_texts()) for card in page.locator("#grid .card").all()]


def search(page, words: str) -> None:
    page.fill("#words", words)
    page.press("#words", "Enter")
    until(page, "words => location.search.includes('q=' + words.split(' ')[0])", arg=words)
    page.wait_for_selector("#grid .card .score")
    settled(page)


def test_words_find_pictures_and_back_returns(page) -> None:
    assert "300 of 300" in page.inner_text("#status")
    search(page, "red shoe")
    assert tags(page)[0] == {"red", "shoe"}
    assert "ms" in page.inner_text("#status")
    look(page, "search-light")
    search(page, "blue dress")
    assert tags(page)[0] == {"blue", "dress"}
    page.go_back()
    until(page, "document.getElementById('words').value === 'red shoe'")
    until(page, "document.querySelector('#grid .tags').innerText.includes('shoe')")
    assert tags(page)[0] == {"red", "shoe"}


def test_tags_narrow_exclude_and_come_off_again(page) -> None:
    search(page, "shoe")
    page.click("#facets [data-column=tags] .value:has-text('green')")
    page.wait_for_selector("#chips li:has-text('green')")
    until(page, "document.getElementById('status').innerText.startsWith('50 of')")
    shown = tags(page)
    assert shown
    assert all("green" in found for found in shown)
    page.click("#facets [aria-label='Without dog']")
    page.wait_for_selector("#chips li.not:has-text('dog')")
    until(page, "document.getElementById('status').innerText.startsWith('45 of')")
    look(page, "tags")
    page.click("[aria-label='Remove green']")
    until(page, "document.getElementById('status').innerText.startsWith('270 of')")


def test_other_facets_sql_and_the_score_slider(page) -> None:
    page.click("#facets [data-column=license] .value:has-text('cc0')")
    until(page, "document.getElementById('status').innerText.startsWith('100 of')")
    page.fill("#where", "views < 30")
    page.press("#where", "Enter")
    until(page, "document.getElementById('status').innerText.startsWith('10 of')")
    page.fill("#where", "widht < 30")
    page.press("#where", "Enter")
    page.wait_for_selector("#where-error:has-text('widht')")
    assert "did you mean width" in page.inner_text("#where-error")
    look(page, "filter-mistake")
    page.fill("#where", "")
    page.press("#where", "Enter")
    search(page, "red shoe")
    before = page.locator("#grid .card").count()
    page.locator("#min-score").evaluate("e => { e.value = 0.5; e.dispatchEvent(new Event('change')) }")
    until(page, "location.search.includes('min=0.5')")
    settled(page)
    assert 0 < page.locator("#grid .card").count() < before


def test_columns_of_any_name_filter_and_stay_in_the_address(browser, tmp_path: Path) -> None:
    """`order` is a word of SQL."""
    uri = make_table(tmp_path, TableOptions(rows=60))
    few = {name: "cast(views < 20 as string)" for name in ("order", "größe")}
    lance.dataset(f"{uri}.lance").add_columns(few)
    for column in few:
        lance.dataset(f"{uri}.lance").create_scalar_index(column, "BITMAP")
    with running(open_table(uri, engine=WordEngine())) as url, browser.new_context(base_url=url) as context:
        page = context.new_page()
        page.goto("/")
        for column in few:
            page.click(f"#facets [data-column={column}] .value:has-text('true')")
            page.wait_for_selector(f"#chips li:has-text('{column}: true')")
        until(page, "document.getElementById('status').innerText.startsWith('20 of')")
        page.reload()
        until(page, "document.getElementById('status').innerText.startsWith('20 of')")
        assert page.locator("#chips li").count() == 2


def drop(page, data: bytes, kind: str) -> None:
    page.evaluate(
        """([text, kind]) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "dropped", { type: kind }));
            for (const name of ["dragover", "drop"])
                document.body.dispatchEvent(
                    new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [base64.b64encode(data).decode(), kind],
    )


def test_a_dropped_picture_searches_and_its_address_can_be_shared(page, browser, base: str) -> None:
    drop(page, picture("blue", 200), "image/png")
    page.wait_for_selector("#chips li:has-text('your picture')")
    page.wait_for_selector("#grid .card .score")
    assert ["blue" in found for found in tags(page)[:8]] == [True] * 8
    look(page, "dropped")
    with browser.new_context(base_url=base) as elsewhere:
        visitor = elsewhere.new_page()
        visitor.goto(page.url)
        visitor.wait_for_selector("#grid .card .score")
        assert tags(visitor)[:8] == tags(page)[:8]


def test_an_uploaded_file_and_one_that_is_no_picture(page) -> None:
    page.set_input_files("#file", {"name": "g.png", "mimeType": "image/png", "buffer": picture("green", 64)})
    page.wait_for_selector("#chips li:has-text('your picture')")
    assert "green" in tags(page)[0]
    drop(page, b"hello", "image/png")
    page.wait_for_selector("#problem:has-text('query image')")
    drop(page, b"hello", "text/plain")
    page.wait_for_selector("#problem:has-text('no picture')")


def test_more_like_this_detail_and_provenance(page) -> None:
    search(page, "yellow boat")
    page.locator("#grid .card .open").first.click()
    page.wait_for_selector("#detail[open]")
    facts = page.inner_text("#detail-facts")
    assert "work unit" in facts
    assert "source" in facts
    assert "item=row-" in page.url
    look(page, "detail")
    page.click("#detail-like")
    page.wait_for_selector("#chips li:has-text('like this')")
    assert not page.locator("#detail").evaluate("e => e.open")
    assert {"yellow", "boat"} == tags(page)[0]
    page.go_back()
    page.wait_for_selector("#detail[open]")
    page.keyboard.press("Escape")
    until(page, "!location.search.includes('item=')")


def test_captions_are_shown_as_they_are_and_never_run(page) -> None:
    page.goto("/?where=caption+LIKE+%27%25script%25%27")
    page.wait_for_selector("#grid .card")
    settled(page)
    caption = page.locator("#grid .caption").first.inner_text()
    assert caption.startswith("<script>alert(")
    assert page.locator("#grid script").count() == 0
    page.locator("#grid .card .open").first.click()
    page.wait_for_selector("#detail[open]")
    assert page.inner_text("#detail-caption").startswith("<script>")
    page.goto("/?q=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E&tag=%3Cb%3Ex&like=%22%3E%3Cscript%3E")
    page.wait_for_selector("#problem:not(:empty)")
    assert page.locator("main script, main b").count() == 0


def test_the_keyboard_is_enough(page) -> None:
    page.keyboard.press("Escape")
    page.locator("#home").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.type("red hat")
    page.keyboard.press("Enter")
    page.wait_for_selector("#grid .card .score")
    settled(page)
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")  # from nowhere, as the help says that arrows move
    assert page.evaluate("document.activeElement.closest('.card').dataset.id") == page.locator(
        "#grid .card"
    ).first.get_attribute("data-id")
    page.locator("#words").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("document.activeElement.closest('.card').dataset.id")
    assert focused == page.locator("#grid .card").nth(2).get_attribute("data-id")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail[open]")
    page.keyboard.press("ArrowRight")
    fourth = page.locator("#grid .card").nth(3).get_attribute("data-id")
    until(page, "id => location.search.includes(id)", arg=fourth)
    page.keyboard.press("Escape")
    until(page, "!document.getElementById('detail').open")
    page.keyboard.press("m")
    page.wait_for_selector("#chips li:has-text('like this')")


def test_the_box_keeps_its_words_and_a_picture_replaces_them(page) -> None:
    page.focus("#words")
    page.keyboard.press("/")
    assert page.input_value("#words") == "", "it has the cursor already"
    page.keyboard.type("red hat")
    page.keyboard.press("Enter")
    page.wait_for_selector("#grid .card .score")
    page.keyboard.press("Escape")
    assert page.input_value("#words") == "red hat"
    assert page.evaluate("document.activeElement.id") != "words"
    page.focus("#words")
    drop(page, picture("blue", 200), "image/png")
    page.wait_for_selector("#chips li:has-text('your picture')")
    assert page.input_value("#words") == ""


def test_a_tag_that_is_not_listed_can_be_typed(page) -> None:
    page.fill("#tag", "house")
    page.press("#tag", "Enter")
    page.wait_for_selector("#chips li:has-text('house')")
    assert all("house" in found for found in tags(page))
    assert page.input_value("#tag") == ""


def test_any_tag_is_found_under_its_facet_by_keyboard_and_by_mouse(browser, tmp_path: Path) -> None:
    scenes = load_vocabulary("scenes")
    options = TableOptions(rows=300, vocabulary=scenes)
    table = open_table(make_table(tmp_path, options), engine=WordEngine())
    with running(table) as url, browser.new_context(base_url=url, viewport={"width": 1280, "height": 860}) as context:
        page = context.new_page()
        page.goto("/")
        page.wait_for_selector("#facets .facet")
        groups = page.locator("#facets h2").evaluate_all("all => all.map((one) => one.textContent)")
        assert groups == [facet for facet, _, _ in scenes.facets]
        assert page.locator("#facets [data-group=colour] .value:has-text('red')").count() == 1
        page.focus("#tag")
        page.keyboard.type("hou")
        option = page.locator("#tag-list [role=group][aria-label=object] [role=option]")
        option.wait_for()
        house = table.count("array_has(tags, 'house')")
        assert option.locator("span").all_inner_texts() == ["house", str(house)]
        look(page, "tag-box")
        page.keyboard.press("ArrowDown")
        assert page.get_attribute("#tag", "aria-activedescendant") == option.get_attribute("id")
        page.keyboard.press("Enter")
        page.wait_for_selector("#chips li:has-text('house')")
        until(page, "n => document.getElementById('status').innerText.startsWith(`${n} of`)", arg=house)
        assert page.locator("#tag-list").is_hidden()
        page.keyboard.type("o")
        page.wait_for_selector("#tag-list [role=option]")
        look(page, "tag-box-more")
        page.keyboard.press("Escape")
        assert page.get_attribute("#tag", "aria-expanded") == "false"
        page.fill("#tag", "red")
        page.click("#tag-list [role=option][title=red]")
        page.wait_for_selector("#chips li:has-text('red')")
        page.fill("#tag", "zebra")
        page.wait_for_selector("#tag-list:has-text('no such tag')")


def test_dark_narrow_and_more_pages(browser, base: str, page) -> None:
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    search(page, "green tree")
    look(page, "search-dark")
    page.click("#more")
    until(page, "document.querySelectorAll('#grid .card').length === 80")
    with browser.new_context(
        base_url=base, viewport={"width": 390, "height": 800}, color_scheme="dark", has_touch=True
    ) as phone:
        small = phone.new_page()
        small.goto("/?q=blue+car")
        small.wait_for_selector("#grid .card .score")
        assert small.input_value("#words") == "blue car"
        assert small.evaluate("document.documentElement.dataset.theme") == "dark"
        assert small.evaluate("document.documentElement.scrollWidth") <= 390
        assert small.locator("#words").bounding_box()["width"] > 240  # a phrase of four words is seen whole
        small.fill("#words", "green tree")
        small.click("#search .primary")
        until(small, "location.search.includes('green')")
        look(small, "phone-dark")
