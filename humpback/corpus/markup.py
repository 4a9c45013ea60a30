"""A page as the parser writes it out again, cut into tags and the texts behind them.

What the parser writes is well-formed: every element is closed unless it is void, names are in lower case, and "<" and ">" stand for
nothing but tags (names with a "<" in them apart). So it can be cut at them, which costs a tenth of asking the parser for node after node.
"""

import functools
import re
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser

from humpback.corpus.boilerplate import REMARK_WORDS, UNJUDGED_TAGS, skipped, words

HEADINGS = {f"h{level}": level for level in range(1, 7)}
VERBATIM = words("pre listing xmp plaintext")
ARTICLES = ("article", "section", "main")
LISTS = ("ul", "ol", "dir")
FRAMES = frozenset([*LISTS, "li", "dl", "dd", "blockquote"])
VOID = words("area base br col embed frame hr img input link meta param source track wbr basefont bgsound keygen")
_BLOCKS = words(
    "address article blockquote body caption center dd details dir div dl dt fieldset figcaption figure form header hgroup hr html legend "
    "li main ol p section summary table tbody td tfoot th thead tr ul"
)
# Their contents are written out as they are, not escaped, so they go before anything is cut; "template" holds what is not shown.
_RAW = ["script", "style", "iframe", "noembed", "noframes", "noscript", "template"]
# Other tags are gone through whole: one of the name "p<plaintext" is none of these.
_UNESCAPED = re.compile("(<(xmp|plaintext)(?: [^>]*)?>)(.*?)(</\\2>|$)|<[^>]*>", re.DOTALL)
_COMMENT = re.compile("<!--.*?-->()", re.DOTALL)
_COMMENT_OR_TAG = re.compile("<!--.*?-->|(<[^>]*>)", re.DOTALL)  # for where a name has a "<" in it, slower
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
_CONTROL_BYTES = bytes([*range(9), 11, *range(14, 32), 127])
# U+200C stays between letters of Arabic and Indic scripts, where it parts what else would be joined.
_JOINED = "\u0600-\u07ff\u08a0-\u0dff\u1000-\u109f\ufb50-\ufdff\ufe70-\ufefc"
_INVISIBLE = re.compile("[\x80-\x9f\u00ad\u200b\u200e\u200f\u2060\ufeff]")
_NO_JOINER = re.compile(f"(?<![{_JOINED}])\u200c|\u200c(?![{_JOINED}])")
_ATTRIBUTE = re.compile(r'\s([^\s="]+)(?:="([^"]*)")?')
_ADDRESSES = ("href", "title", "rel", "name", "target")
_ADDRESS = re.compile(rf' (?:{"|".join(_ADDRESSES)})="[^"]*"')
_ADDRESS_PARTS = frozenset(["", *(f"{before} {name}=" for before in ("a", "") for name in _ADDRESSES)])  # of such a link, without values
# What decides about an element whose class and id do not count; and what says how many columns or which level.
_TELLING = re.compile("(?:hidden|style|role|aria-level|colspan|rowspan)=")
_TELLING_KINDS, _TELLING_NAMES = words("skip box landmark open_header open_role"), words("h1 main article hgroup")
_MAX_REMEMBERED = 200  # characters of a tag …
_MAX_REMEMBERED_TAGS = 20_000  # … and how many
_MAX_ROLES = 12  # elements with the role of a header within each other; deeper ones are none

# A box of code that is no `pre`, by its name, and `code` that keeps its lines.
CODE_BOX = re.compile(r'class="(?:[^"]*\s)?(?:fragment|cm-content|codemirror-code|view-lines|code-lines)(?:\s[^"]*)?"', re.IGNORECASE)
_KEPT_LINES = re.compile(r"white-space\s*:\s*(?:pre|break-spaces)", re.IGNORECASE)

BREAK = "\0"  # stands for <br> while a line is collected

FLUSH = "flush"  # the commonest: a block begins or ends, and nothing else
_CLOSING = {
    **dict.fromkeys(_BLOCKS, FLUSH), **dict.fromkeys(HEADINGS, "close_heading"),
    **dict.fromkeys(FRAMES, "close_frame"), **dict.fromkeys(ARTICLES, "close_article"),
    "a": "close_link", "sup": "close_raised", "sub": "close_raised", "q": "close_quotation",
}  # fmt: skip
OPENING = {
    **dict.fromkeys(_BLOCKS, FLUSH), **dict.fromkeys(HEADINGS, "open_heading"), **dict.fromkeys(VERBATIM, "verbatim"),
    **dict.fromkeys(FRAMES, "open_frame"), **dict.fromkeys(ARTICLES, "open_article"),
    "a": "open_mark", "sup": "open_mark", "sub": "open_mark", "q": "open_quotation", "br": "line_break", "header": "open_header",
    "button": "open_button", "label": "open_button", "table": "open_table", "form": "open_form", "img": "picture",
}  # fmt: skip


@dataclass(slots=True)
class Tag:
    """A tag that was read: `kind` names what it does to a text ("" for nothing), `name` has no slash."""

    kind: str
    name: str
    attributes: dict[str, str]
    remark: bool = False  # whether it opens a box of a remark
    telling: bool = False  # whether it says where the article is, may be left out for its name, or changes what its headers are


_ROLE_END = Tag("close_heading", "", {})
_LINK = Tag("open_mark", "a", {})


class _Tags(dict[str, Tag]):
    """Tags by their text, remembered: a site writes the same ones on all its pages."""

    def __missing__(self, head: str) -> Tag:
        if head[:2] == "a ":  # the commonest, and hardly one like another, but for its class
            if _ADDRESS_PARTS.issuperset(head.split('"')[::2]):
                return _LINK
            head = _ADDRESS.sub("", head)
            if head in self:
                return self[head]
        tag = _read_tag(head)
        if len(head) <= _MAX_REMEMBERED:
            self[head] = tag
        return tag


_remembered = _Tags()


class Markup:
    """A page's tags: the text `heads[i]` between "<" and ">", what it is, `tags[i]`, and the text behind it, `texts[i]`.

    Takes out of the parsed page what is never read.
    """

    def __init__(self, parser: LexborHTMLParser) -> None:
        parser.strip_tags(_RAW)
        written = (parser.body.html if parser.body is not None else "") or ""
        html = _without_comments(written, _COMMENT)
        data = html.encode("utf-8", "replace")  # bytes are looked through in a fraction of the time
        if len(data.translate(None, _CONTROL_BYTES)) < len(data):
            written, html = _CONTROLS.sub("", written), _CONTROLS.sub("", html)
        pieces = html.replace(">", "<").split("<")
        if 2 * html.count("<") != len(pieces) - 1:
            html = _without_stray_signs(_without_comments(written, _COMMENT_OR_TAG))
            pieces = html.replace(">", "<").split("<")
        self.titles: dict[int, int] = {}  # position of a `<header>` outside of an article → of the article's title in it
        self.heads, self.texts = pieces[1::2], pieces[2::2]
        if len(_remembered) >= _MAX_REMEMBERED_TAGS:
            _remembered.clear()
        self.tags: list[Tag] = list(map(_remembered.__getitem__, self.heads))
        marked = [position for position, tag in enumerate(self.tags) if tag.telling]
        self._close_roles(marked)
        self._demote_remarks(marked)
        self._demote_subtitles(marked)
        self.marked = marked  # positions of the tags that are `telling`, or were before they got their place

    @functools.cached_property
    def telling(self) -> list[int]:
        """The positions of the tags that do something, when no tag changes any more."""
        return [position for position, tag in enumerate(self.tags) if tag.kind]

    def end_of(self, position: int) -> int:
        """The position of the end tag of the element that starts at `position`; its own when it is void."""
        name = self.tags[position].name
        if name in VOID:
            return position
        closing, depth, end = f"/{name}", 1, position
        while depth:
            begin = end + 1
            try:
                end = self.heads.index(closing, begin)
            except ValueError:
                return len(self.heads) - 1
            depth -= 1
            if end > begin:
                depth += [tag.name for tag in self.tags[begin:end]].count(name)
        return end

    def forget_between(self, begin: int, end: int) -> None:
        """Makes the ends of the elements that begin between two tags, which are not read, ends of blocks."""
        opened: list[bool] = []  # of the open elements: whether they began there
        for position in range(begin + 1, len(self.heads)):
            tag = self.tags[position]
            if self.heads[position][:1] != "/":
                if tag.name not in VOID:
                    opened.append(position < end)
            elif not opened:
                return
            elif opened.pop():
                self.tags[position] = Tag(FLUSH, tag.name, {})

    def text(self, begin: int, end: int) -> str:
        """The plain text between two tags, whatever tags are between them."""
        return plain("".join(self.texts[begin:end]))

    def _close_roles(self, marked: list[int]) -> None:
        """Marks the ends of elements that are headers by their role, whatever they are by their name."""
        ends: list[int] = []  # of those that are open
        for position in marked:
            tag = self.tags[position]
            if tag.kind != "open_role":
                continue
            while ends and ends[-1] < position:
                ends.pop()
            if len(ends) >= _MAX_ROLES or tag.name in VOID or tag.name in FRAMES or tag.name in ARTICLES:
                self.tags[position] = Tag(OPENING.get(tag.name, ""), tag.name, tag.attributes)
            else:
                ends.append(self.end_of(position))
                self.tags[position] = Tag("open_heading", tag.name, tag.attributes)
                self.tags[ends[-1]] = _ROLE_END

    def _demote_remarks(self, marked: list[int]) -> None:
        """Makes the headers in boxes of remarks ("Note") lines of their text."""
        behind = 0  # what was looked at
        for position in marked:
            if position >= behind and self.tags[position].remark:
                behind = self.end_of(position)
                for inner in range(position, behind):
                    if self.tags[inner].name in HEADINGS:
                        self.tags[inner] = Tag(FLUSH, self.tags[inner].name, {})

    def _demote_subtitles(self, marked: list[int]) -> None:
        """Makes all headers of a group but its first one lines of the text."""
        for position in [position for position in marked if self.tags[position].name == "hgroup"]:
            inner = [place for place in range(position, self.end_of(position)) if self.tags[place].name in HEADINGS]
            for place in inner[2:]:  # behind the first one's end
                self.tags[place] = Tag(FLUSH, self.tags[place].name, {})


def _read_tag(head: str) -> Tag:
    tag = _read(head)
    tag.telling = head[:1] != "/" and (tag.remark or tag.kind in _TELLING_KINDS or tag.name in _TELLING_NAMES)
    return tag


def _read(head: str) -> Tag:
    """What stands between "<" and ">"."""
    if head[:1] == "/":
        return Tag(_CLOSING.get(head[1:], ""), head[1:], {})
    name, space, rest = head.partition(" ")
    if (name == "div" and CODE_BOX.search(rest)) or (name == "code" and _KEPT_LINES.search(rest)):
        return Tag("open_code", name, {})
    if name in UNJUDGED_TAGS and not _TELLING.search(rest):  # its many ids need not be looked at
        return Tag(OPENING.get(name, ""), name, {})
    attributes = {key: plain(value) for key, value in _ATTRIBUTE.findall(space + rest)} if space else {}
    if kind := skipped(name, attributes):
        return Tag("" if name in VOID else "skip_table" if name == "table" and kind == "skip" else kind, name, attributes)
    if name not in HEADINGS and attributes.get("role", "").lower() == "heading":
        return Tag("open_role", name, attributes)
    remark = name == "div" and not REMARK_WORDS.isdisjoint(attributes.get("class", "").split())
    return Tag(OPENING.get(name, ""), name, attributes, remark)


def _without_comments(html: str, comment: re.Pattern) -> str:
    """Without comments, and with escapes in what is written out without. Of what `comment` finds its group stays."""
    if "<!--" in html:
        html = comment.sub(r"\1", html)
    if "<xmp" in html or "<plaintext" in html:
        html = _UNESCAPED.sub(_escape, html)
    return html


def _without_stray_signs(html: str) -> str:
    """Without "<" in the names of tags and attributes, the one place where the parser writes it for nothing that begins."""
    pieces, inside = html.split("<")[:1], False
    for piece in html.split("<")[1:]:
        if inside:
            pieces[-1] += piece
        else:
            pieces.append(piece)
        inside = ">" not in piece
    return "<".join(pieces)


def _escape(match: re.Match) -> str:
    if not match[1]:
        return match[0]
    return match[1] + match[3].replace("<", "&lt;").replace(">", "&gt;") + (match[4] or f"</{match[2]}>")


def plain(text: str) -> str:
    """Text without the escapes that the parser writes."""
    if "&" not in text:
        return text
    text = text.replace("&nbsp;", "\xa0").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    return text.replace("&amp;", "&")


def visible(text: str) -> str:
    """Text without characters that nobody sees."""
    if text.isascii():
        return text
    return _INVISIBLE.sub("", _NO_JOINER.sub("", text) if "\u200c" in text else text)


def tidy(text: str) -> str:
    """Whitespace folded within each line, lines without text at either end removed."""
    text = visible(text)
    if BREAK not in text:
        return " ".join(text.split())
    lines = (" ".join(line.split()) for line in text.split(BREAK))
    return "\n".join(line for line in lines if line)
