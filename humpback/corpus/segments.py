"""A page to segments: the tree below each header, and of nested trees the largest that fits (paper, appendix E).

A tree is the text after a header up to the next header of the same or a higher level, lower-level headers included as lines of their own.
It also ends where the `article`, the list item or the quote that holds its header, or the page's `main`, ends; and what stands below a
navigation header ("Comments") is no part of the trees around it. All of it is a pure function of the page, in time linear in its size.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from selectolax.lexbor import LexborHTMLParser

from humpback.config import Segments
from humpback.corpus import filters, language, markdown, plain_text
from humpback.corpus.boilerplate import words
from humpback.corpus.charset import decode
from humpback.corpus.dialects import as_html
from humpback.corpus.items import Block, Edge, Header, Item
from humpback.corpus.lists import ORDINAL
from humpback.corpus.own_lines import without_closing, without_own_lines
from humpback.corpus.text import to_items
from humpback.languages import canonical
from humpback.records import Page, Segment, record_id

_BLANK_LINE = "\n\n"

# The parser looks for an open <p> through all open elements at each block tag, and opens unclosed <font>s anew in each block. These bound
# the products that it takes (about a second each); a page of text is a hundred times below.
_MAX_DEPTH_WORK = 100_000_000  # tags × open elements
_MAX_FORMAT_WORK = 3_000_000  # tags × unclosed formatting elements
_MOSTLY_LINKS = 0.5
_LINKS_ONLY = 0.9  # of a sentence's characters
_MAX_LABEL = 30  # characters of a label ("See also")
_MARKER = re.compile(rf"^[ >:]*(?:- |{ORDINAL})?")
_NUMBERED = re.compile(r"\d+(?:\.\d+)*\.?\s+(.*)")
_LONG_TITLE = 10  # characters
_HEAD = 10_000  # characters in which a page says what it is
_IS_HTML = re.compile(r"\s*(?:<\?xml[^>]*>\s*|(?><!--.*?-->)\s*)*<(?:!doctype html|html|head|body)[\s>]", re.IGNORECASE | re.DOTALL)
_OPEN = "never closed"  # a fence of Markdown, a comment
_CONTENT_LANGUAGE = "content-language"
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_NEVER_DEEP = words(
    "area base br col embed hr img input link meta param source track wbr p li dt dd tr td th thead tbody tfoot option optgroup a "
    "colgroup html head body"
)
_OWN_ADDRESSES = ('link[rel="canonical"]', "href"), ('meta[property="og:url"]', "content")
_ANY_HEADER = "h1, h2, h3, h4, h5, h6, [role=heading]"
_FORMATTING = words("b big code em font i nobr s small strike strong tt u")
_EITHER_CASE = ["".join(f"[{letter}{letter.upper()}]" for letter in name) for name in sorted(_FORMATTING)]  # faster than (?i:…)
_FORMATTING_TAG = re.compile(rf"<(?:{'|'.join(_EITHER_CASE)})[\s>]")


# What is counted of a page: headers; characters below navigation headers, and of the page's own lines; whether it has no headers and was
# taken whole; the e-mail addresses in the texts that all other rules keep.
COUNTED = ("headers", "navigation_characters", "own_characters", "whole_documents", "email_addresses")


class PageDropped(Exception):
    """The whole page is left out; the message is the reason."""


@dataclass(slots=True)
class Tree:
    """A header and what is below it: `items[start:end]`, without the navigation trees in it; or, of level 0, a page without headers.
    `length` is that of `text`, in characters.
    """

    header: str
    level: int
    header_path: tuple[str, ...]
    parent: "Tree | None"
    start: int
    end: int = 0
    length: int = 0
    navigation: bool = False
    is_open: bool = False  # whether something in it is never closed, and has swallowed what follows
    outer: bool = False  # whether the page's title is the first thing in it
    items: list[Item] = field(default_factory=list, repr=False)
    skips: dict[int, int] = field(default_factory=dict, repr=False)  # start → end of the page's navigation trees
    hollow: set[int] = field(default_factory=set, repr=False)  # positions of the page's headers with nothing below

    @property
    def text(self) -> str:
        parts: list[str] = []
        for item in self._blocks():
            if parts:
                parts.append(_separator(item))
            parts.append(item.text)
        return "".join(parts)

    @property
    def linked(self) -> int:
        """How many characters of the text are links that stand for themselves, not words of a sentence."""
        blocks = (item for item in self._blocks() if isinstance(item, Block) and item.linked)
        return sum(block.linked for block in blocks if block.linked >= _MOSTLY_LINKS * len(block.text))

    def _blocks(self) -> Iterator[Block | Header]:
        position = self.start
        while position < self.end:
            if position in self.skips:
                position = self.skips[position]
                continue
            item = self.items[position]
            if not isinstance(item, Edge) and item.text and position not in self.hollow:
                yield item
            position += 1


def cut(page: Page, cfg: Segments, counts: Counter[str] | None = None) -> tuple[Callable[[], str], list[Tree]]:
    """What finds the page's own address, and the tree of each of its headers, in the page's order. Adds to `counts` what COUNTED names.
    Raises PageDropped.
    """
    text = decode(page.html, page.charset)
    if text is None:
        raise PageDropped("binary")
    counts = Counter() if counts is None else counts
    kind, is_open = page.kind, False
    if kind == "text":
        kind = "html" if _IS_HTML.match(text, 0, _HEAD) else "markdown" if markdown.is_markdown(text) else kind
        if kind != "html" and plain_text.is_other_markup(text):
            raise PageDropped("other markup")
    if kind == "text":
        return lambda: page.url, [_cut_text(page, text, cfg, counts)]
    if kind == "markdown":
        text, is_open = markdown.as_html(text)
    return _cut_html(page, as_html(text), cfg, counts, "text" if page.kind == "text" and kind == "markdown" else kind, is_open)


def _cut_text(page: Page, text: str, cfg: Segments, counts: Counter[str]) -> Tree:
    """A text that is no Markdown, as a whole. Raises PageDropped."""
    if reason := filters.language_reason(page.language, cfg.language):
        raise PageDropped(reason)
    items, own = without_own_lines(plain_text.to_items(markdown.split_front_matter(text)[1]), cfg.language)
    counts["own_characters"] += own
    return _whole(_without_trailing_links(items, cfg.language), cfg, counts, "text", "no header")


def _cut_html(
    page: Page, html: str, cfg: Segments, counts: Counter[str], kind: str, is_open: bool
) -> tuple[Callable[[], str], list[Tree]]:
    """As `cut`. `is_open` says whether something in the page is never closed. Raises PageDropped."""
    if _too_deep(html):
        raise PageDropped("too deep")
    parser = LexborHTMLParser(html, scripting=True)  # as browsers do: what is in <noscript> is no part of the tree
    if reason := filters.language_reason(page.language or _declared_language(parser, html), cfg.language):
        raise PageDropped(reason)
    navigates = functools.partial(filters.is_navigation, navigation=cfg.navigation, language=cfg.language)
    every = to_items(parser, navigates, cfg.language, counts)
    items = _without_trailing_links(every, cfg.language)
    if len(items) < len(every):  # then other lines end the texts
        items = without_closing(items, cfg.language)
    trees = build_trees(items, navigates)
    if trees:
        _mark_outer(trees, parser)
    else:
        reason = "headers left out" if parser.css_first(_ANY_HEADER) is not None else _OPEN if is_open else "no header"
        trees = [_whole(items, cfg, counts, kind, reason)]
    last = max((position for position, item in enumerate(items) if isinstance(item, Block)), default=0) if is_open else 0
    for tree in trees if is_open else ():
        tree.is_open = tree.start <= last < tree.end
    if any(_NUMBERED.match(tree.header_path[0]) or filters.is_generic(tree.header) for tree in trees if tree.header_path):
        _name(trees, parser)
    headers = len(trees) if trees[0].level else 0
    counts.update(headers=headers, navigation_characters=sum(tree.length for tree in trees if tree.navigation))
    return functools.partial(_address, parser, page), trees


def _whole(items: list[Item], cfg: Segments, counts: Counter[str], kind: str, reason: str) -> Tree:
    """A page without headers as one tree. Raises PageDropped with the reason where such pages of its kind are dropped."""
    if cfg.without_headers == "drop" or (cfg.without_headers == "auto" and kind != "text"):
        raise PageDropped(reason)
    counts["whole_documents"] += 1
    tree = Tree("", 0, (), None, 0, len(items), items=items)
    tree.length = len(tree.text)
    return tree


def _without_trailing_links(items: list[Item], language: str) -> list[Item]:
    """A page's items without what leads on to other pages at the end of a section: links that stand alone, or behind "See also"."""
    kept: list[Item] = []
    at_end = True
    for item in reversed(items):
        if isinstance(item, Block):
            text = _MARKER.sub("", item.text) if at_end and (item.linked or len(item.text) <= _MAX_LABEL) else ""
            share = _LINKS_ONLY if text.endswith((".", "!", "?", ":")) else _MOSTLY_LINKS
            if text and (item.linked >= share * len(text) or filters.is_see_also(item.text, item.linked, language)):
                continue
            at_end = False
        else:
            at_end = True
        kept.append(item)
    return kept[::-1]


def _title(parser: LexborHTMLParser) -> str:
    node = parser.css_first("head > title")
    return " ".join(node.text().split()).strip(" -–—|·»") if node is not None else ""


def _mark_outer(trees: list[Tree], parser: LexborHTMLParser) -> None:
    """Marks the trees around the one that has the page's title for its header, with nothing before it: a section's, or the site's."""
    if not any(tree.parent is not None and tree.parent.start == tree.start - 1 for tree in trees):
        return
    title = _title(parser).casefold()
    for tree in trees:
        if len(tree.header) >= _LONG_TITLE and title.startswith(tree.header.casefold()):
            inner, outer = tree, tree.parent
            while outer is not None and outer.start == inner.start - 1:
                outer.outer = True
                inner, outer = outer, outer.parent


def _name(trees: list[Tree], parser: LexborHTMLParser) -> None:
    """Puts the page's title before the path of headers that say nothing by themselves, or are numbered parts of what the title names."""
    title = _title(parser)
    for tree in trees:
        top = _NUMBERED.match(tree.header_path[0]) if tree.header_path else None
        if title and ((top and top[1] not in title) or all(map(filters.is_generic, tree.header_path))):
            tree.header_path = (title, *tree.header_path)


def build_trees(items: list[Item], navigates: Callable[[str], bool] = filters.is_navigation) -> list[Tree]:
    """The trees of a page's items, in order: a tree's parent comes before it. `navigates` says whether a header is navigation."""
    trees: list[Tree] = []
    open_trees: list[Tree] = []
    marks: list[int] = []  # how many trees were open where each open article began
    skips: dict[int, int] = {}
    hollow: set[int] = set()

    def close(depth: int, position: int) -> None:
        for tree in open_trees[depth:]:
            tree.end = position
            if tree.navigation:
                skips[tree.start - 1] = position  # its header goes with it
        del open_trees[depth:]

    for position, item in enumerate(items):
        if isinstance(item, Header):
            depth = next((i for i, tree in enumerate(open_trees) if tree.level >= item.level), len(open_trees))
            before = items[position - 1] if position else None
            if isinstance(before, Edge) and before.tag == "box" and before.opens:
                depth = max(depth, marks[-1])  # what is around the box goes on behind it
            close(depth, position)
            parent = open_trees[-1] if open_trees else None
            path = (*(parent.header_path if parent else ()), *([item.text] if item.text else []))
            tree = Tree(item.text, item.level, path, parent, position + 1, items=items, skips=skips, hollow=hollow)
            tree.navigation = navigates(item.text)
            trees.append(tree)
            open_trees.append(tree)
        elif isinstance(item, Edge) and item.opens:
            marks.append(len(open_trees))
        elif isinstance(item, Edge):
            mark = marks.pop()
            close(0 if item.tag == "main" else min(mark, len(open_trees)), position)
    close(0, len(items))
    _measure(items, trees)
    return trees


def _measure(items: list[Item], trees: list[Tree]) -> None:
    """Fills in every tree's length without writing its text: its own blocks, then bottom-up those of the trees in it, and their headers
    unless they have nothing below them.
    """
    sizes = {id(tree): 0 for tree in trees}  # characters, with a separator before every item
    following = iter(trees)
    current: Tree | None = None
    for position, item in enumerate(items):
        while current is not None and current.end <= position:
            current = current.parent
        if isinstance(item, Header):
            current = next(following)
        elif current is not None and isinstance(item, Block) and item.text:
            sizes[id(current)] += len(item.text) + len(_separator(item))
    for tree in reversed(trees):
        size = sizes[id(tree)]
        if not size:
            tree.hollow.add(tree.start - 1)
        elif tree.parent is not None and not tree.navigation:
            sizes[id(tree.parent)] += size + (len(tree.header) + len(_BLANK_LINE) if tree.header else 0)
    for tree in trees:
        first = next(tree._blocks(), None)
        tree.length = sizes[id(tree)] - len(_separator(first)) if first is not None else 0


def extract(
    page: Page, cfg: Segments, on_drop: Callable[[str, Tree | None], None], counts: Counter[str] | None = None
) -> list[Segment]:
    """The segments of one page that the rules keep; `on_drop(reason, tree)` as in `choose`, with no tree for the page itself."""
    try:
        address, trees = cut(page, cfg, counts)
    except PageDropped as dropped:
        on_drop(str(dropped), None)
        return []
    return choose(page, address, trees, cfg, on_drop, counts=counts)


def choose(
    page: Page,
    address: Callable[[], str],
    trees: list[Tree],
    cfg: Segments,
    on_drop: Callable[[str, Tree], None],
    contaminated: Callable[[str], str] | None = None,
    counts: Counter[str] | None = None,
) -> list[Segment]:
    """Of a page's trees those that become segments, the same wherever it runs. `on_drop(reason, tree)` hears of each that does not. Of
    nested trees the outermost that fits is kept, and those within it are neither kept nor dropped. `contaminated` gives the reason to
    drop a text because an evaluation asks for it, or "". Adds to `counts` the e-mail addresses.
    """
    segments: list[Segment] = []
    counts = Counter() if counts is None else counts
    covered = -1  # the items before this position are in a segment
    sponsored = -1  # and those before this one in a text that somebody paid for
    counted = 0  # and in those before this one addresses are counted
    for tree in trees:
        if tree.start <= covered:
            continue
        text, code, share = "", "", 0.0
        reason = filters.header_reason(tree.header, cfg.navigation, cfg.language) if tree.level else ""
        reason = reason or filters.length_reason(tree.length, cfg)
        if not reason and tree.level and (tree.outer or all(map(filters.is_generic, tree.header_path))):
            reason = "generic header"
        reason = reason or (_OPEN if tree.is_open else "")
        if not reason:
            text = filters.unquoted(tree.text)
            reason = filters.length_reason(len(text), cfg)  # it may have become too short
        if not reason:
            code, share = language.detect(filters.without_code(text))
            if cfg.min_language_share and (
                canonical(code) != canonical(cfg.language)
                or share < cfg.min_language_share
                or (tree.header and language.is_other(tree.header, cfg.language, tree.header_path))
            ):
                reason = "language"
        if not reason and tree.level:
            reason = filters.place_reason(tree.header_path, page.url, text)
        reason = reason or filters.text_reason(text, tree.linked, cfg)
        if reason == "sponsored":
            sponsored = max(sponsored, tree.end)
        elif not reason and tree.start < sponsored:
            reason = "sponsored"
        reason = reason or (contaminated(text) if contaminated else "")
        if not reason and (addresses := filters.count_emails(text)):
            counts["email_addresses"] += addresses if tree.start >= counted else 0
            counted = max(counted, tree.end)
            reason = "e-mail address" if cfg.emails == "drop" else ""
        if reason:
            on_drop(reason, tree)
            continue
        covered = tree.end
        key = record_id(page.source, page.start, page.end, text)
        url = segments[0].url if segments else address()
        segments.append(Segment(key, text, tree.header, tree.header_path, url, page.source, page.start, page.end, code, share))
    return segments


def _separator(item: Block | Header) -> str:
    return "\n" if isinstance(item, Block) and item.tight else _BLANK_LINE


def _too_deep(html: str) -> bool:
    """Whether parsing would take more than linear time to a degree that matters (see the constants above)."""
    tags = html.count("<")
    if tags * tags <= _MAX_FORMAT_WORK:
        return False
    opens = tags - html.count("</")  # and comments; no more can be open
    if tags * opens <= _MAX_DEPTH_WORK and tags * len(_FORMATTING_TAG.findall(html)) <= _MAX_FORMAT_WORK:
        return False
    depth = deepest = unclosed = most_unclosed = 0
    for closing, name in _TAG.findall(html):
        name = name.lower()
        if name in _NEVER_DEEP:
            continue
        step = -1 if closing else 1
        depth = max(0, depth + step)
        deepest = max(deepest, depth)
        if name in _FORMATTING:
            unclosed = max(0, unclosed + step)
            most_unclosed = max(most_unclosed, unclosed)
    return tags * deepest > _MAX_DEPTH_WORK or tags * most_unclosed > _MAX_FORMAT_WORK


def _declared_language(parser: LexborHTMLParser, html: str) -> str | None:
    attributes = parser.root.attributes if parser.root is not None else {}
    if declared := attributes.get("lang") or attributes.get("xml:lang"):
        return declared
    for meta in parser.css("meta[http-equiv]") if _CONTENT_LANGUAGE in html[:_HEAD].lower() else ():
        if (meta.attributes.get("http-equiv") or "").lower() == _CONTENT_LANGUAGE:
            return meta.attributes.get("content")
    return None


def _address(parser: LexborHTMLParser, page: Page) -> str:
    """The address under which the page was found; for a page that comes from a file, the one that it names itself, if any."""
    if page.url != page.source:
        return page.url
    for selector, name in _OWN_ADDRESSES:
        node = parser.css_first(selector)
        found = node.attributes.get(name) if node is not None else None
        try:
            if found and urlsplit(found.strip()).scheme in ("http", "https"):
                return found.strip()
        except ValueError:
            pass
    return page.url
