"""HTML to readable text: one pass over the page as the parser writes it out again, to a flat list of headers and blocks of text.

Plain text with the little Markdown that a person would type: "- " and "1. " before list items, "> " before quotes, fenced code, table rows.

What the parser writes is well-formed: every element is closed unless it is void, names are in lower case, and "<" and ">" stand for
nothing but tags. So it is cut at each "<" into pieces, a tag, ">" and the text behind it, which costs a tenth of asking the parser for node after node.
"""

import re
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser

from humpback.corpus.nuisances import notice, skipped, words


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
    """Where an `article` or `main` element opens or closes: the trees whose headers it holds end with it."""

    tag: str
    opens: bool


Item = Block | Header | Edge

HEADINGS = {f"h{level}": level for level in range(1, 7)}
# Their contents are written out as they are, not escaped, so they go before anything is cut; "template" holds what is not shown.
_RAW = ["script", "style", "iframe", "noembed", "noframes", "noscript", "template"]
_COMMENT = re.compile("<!--.*?-->", re.DOTALL)
_VOID = words("area base br col embed frame hr img input link meta param source track wbr basefont bgsound keygen")
_BLOCKS = words(
    "address article blockquote body caption center dd details dir div dl dt fieldset figcaption figure form header hgroup hr html legend "
    "li main ol p section summary table tbody td tfoot th thead tr ul"
)
_VERBATIM = words("pre listing xmp plaintext")
_UNESCAPED = words("xmp plaintext")
# A table that holds one of these lays the page out; its cells are blocks, not data.
_LAYOUT_SIGNS = frozenset([*HEADINGS, *_VERBATIM, *words("table ul ol dl blockquote form section article main")])
_MAX_CELL = 500  # characters; a table with a longer cell is a layout, too
_CELLS = ("td", "th")
_LISTS = ("ul", "ol", "dir")
_FRAMES = frozenset([*_LISTS, "li", "dl", "dd", "blockquote"])
_ARTICLES = ("article", "section", "main")
_MAX_FRAMES = 12  # lists, items and quotes within each other; deeper ones are not indented further
_MAX_ROLES = 12  # elements with the role of a header within each other; deeper ones are none

_BREAK = "\0"  # stands for <br> while a line is collected; the parser leaves no NUL in the text
_INVISIBLE = re.compile("[\x01-\x08\x0b\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200c\u200e\u200f\u2060\ufeff]")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
_SUPERSCRIPTS = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−–=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌₍₎")
# Raised letters that are read as part of the word: 1st, 2nd, Mme, ©, ™.
_PLAIN_RAISED = words("st nd rd th er re e o a me ème tm sm r c ® © ™")
_ANCHOR_SIGNS = frozenset(["", "¶", "#", "§", "🔗", "⚓", "link", "[link]", "permalink", "[edit]"])
_FOOTNOTE = re.compile(r"\d{1,3}|[a-z*†‡]")
_NOTE_MARK = re.compile(r"\[\s*(\d{1,3}|[a-z*†‡])\s*\]")
_ATTRIBUTE = re.compile(r'\s([^\s="]+)(?:="([^"]*)")?')
_NAME = re.compile("[^ >]*")
_HREF = 'href="'
_MAX_SIGN = 12  # characters of a link that is only a sign, at most
_MAX_REMEMBERED = 200  # characters of a tag …
_MAX_REMEMBERED_TAGS = 20_000  # … and how many


@dataclass(slots=True)
class _Frame:
    """A list, an item or a quote around the text: what its first line and its other lines begin with."""

    tag: str
    first: str = ""
    rest: str = ""
    count: int = 0  # items of an ordered list so far
    emitted: bool = False


@dataclass(frozen=True, slots=True)
class _Tag:
    """A tag that was read: `kind` names the method of _Walker that handles it ("" for none), `name` has no slash."""

    kind: str
    name: str
    attributes: dict[str, str]


def _read_tag(head: str) -> _Tag:
    """What stands between "<" and ">"."""
    if head[:1] == "/":
        return _Tag(_CLOSING.get(head[1:], ""), head[1:], {})
    name, space, rest = head.partition(" ")
    attributes = {key: _plain(value) for key, value in _ATTRIBUTE.findall(space + rest)} if space else {}
    if skipped(name, attributes, True):
        return _Tag("" if name in _VOID else "_skip", name, attributes)
    if name not in HEADINGS and attributes.get("role", "").lower() == "heading":
        return _Tag("_open_role", name, attributes)
    return _Tag(_OPENING.get(name, ""), name, attributes)


_FLUSH = "flush"  # the commonest: a block begins or ends, and nothing else
_CLOSING = {
    **dict.fromkeys(_BLOCKS, _FLUSH), **dict.fromkeys(HEADINGS, "_close_heading"),
    **dict.fromkeys(_FRAMES, "_close_frame"), **dict.fromkeys(_ARTICLES, "_close_article"),
    "a": "_close_link", "sup": "_close_raised", "sub": "_close_raised", "q": "_close_quotation",
}  # fmt: skip
_OPENING = {
    **dict.fromkeys(_BLOCKS, _FLUSH), **dict.fromkeys(HEADINGS, "_open_heading"), **dict.fromkeys(_VERBATIM, "_verbatim"),
    **dict.fromkeys(_FRAMES, "_open_frame"), **dict.fromkeys(_ARTICLES, "_open_article"),
    "a": "_open_mark", "sup": "_open_mark", "sub": "_open_mark", "q": "_open_quotation", "br": "_break", "header": "_open_header",
    "table": "_open_table", "form": "_open_form",
}  # fmt: skip
_LINK = _Tag("_open_mark", "a", {})
_remembered: dict[str, _Tag] = {}  # tags by their text: a site writes the same ones on all its pages


def _tag(head: str) -> _Tag:
    """`_read_tag`, remembered."""
    if head.startswith('a href="') and head.count('"') == 2:  # the commonest, and hardly one like another
        return _LINK
    if (tag := _remembered.get(head)) is None:
        tag = _read_tag(head)
        if len(head) <= _MAX_REMEMBERED:
            if len(_remembered) >= _MAX_REMEMBERED_TAGS:
                _remembered.clear()
            _remembered[head] = tag
    return tag


class _Walker:
    """The state of one walk over a page's tags; `items` is its result. A handler gets the position after its tag and returns the next."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces  # of the page: a tag, ">", the text behind it
        self.items: list[Item] = []
        self.line: list[str] = []  # the line being collected
        self.links: list[str] = []  # the texts of the links in it
        self.marks: list[tuple[int, str, int]] = []  # open a, sup, sub: where its text begins, the tag, links before it
        self.hrefs = 0  # links opened so far
        self.frames: list[_Frame] = []
        self.deeper = 0  # frames beyond _MAX_FRAMES
        self.heading: int | None = None  # level of the header being collected
        self.articles = 0  # open article, section and main elements
        self.roles: list[int] = [-1]  # where the open elements with the role of a header end …
        self.role_end = -1  # … and the innermost
        self.layouts: dict[int, bool] = {}  # position behind a table's tag → whether it lays the page out

    def walk(self, position: int, end: int) -> None:
        """Reads the pieces from `position` up to `end`."""
        pieces, line, known = self.pieces, self.line, _remembered.get
        while position < end:
            head, _, text = pieces[position].partition(">")
            position += 1
            tag = known(head) or _tag(head)
            kind = tag.kind
            if position == self.role_end:
                self._close_role()
                line = self.line
            elif kind is _FLUSH:
                if line:
                    self.flush()
                    line = self.line
            elif kind:
                after = getattr(self, kind)(tag, position)
                line = self.line
                if after != position:  # it took what is in it; what stands behind its end is text again
                    position = after
                    text = self._text_behind(position)
            if text and (line or not text.isspace()):
                line.append(_plain(text) if "&" in text else text)
        self.flush()

    def _text_behind(self, position: int) -> str:
        return self.pieces[position - 1].partition(">")[2]

    def _end_of(self, name: str, position: int) -> int:
        """The position behind the end tag of an element whose start tag stands before `position`."""
        pieces, closing, opening, depth = self.pieces, f"/{name}>", (f"{name} ", f"{name}>"), 1
        for index in range(position, len(pieces)):
            piece = pieces[index]
            if piece.startswith(closing):
                depth -= 1
                if not depth:
                    return index + 1
            elif piece.startswith(opening):
                depth += 1
        return len(pieces)

    def _skip(self, tag: _Tag, position: int) -> int:
        return self._end_of(tag.name, position)

    def _open_header(self, tag: _Tag, position: int) -> int:
        """A `<header>` in an article holds its title, elsewhere the site's name."""
        if not self.articles:
            return self._end_of(tag.name, position)
        self.flush()
        return position

    def _open_form(self, tag: _Tag, position: int) -> int:
        self.flush()
        end = self._end_of("form", position)
        if any(piece[:2] in HEADINGS and piece[2] in "> " for piece in self.pieces[position:end]):
            return position  # some sites wrap the whole page into a form: those hold headers
        return end

    def _open_article(self, tag: _Tag, position: int) -> int:
        self.flush()
        self.articles += 1
        if tag.name != "section":
            self.items.append(Edge(tag.name, True))
        return position

    def _close_article(self, tag: _Tag, position: int) -> int:
        self.flush()
        self.articles -= 1
        if tag.name != "section":
            self.items.append(Edge(tag.name, False))
        return position

    def _open_frame(self, tag: _Tag, position: int) -> int:
        self.flush()
        if len(self.frames) >= _MAX_FRAMES:
            self.deeper += 1
        else:
            self.frames.append(self._frame(tag.name, tag.attributes))
        return position

    def _close_frame(self, _tag: _Tag, position: int) -> int:
        self.flush()
        if self.deeper:
            self.deeper -= 1
        else:
            self.frames.pop()
        return position

    def _frame(self, name: str, attributes: dict[str, str]) -> _Frame:
        if name == "li":
            parent = next((f for f in reversed(self.frames) if f.tag in _LISTS), None)
            marker = "- "
            if parent is not None and parent.tag == "ol":
                parent.count = _integer(attributes.get("value"), parent.count + 1)
                marker = f"{parent.count}. "
            return _Frame(name, marker, " " * len(marker))
        if name == "ol":
            return _Frame(name, count=_integer(attributes.get("start"), 1) - 1)
        lead = {"dd": (": ", "  "), "blockquote": ("> ", "> ")}.get(name, ("", ""))
        return _Frame(name, *lead)

    def _open_heading(self, tag: _Tag, position: int) -> int:
        self.flush()
        self.finish_heading()
        level = HEADINGS.get(tag.name, 2)
        if tag.attributes.get("role", "").lower() == "heading":
            level = min(max(1, _integer(tag.attributes.get("aria-level"), level)), 9)
        self.heading = level
        return position

    def _close_heading(self, _tag: _Tag, position: int) -> int:
        self.flush()
        self.finish_heading()
        return position

    def _open_role(self, tag: _Tag, position: int) -> int:
        """An element that is a header by its role, whatever it is by its name."""
        if tag.name in _VOID:
            return position
        if len(self.roles) > _MAX_ROLES:
            kind = _OPENING.get(tag.name)
            return getattr(self, kind)(tag, position) if kind else position
        self.role_end = self._end_of(tag.name, position)
        self.roles.append(self.role_end)
        return self._open_heading(tag, position)

    def _close_role(self) -> None:
        self.flush()
        self.finish_heading()
        self.roles.pop()
        self.role_end = self.roles[-1]

    def _break(self, _tag: _Tag, position: int) -> int:
        if self.heading is not None:
            self.line.append(" ")
            return position
        last = next((part for part in reversed(self.line) if part.strip()), "")
        if last == _BREAK:  # two in a row are a new paragraph
            self.flush()
        else:
            self.line.append(_BREAK)
        return position

    def _open_mark(self, tag: _Tag, position: int) -> int:
        piece = self.pieces[position - 1]
        self.marks.append((len(self.line), piece, self.hrefs))
        if tag.name == "a" and _HREF in piece:
            self.hrefs += 1
        return position

    def _close_link(self, _tag: _Tag, position: int) -> int:
        began, piece, _ = self.marks.pop()
        if _HREF in piece and len(self.line) > began:
            text = "".join(self.line[began:])
            if len(text) <= _MAX_SIGN and 'href="#' in piece:
                sign = text.strip().lower()
                if sign in _ANCHOR_SIGNS or _NOTE_MARK.fullmatch(sign):
                    del self.line[began:]
                    return position
            self.links.append(text)
        return position

    def _close_raised(self, tag: _Tag, position: int) -> int:
        began, _, hrefs = self.marks.pop()
        text = " ".join("".join(self.line[began:]).split())
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
            self.line.append(sign + (text if len(text) == 1 else f"({text})"))
        return position

    def _open_quotation(self, _tag: _Tag, position: int) -> int:
        self.line.append("“")
        return position

    def _close_quotation(self, _tag: _Tag, position: int) -> int:
        self.line.append("”")
        return position

    def flush(self) -> None:
        """Ends the line being collected: a header's text, or a block."""
        if not self.line:
            return
        text = _tidy("".join(self.line))
        links, self.links, self.line = self.links, [], []
        if not text:
            return
        if self.heading is not None:
            self._add_header(text)
        elif self.frames or not (notice(text) or (len(links) >= 2 and _letters(text) <= sum(map(_letters, links)))):  # "Prev | Up | Next"
            self._add_block(text, sum(map(len, links)) if links else 0)

    def finish_heading(self) -> None:
        """Ends a header that is still open; one without any text is a header still, an empty one."""
        if self.heading is not None:
            self._add_header("")

    def _add_header(self, text: str) -> None:
        self.items.append(Header(" ".join(text.split()), self.heading or 1))
        self.heading = None
        for frame in self.frames:  # what follows a header in a list item begins anew
            frame.emitted = False
            if frame.tag in ("li", "dd"):
                frame.first = frame.rest = ""

    def _add_block(self, text: str, linked: int = 0) -> None:
        if not self.frames:
            self.items.append(Block(text, False, linked))
            return
        outer = next((f for f in self.frames if f.tag in _LISTS), None)
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

    def _verbatim(self, tag: _Tag, position: int) -> int:
        self.flush()
        self.finish_heading()
        end = self._end_of(tag.name, position)
        if tag.name in _UNESCAPED:
            text = "<".join(self.pieces[position - 1 : end - 1]).partition(">")[2]
        else:
            text = self._verbatim_text(position, end - 1)
        lines = [line.rstrip() for line in _INVISIBLE.sub("", text).expandtabs(8).strip("\n").split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        if any(lines):
            fence = "```"
            while any(line.startswith(fence) for line in lines):
                fence += "`"
            self._add_block("\n".join([fence, *lines, fence]))
        return end

    def _verbatim_text(self, position: int, end: int) -> str:
        parts = [self._text_behind(position)]
        while position < end:
            head, _, text = self.pieces[position].partition(">")
            position += 1
            tag = _tag(head)
            if tag.kind == "_skip":
                position = self._end_of(tag.name, position)
                text = self._text_behind(position)
            elif tag.name == "br":
                parts.append("\n")
            parts.append(text)
        return _plain("".join(parts))

    def _open_table(self, tag: _Tag, position: int) -> int:
        self.flush()
        if position not in self.layouts:  # an outermost one
            self._find_layouts(position)
        if self.layouts[position] or tag.attributes.get("role", "") in ("presentation", "none"):
            return position
        end = self._end_of("table", position)
        rows = self._rows(position, end)
        if rows is None:
            return position
        self.finish_heading()
        self._table(rows, position, end)
        return end

    def _find_layouts(self, position: int) -> None:
        """Finds for a table and those in it whether it lays the page out: it holds another block, or a single row."""
        tables = [[position, 0, 0]]  # of the open ones: position, rows, whether it holds another block
        for index in range(position, len(self.pieces)):
            name = _NAME.match(self.pieces[index]).group()
            if name == "tr":
                tables[-1][1] += 1
            elif name in _LAYOUT_SIGNS:
                tables[-1][2] = 1
                if name == "table":
                    tables.append([index + 1, 0, 0])
            elif name == "/table":
                start, rows, layout = tables.pop()
                self.layouts[start] = bool(layout) or rows < 2
                if not tables:
                    return
        self.layouts |= {start: True for start, _, _ in tables}

    def _rows(self, position: int, end: int) -> list[tuple[bool, list[str]]] | None:
        """(is a header row, cells) for each row with text of a table of data; None when a cell is too long for one."""
        found: list[tuple[bool, list[str]]] = []
        in_head, only_headers, cells = False, True, []
        while position < end:
            piece = self.pieces[position]
            name = _NAME.match(piece).group()
            position += 1
            if name in ("thead", "/thead"):
                in_head = name == "thead"
            elif name == "tr":
                only_headers, cells = True, []
            elif name == "/tr":
                if any(cells):
                    found.append((only_headers or in_head, cells))
                cells = []
            elif name in _CELLS:
                begin, position = position, self._end_of(name, position)
                tag = _tag(piece.partition(">")[0])
                if tag.kind == "_skip":
                    continue
                only_headers = only_headers and name == "th"
                text = self._inline_text(begin, position - 1)
                if len(text) > _MAX_CELL:
                    return None
                cells += [text] + [""] * (min(_integer(tag.attributes.get("colspan"), 1), 20) - 1)
        return found or None

    def _table(self, rows: list[tuple[bool, list[str]]], position: int, end: int) -> None:
        caption = next((i for i in range(position, end) if self.pieces[i].startswith(("caption>", "caption "))), None)
        if caption is not None and (text := self._inline_text(caption + 1, self._end_of("caption", caption + 1) - 1)):
            self._add_block(text)
        if max(sum(map(bool, cells)) for _, cells in rows) < 2:  # a single column
            for _, cells in rows:
                for cell in filter(None, cells):
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

    def _inline_text(self, position: int, end: int) -> str:
        """The text of an element that holds no table, on one line: that behind its start tag, before `position`, up to its end tag."""
        text = self._text_behind(position)
        if position == end:
            return " ".join(_tidy(_plain(text)).split())
        walker = _Walker(self.pieces)
        walker.layouts = self.layouts
        walker.line.append(_plain(text))
        walker.walk(position, end)
        texts = (" ".join(item.text.split()) for item in walker.items if not isinstance(item, Edge))
        return " ".join(filter(None, texts))


def to_items(parser: LexborHTMLParser) -> list[Item]:
    """The headers and blocks of a parsed page in its order. Takes out of the parsed page what is never read."""
    if parser.body is None:
        return []
    parser.strip_tags(_RAW)
    html = parser.body.html or ""
    if "<!--" in html:
        html = _COMMENT.sub("", html)
    if _CONTROLS.search(html):
        html = _CONTROLS.sub("", html)
    walker = _Walker(html.split("<"))
    walker.walk(1, len(walker.pieces))
    walker.finish_heading()
    return walker.items


def _plain(text: str) -> str:
    """Text without the four escapes that the parser writes."""
    if "&" not in text:
        return text
    text = text.replace("&nbsp;", "\xa0").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    return text.replace("&amp;", "&")


def _integer(value: str | None, default: int) -> int:
    value = (value or "").strip()
    return int(value) if re.fullmatch(r"-?\d{1,6}", value) else default


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def _tidy(text: str) -> str:
    """Whitespace folded within each line, lines without text at either end removed."""
    if not text.isascii():
        text = _INVISIBLE.sub("", text)
    if _BREAK not in text:
        return " ".join(text.split())
    lines = (" ".join(line.split()) for line in text.split(_BREAK))
    return "\n".join(line for line in lines if line)
