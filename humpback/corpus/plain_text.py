"""Plain text to blocks: a paragraph a block; lines that somebody broke at a width become one again."""

import itertools
import re

from humpback.corpus.items import Block, Item
from humpback.corpus.lists import ORDINAL
from humpback.corpus.markup import visible

_BULLET = re.compile(r"\A([ \t]*)[*•●▪◦‣·][ \t]+(?=\S)")
_SET_APART = re.compile(rf"[ \t]*(?:- |{ORDINAL}|\(?\w{{1,3}}\) |: |\||>|```)")  # items, rows, quotations: never the rest of a line
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
# Directives, labels and roles of reStructuredText; blocks, anchors, includes and links of AsciiDoc.
_OTHER_MARKUP = re.compile(
    r"^[ \t]*\.\. (?:[\w-]+(?::[\w-]+)?::|_[^\n]+:[ \t]*$)|:[a-z]+(?::[a-z]+)?:`[^`\n]+`"
    r"|^\[(?:source|verse|quote)[,\]]|^\[\[[\w-]+\]\][ \t]*$|^(?:include|ifdef|ifndef|endif)::|\b(?:link|linkgit|xref):[\w:./-]+\[", re.M
)  # fmt: skip
_MARKS = 2  # one may be spoken of
_MAX_WIDTH = 110  # characters of the lines of a text that was broken at a width
_MIN_WIDTH = 40
_WRAPPED = 0.5  # of the lines that another one follows, that many go on in lower case
_FULL = 0.6  # of the width that a line has which the next one goes on
_WIDE = 0.02  # of the lines may be longer, such as addresses


def is_other_markup(text: str) -> bool:
    """Whether a text is written in reStructuredText or AsciiDoc: as plain text or Markdown its marks and code would come out mixed up."""
    return len(list(itertools.islice(_OTHER_MARKUP.finditer(text), _MARKS))) == _MARKS


def to_items(text: str) -> list[Item]:
    """The paragraphs of a text, parted by blank lines; the lines of one are blocks, too, unless they are one that was broken at a width."""
    paragraphs = _paragraphs(_CONTROLS.sub("", visible(text)))
    width = _width(paragraphs)
    items: list[Item] = []
    for lines in paragraphs:
        if width:
            lines = _joined(lines, width)
        margin = min(len(line) - len(line.lstrip()) for line in lines)
        for number, line in enumerate(lines):
            items.append(Block(_BULLET.sub(r"\1- ", line[margin:]), number > 0))
    return items


def _paragraphs(text: str) -> list[list[str]]:
    """The lines of a text, without what is blank at their ends, where blank lines part them."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line := line.rstrip().expandtabs(4):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [lines for lines in found if lines]


def _width(paragraphs: list[list[str]]) -> int:
    """The width at which somebody broke the lines of a text; 0 if nobody did."""
    lengths = [len(line) for lines in paragraphs for line in lines]
    if sum(length > _MAX_WIDTH for length in lengths) > _WIDE * len(lengths):
        return 0
    width = max((length for length in lengths if length <= _MAX_WIDTH), default=0)
    followed = goes_on = 0
    for lines in paragraphs:
        for line, following in zip(lines, lines[1:], strict=False):
            if len(line) >= _FULL * width and not _SET_APART.match(following):
                followed += 1
                goes_on += following.lstrip()[0].islower()
    return width if width >= _MIN_WIDTH and followed and goes_on >= _WRAPPED * followed else 0


def _joined(lines: list[str], width: int) -> list[str]:
    """A paragraph's lines, those that were one line joined."""
    found = lines[:1]
    for before, line in zip(lines, lines[1:], strict=False):
        if len(before) >= _FULL * width and not _SET_APART.match(line):
            gap = "" if found[-1].endswith("-") and not found[-1].endswith(" -") and line.lstrip()[0].islower() else " "
            found[-1] += gap + line.lstrip()
        else:
            found.append(line)
    return found
