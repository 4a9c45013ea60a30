"""HTML to readable text: one walk over the parsed page, without recursion, to a flat list of headers and blocks of text.

Plain text with the little Markdown that a person would type: "- " and "1. " before list items, "> " before quotes, fenced code, table rows.
"""

import re
from dataclasses import dataclass

from selectolax.lexbor import LexborNode

from humpback.corpus.nuisances import notice, skipped, words


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, list item, table, …; `tight` says that it follows the block before it on the next line, not after a blank one."""

    text: str
    tight: bool


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
_BLOCKS = words(
    "address article blockquote body caption center dd details dir div dl dt fieldset figcaption figure form header hgroup hr html legend "
    "li main ol p section summary table tbody td tfoot th thead tr ul"
)
_VERBATIM = words("pre listing xmp plaintext")
# A table that holds one of these lays the page out; its cells are blocks, not data.
_LAYOUT_SIGNS = frozenset([*HEADINGS, *_VERBATIM, *words("table ul ol dl blockquote form section article main")])
_MAX_CELL = 500  # characters; a table with a longer cell is a layout, too
_CELLS = ("td", "th")
_LISTS = ("ul", "ol", "dir")
_FRAMES = frozenset([*_LISTS, "li", "dl", "dd", "blockquote"])
_MAX_FRAMES = 12  # lists, items and quotes within each other; deeper ones are not indented further

_BREAK = "\0"  # stands for <br> while a line is collected; the parser leaves no NUL in the text
_INVISIBLE = re.compile("[\x01-\x08\x0b\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200c\u200e\u200f\u2060\ufeff]")
_SUPERSCRIPTS = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−–=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌₍₎")
# Raised letters that are read as part of the word: 1st, 2nd, Mme, ©, ™.
_PLAIN_RAISED = words("st nd rd th er re e o a me ème tm sm r c ® © ™")
_ANCHOR_SIGNS = frozenset(["", "¶", "#", "§", "🔗", "⚓", "link", "[link]", "permalink", "[edit]"])
_FOOTNOTE = re.compile(r"\d{1,3}|[a-z*†‡]")
_NOTE_MARK = re.compile(r"\[\s*(\d{1,3}|[a-z*†‡])\s*\]")


@dataclass(slots=True)
class _Frame:
    """A list, an item or a quote around the text: what its first line and its other lines begin with."""

    tag: str
    first: str = ""
    rest: str = ""
    count: int = 0  # items of an ordered list so far
    emitted: bool = False


class _Walker:
    """The state of one walk; `items` is its result."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.parts: list[str] = []  # the line being collected
        self.links = 0  # links in it …
        self.linked = 0  # … and their letters and digits
        self.frames: list[_Frame] = []
        self.deeper = 0  # frames beyond _MAX_FRAMES
        self.heading: int | None = None  # level of the header being collected
        self.articles = 0  # open article, section and main elements

    def walk(self, root: LexborNode) -> None:
        # A node, what it was entered as ("" for: not yet), and where its text begins in `parts`.
        stack: list[tuple[LexborNode, str, int]] = [(root, "", 0)]
        while stack:
            node, kind, began = stack.pop()
            if kind:
                self._leave(node, kind, began)
            elif node.is_text_node:
                self.parts.append((node.text_content or "").replace(_BREAK, ""))
            elif node.is_element_node and (kind := self._enter(node, node.tag)):
                stack.append((node, kind, len(self.parts)))
                stack.extend((child, "", 0) for child in reversed(list(node.iter(include_text=True))))
        self.flush()

    def _enter(self, node: LexborNode, tag: str) -> str:
        """Handles an element's start: "heading", "block" or "inline"; "" when its contents are left out or were taken whole."""
        attributes = node.attributes
        if skipped(tag, attributes, self.articles > 0):
            return ""
        if tag == "br":
            self._break()
            return ""
        if tag in _VERBATIM:
            self._verbatim(node)
            return ""
        if level := _heading_level(tag, attributes):
            self.flush()
            self.finish_heading()
            self.heading = level
            return "heading"
        if tag in _BLOCKS:
            self.flush()
            if tag == "form" and node.css_first("h1,h2,h3,h4,h5,h6") is None:
                return ""  # some sites wrap the whole page into a form: those hold headers
            if tag == "table" and (rows := _data_rows(node)) is not None:
                self._table(node, rows)
                return ""
            self._open(tag, attributes)
            return "block"
        if tag == "q":
            self.parts.append("“")
        return "inline"

    def _leave(self, node: LexborNode, kind: str, began: int) -> None:
        tag = node.tag
        if kind == "heading":
            self.flush()
            self.finish_heading()
        elif kind == "block":
            self.flush()
            self._close(tag)
        elif tag == "a":
            self._end_link(node, began)
        elif tag in ("sup", "sub"):
            self._end_raised(node, tag, began)
        elif tag == "q":
            self.parts.append("”")

    def _open(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag in ("article", "section", "main"):
            self.articles += 1
            if tag != "section":
                self.items.append(Edge(tag, True))
        elif tag in _FRAMES:
            if len(self.frames) >= _MAX_FRAMES:
                self.deeper += 1
            else:
                self.frames.append(self._frame(tag, attributes))

    def _frame(self, tag: str, attributes: dict[str, str | None]) -> _Frame:
        if tag == "li":
            parent = next((f for f in reversed(self.frames) if f.tag in _LISTS), None)
            marker = "- "
            if parent is not None and parent.tag == "ol":
                parent.count = _integer(attributes.get("value"), parent.count + 1)
                marker = f"{parent.count}. "
            return _Frame(tag, marker, " " * len(marker))
        if tag == "ol":
            return _Frame(tag, count=_integer(attributes.get("start"), 1) - 1)
        lead = {"dd": (": ", "  "), "blockquote": ("> ", "> ")}.get(tag, ("", ""))
        return _Frame(tag, *lead)

    def _close(self, tag: str) -> None:
        if tag in ("article", "section", "main"):
            self.articles -= 1
            if tag != "section":
                self.items.append(Edge(tag, False))
        elif tag in _FRAMES:
            if self.deeper:
                self.deeper -= 1
            else:
                self.frames.pop()

    def _break(self) -> None:
        if self.heading is not None:
            self.parts.append(" ")
            return
        last = next((part for part in reversed(self.parts) if part.strip()), "")
        if last == _BREAK:  # two in a row are a new paragraph
            self.flush()
        else:
            self.parts.append(_BREAK)

    def flush(self) -> None:
        """Ends the line being collected: a header's text, or a block."""
        if not self.parts:
            return
        text = _tidy("".join(self.parts))
        links, linked = self.links, self.linked
        self.parts, self.links, self.linked = [], 0, 0
        if not text:
            return
        if self.heading is not None:
            self._add_header(text)
        elif self.frames or not (notice(text) or (links >= 2 and sum(map(str.isalnum, text)) <= linked)):  # "Prev | Up | Next"
            self._add_block(text)

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

    def _add_block(self, text: str) -> None:
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
        self.items.append(Block("\n".join([first + lines[0], *((rest + line).rstrip() for line in lines[1:])]), tight))

    def _end_link(self, node: LexborNode, began: int) -> None:
        text = "".join(self.parts[began:])
        href = node.attributes.get("href") or ""
        sign = text.strip().lower()
        if href.startswith("#") and (sign in _ANCHOR_SIGNS or _NOTE_MARK.fullmatch(sign)):
            del self.parts[began:]
        elif href and text.strip():
            self.links += 1
            self.linked += sum(map(str.isalnum, text))

    def _end_raised(self, node: LexborNode, tag: str, began: int) -> None:
        text = " ".join("".join(self.parts[began:]).split())
        if not text:
            return
        del self.parts[began:]
        if tag == "sup" and (_NOTE_MARK.fullmatch(text) or (_FOOTNOTE.fullmatch(text) and _is_linked(node))):
            return  # the number of a footnote
        table, sign = (_SUPERSCRIPTS, "^") if tag == "sup" else (_SUBSCRIPTS, "_")
        if all(ord(char) in table for char in text):
            self.parts.append(text.translate(table))
        elif tag == "sup" and text.lower() in _PLAIN_RAISED:
            self.parts.append(text)
        else:
            self.parts.append(sign + (text if len(text) == 1 else f"({text})"))

    def _verbatim(self, node: LexborNode) -> None:
        self.flush()
        self.finish_heading()
        text = _INVISIBLE.sub("", _verbatim_text(node)).expandtabs(8)
        lines = [line.rstrip() for line in text.strip("\n").split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        if any(lines):
            fence = "```"
            while any(line.startswith(fence) for line in lines):
                fence += "`"
            self._add_block("\n".join([fence, *lines, fence]))

    def _table(self, node: LexborNode, rows: list[tuple[bool, list[str]]]) -> None:
        self.finish_heading()
        caption = node.css_first("caption")
        if caption is not None and (text := inline_text(caption)):
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


def to_items(body: LexborNode) -> list[Item]:
    """The headers and blocks of a page's body in the order of the page."""
    walker = _Walker()
    walker.walk(body)
    walker.finish_heading()
    return walker.items


def inline_text(node: LexborNode) -> str:
    """The text of a node that holds no table, on one line."""
    walker = _Walker()
    for child in node.iter(include_text=True):
        walker.walk(child)
    texts = (" ".join(item.text.split()) for item in walker.items if not isinstance(item, Edge))
    return " ".join(filter(None, texts))


def _data_rows(table: LexborNode) -> list[tuple[bool, list[str]]] | None:
    """(is a header row, cells) for each row with text of a table of data; None when the table lays out the page."""
    if (table.attributes.get("role") or "") in ("presentation", "none"):
        return None
    rows: list[LexborNode] = []
    for node in table.traverse():
        tag = node.tag
        if tag == "tr":
            rows.append(node)
        elif tag in _LAYOUT_SIGNS and node.mem_id != table.mem_id:
            return None
    if len(rows) < 2:
        return None
    found = []
    for row in rows:
        cells = [cell for cell in row.iter() if cell.tag in _CELLS and not skipped(cell.tag, cell.attributes, True)]
        texts = []
        for cell in cells:
            texts.append(inline_text(cell))
            texts += [""] * (min(_integer(cell.attributes.get("colspan"), 1), 20) - 1)
        if any(len(text) > _MAX_CELL for text in texts):
            return None
        if any(texts):
            found.append((all(cell.tag == "th" for cell in cells) or row.parent.tag == "thead", texts))
    return found or None


def _is_linked(node: LexborNode) -> bool:
    return node.css_first("a[href]") is not None or (node.parent is not None and node.parent.tag == "a")


def _verbatim_text(node: LexborNode) -> str:
    parts: list[str] = []
    stack = [node]
    while stack:
        current = stack.pop()
        if current.is_text_node:
            parts.append(current.text_content or "")
        elif current.tag == "br":
            parts.append("\n")
        elif current.is_element_node and not skipped(current.tag, current.attributes, True):
            stack.extend(reversed(list(current.iter(include_text=True))))
    return "".join(parts)


def _heading_level(tag: str, attributes: dict[str, str | None]) -> int:
    """The level of a header element; 0 for any other element."""
    if (attributes.get("role") or "").lower() == "heading":
        return min(max(1, _integer(attributes.get("aria-level"), HEADINGS.get(tag, 2))), 9)
    return HEADINGS.get(tag, 0)


def _integer(value: str | None, default: int) -> int:
    value = (value or "").strip()
    return int(value) if re.fullmatch(r"-?\d{1,6}", value) else default


def _tidy(text: str) -> str:
    """Whitespace folded within each line, lines without text at either end removed."""
    lines = (" ".join(line.split()) for line in _INVISIBLE.sub("", text).split(_BREAK))
    return "\n".join(line for line in lines if line)
