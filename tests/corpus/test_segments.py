"""Trees of headers, which of them become segments, and hostile pages."""

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from humpback.config import Segments
from humpback.corpus.segments import PageDropped, cut, extract
from humpback.records import Page, record_id
from tests.pages import UNJUDGED
from tests.timing import at_most

DEMO = Path(__file__).parents[2] / "humpback" / "demo" / "pages"


def page(html: str | bytes, url: str = "a/p.html") -> Page:
    data = html.encode() if isinstance(html, str) else html
    return Page("a/p.html", url, 0, len(data), data)


def words(count: int, start: int = 0) -> str:
    """`count` characters without a sentence that repeats."""
    text = "".join(f"w{start + i} " for i in range(count))
    return text[: count - 1] + "."


def run(html: str | bytes, min_chars: int = 20, max_chars: int = 100) -> tuple[list[tuple[str, int]], dict[str, int]]:
    drops: Counter[str] = Counter()
    cfg = Segments(min_chars=min_chars, max_chars=max_chars, **UNJUDGED)
    found = extract(page(html), cfg, lambda reason, _: drops.update([reason]))
    return [(segment.header, len(segment.text)) for segment in found], dict(drops)


TREES = [
    ("siblings", "<h1>A</h1>a<h1>B</h1>b", [("A", "a", "A"), ("B", "b", "B")]),
    ("nested", "<h1>A</h1>a<h2>B</h2>b<h3>C</h3>c<h2>D</h2>d<h1>E</h1>e",
     [("A", "a\n\nB\n\nb\n\nC\n\nc\n\nD\n\nd", "A"), ("B", "b\n\nC\n\nc", "A > B"), ("C", "c", "A > B > C"), ("D", "d", "A > D"),
      ("E", "e", "E")]),
    ("a level is left out", "<h1>A</h1>a<h4>B</h4>b<h2>C</h2>c",
     [("A", "a\n\nB\n\nb\n\nC\n\nc", "A"), ("B", "b", "A > B"), ("C", "c", "A > C")]),
    ("lower levels first", "<h3>A</h3>a<h2>B</h2>b<h1>C</h1>c", [("A", "a", "A"), ("B", "b", "B"), ("C", "c", "C")]),
    ("text before the first header", "zero<h2>A</h2>a", [("A", "a", "A")]),
    ("no text of its own", "<h1>A</h1><h2>B</h2>b", [("A", "B\n\nb", "A"), ("B", "b", "A > B")]),
    ("no text at all", "<h1>A</h1><h2>B</h2>", [("A", "", "A"), ("B", "", "A > B")]),
    ("headers with nothing below", "<h1>A</h1><h2>B</h2><h3>C</h3><h2>D</h2>d<h2>E</h2>",
     [("A", "D\n\nd", "A"), ("B", "", "A > B"), ("C", "", "A > B > C"), ("D", "d", "A > D"), ("E", "", "A > E")]),
    ("an empty header", "<h1>A</h1>a<h2></h2>b<h3>C</h3>c",
     [("A", "a\n\nb\n\nC\n\nc", "A"), ("", "b\n\nC\n\nc", "A"), ("C", "c", "A > C")]),
    ("an empty header first", "<h1>A</h1><h2></h2><ul><li>x<li>y</ul>", [("A", "- x\n- y", "A"), ("", "- x\n- y", "A")]),
    ("headers in other elements", "<div><div><h1>A</h1></div></div><div>a<section><h2>B</h2></section>b</div>",
     [("A", "a\n\nB\n\nb", "A"), ("B", "b", "A > B")]),
    ("navigation is no part of what is around it", "<h1>A</h1>a<h2>Comments</h2>x<h3>C</h3>c<h2>D</h2>d",
     [("A", "a\n\nD\n\nd", "A"), ("Comments", "x\n\nC\n\nc", "A > Comments"), ("C", "c", "A > Comments > C"), ("D", "d", "A > D")]),
    ("navigation first", "<h1>A</h1><h2>Related articles</h2>x<h2>D</h2>d",
     [("A", "D\n\nd", "A"), ("Related articles", "x", "A > Related articles"), ("D", "d", "A > D")]),
    ("navigation ends with its box",
     "<h1>A</h1>a<h3>B</h3>b<div><div><h2>Share this story</h2></div><ul><li>x</ul></div><p>c</p><h2>D</h2>d",
     [("A", "a\n\nB\n\nb\n\nc\n\nD\n\nd", "A"), ("B", "b\n\nc", "A > B"), ("Share this story", "- x", "A > B > Share this story"),
      ("D", "d", "A > D")]),
    ("navigation in a box with other headers", "<h1>A</h1><div><h2>B</h2>b<h2>Comments</h2>x</div><p>c</p>",
     [("A", "B\n\nb", "A"), ("B", "b", "A > B"), ("Comments", "x\n\nc", "A > Comments")]),
    ("navigation in a cell", "<table><tr><td><h1>A</h1>a<td><h2>Quick links</h2>x<td>y</table>",
     [("A", "a\n\ny", "A"), ("Quick links", "x", "A > Quick links")]),
    ("an article ends", "<h1>A</h1>a<article><h2>B</h2>b</article>c<article><h2>D</h2>d</article>",
     [("A", "a\n\nB\n\nb\n\nc\n\nD\n\nd", "A"), ("B", "b", "A > B"), ("D", "d", "A > D")]),
    ("main ends", "<h1>A</h1><main>a<h2>B</h2>b</main>c", [("A", "a\n\nB\n\nb", "A"), ("B", "b", "A > B")]),
    ("lists and headers", "<h1>A</h1><ol><li><h2>B</h2>b<li>c<li>d</ol>",
     [("A", "B\n\nb\n2. c\n3. d", "A"), ("B", "b", "A > B")]),
]  # fmt: skip


@pytest.mark.parametrize("html, expected", [row[1:] for row in TREES], ids=[row[0] for row in TREES])
def test_trees(html: str, expected: list[tuple[str, str, str]]) -> None:
    _, trees = cut(page(html), Segments())
    assert [(tree.header, tree.text, " > ".join(tree.header_path)) for tree in trees] == expected
    assert [tree.length for tree in trees] == [len(tree.text) for tree in trees]


def test_what_stands_below_navigation_is_counted() -> None:
    counts: Counter[str] = Counter()
    cut(page("<h1>A</h1>a<div><h2>Share this</h2>four<h3>Links</h3>x</div><p>b</p><h2>Comments</h2>seven"), Segments(), counts)
    assert counts == {"headers": 4, "navigation_characters": len("four" + "x" + "seven"), "own_characters": 0}


def test_of_nested_trees_the_largest_that_fits_is_kept() -> None:
    inner = f"<h2>B</h2>{words(30)}<h2>C</h2>{words(40, 100)}"
    assert run(f"<h1>A</h1>{inner}") == ([("A", 30 + 40 + 2 * 1 + 3 * 2)], {})
    assert run(f"<h1>A</h1>{words(60, 300)}{inner}") == ([("B", 30), ("C", 40)], {"too long": 1})


def test_a_dropped_header_gives_its_subheaders() -> None:
    sub = f"<h2>Real title</h2>{words(30)}"
    assert run(f"<h1>BUY NOW</h1>{sub}") == ([("Real title", 30)], {"all upper case header": 1})
    assert run(f"<h1></h1>{sub}") == ([("Real title", 30)], {"empty header": 1})
    assert run(f"<h1>Quick links</h1>{sub}") == ([("Real title", 30)], {"navigation header": 1})
    repeated = "We bake fresh bread every day. We bake fresh bread every single day."
    assert run(f"<h1>Bread</h1>{repeated}{sub}", max_chars=200) == ([("Real title", 30)], {"repetition": 1})


@pytest.mark.parametrize("length, kept", [(19, []), (20, [("A", 20)]), (100, [("A", 100)]), (101, [])])
def test_lengths_are_inclusive(length: int, kept: list[tuple[str, int]]) -> None:
    reason = {} if kept else {"too short" if length < 20 else "too long": 1}
    assert run(f"<h1>A</h1><p>{words(length)}</p>") == (kept, reason)


def test_the_length_of_a_quotation_is_that_without_its_marks():
    quotation = lambda count: f"<h1>A</h1><blockquote>{words(count)}</blockquote>"  # noqa: E731
    assert run(quotation(20)) == ([("A", 20)], {})
    assert run(quotation(19)) == ([], {"too short": 1})
    assert run(f"<h1>A</h1>{'<p>></p>' * 30}") == ([], {"too short": 1})


def test_a_segment_leads_back_to_its_page() -> None:
    html = f"<html><head><link rel='canonical' href='https://x.org/y'></head><h1>A</h1><h2>B</h2><p>{words(30)}</p></html>"
    (segment,) = extract(page(html), Segments(min_chars=20, max_chars=31, **UNJUDGED), lambda *_: None)
    assert (segment.header, segment.header_path, segment.url, segment.source) == ("B", ("A", "B"), "https://x.org/y", "a/p.html")
    assert (segment.start, segment.end) == (0, len(html))
    assert segment.id == record_id("a/p.html", 0, len(html), segment.text)
    (crawled,) = extract(page(html, "http://crawl/1"), Segments(min_chars=20, max_chars=31, **UNJUDGED), lambda *_: None)
    assert crawled.url == "http://crawl/1" and crawled.id == segment.id


@pytest.mark.parametrize("head, url", [
    ("<meta property='og:url' content='http://x.org/z'>", "http://x.org/z"),
    ("<link rel=canonical href='/relative'>", "a/p.html"),
    ("<link rel=canonical href='http://[broken'>", "a/p.html"),
    ("<link rel=canonical>", "a/p.html"),
])  # fmt: skip
def test_addresses(head: str, url: str) -> None:
    assert cut(page(f"<head>{head}</head><h1>A</h1>"), Segments())[0]() == url


PAGES = [
    ("language", "<html lang='de'><h1>A</h1>a"),
    ("language", "<html xml:lang='FR-ca'><h1>A</h1>a"),
    ("language", "<meta http-equiv='Content-Language' content='es, en'><h1>A</h1>a"),
    ("", "<html lang='en-GB'><h1>A</h1>a"),
    ("", "<html lang=''><h1>A</h1>a"),
    ("no header", "<p>a</p>"),
    ("no header", ""),
    ("no header", "<frameset><frame></frameset>"),
    ("binary", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR<h1>A</h1>"),
    ("binary", bytes(range(1, 256)) * 200),
    ("binary", "<h1>A</h1>text".encode("utf-16-le")),  # without a byte order mark
    ("binary", b"<meta charset=utf-8><h1>A</h1>" + b"\xff\xfe\xfa" * 200),
    ("", "\ufeff<h1>A</h1>text".encode("utf-16-be")),
]


@pytest.mark.parametrize("reason, html", PAGES)
def test_pages_that_are_dropped(reason: str, html: str | bytes) -> None:
    if not reason:
        assert [tree.header for tree in cut(page(html), Segments())[1]] == ["A"]
        return
    with pytest.raises(PageDropped) as dropped:
        cut(page(html), Segments())
    assert str(dropped.value) == reason


CHARSETS = [
    "<h1>A</h1>café €".encode(),
    b"\xef\xbb\xbf" + "<h1>A</h1>café €".encode(),
    "<meta charset=iso-8859-1><h1>A</h1>café €".encode("cp1252"),
    "<meta http-equiv=Content-Type content='text/html; charset=windows-1252'><h1>A</h1>café €".encode("cp1252"),
    "<?xml version='1.0' encoding='iso-8859-15'?><h1>A</h1>café €".encode("iso-8859-15"),
    "<meta charset=utf-16><h1>A</h1>café €".encode(),
    "<meta charset=no-such-set><h1>A</h1>café €".encode(),
    "<meta charset=punycode><h1>A</h1>café €".encode(),
    "<h1>A</h1>café €".encode("cp1252"),
]


@pytest.mark.parametrize("html", CHARSETS)
def test_charsets(html: bytes) -> None:
    assert cut(page(html), Segments())[1][0].text == "café €"


def test_text_with_lost_characters_is_dropped() -> None:
    html = b"<meta charset=utf-8><h1>A</h1><p>" + words(80).encode() + b" caf\xe9</p>"
    assert run(html) == ([], {"broken characters": 1})


HOSTILE = {
    "deep": "<div>" * 100_000 + "<h1>A</h1>text",
    "deep and closed": "<div>" * 100_000 + "<h1>A</h1>text" + "</div>" * 100_000,
    "deep inline": "<h1>A</h1>" + "<span>" * 100_000 + "text",
    "deep lists": "<h1>A</h1>" + "<ul><li>x" * 5_000,
    "deep quotes": "<h1>A</h1>" + "<blockquote>x" * 9_000,
    "deep tables": "<h1>A</h1>" + "<table><tr><td>x" * 20_000,
    "unclosed fonts": "<h1>A</h1>" + "".join(f"<font size={i}><p>x" for i in range(20_000)),
    "many headers": "<h6>x</h6>" * 20_000,
    "headers within headers": "".join(f"<p role=heading aria-level={i}>x</p>" for i in range(20_000)),
    "one long line": "<h1>A</h1>" + "x" * 9_000_000,
    "angle brackets": "<h1>A</h1>" + "<" * 2_000_000,
    "entities": "<h1>A</h1>" + "&amp;&#x41;&nosuch;" * 200_000,
    "an open comment": "<h1>A</h1>text<!--" + "<p>x" * 100_000,
    "an open attribute": '<h1>A</h1>text<a href="' + "<p>x" * 100_000,
    "repeated sentences": "<h1>A</h1>" + "the cat sat on the mat. " * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pages_end_soon(name: str) -> None:
    with at_most(2):
        drops: list[str] = []
        kept = extract(page(HOSTILE[name]), Segments(), lambda reason, _: drops.append(reason))
    assert kept or drops


def test_deep_pages_are_dropped_for_what_they_are() -> None:
    assert run(HOSTILE["deep"])[1] == {"too deep": 1}
    assert run(HOSTILE["unclosed fonts"])[1] == {"too deep": 1}
    assert "too deep" not in run("<div><p>x</p><br><li>y</div>" * 20_000 + "<h1>A</h1>")[1]  # large, but flat


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text)).casefold()


@pytest.mark.parametrize("path", sorted(DEMO.glob("*.html")), ids=lambda path: path.stem)
def test_the_words_of_a_segment_occur_in_its_page_in_order(path: Path) -> None:
    from selectolax.lexbor import LexborHTMLParser

    data = path.read_bytes()
    whole = letters(LexborHTMLParser(data).body.text(separator=" "))
    for segment in extract(Page(path.name, path.name, 0, len(data), data), Segments(min_chars=200), lambda *_: None):
        text = re.sub(r"(?m)^[\s>]*\d+\. ", "", segment.text)  # the numbers of lists are not in the page
        position = 0
        for word in text.split():
            if plain := letters(word):
                position = whole.find(plain, position) + len(plain)
                assert position >= len(plain), f"{word!r} of {segment.header!r}"
        assert segment.header_path[-1] == segment.header


def test_a_header_that_says_nothing_gets_the_title_of_its_page() -> None:
    html = f"<title>The mill</title><h1>Description</h1><p>{words(30)}</p><h1>Stones</h1><p>{words(40, 90)}</p>"
    found = extract(page(html), Segments(min_chars=20, max_chars=100, **UNJUDGED), lambda *_: None)
    assert [segment.header_path for segment in found] == [("The mill", "Description"), ("Stones",)]
    html = f"<title>The mill</title><h1>2. Stones</h1><p>{words(30)}</p><h2>2.1. Wheels</h2><h1>3. The mill</h1><p>{words(40, 90)}</p>"
    found = extract(page(html), Segments(min_chars=20, max_chars=100, **UNJUDGED), lambda reason, _: None)
    assert [segment.header_path for segment in found] == [("The mill", "2. Stones"), ("3. The mill",)]
    assert run(f"<title>1. Overview</title><h1>Description</h1><p>{words(30)}</p>") == ([], {"generic header": 1})


def test_a_remark_is_part_of_the_text_around_it() -> None:
    assert cut(page("<h1>A</h1><p>a</p><div><h3>Note</h3><p>b</p></div><p>c</p>"), Segments())[1][0].text == "a\n\nNote\n\nb\n\nc"
    html = "<h1>A</h1><p>a</p><div class='box tip'><h2>Mind the <b>gap</b></h2><p>b</p></div><p>c</p><h2>B</h2>d"
    assert [tree.header for tree in cut(page(html.replace("box tip", "box")), Segments())[1]] == ["A", "Mind the gap", "B"]
    assert [tree.header for tree in cut(page(html), Segments())[1]] == ["A", "B"]


def test_links_that_lead_on_are_no_text() -> None:
    html = "<h1>A</h1><p>a</p><ul><li><a href=x>More</a></li></ul><h1>B</h1><p><a href=y>Only</a> bread</p><p><a href=z>Next page</a></p>"
    assert [tree.text for tree in cut(page(html), Segments())[1]] == ["a", "Only bread"]


def test_what_ends_a_text_when_its_links_are_gone() -> None:
    html = "<h1>A</h1><p>It is so.</p><p>Ann Miller is the editor of The Crumb.</p><ul><li><a href=x>All her pages</a></li></ul>"
    assert [tree.text for tree in cut(page(html), Segments())[1]] == ["It is so."]


def test_the_tree_of_the_title_is_the_page() -> None:
    head = "<title>How to bake a loaf | The Crumb</title><h1>Bread &amp; cake</h1>"
    html = f"{head}<h2>How to bake a loaf</h2>{words(10)}<h3>Rye</h3>{words(5, 10)}"
    kept, drops = run(html, max_chars=200)
    assert kept == [("How to bake a loaf", len(words(10)) + len("\n\nRye\n\n") + len(words(5, 10)))] and drops == {"generic header": 1}


def test_the_parts_of_a_text_that_somebody_paid_for_are_paid_for_too() -> None:
    html = f"<h1>A</h1><p>This post is sponsored by a mill.</p>{words(9)}<h2>B</h2>{words(30, 90)}<h1>C</h1>{words(30, 300)}"
    kept, drops = run(html, max_chars=200)
    assert [header for header, _ in kept] == ["C"] and drops == {"sponsored": 2}


def test_a_text_that_is_one_quotation_is_written_without_its_signs() -> None:
    html = f"<h1>A</h1><blockquote><p>{words(30)}</p><p>{words(30, 50)}</p></blockquote>"
    (segment,) = extract(page(html), Segments(min_chars=20, max_chars=100, **UNJUDGED), lambda *_: None)
    assert segment.text == f"{words(30)}\n\n{words(30, 50)}"


def test_phrases_of_the_config_take_what_is_below_them_out_of_the_text_around() -> None:
    html = "<h1>A</h1>a<h2>From our shop</h2>x<h2>B</h2>b"
    assert cut(page(html), Segments())[1][0].text == "a\n\nFrom our shop\n\nx\n\nB\n\nb"
    assert cut(page(html), Segments(navigation="our shop"))[1][0].text == "a\n\nB\n\nb"
