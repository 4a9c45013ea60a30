"""Tables of a page: which are data and which only lay the page out, and the rows of data as lines."""

import re
from collections.abc import Callable

from humpback.corpus.boilerplate import words
from humpback.corpus.markup import HEADINGS, VERBATIM, Markup

# A table that holds one of these lays the page out; its cells are blocks, not data.
_LAYOUT_SIGNS = frozenset([*HEADINGS, *VERBATIM, *words("table ul ol dl blockquote form section article main")])
_MAX_CELL = 500  # characters; a table with a longer cell is a layout, too
_MAX_COLUMNS = 20  # that a cell may span
_MAX_ROWS = 1_000  # that a cell may span

Rows = list[tuple[bool, list[str]]]  # whether it is a header row, its cells


def find_layouts(page: Markup, layouts: dict[int, bool], position: int) -> None:
    """Finds for a table and those in it whether it lays the page out: it holds another block, or a single row."""
    tables = [[position, 0, 0]]  # of the open ones: position, rows, whether it holds another block
    for index in range(position + 1, len(page.heads)):
        name = page.tags[index].name
        if name == "table" and page.heads[index][0] == "/":
            start, rows, layout = tables.pop()
            layouts[start] = bool(layout) or rows < 4
            if not tables:
                return
        elif name == "tr":
            tables[-1][1] += 1  # and once more at its end
        elif name in _LAYOUT_SIGNS:
            tables[-1][2] = 1
            if name == "table":
                tables.append([index, 0, 0])
    layouts |= {start: True for start, _, _ in tables}


def read_rows(page: Markup, begin: int, end: int, text_of: Callable[[int, int], str]) -> Rows | None:
    """The rows with text of a table of data; None when a cell is too long for one. `text_of`: of a cell between two tags.

    A cell over several rows is written again in each, so that a row says what it says; in a header once.
    """
    found: Rows = []
    in_head, only_headers = False, True
    cells: list[str] = []
    hanging: dict[int, tuple[int, str]] = {}  # column of a cell from a row above → rows that it goes on, its text
    position, heads, tags = begin + 1, page.heads, page.tags
    while position < end:
        tag, closes = tags[position], heads[position][0] == "/"
        if tag.name in ("td", "th") and not closes:
            start, position = position, page.end_of(position)
            if tag.kind != "skip":
                only_headers = only_headers and tag.name == "th"
                text = text_of(start, position)
                if len(text) > _MAX_CELL:
                    return None
                _fill(cells, hanging)
                span = _span(tag.attributes.get("colspan"), _MAX_COLUMNS)
                if (rows := _span(tag.attributes.get("rowspan"), _MAX_ROWS)) > 1:
                    again = "" if in_head else text
                    hanging |= {len(cells) + column: (rows, again if not column else "") for column in range(span)}
                cells += [text] + [""] * (span - 1)
        elif tag.name in ("thead", "tbody", "tfoot"):
            in_head = tag.name == "thead" and not closes
            hanging.clear()
        elif tag.name == "tr":
            if any(cells):
                _fill(cells, hanging)
                found.append((only_headers or in_head, cells))
            if closes or cells:
                hanging = {column: (rows - 1, text) for column, (rows, text) in hanging.items() if rows > 1}
            only_headers, cells = True, []
        position += 1
    return found or None


def as_blocks(rows: Rows) -> list[str]:
    """The text of a table: one block of rows, or the cells of a single column."""
    if max(sum(map(bool, cells)) for _, cells in rows) < 2:
        return [cell for is_header, cells in rows if not is_header for cell in cells if cell]
    width = max(len(cells) for _, cells in rows)
    lines = []
    for number, (is_header, cells) in enumerate(rows):
        if number and cells == rows[0][1]:  # the header once more
            continue
        cells = [cell.replace("|", "\\|") for cell in cells] + [""] * (width - len(cells))
        lines.append("| " + " | ".join(cells) + " |")
        if number == 0 and is_header:
            lines.append("|" + " --- |" * width)
    return ["\n".join(lines)]


def _fill(cells: list[str], hanging: dict[int, tuple[int, str]]) -> None:
    """Adds the cells that come from rows above before the next one of this row."""
    while len(cells) in hanging and hanging[len(cells)][0]:
        cells.append(hanging[len(cells)][1])


def _span(value: str | None, most: int) -> int:
    value = (value or "").strip()
    return min(max(int(value), 1), most) if re.fullmatch(r"\d{1,6}", value) else 1
