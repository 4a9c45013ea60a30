"""report.html in a browser: it asks for nothing, runs nothing that a page planted, and sorts and searches."""

import re

import pytest

from humpback.report.write import write
from tests import browsers
from tests.export import a_run

pytestmark = browsers.NEEDED
browser = pytest.fixture(scope="module")(browsers.started)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(a_run.full(tmp_path_factory.mktemp("browser") / "run"))


def opened(browser, file, **options):
    """(page, what it asked for beside itself, what went wrong)."""
    page = browser.new_context(**options).new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("file:") else None)
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
    page.goto(f"file://{file}")
    return page, asked, wrong


def test_nothing_is_asked_for_and_hostile_text_is_shown(browser, file):
    page, asked, wrong = opened(browser, file)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert a_run.HOSTILE.split("</style>")[0].strip() in page.inner_text("#examples") and "שלום" in page.inner_text("#dropped")
    assert not asked and not wrong
    assert page.evaluate("getComputedStyle(document.querySelector('.c0')).fill") == "rgb(11, 98, 168)"  # the style is allowed


def test_search_filter_and_sort_by_keys(browser, file):
    page, _, wrong = opened(browser, file)
    assert page.inner_text("#count") == "24 of 24 shown"
    page.focus("#search")
    page.keyboard.type("alert")
    assert page.inner_text("#count") == "24 of 24 shown"  # every rating's raw text has it
    page.fill("#search", "right to left שלום not usable: echo")
    assert page.inner_text("#count") == "1 of 24 shown"
    page.fill("#search", "")
    page.focus("#filter")
    page.keyboard.type("five best")
    assert page.inner_text("#count") == "5 of 24 shown"
    page.select_option("#sort", "worst")
    page.select_option("#filter", "all")
    scores = page.eval_on_selector_all("#list article", "items => items.map(item => item.dataset.score)")
    rated = [float(score) for score in scores if score]
    assert rated == sorted(rated) and scores[len(rated) :] == [""] and not wrong


def test_without_scripts_and_in_the_dark(browser, file):
    page, asked, wrong = opened(browser, file, java_script_enabled=False, color_scheme="dark")
    assert re.search(r"usable candidates\s*23", page.text_content("main")) and page.locator("#list article").count() == 24
    assert not page.is_visible("#tools") and not asked and not wrong


def test_printed_it_is_black_on_white_and_whole(browser, file):
    page, _, wrong = opened(browser, file, color_scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible("nav") and not page.is_visible("#tools") and not wrong
    assert page.locator("details:not([open])").count() == 0


def test_all_that_can_be_used_is_reached_by_keys(browser, file):
    page, _, _ = opened(browser, file)
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.tagName"))
    assert {"search", "sort", "filter", "wide", "A", "SUMMARY"} <= reached
