"""XHTML's own signs, and shadow trees, as the HTML that they mean."""

import pytest

from humpback.config import Segments
from humpback.corpus.dialects import as_html
from humpback.corpus.segments import cut
from humpback.records import Page

XML = '<?xml version="1.0" encoding="utf-8"?>\n<html xmlns="http://www.w3.org/1999/xhtml">'


def text_of(html: str) -> str:
    data = html.encode()
    return cut(Page("p", "p", 0, len(data), data), Segments())[1][0].text


@pytest.mark.parametrize("head", [
    "<head><title/></head>", "<head><script src='a.js'/></head>", "<head><script src='a>b.js' /></head>", "<div class=\"toolbar\"/>",
    "<head><style type='text/css'/></head>", "<body><iframe src='x'/>", "<body><a id='x'/>", "<body><textarea/>",
])  # fmt: skip
def test_what_closes_itself_in_xhtml(head: str) -> None:
    assert text_of(f"{XML}{head}<h1>A</h1><p>b<br/>c</p>") == "b\nc"


def test_cdata_is_text() -> None:
    assert text_of(f"{XML}<h1>A</h1><pre><![CDATA[if (a < b && c) {{ x(); }}]]></pre>") == "```\nif (a < b && c) { x(); }\n```"


def test_html_stays_as_it_is() -> None:
    html = "<!DOCTYPE html><h1>A</h1><p>b <span/>c</p><![CDATA[x]]>"
    assert as_html(html) == html


def test_shadow_trees_are_shown_and_templates_are_not() -> None:
    html = "<h1>A</h1><x-y><template shadowrootmode=open><p>b</p><template><p>no</p></template><p>c</p></template></x-y>"
    assert text_of(html) == "b\n\nc"
