"""What a page shows of itself or of others in the midst of its text: quotations that are drawn out of it, what stands below a title and
once more in the text, titles of other articles.
"""

import re
from itertools import islice, pairwise

from humpback.corpus.filters import is_navigation
from humpback.corpus.items import Block, Edge, Header, Item

_VIDEO = re.compile(r"\b(?:videos?|slideshow|livestream)\b", re.IGNORECASE)
_VIDEO_SIGNS = ("video", "caught on", "watch")
_VIDEO_HEADER = re.compile(r"\bvideos? (?:shows?|captures?|reveals?)\b|\bcaught on (?:camera|video)\b|\A(?:watch|video) ?[:|]", re.I)
_VIDEO_ITEM = re.compile(r"- (?:\w+ )?(?:video|slideshow|livestream)s?: ", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_MAX_TITLE, _FEW_WORDS = 150, 4  # characters of a video's title; it has more words
_MIN_STANDFIRST, _MAX_STANDFIRST = 40, 400  # characters of a paragraph
_FEW = 20  # characters that are looked for before all of them are
_MIN_QUOTE, _MAX_QUOTE = 20, 250  # characters of a quotation that is drawn out of a text


def without_pull_quotes(items: list[Item]) -> list[Item]:
    """Without short quotations of what the page itself says elsewhere."""
    quotes = [item for item in items if type(item) is Block and item.text.startswith("> ") and len(item.text) <= _MAX_QUOTE]
    if not quotes:
        return items
    rest = "\n".join(item.text for item in items if type(item) is Block and not item.text.startswith("> "))
    again = {id(quote) for quote in quotes if len(quote.text) > _MIN_QUOTE and quote.text[2:].strip(" .,“”\"'‘’") in rest}
    return [item for item in items if id(item) not in again]


def without_standfirsts(items: list[Item]) -> list[Item]:
    """Without first paragraphs below a header that stand, word by word, in a later and longer one of the same text."""
    gone = {
        position
        for position, item in enumerate(items)
        if type(item) is Block
        and _MIN_STANDFIRST < len(item.text) <= _MAX_STANDFIRST
        and position
        and type(items[position - 1]) is not Block
        and item.text.endswith(".")
        and _stands_again(items, position)
    }
    return [item for position, item in enumerate(items) if position not in gone] if gone else items


def _stands_again(items: list[Item], position: int) -> bool:
    first = items[position]
    for place in range(position + 1, len(items)):
        item = items[place]
        if type(item) is not Block:
            return False
        if type(first) is Block and len(first.text) < len(item.text) and first.text[:_FEW] in item.text and first.text in item.text:
            return True
    return False


def is_item_of_video(text: str) -> bool:
    """Whether the item of a list leads to a video ("- Instructional video: …")."""
    return bool(_VIDEO_ITEM.match(text))


def heads_video(items: list[Item], position: int) -> bool:
    """Whether a header is that of a video in a text, which has a header of a higher level."""
    header = items[position]
    if not isinstance(header, Header) or not any(map(header.text.lower().__contains__, _VIDEO_SIGNS)):
        return False
    if not _VIDEO_HEADER.search(header.text):
        return False
    return any(isinstance(item, Header) and item.level < header.level for item in islice(items, position))


def is_title_of_video(text: str) -> bool:
    """Whether a line has the words of a video's title, all in capitals."""
    if len(text) > _MAX_TITLE or not _VIDEO.search(text):
        return False
    words = [word for word in _WORD.findall(text) if len(word) > 3]
    return len(words) > _FEW_WORDS and all(word[0].isupper() for word in words)


def without_teasers(items: list[Item]) -> list[Item]:
    """Without the titles of other pages: headers that are links, with nothing below them in their box.

    Where several such headers follow each other, the last one has the page's own text below it and is a title of another page like
    those before it; so is the navigation header that announces them. A list of articles, each with its text, keeps its headers.
    """
    if all(item.linked for item in items if type(item) is Header):
        return items
    gone: set[int] = set()
    run: list[int] = []  # positions of headers with nothing but edges between them
    for position, item in enumerate([*items, Block("", False)]):
        if type(item) is Header:
            run.append(position)
        elif type(item) is Block and run:
            gone.update(_teasers(items, run, position))
            run = []
    return [item for position, item in enumerate(items) if position not in gone] if gone else items


def _teasers(items: list[Item], run: list[int], end: int) -> list[int]:
    """Of headers in a row, with a block at `end` behind them, those that are titles of other pages, and who announces these."""
    headers = [item for position in run if isinstance(item := items[position], Header)]
    if not any(header.linked for header in headers):
        return []
    alone = [header.linked and after.level <= header.level for header, after in pairwise(headers)]
    closed = any(isinstance(item, Edge) and not item.opens and item.tag not in ("article", "main") for item in items[run[-1] : end])
    follows = alone[-1:] == [True] and headers[-1].level <= headers[-2].level
    alone.append(headers[-1].linked and (closed or follows))
    first = alone.index(True) if True in alone else 0
    if first > 0 and all(alone[first:]) and is_navigation(headers[first - 1].text):
        alone[first - 1] = True
    return [position for position, gone in zip(run, alone, strict=True) if gone]
