"""What a page is read as: a flat list of headers, blocks of text, and where the boxes end that end the trees in them."""

from dataclasses import dataclass


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
    """A header and its level (1 to 6, up to 9 with aria-level). `linked`: all of it is a link to another page."""

    text: str
    level: int
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Edge:
    """Where an `article`, a `main`, a list item, definition or quote with a header in it, or the box around a navigation header
    opens or closes: the trees whose headers it holds end with it.
    """

    tag: str
    opens: bool


Item = Block | Header | Edge
