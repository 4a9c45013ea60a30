"""Titles of other pages in the midst of a text are taken out; headers of a page's own text stay, linked or not."""

import pytest
from selectolax.lexbor import LexborHTMLParser

from humpback.corpus.items import Block, Header
from humpback.corpus.text import to_items

PROSE = "Knead the dough for ten minutes until it is smooth and springs back when it is pressed with a finger."
P, TITLE = f"<p>{PROSE}</p>", "<h1>Bread</h1>"
RYE, OVEN = '<h4><a href="/rye">A year of rye</a></h4>', '<h4><a href="/oven">The oven is out</a></h4>'


def headers_of(html: str) -> list[str]:
    """A page's headers; its paragraphs stay in any case."""
    items = to_items(LexborHTMLParser(f"<body>{html}</body>", scripting=True))
    assert sum(isinstance(item, Block) and item.text == PROSE for item in items) == html.count(PROSE)
    return [item.text for item in items if isinstance(item, Header)]


@pytest.mark.parametrize(
    "html",
    [
        f"{TITLE}{P}<ul><li>{RYE}</li></ul>{P}",
        f"{TITLE}{P}<ul><li>{RYE}</li><li>{OVEN}</li></ul>{P}",
        f"{TITLE}{P}<div>{RYE}{OVEN}</div>{P}",
        f'{TITLE}<div><a href="/rye"><div><h4>A year of rye</h4></div></a><a href="/oven"><h4>The oven is out</h4></a></div>{P}',
        f"{TITLE}<h4>More on:</h4>{RYE}{OVEN}{P}",
    ],
)
def test_titles_of_other_pages_go(html: str) -> None:
    assert headers_of(html) == ["Bread"]


@pytest.mark.parametrize(
    "html, kept",
    [
        (f"{TITLE}{P}{RYE}{P}{OVEN}{P}", ["Bread", "A year of rye", "The oven is out"]),  # a list of articles
        (f"<h2><a href=/a>Rye</a></h2><h3><a href=/b>Sowing</a></h3>{P}", ["Rye", "Sowing"]),  # all headers are links
        (f"{TITLE}<h2><a href=/a>Rye</a></h2><h3>Sowing</h3>{P}", ["Bread", "Rye", "Sowing"]),  # headers are below it
        (f"{TITLE}{P}<ul><li><h4>Rye</h4></li></ul>{P}", ["Bread", "Rye"]),  # no link
        (f'{TITLE}<h2>Rye <a href="#rye">#</a></h2><h2>Oven <a href="#oven">#</a></h2>{P}', ["Bread", "Rye", "Oven"]),
    ],
)
def test_headers_of_the_page_stay(html: str, kept: list[str]) -> None:
    assert headers_of(html) == kept


@pytest.mark.parametrize("name", ["instagram-media", "tiktok-embed"])
def test_embedded_posts_go(name: str) -> None:
    post = f'<blockquote class="{name}"><p>View this post</p><p>A loaf, at last</p></blockquote>'
    items = to_items(LexborHTMLParser(f"<body>{TITLE}{P}{post}{P}</body>", scripting=True))
    assert [item.text for item in items] == ["Bread", PROSE, PROSE]


STANDFIRST = "The mill has been bought by a baker from the town."


@pytest.mark.parametrize("html, stands", [
    (f"{TITLE}<p>{STANDFIRST}</p>{P}<p>On Monday it rained. {STANDFIRST} He is 40.</p>", False),
    (f"{TITLE}<p>{STANDFIRST}</p>{P}<p>On Monday it rained.</p>", True),
    (f"{TITLE}<p>{STANDFIRST}</p>{P}<h2>Rain</h2><p>{STANDFIRST} He is 40.</p>", True),  # of another text
    (f"{TITLE}<p>{STANDFIRST} He is 40.</p>{P}<p>{STANDFIRST}</p>", True),
])  # fmt: skip
def test_what_stands_once_more_in_the_text_goes(html: str, stands: bool) -> None:
    items = to_items(LexborHTMLParser(f"<body>{html}</body>", scripting=True))
    assert items[1].text.startswith(STANDFIRST) is stands


@pytest.mark.parametrize("header, kept", [
    ("Video shows the mill at night", ["Bread"]), ("Watch: The mill at night", ["Bread"]), ("Mill caught on camera", ["Bread"]),
    ("How to watch: a mill", ["Bread", "How to watch: a mill"]), ("Videos of mills", ["Bread", "Videos of mills"]),
])  # fmt: skip
def test_headers_of_videos_go(header: str, kept: list[str]) -> None:
    assert headers_of(f"{TITLE}{P}<h2>{header}</h2>{P}") == kept
    assert headers_of(f"<h1>{header}</h1>{P}") == [header]
