"""HTML to readable text: one pass over a page's tags, without recursion, to a flat list of headers and blocks of text.

Plain text with the little Markdown that a person would type: "- " and "1. " before list items, "> " before quotes, fenced code, table rows.
"""

import itertools
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser

from humpback.corpus import wordlists
from humpback.corpus.boilerplate import notice, words
from humpback.corpus.boxes import end_of_box, judge
from humpback.corpus.filters import is_navigation, is_remark
from humpback.corpus.formulas import subscript, superscript, write_out
from humpback.corpus.items import Block, Edge, Header, Item
from humpback.corpus.lists import count_items, ordinal
from humpback.corpus.markup import BREAK, FLUSH, HEADINGS, LISTS, Markup, Tag, plain, tidy
from humpback.corpus.own_lines import is_caption, without_own_lines
from humpback.corpus.tables import as_blocks, find_layouts, read_rows
from humpback.corpus.verbatim import code_block, holds_lines

_MAX_FRAMES = 12  # lists, items and quotes within each other; deeper ones are not indented further

# Raised letters that are read as part of the word: 1st, 2nd, Mme, ©, ™.
_PLAIN_RAISED = words("st nd rd th er re e o a me ème tm sm r c ® © ™")
_ANCHOR_SIGNS = frozenset(["", "¶", "#", "§", "🔗", "⚓", "link", "[link]", "permalink", "[edit]"])
_FOOTNOTE = re.compile(r"\d{1,3}|[a-z*†‡]")
_NOTE_MARK = re.compile(r"\[\s*(\d{1,3}|[a-z*†‡]|(?:n|nb|note|lower-alpha)\s\d{1,3})\s*\]")
_CITED = "\x01"  # stands before a linked number while a line is collected
_CITATION = re.compile(rf"\s?[(\[](?:\s*{_CITED}\d{{1,3}}\s*[,;–-]?)+[)\]]")
_BEFORE_LAST = re.compile(r"""(.*[.!?…][)”"']*)\s[^.!?…]*:\Z""", re.DOTALL)  # the sentences before the last one
_BARE_ADDRESS = re.compile(r"(?:https?://)?(?:[\w-]+\.)+[a-z]{2,}/\S+")
_HREF = 'href="'
_PERMALINK = re.compile(wordlists.PERMALINK)
_MAX_PERMALINK = 300  # characters: it may name its header
_MAX_SIGN = 12  # characters of a link that is only a sign, at most


@dataclass(slots=True)
class _Frame:
    """A list, an item or a quote around the text: what its first line and its other lines begin with."""

    tag: str
    first: str = ""
    rest: str = ""
    count: int = 0  # number of the last item of an ordered list,
    step: int = 1  # what is added for the next one,
    kind: str = "1"  # and how it is written: HTML's `type`
    emitted: bool = False
    edge: bool = False  # whether it is an Edge of the items, as it holds a header


class _Walker:
    """The state of one walk over a page's tags; `items` is its result.

    A handler gets a tag and its position, and returns the position of the last tag that it took.
    """

    def __init__(self, page: Markup, layouts: dict[int, bool], navigates: Callable[[str], bool]) -> None:
        self.page = page
        self.navigates = navigates  # whether a header is navigation
        self.layouts = layouts  # position of a table → whether it lays the page out
        self.items: list[Item] = []
        self.line: list[str] = []  # the line being collected, with the parser's escapes
        self.links: list[str] = []  # the texts of the links in it
        self.marks: list[tuple[int, str, int]] = []  # open a, sup, sub: where its text begins, the tag, links before it
        self.hrefs = 0  # links opened so far
        self.frames: list[_Frame] = []
        self.deeper = 0  # frames beyond _MAX_FRAMES
        self.heading: int | None = None  # level of the header being collected
        self.headed = 0  # where it began
        self.boxes: dict[int, Tag] = {}  # end of the box around a navigation header → what else ends there
        self.pictured = False  # whether a picture, and nothing else, came before
        self.articles = 0  # open article, section and main elements

    def walk(self, begin: int, end: int) -> None:
        """Reads the text behind the tag at `begin`, and all up to the tag at `end`."""
        tags, texts, telling, line = self.page.tags, self.page.texts, self.page.telling, self.line
        position = begin  # of the last tag that was taken
        for index in telling[bisect_left(telling, begin + 1) : bisect_left(telling, end)]:
            if index <= position:
                continue
            text = texts[position] if index == position + 1 else "".join(texts[position:index])
            if text and (line or not text.isspace()):
                line.append(text)
            tag = tags[index]
            if tag.kind is FLUSH:
                if line:
                    self.flush()
                    line = self.line
                position = index
            else:
                position = getattr(self, tag.kind)(tag, index)
                line = self.line
        line.append("".join(texts[position:end]))
        self.flush()

    def skip(self, _tag: Tag, position: int) -> int:
        end = self.page.end_of(position)
        if (promise := self._promise()) and any(tag.name == "img" for tag in self.page.tags[position:end]):
            self._cut(promise)
        self.pictured = self.pictured or any(tag.name == "img" for tag in self.page.tags[position:end])
        return end

    def picture(self, _tag: Tag, position: int) -> int:
        if promise := self._promise():
            self._cut(promise)
        self.pictured = self.pictured or not self.line
        return position

    def _promise(self) -> Block | None:
        """The text before a picture here, when it says that one will follow ("It looks like this:")."""
        last = self.items[-1] if self.items and not self.line else None
        return last if isinstance(last, Block) and last.text.endswith(":") else None

    def _cut(self, promise: Block) -> None:
        """Takes out the sentence that announces a picture."""
        if kept := _BEFORE_LAST.match(promise.text):
            self.items[-1] = Block(kept[1], promise.tight, min(promise.linked, len(kept[1])))
        elif not self.frames:
            self.items.pop()

    def skip_table(self, tag: Tag, position: int) -> int:
        """A table that is called a nuisance is one, unless it lays out a page with headers."""
        end = self.page.end_of(position)
        return self.open_table(tag, position) if any(inner.name in HEADINGS for inner in self.page.tags[position:end]) else end

    def open_header(self, _tag: Tag, position: int) -> int:
        """A `<header>` in an article holds its title; elsewhere it holds the site's name, or the article's title behind that."""
        self.flush()
        if self.articles:
            return position
        title = self.page.titles.get(position)
        if title is None:
            return self.page.end_of(position)
        self.page.forget_between(position, title)
        return self.open_heading(self.page.tags[title], title)

    def open_form(self, _tag: Tag, position: int) -> int:
        self.flush()
        end = self.page.end_of(position)
        # Some sites wrap the whole page into a form: those hold headers.
        return position if any(tag.name in HEADINGS for tag in self.page.tags[position:end]) else end

    def open_article(self, tag: Tag, position: int) -> int:
        self.flush()
        self.articles += 1
        if tag.name != "section":
            self.items.append(Edge(tag.name, True))
        return position

    def close_article(self, tag: Tag, position: int) -> int:
        self.flush()
        self.articles -= 1
        if tag.name != "section":
            self.items.append(Edge(tag.name, False))
        return position

    def open_frame(self, tag: Tag, position: int) -> int:
        self.flush()
        if len(self.frames) >= _MAX_FRAMES:
            self.deeper += 1
        else:
            self.frames.append(self._frame(tag.name, tag, position))
        return position

    def close_frame(self, _tag: Tag, position: int) -> int:
        self.flush()
        if self.deeper:
            self.deeper -= 1
        elif self.frames.pop().edge:
            self.items.append(Edge("frame", False))
        return position

    def _frame(self, name: str, tag: Tag, position: int) -> _Frame:
        if name == "li":
            parent = next((f for f in reversed(self.frames) if f.tag in LISTS), None)
            marker = "- "
            if parent is not None and parent.tag == "ol":
                parent.count = _integer(tag.attributes.get("value"), parent.count + parent.step)
                marker = f"{ordinal(parent.count, parent.kind)}. "
            return _Frame(name, marker, " " * len(marker))
        if name in LISTS:
            inner = "  " if self.frames and self.frames[-1].tag in LISTS else ""  # a list in a list, in no item of it
            if name != "ol":
                return _Frame(name, inner, inner)
            step = -1 if "reversed" in tag.attributes else 1
            start = _integer(tag.attributes.get("start"), 1 if step > 0 else count_items(self.page, position))
            return _Frame(name, inner, inner, count=start - step, step=step, kind=tag.attributes.get("type") or "1")
        lead = {"dd": (": ", "  "), "blockquote": ("> ", "> ")}.get(name, ("", ""))
        return _Frame(name, *lead)

    def open_heading(self, tag: Tag, position: int) -> int:
        self.flush()
        self.finish_heading()
        level = HEADINGS.get(tag.name, 2)
        if tag.attributes.get("role", "").lower() == "heading":
            level = min(max(1, _integer(tag.attributes.get("aria-level"), level)), 9)
        self.heading, self.headed = level, position
        return position

    def close_heading(self, _tag: Tag, position: int) -> int:
        self.flush()
        self.finish_heading()
        return position

    def line_break(self, _tag: Tag, position: int) -> int:
        if self.heading is not None:
            self.line.append(" ")
            return position
        last = next((part for part in reversed(self.line) if part.replace("&nbsp;", "").strip()), "")
        if last == BREAK:  # two in a row are a new paragraph
            self.flush()
        else:
            self.line.append(BREAK)
        return position

    def open_button(self, _tag: Tag, position: int) -> int:
        """What is written on a button or a label is read when it is the header, or holds one, or is the item of a list."""
        end = self.page.end_of(position)
        if self.heading is not None:
            rest = itertools.takewhile(lambda place: self.page.tags[place].kind != "close_heading", range(end, len(self.page.heads)))
            alone = not _letters("".join([*self.line, *(self.page.texts[place] for place in rest)]))
            return position if alone else end
        if any(tag.name in HEADINGS or tag.kind == "open_heading" for tag in self.page.tags[position:end]):
            self.flush()
            return position
        in_item = bool(self.frames) and self.frames[-1].tag == "li" and self.page.tags[position].name == "label"
        return position if in_item else end

    def open_mark(self, tag: Tag, position: int) -> int:
        head = self.page.heads[position]
        self.marks.append((len(self.line), head, self.hrefs))
        if tag.name == "a" and _HREF in head:
            self.hrefs += 1
        return position

    def close_link(self, _tag: Tag, position: int) -> int:
        began, head, _ = self.marks.pop()
        if _HREF in head and len(self.line) > began:
            text = "".join(self.line[began:])
            sign = text.strip().lower() if len(text) <= _MAX_PERMALINK and "#" in head else None
            if sign is not None and (self.heading is not None or 'href="#' in head or not began) and _PERMALINK.match(sign):
                del self.line[began:]
                return position
            if len(text) <= _MAX_SIGN and 'href="#' in head and (sign in _ANCHOR_SIGNS or _NOTE_MARK.fullmatch(sign or "")):
                del self.line[began:]
                return position
            if "/" in text and _BARE_ADDRESS.fullmatch(text.strip()) and self._ends_quotation(began):
                del self.line[began:]
                return position
            self.links.append(plain(text))
            if len(text) <= 3 and text.isdigit():
                self.line.insert(began, _CITED)
        return position

    def _ends_quotation(self, began: int) -> bool:
        """Whether a sentence of a quotation ends before a part of the line."""
        before = "".join(self.line[:began]).rstrip()
        return any(frame.tag == "blockquote" for frame in self.frames) and not before[-1:].isalnum()

    def close_raised(self, tag: Tag, position: int) -> int:
        began, _, hrefs = self.marks.pop()
        text = " ".join(plain("".join(self.line[began:])).replace(_CITED, "").split())
        if not text:
            return position
        del self.line[began:]
        linked = self.hrefs > hrefs or bool(self.marks and _HREF in self.marks[-1][1])
        if tag.name == "sup" and (_NOTE_MARK.fullmatch(text) or (_FOOTNOTE.fullmatch(text) and linked) or text[0] == ":"):
            return position  # the number of a footnote, or of a page in it
        if tag.name == "sup" and text.lower() in _PLAIN_RAISED:
            self.line.append(text)
        else:
            self.line.append((superscript if tag.name == "sup" else subscript)(text).replace("&", "&amp;"))
        return position

    def open_quotation(self, _tag: Tag, position: int) -> int:
        self.line.append("“")
        return position

    def close_quotation(self, _tag: Tag, position: int) -> int:
        self.line.append("”")
        return position

    def flush(self) -> None:
        """Ends the line being collected: a header's text, or a block."""
        if not self.line:
            return
        text = "".join(self.line)
        if _CITED in text:
            text = _CITATION.sub("", text).replace(_CITED, "")
        text = tidy(plain(text) if "&" in text else text)
        links, self.links, self.line = self.links, [], []
        if self.marks:
            for number, (began, head, hrefs) in enumerate(self.marks):
                self.marks[number] = (0, head, hrefs)
                if began == 0 and head[:2] == "a " and _HREF in head:  # a link around blocks
                    links = [text]
        if not text:
            return
        pictured, self.pictured = self.pictured, False
        if self.heading is not None:
            self._add_header(text, bool(links) and sum(map(_letters, links)) >= _letters(text) > 0)
        elif pictured and is_caption(text):
            return
        elif self.frames or not (notice(text) or _only_links(text, links)):
            self._add_block(text, sum(map(len, links)) if links else 0)

    def finish_heading(self) -> None:
        """Ends a header that is still open; one without any text is a header still, an empty one."""
        if self.heading is not None:
            self._add_header("")

    def _add_header(self, text: str, linked: bool = False) -> None:
        text, level, self.heading = " ".join(text.split()), self.heading or 1, None
        if is_remark(text):
            self._add_block(text)
            return
        for frame in self.frames:  # what follows a header in a list item begins anew
            if not frame.edge:
                frame.edge = True
                self.items.append(Edge("frame", True))
            frame.emitted = False
            if frame.tag in ("li", "dd"):
                frame.first = frame.rest = ""
        if self.navigates(text) and (end := end_of_box(self.page, self.headed)) is not None and end not in self.boxes:
            self.boxes[end] = self.page.tags[end]
            self.page.tags[end] = Tag("close_box", self.page.tags[end].name, {})
            self.items.append(Edge("box", True))
        self.items.append(Header(text, level, linked))

    def close_box(self, _tag: Tag, position: int) -> int:
        self.flush()
        closing = self.boxes[position]
        if closing.kind and closing.kind is not FLUSH:
            getattr(self, closing.kind)(closing, position)
        self.items.append(Edge("box", False))
        return position

    def _add_block(self, text: str, linked: int = 0) -> None:
        if not self.frames:
            self.items.append(Block(text, False, linked))
            return
        in_list = in_terms = None  # whether the outermost one of each has a block
        first, rest, defines = "", "", False
        for frame in self.frames:
            name = frame.tag
            if name in LISTS:
                in_list = frame.emitted if in_list is None else in_list
            elif name == "dl":
                in_terms = frame.emitted if in_terms is None else in_terms
            first += frame.first
            rest += frame.rest
            frame.emitted = True
            if name in ("li", "dd"):
                defines = defines or name == "dd"
                frame.first = frame.rest
        tight = in_list if in_list is not None else defines and bool(in_terms)
        if "\n" in text:
            line, *lines = text.split("\n")
            text = "\n".join([line, *((rest + line).rstrip() for line in lines)])
        self.items.append(Block(first + text, tight, linked))

    def verbatim(self, _tag: Tag, position: int) -> int:
        self.flush()
        self.finish_heading()
        end = self.page.end_of(position)
        if block := code_block(self.page, position, end):
            self._add_block(block)
        return end

    def open_code(self, tag: Tag, position: int) -> int:
        """Code in an element that is no `pre`."""
        if tag.name == "code" or holds_lines(self.page, position):
            return self.verbatim(tag, position)
        self.flush()
        return position

    def open_table(self, tag: Tag, position: int) -> int:
        self.flush()
        if position not in self.layouts:  # an outermost one
            find_layouts(self.page, self.layouts, position)
        if self.layouts[position] or tag.attributes.get("role", "") in ("presentation", "none"):
            return position
        end = self.page.end_of(position)
        rows = read_rows(self.page, position, end, self._inline_text)
        if rows is None:
            return position
        self.finish_heading()
        caption = position + 1  # anywhere else it is none
        if self.page.tags[caption].name == "caption" and (text := self._inline_text(caption, self.page.end_of(caption))):
            self._add_block(text)
        for block in as_blocks(rows):
            self._add_block(block)
        return end

    def _inline_text(self, begin: int, end: int) -> str:
        """The text of an element that holds no table, on one line."""
        telling = self.page.telling
        first = bisect_left(telling, begin + 1)
        if first == len(telling) or telling[first] >= end:
            return tidy(self.page.text(begin, end))
        walker = _Walker(self.page, self.layouts, lambda header: False)
        walker.walk(begin, end)
        texts = (" ".join(item.text.split()) for item in walker.items if not isinstance(item, Edge))
        return " ".join(filter(None, texts))


def to_items(
    parser: LexborHTMLParser, navigates: Callable[[str], bool] = is_navigation, language: str = "en", counts: Counter[str] | None = None
) -> list[Item]:
    """The headers and blocks of a parsed page in its order, without its own lines. Takes out of the parsed page what is never read.

    `navigates` says whether a header is navigation: what stands below it in its box belongs to it. Adds to `counts` the characters of
    the page's own lines, `own_characters`.
    """
    write_out(parser)
    page = Markup(parser)
    if not page.heads:
        return []
    judge(page)
    walker = _Walker(page, {}, navigates)
    walker.walk(0, len(page.heads))
    walker.finish_heading()
    title = parser.css_first("head > title")
    items, cut = without_own_lines(walker.items, language, title.text() if title is not None else "")
    if counts is not None:
        counts["own_characters"] += cut
    return items


def _integer(value: str | None, default: int) -> int:
    value = (value or "").strip()
    return int(value) if re.fullmatch(r"-?\d{1,6}", value) else default


def _only_links(text: str, links: list[str]) -> bool:
    """Whether a line is a bar of links: "Prev | Up | Next"."""
    return len(links) >= 2 and _letters(text) <= sum(map(_letters, links))


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))
