"""HTML to readable text: one pass over a page's tags, without recursion, to a flat list of headers and blocks of text.

Plain text with the little Markdown that a person would type: "- " and "1. " before list items, "> " before quotes, fenced code, table rows.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser

from humpback.corpus.boilerplate import notice, words
from humpback.corpus.boxes import judge
from humpback.corpus.filters import is_remark
from humpback.corpus.markup import BREAK, FLUSH, HEADINGS, LISTS, VERBATIM, Markup, Tag, plain, tidy, visible


@dataclass(slots=True)  # not frozen, as there are many and a frozen one takes twice as long to make
class Block:
    """A paragraph, list item, table, …; `tight` says that it follows the block before it on the next line, not after a blank one.
    `linked` counts the characters that are links.
    """

    text: str
    tight: bool
    linked: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """A header and its level (1 to 6, up to 9 with aria-level)."""

    text: str
    level: int


@dataclass(frozen=True, slots=True)
class Edge:
    """Where an `article`, a `main`, or a list item, definition or quote with a header in it opens or closes: the trees whose headers it
    holds end with it.
    """

    tag: str
    opens: bool


Item = Block | Header | Edge

# A table that holds one of these lays the page out; its cells are blocks, not data.
_LAYOUT_SIGNS = frozenset([*HEADINGS, *VERBATIM, *words("table ul ol dl blockquote form section article main")])
_MAX_CELL = 500  # characters; a table with a longer cell is a layout, too
_MAX_FRAMES = 12  # lists, items and quotes within each other; deeper ones are not indented further

_SUPERSCRIPTS = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−–=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌₍₎")
# Raised letters that are read as part of the word: 1st, 2nd, Mme, ©, ™.
_PLAIN_RAISED = words("st nd rd th er re e o a me ème tm sm r c ® © ™")
_ANCHOR_SIGNS = frozenset(["", "¶", "#", "§", "🔗", "⚓", "link", "[link]", "permalink", "[edit]"])
_FOOTNOTE = re.compile(r"\d{1,3}|[a-z*†‡]")
_NOTE_MARK = re.compile(r"\[\s*(\d{1,3}|[a-z*†‡])\s*\]")
_BEFORE_LAST = re.compile(r"""(.*[.!?…][)”"']*)\s[^.!?…]*:\Z""", re.DOTALL)  # the sentences before the last one
_HREF = 'href="'
_MAX_SIGN = 12  # characters of a link that is only a sign, at most


@dataclass(slots=True)
class _Frame:
    """A list, an item or a quote around the text: what its first line and its other lines begin with."""

    tag: str
    first: str = ""
    rest: str = ""
    count: int = 0  # items of an ordered list so far
    emitted: bool = False
    edge: bool = False  # whether it is an Edge of the items, as it holds a header


class _Walker:
    """The state of one walk over a page's tags; `items` is its result.

    A handler gets a tag and its position, and returns the position of the last tag that it took.
    """

    def __init__(self, page: Markup, layouts: dict[int, bool]) -> None:
        self.page = page
        self.layouts = layouts  # position of a table → whether it lays the page out
        self.items: list[Item] = []
        self.line: list[str] = []  # the line being collected, with the parser's escapes
        self.links: list[str] = []  # the texts of the links in it
        self.marks: list[tuple[int, str, int]] = []  # open a, sup, sub: where its text begins, the tag, links before it
        self.hrefs = 0  # links opened so far
        self.frames: list[_Frame] = []
        self.deeper = 0  # frames beyond _MAX_FRAMES
        self.heading: int | None = None  # level of the header being collected
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
        return end

    def picture(self, _tag: Tag, position: int) -> int:
        if promise := self._promise():
            self._cut(promise)
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
        return self.page.end_of(position) if title is None else self.open_heading(self.page.tags[title], title)

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
            self.frames.append(self._frame(tag.name, tag.attributes))
        return position

    def close_frame(self, _tag: Tag, position: int) -> int:
        self.flush()
        if self.deeper:
            self.deeper -= 1
        elif self.frames.pop().edge:
            self.items.append(Edge("frame", False))
        return position

    def _frame(self, name: str, attributes: dict[str, str]) -> _Frame:
        if name == "li":
            parent = next((f for f in reversed(self.frames) if f.tag in LISTS), None)
            marker = "- "
            if parent is not None and parent.tag == "ol":
                parent.count = _integer(attributes.get("value"), parent.count + 1)
                marker = f"{parent.count}. "
            return _Frame(name, marker, " " * len(marker))
        if name == "ol":
            return _Frame(name, count=_integer(attributes.get("start"), 1) - 1)
        lead = {"dd": (": ", "  "), "blockquote": ("> ", "> ")}.get(name, ("", ""))
        return _Frame(name, *lead)

    def open_heading(self, tag: Tag, position: int) -> int:
        self.flush()
        self.finish_heading()
        level = HEADINGS.get(tag.name, 2)
        if tag.attributes.get("role", "").lower() == "heading":
            level = min(max(1, _integer(tag.attributes.get("aria-level"), level)), 9)
        self.heading = level
        return position

    def close_heading(self, _tag: Tag, position: int) -> int:
        self.flush()
        self.finish_heading()
        return position

    def line_break(self, _tag: Tag, position: int) -> int:
        if self.heading is not None:
            self.line.append(" ")
            return position
        last = next((part for part in reversed(self.line) if part.strip()), "")
        if last == BREAK:  # two in a row are a new paragraph
            self.flush()
        else:
            self.line.append(BREAK)
        return position

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
            if len(text) <= _MAX_SIGN and 'href="#' in head:
                sign = text.strip().lower()
                if sign in _ANCHOR_SIGNS or _NOTE_MARK.fullmatch(sign):
                    del self.line[began:]
                    return position
            self.links.append(plain(text))
        return position

    def close_raised(self, tag: Tag, position: int) -> int:
        began, _, hrefs = self.marks.pop()
        text = " ".join(plain("".join(self.line[began:])).split())
        if not text:
            return position
        del self.line[began:]
        linked = self.hrefs > hrefs or bool(self.marks and _HREF in self.marks[-1][1])
        if tag.name == "sup" and (_NOTE_MARK.fullmatch(text) or (_FOOTNOTE.fullmatch(text) and linked)):
            return position  # the number of a footnote
        table, sign = (_SUPERSCRIPTS, "^") if tag.name == "sup" else (_SUBSCRIPTS, "_")
        if all(ord(char) in table for char in text):
            self.line.append(text.translate(table))
        elif tag.name == "sup" and text.lower() in _PLAIN_RAISED:
            self.line.append(text)
        else:
            self.line.append(sign + (text if len(text) == 1 else f"({text})").replace("&", "&amp;"))
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
        text = tidy(plain(text) if "&" in text else text)
        links, self.links, self.line = self.links, [], []
        if not text:
            return
        if self.heading is not None:
            self._add_header(text)
        elif self.frames or not ((self.page.may_have_notices and notice(text)) or _only_links(text, links)):
            self._add_block(text, sum(map(len, links)) if links else 0)

    def finish_heading(self) -> None:
        """Ends a header that is still open; one without any text is a header still, an empty one."""
        if self.heading is not None:
            self._add_header("")

    def _add_header(self, text: str) -> None:
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
        self.items.append(Header(text, level))

    def _add_block(self, text: str, linked: int = 0) -> None:
        if not self.frames:
            self.items.append(Block(text, False, linked))
            return
        outer = next((f for f in self.frames if f.tag in LISTS), None)
        if outer is None and any(f.tag == "dd" for f in self.frames):
            outer = next((f for f in self.frames if f.tag == "dl"), None)
        tight = outer is not None and outer.emitted
        lines = text.split("\n")
        first, rest = "", ""
        for frame in self.frames:
            first += frame.first
            rest += frame.rest
            frame.emitted = True
            if frame.tag in ("li", "dd"):
                frame.first = frame.rest
        self.items.append(Block("\n".join([first + lines[0], *((rest + line).rstrip() for line in lines[1:])]), tight, linked))

    def verbatim(self, _tag: Tag, position: int) -> int:
        self.flush()
        self.finish_heading()
        end = self.page.end_of(position)
        lines = [line.rstrip() for line in visible(self._verbatim_text(position, end)).expandtabs(8).strip("\n").split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        if any(lines):
            fence = "```"
            while any(line.startswith(fence) for line in lines):
                fence += "`"
            self._add_block("\n".join([fence, *lines, fence]))
        return end

    def _verbatim_text(self, begin: int, end: int) -> str:
        tags, texts, telling = self.page.tags, self.page.texts, self.page.telling
        parts, position = [], begin
        for index in telling[bisect_left(telling, begin + 1) : bisect_left(telling, end)]:
            kind = tags[index].kind
            if index > position and kind in ("skip", "skip_table", "line_break"):
                parts += texts[position:index]
                position = self.page.end_of(index)
                if kind == "line_break":
                    parts.append("\n")
        return plain("".join([*parts, *texts[position:end]]))

    def open_table(self, tag: Tag, position: int) -> int:
        self.flush()
        if position not in self.layouts:  # an outermost one
            self._find_layouts(position)
        if self.layouts[position] or tag.attributes.get("role", "") in ("presentation", "none"):
            return position
        end = self.page.end_of(position)
        rows = self._rows(position, end)
        if rows is None:
            return position
        self.finish_heading()
        self._table(rows, position, end)
        return end

    def _find_layouts(self, position: int) -> None:
        """Finds for a table and those in it whether it lays the page out: it holds another block, or a single row."""
        tables = [[position, 0, 0]]  # of the open ones: position, rows, whether it holds another block
        for index in range(position + 1, len(self.page.heads)):
            name = self.page.tags[index].name
            if name == "table" and self.page.heads[index][0] == "/":
                start, rows, layout = tables.pop()
                self.layouts[start] = bool(layout) or rows < 4
                if not tables:
                    return
            elif name == "tr":
                tables[-1][1] += 1  # and once more at its end
            elif name in _LAYOUT_SIGNS:
                tables[-1][2] = 1
                if name == "table":
                    tables.append([index, 0, 0])
        self.layouts |= {start: True for start, _, _ in tables}

    def _rows(self, begin: int, end: int) -> list[tuple[bool, list[str]]] | None:
        """(is a header row, cells) for each row with text of a table of data; None when a cell is too long for one."""
        found: list[tuple[bool, list[str]]] = []
        in_head, only_headers, cells = False, True, []
        position, heads, tags = begin + 1, self.page.heads, self.page.tags
        while position < end:
            tag, closes = tags[position], heads[position][0] == "/"
            if tag.name in ("td", "th") and not closes:
                start, position = position, self.page.end_of(position)
                if tag.kind != "skip":
                    only_headers = only_headers and tag.name == "th"
                    text = self._inline_text(start, position)
                    if len(text) > _MAX_CELL:
                        return None
                    cells += [text] + [""] * (min(_integer(tag.attributes.get("colspan"), 1), 20) - 1)
            elif tag.name == "thead":
                in_head = not closes
            elif tag.name == "tr":
                if any(cells):
                    found.append((only_headers or in_head, cells))
                only_headers, cells = True, []
            position += 1
        return found or None

    def _table(self, rows: list[tuple[bool, list[str]]], begin: int, end: int) -> None:
        caption = begin + 1  # anywhere else it is none
        if self.page.tags[caption].name == "caption" and (text := self._inline_text(caption, self.page.end_of(caption))):
            self._add_block(text)
        if max(sum(map(bool, cells)) for _, cells in rows) < 2:  # a single column
            for is_header, cells in rows:
                for cell in filter(None, cells if not is_header else []):
                    self._add_block(cell)
            return
        width = max(len(cells) for _, cells in rows)
        lines = []
        for number, (is_header, cells) in enumerate(rows):
            cells = [cell.replace("|", "\\|") for cell in cells] + [""] * (width - len(cells))
            lines.append("| " + " | ".join(cells) + " |")
            if number == 0 and is_header:
                lines.append("|" + " --- |" * width)
        self._add_block("\n".join(lines))

    def _inline_text(self, begin: int, end: int) -> str:
        """The text of an element that holds no table, on one line."""
        telling = self.page.telling
        first = bisect_left(telling, begin + 1)
        if first == len(telling) or telling[first] >= end:
            return tidy(self.page.text(begin, end))
        walker = _Walker(self.page, self.layouts)
        walker.walk(begin, end)
        texts = (" ".join(item.text.split()) for item in walker.items if not isinstance(item, Edge))
        return " ".join(filter(None, texts))


def to_items(parser: LexborHTMLParser) -> list[Item]:
    """The headers and blocks of a parsed page in its order. Takes out of the parsed page what is never read."""
    page = Markup(parser)
    if not page.heads:
        return []
    judge(page)
    walker = _Walker(page, {})
    walker.walk(0, len(page.heads))
    walker.finish_heading()
    return walker.items


def _integer(value: str | None, default: int) -> int:
    value = (value or "").strip()
    return int(value) if re.fullmatch(r"-?\d{1,6}", value) else default


def _only_links(text: str, links: list[str]) -> bool:
    """Whether a line is a bar of links: "Prev | Up | Next"."""
    return len(links) >= 2 and _letters(text) <= sum(map(_letters, links))


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))
