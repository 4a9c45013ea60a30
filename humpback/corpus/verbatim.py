"""Code of a page as its author wrote it: one line a line, whatever boxes stand for the lines, and without the numbers before them."""

import functools
import re

from humpback.corpus.boilerplate import words
from humpback.corpus.markup import CODE_BOX, VOID, Markup, plain, visible

_ROWS = words("div p li tr table tbody thead ul ol pre section blockquote dl dt dd figure")
_BLOCK_STYLE = re.compile(r'style="[^"]*\bdisplay\s*:\s*(?:block|flex|grid|table-row|list-item)', re.IGNORECASE)
# What nobody can select with the code is none of it; and what programs call the numbers of lines.
_UNSELECTED = re.compile(r'style="[^"]*\buser-select\s*:\s*none|class="[^"]*\bselect-none\b', re.IGNORECASE)
_GUTTER = re.compile(
    r'class="(?:[^"]*[\s_-])?(?:gutter|linenos?|linenumbers?|line-?numbers?|line-numbers-rows|lntd?|ln|blob-num|linenodiv)(?:[\s_-][^"]*)?"',
    re.IGNORECASE,
)
_CODE_COLUMN = re.compile(r'class="[^"]*\bcode\b')  # "lntd" is the class of Chroma's both columns, "gutter" of none that holds code
_TITLE = re.compile(
    r'class="(?:[^"]*[\s_-])?(?:header|toolbar|title|caption|lang|language|copy|copybtn|filename)(?:[\s_-][^"]*)?"', re.IGNORECASE
)
_LANGUAGE = re.compile(r'class="[^"]*\b(?:language|lang|highlight-source|brush:?)[-\s]+([\w+#]+)', re.IGNORECASE)
_NUMBER = re.compile(r"\s*(\d{1,5})[\s.:|]*")
_MAX_TITLE = 40  # characters
_LINE = re.compile(r'^br$|class="(?:[^"]*\s)?(?:line|cm-line|code-line|view-line|codemirror-line)[\s"]', re.IGNORECASE)
_FIRST = 100  # tags, among which is the first line's


def code_block(page: Markup, begin: int, end: int) -> str:
    """The fenced code of the element between two tags; "" when there is none, or nothing but the numbers of lines."""
    begin, end = _narrowed(page, begin, end)
    text = visible(plain(_text(page, begin, end))).expandtabs(8).strip("\n")
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not any(lines) or _are_numbers(lines):
        return ""
    fence = "```"
    while any(line.startswith(fence) for line in lines):
        fence += "`"
    return "\n".join([fence, *lines, fence])


def _narrowed(page: Markup, begin: int, end: int) -> tuple[int, int]:
    """The only `code`, or box of lines, in it: what else stands there is the title of the block, and buttons."""
    inner = [place for place in range(begin + 1, end) if page.heads[place][:4] == "code" and page.tags[place].name == "code"]
    inner = inner or [place for place in range(begin + 1, end) if page.heads[place][:4] == "div " and CODE_BOX.search(page.heads[place])]
    return (inner[0], page.end_of(inner[0])) if len(inner) == 1 else (begin, end)


def holds_lines(page: Markup, begin: int) -> bool:
    """Whether a box that is no `pre` holds a box for each line of code."""
    return any(_LINE.search(head) for head in page.heads[begin + 1 : min(begin + _FIRST, page.end_of(begin))])


def _text(page: Markup, begin: int, end: int) -> str:
    """The text with a line's end where a box begins or ends."""
    parts: list[str] = [page.texts[begin]]
    opened: list[int] = []  # parts there were when each box of a line began
    numbers: list[int] = []  # parts that are a number at the beginning of a line, in an element of its own
    added: set[int] = set()  # parts that are the end of a box's line
    ends: set[int] = set()  # of those that are no block by their name
    position = begin + 1
    while position < end:
        head, tag = page.heads[position], page.tags[position]
        if tag.kind in ("skip", "skip_table") or _is_beside(page, position, begin, parts):
            position = page.end_of(position)
        elif tag.name == "br":
            parts.append("\n")
        elif head[:1] == "/":
            if opened and (tag.name in _ROWS or position in ends):
                _end_line(parts, opened.pop(), added)
        elif tag.name in _ROWS:
            _end_line(parts, -1, added)
            opened.append(len(parts))
        elif tag.name == "span" and "style=" in head and _said(head)[3]:
            _end_line(parts, -1, added)
            opened.append(len(parts))
            ends.add(page.end_of(position))
        elif tag.name not in VOID and page.texts[position].strip().isdigit() and _at_line_start(parts):
            numbers.append(len(parts))
        parts.append(page.texts[position])
        position += 1
    return _without_numbers(parts, numbers, added)


def _is_beside(page: Markup, position: int, begin: int, parts: list[str]) -> bool:
    """Whether an element of a block of code is none of it: the numbers of its lines, or its title before it."""
    head, tag = page.heads[position], page.tags[position]
    if head[:1] == "/" or " " not in head or tag.name in VOID or tag.name == "code":
        return False
    unselected, gutter, title, _ = _said(head)
    if unselected or (gutter and _are_numbers(page.text(position, page.end_of(position)).split())):
        return unselected or gutter
    if tag.name not in _ROWS or any(part.strip() for part in parts):
        return False
    text = page.text(position, page.end_of(position)).strip()
    named = {found[1].lower() for place in range(max(begin - 3, 0), position) if (found := _LANGUAGE.search(page.heads[place]))}
    return (title and len(text) <= _MAX_TITLE) or text.lower() in named


@functools.lru_cache(maxsize=4096)
def _said(head: str) -> tuple[bool, bool, bool, bool]:
    """What a tag says: that nobody can select what it holds; that this is the numbers of lines, or a title; that it is a block."""
    gutter = bool(_GUTTER.search(head)) and not _CODE_COLUMN.search(head)
    return bool(_UNSELECTED.search(head)), gutter, bool(_TITLE.search(head)), bool(_BLOCK_STYLE.search(head))


def _end_line(parts: list[str], since: int, added: set[int]) -> None:
    """Ends the line, unless one has just ended; one without text, since so many parts were there, is a line, too."""
    if not _at_line_start(parts) or (since >= 0 and not any(parts[since:])):
        added.add(len(parts))
        parts.append("\n")


def _at_line_start(parts: list[str]) -> bool:
    last = next((part for part in reversed(parts) if part), "\n")
    return last.endswith("\n")


def _without_numbers(parts: list[str], numbers: list[int], added: set[int]) -> str:
    """The text without the numbers in elements of their own that count its lines."""
    values = [int(parts[place]) for place in numbers if parts[place].strip().isdigit()]
    if len(values) >= 2 and len(values) == len(numbers) and _count_up(values):
        for place in numbers:
            parts[place] = ""
            following = next((place for place in range(place + 1, len(parts)) if parts[place]), 0)
            if following in added:  # the number was in a box of its own
                parts[following] = ""
    return "".join(parts)


def _are_numbers(lines: list[str]) -> bool:
    """Whether lines are nothing but their own numbers."""
    matches = [_NUMBER.fullmatch(line) for line in lines if line.strip()]
    numbers = [int(match[1]) for match in matches if match]
    return bool(matches) and len(numbers) == len(matches) and _count_up(numbers)


def _count_up(values: list[int]) -> bool:
    return values == list(range(values[0], values[0] + len(values)))
