"""XHTML and declarative shadow trees, written as the HTML that they mean."""

import re

from humpback.corpus.markup import VOID

_HEAD = 2_000  # characters in which a page says what it is
_XHTML = re.compile(r"\s*<\?xml\b.*?(?:www\.w3\.org/1999/xhtml|<!DOCTYPE[^>]*XHTML)", re.IGNORECASE | re.DOTALL)
_ATTRIBUTES = r"""(?:\s+[^\s"'<>/=]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>/=]+))?)*+"""
_CLOSED = re.compile(rf"<([A-Za-z][\w:.-]*)({_ATTRIBUTES})\s*/>|<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_TEMPLATE = re.compile(r"<(/?)template\b([^>]*)>", re.IGNORECASE)


def as_html(html: str) -> str:
    """A page as HTML. Where a file says that it is XML and XHTML, `<x/>` closes itself and CDATA is text; elsewhere neither does."""
    if _XHTML.match(html, 0, _HEAD):
        html = _CLOSED.sub(_opened, html)
    return _without_shadows(html) if "shadowrootmode" in html else html


def _opened(match: re.Match) -> str:
    if match[1] is None:
        return match[3].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return match[0] if match[1].lower() in VOID else f"<{match[1]}{match[2]}></{match[1]}>"


def _without_shadows(html: str) -> str:
    """Makes the templates of shadow trees boxes, as their contents are shown."""
    opened: list[bool] = []  # of each open template, whether it is shown

    def box(match: re.Match) -> str:
        if match[1]:
            return "</div>" if opened and opened.pop() else match[0]
        opened.append("shadowrootmode" in match[2].lower())
        return f"<div{match[2]}>" if opened[-1] else match[0]

    return _TEMPLATE.sub(box, html)
