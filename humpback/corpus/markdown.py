"""Markdown (CommonMark with GitHub's tables) as the HTML that it means, so that what becomes of a page becomes of it.

The rest of a page's way is that of HTML: headers, lists, tables, code. Front matter is no text; its title and language are the page's.
"""

import functools
import html
import itertools
import re

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

_FRONT = re.compile(r"\s*---[ \t]*\n((?:[ \t]*(?:#.*)?\n)*[\w\"'][\w .\"'-]*:(?:[ \t].*)?\n(?:.*\n)*?)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_FRONT_VALUE = r"(?m)^{}[ \t]*:[ \t]+[\"']?(.+?)[\"']?[ \t]*$"
_MAX_FRONT = 1_000_000  # characters: some data sets list their files in it
_ATX = re.compile(r" {0,3}#{1,6}[ \t]+\S")
_UNDERLINE = re.compile(r" {0,3}(?:={3,}|-{3,})[ \t]*")
_FENCE = re.compile(r"[ >]{0,8}(`{3,}(?=[^`]*$)|~~~(?!~))")  # a longer row of tildes parts what a text may be
_MAX_TITLE = 100  # characters of a line that an underline makes a header, in a text that may be none of Markdown
_MARKDOWN = re.compile(r"^(?: {0,3}(?:#{1,6}[ \t]|={3,}|-{3,})|[ >]{0,8}(?:```|~~~))", re.MULTILINE)  # without one of these it is none
_ATTRIBUTES = re.compile(r"\s*\{\s*[#.:][^{}]*\}\s*\Z")  # behind a header, as some dialects write them
_NOTE = re.compile(r"\[\^[^\]\s]{1,40}\](:?)")
# Tags that change how all behind them is read, unless they are closed: without that they are words of a text.
_GREEDY = "title|textarea|style|xmp|iframe|noembed|noframes|script|plaintext|select|template|svg|math|noscript|frameset|table"
_GREEDY_TAG = re.compile(rf"<(?=({_GREEDY})[\s>/])", re.IGNORECASE)
_CLOSED_TAG = re.compile(rf"</({_GREEDY})[\s>]", re.IGNORECASE)
_RAW_BEGIN = re.compile(r"\s*<(script|style|textarea|pre)(?=[\s>])", re.IGNORECASE)
_MAX_MATH = 1_000  # characters


def as_html(text: str) -> tuple[str, bool]:
    """(a page of Markdown as HTML, whether a fence, a comment or a script in it is never closed, and has swallowed what follows)."""
    front, text = split_front_matter(text)
    lines = text.split("\n")
    tokens = _parser().parse(text)
    closed = {name.lower() for name in _CLOSED_TAG.findall(text)}
    is_open = _is_open(tokens, lines)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "html_block":
            token.content = _without_greedy_tags(token.content, closed)
        elif token.type == "inline" and token.children:
            if before is not None and before.type == "heading_open":
                _without_attributes(token.children)
            elif (note := _NOTE.match(token.content)) and note[1]:
                token.children.clear()
            for child in token.children:
                if child.type == "html_inline":
                    child.content = _without_greedy_tags(child.content, closed)
    body = _parser().renderer.render(tokens, _parser().options, {})
    title, language = (re.search(_FRONT_VALUE.format(name), front) for name in ("title", "lang"))
    head = f"<title>{html.escape(title[1])}</title>" if title else ""
    root = f'<html lang="{html.escape(language[1])}">' if language else "<html>"
    return f"{root}<head>{head}</head><body>{body}</body></html>", is_open


def split_front_matter(text: str) -> tuple[str, str]:
    """(what stands between the marks at a page's beginning, the text behind it), line ends as LF."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = _FRONT.match(text, 0, _MAX_FRONT) if text.lstrip()[:3] == "---" else None
    return (found[1] or "", text[found.end() :]) if found else ("", text)


def is_markdown(text: str) -> bool:
    """Whether a text has a header of Markdown or code in fences.

    A line is a header where it stands apart, below or above a blank line. In the middle of other lines it is a remark in code, and a row
    of signs below a paragraph only parts it from the next.
    """
    if not _MARKDOWN.search(text):
        return False
    lines = [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]
    fence = ""
    apart = True  # whether the line before is blank
    for line, following in itertools.pairwise(lines):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                return True
        elif mark:
            fence = mark[1]
        elif _ATX.match(line):
            if apart or not following.strip():
                return True
        elif apart and line.strip() and len(line) <= _MAX_TITLE and _UNDERLINE.fullmatch(following) and not _UNDERLINE.fullmatch(line):
            return True
        apart = not line.strip()
    return fence.startswith("`")


@functools.cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser.inline.ruler.before("escape", "math", _math)
    parser.inline.ruler.before("link", "note", _note)
    return parser


def _math(state: StateInline, silent: bool) -> bool:
    """A formula between dollar signs, in which no sign is Markdown's."""
    begin, text = state.pos, state.src
    if text[begin] != "$" or (begin and text[begin - 1] == "\\"):
        return False
    mark = "$$" if text.startswith("$$", begin) else "$"
    end = text.find(mark, begin + len(mark), min(begin + _MAX_MATH, state.posMax))
    inside = text[begin + len(mark) : end] if end >= 0 else ""
    if not inside.strip() or (mark == "$" and (inside[0].isspace() or inside[-1].isspace() or text[end + 1 : end + 2].isdigit())):
        return False
    if not silent:
        state.push("text", "", 0).content = text[begin : end + len(mark)]
    state.pos = end + len(mark)
    return True


def _note(state: StateInline, silent: bool) -> bool:
    """The mark of a footnote, which is no text."""
    note = _NOTE.match(state.src, state.pos) if state.src.startswith("[^", state.pos) else None
    if note is None:
        return False
    state.pos = note.end() - len(note[1])
    return True


def _is_open(tokens: list[Token], lines: list[str]) -> bool:
    """Whether what the page ends in was never closed: code in fences, a comment, a script."""
    for token in reversed(tokens):
        if token.map is None or token.type not in ("fence", "html_block"):
            if token.nesting < 0:  # of a list, a quotation
                continue
            return False
        if token.type == "fence":
            closing = f"{re.escape(token.markup[0])}{{{len(token.markup)},}}"
            end = min(token.map[1], len(lines))
            return not (end - token.map[0] > 1 and re.fullmatch(rf"[\s>]*{closing}\s*", lines[end - 1]))
        begun = _RAW_BEGIN.match(token.content)
        if begun:
            return f"</{begun[1].lower()}" not in token.content.lower()
        return token.content.lstrip().startswith("<!--") and "-->" not in token.content
    return False


def _without_greedy_tags(content: str, closed: set[str]) -> str:
    """Raw HTML in which a tag that the page never closes is written as text."""
    return _GREEDY_TAG.sub(lambda match: "<" if match[1].lower() in closed else "&lt;", content)


def _without_attributes(children: list[Token]) -> None:
    """Takes `{#name}` off a header."""
    last = children[-1]
    if last.type == "text" and last.content.endswith("}"):
        last.content = _ATTRIBUTES.sub("", last.content)
