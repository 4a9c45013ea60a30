"""Boxes with the name of a nuisance: those around the article are read, those beside it are left out."""


import pytest
from selectolax.lexbor import LexborHTMLParser

from humpback.config import Segments
from humpback.corpus.boilerplate import named
from humpback.corpus.segments import extract
from humpback.corpus.text import Block, Header, to_items
from humpback.records import Page
from tests.timing import at_most

PROSE = "Knead the dough for ten minutes until it is smooth and springs back when it is pressed with a finger."
OTHER = "The baker who writes here has stood at her oven for thirty years and still likes the smell of it."


def read(html: str) -> list[str]:
    return [item.text for item in to_items(LexborHTMLParser(html, scripting=True)) if isinstance(item, Block | Header)]


AROUND = [
    ("an id that says what is beside it", f"<div id=contentWithSidebar><h1>Bread</h1><p>{PROSE}</p></div>"),
    ("a class about the other column", f"<div class=sidebar-left><h1>Bread</h1><p>{PROSE}</p></div>"),
    ("a class for a script", f"<div class='nav-open box'><div><h1>Bread</h1><p>{PROSE}</p></div></div>"),
    ("main", f"<div class=toc-layout><main><h2>Bread</h2><p>{PROSE}</p></main></div>"),
    ("an article", f"<div class=masthead><article><h2>Bread</h2><p>{PROSE}</p></article></div>"),
    ("the prose, without a header", f"<h2>Bread</h2><div class=advertisement-free-zone><p>{PROSE}</p><p>{PROSE}</p></div>"),
    ("the topics of a post", f"<h2>Bread</h2><div class='post category-advertising tag-social'>{PROSE}</div><p>{OTHER}</p><p>{OTHER}"),
    ("no sidebar", f"<h2>Bread</h2><div class='layout layout--no-sidebar'>{PROSE}</div><p>{OTHER}</p><p>{OTHER}</p>"),
    ("a sidebar that is off", f"<h2>Bread</h2><div class=sidebar-off>{PROSE}</div><p>{OTHER}</p><p>{OTHER}</p>"),
    ("both columns", f"<h2>Bread</h2><div class=content-sidebar-wrap>{PROSE}</div><p>{OTHER}</p><p>{OTHER}</p>"),
    ("a name of the content", f"<h2>Bread</h2><div class=content_body id=TOC_1>{PROSE}</div><p>{OTHER}</p><p>{OTHER}</p>"),
    ("two in each other", f"<div class=menu-wrap-nav><div class=social><h1>Bread</h1>{PROSE}</div></div>"),
    ("a role around it all", f"<div role=navigation><main><h1>Bread</h1><p>{PROSE}</p></main></div>"),
    ("a header without its end", f"<header><main><h1>Bread</h1><p>{PROSE}</p></main></div>"),
    ("a table", f"<table class=sidebar><tr><td><h1>Bread</h1><p>{PROSE}</p></td></tr></table>"),
]  # fmt: skip


@pytest.mark.parametrize("html", [row[1] for row in AROUND], ids=[row[0] for row in AROUND])
def test_a_box_around_the_article_is_read(html: str) -> None:
    assert read(html)[:2] == ["Bread", PROSE]


BESIDE = [
    ("a sidebar", "<div class=sidebar><h2>About</h2><p>{}</p></div>"),
    ("the teaser of another page", "<div class=related-posts><article><h3>Cake</h3><p>All about it.</p></article></div>"),
    ("links, however long", "<div class=toc><a href=x>{}</a> <a href=y>{}</a> <a href=z>{}</a></div>"),
    ("comments, however long", "<div id=comments><h1>Comments</h1><p>{}</p><p>{}</p><p>{}</p></div>"),
    ("a cookie box", "<div class=cookie-banner><h1>Cookies</h1><p>{}</p><p>{}</p><p>{}</p></div>"),
    ("a role", "<div role=navigation><h1>Go</h1><p>{}</p><p>{}</p><p>{}</p></div>"),
    ("a tag", "<nav><h1>Go</h1><p>{}</p><p>{}</p><p>{}</p></nav>"),
    ("the site's name", "<div id=header><h1><a href=/>The Crumb Diary</a></h1><p>notes from a small kitchen</p></div>"),
    ("the site's name in no box", "<h1 class=site-title>The Crumb Diary</h1>"),
    ("the site's name in a header", "<header><h1><a href='https://example.org/'>The Crumb Diary</a></h1></header>"),
]  # fmt: skip


@pytest.mark.parametrize("html", [row[1] for row in BESIDE], ids=[row[0] for row in BESIDE])
def test_a_box_beside_the_article_is_not(html: str) -> None:
    assert read(f"{html.replace('{}', OTHER)}<h2>Bread</h2><p>{PROSE}</p><p>{PROSE}</p>") == ["Bread", PROSE, PROSE]


def test_a_title_in_the_header_of_the_page_is_that_of_the_article() -> None:
    header = "<header><a href=/>The Crumb Diary</a><h1>Bread</h1><p>A loaf for beginners.</p></header>"
    assert read(f"{header}<article><p>{PROSE}</p></article>") == ["Bread", "A loaf for beginners.", PROSE]
    assert read(f"{header}<main><h1>Loaves</h1><p>{PROSE}</p></main>") == ["Loaves", PROSE]  # then it is the site's


@pytest.mark.parametrize("around", ["<a href=/bread>{}</a>", "<ul><li>{}</li></ul>", "<article><div>{}</div></article>", "<sup>{}</sup>"])
def test_a_title_in_a_box_in_the_header_of_the_page(around: str) -> None:
    header = f"<header><p>The Crumb Diary</p>{around.format('<h1>Bread</h1>')}<p>A loaf for beginners.</p></header>"
    assert read(f"{header}<div><ul><li>rye</li></ul><p>{PROSE}</p></div>") == ["Bread", "A loaf for beginners.", "- rye", PROSE]
    assert read(f"<h1>Bread <a href=/>at home</a></h1><p>{PROSE}</p>")[0] == "Bread at home"
    assert read(f"<h1><a href='#b'>Bread</a></h1><p>{PROSE}</p>")[0] == "Bread"


def test_a_page_whose_headers_are_all_left_out_says_so() -> None:
    def reasons(html: str) -> list[str]:
        found: list[str] = []
        data = html.encode()
        extract(Page("p", "p", 0, len(data), data), Segments(), lambda reason, tree: found.append(reason))
        return found

    assert reasons(f"<p>{PROSE}</p>") == ["no header"]
    assert reasons(f"<aside><h2>Bread</h2></aside><p>{PROSE}</p>") == ["headers left out"]


def test_names() -> None:
    assert {name: named(name) for name in ("cookie-recipe", "sidebar", "site-nav", "Comments", "tag-nav", "x-without-menu-bar")} == {
        "cookie-recipe": "", "sidebar": "box", "site-nav": "box", "Comments": "skip", "tag-nav": "", "x-without-menu-bar": "",
    }  # fmt: skip


def test_boxes_within_boxes_take_linear_time() -> None:
    boxes = "<div class=nav><p>x</p></div>" * 9_000
    html = f"<div class=nav>{'<div class=menu-bar>' * 900}<h1>Bread</h1>{PROSE}" + "</div>" * 3_001 + boxes
    with at_most(2):
        assert read(html) == ["Bread", PROSE]
