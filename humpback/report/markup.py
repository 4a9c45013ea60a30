"""HTML and SVG that are safe by their making: every text is escaped, only what `tag` made is not."""

import base64
import hashlib
import html
from collections.abc import Iterable

from humpback.progress import printable

_VOID = frozenset(("meta", "input", "br"))


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


Content = str | int | float | None | Iterable["Content"]


def tag(name: str, /, *content: Content, **attributes: str | float | None) -> Html:
    """An element. `class_` is the attribute class, `aria_label` aria-label; an attribute that is None is left out."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(v))}"' for key, v in attributes.items() if v is not None)
    return Html(f"<{name}{written}>") if name in _VOID else Html(f"<{name}{written}>{join(content)}</{name}>")


def join(content: Content) -> Html:
    """Contents after one another, texts escaped, with U+FFFD for what would control a terminal or turn a line's direction."""
    if isinstance(content, Html):
        return content
    if content is None:
        return Html("")
    if isinstance(content, str | int | float):
        return Html(html.escape(printable(str(content))))
    return Html("".join(map(join, content)))


def table(header: Iterable[Content], rows: Iterable[Iterable[Content]], caption: str = "") -> Html:
    """A table whose first column names the row; a wide one is scrolled by keyboard, too."""
    head = tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in header]))
    body = tag("tbody", [tag("tr", [_cell(n, cell) for n, cell in enumerate(row)]) for row in rows])
    inner = tag("table", tag("caption", caption) if caption else None, head, body)
    return tag("div", inner, class_="wide", tabindex="0", role="region", aria_label=caption or "table")


def folded(content: Html) -> Html:
    """What is seen when somebody asks for it, or prints the page."""
    return tag("details", tag("summary", "The numbers"), content)


def _cell(place: int, content: Content) -> Html:
    return tag("td", content) if place else tag("th", content, scope="row")


def source_hash(text: str) -> str:
    """What a Content-Security-Policy allows an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def number(value: float | None, digits: int = 2) -> str:
    """A number as the page shows it; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """A share as the page shows it."""
    return "–" if value is None else f"{value:.1%}"
