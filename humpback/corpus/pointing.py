"""What a text says that leans on what is not in it: other parts of its page, examples, pictures. English, like the words for it."""

import re
from collections.abc import Iterator, Set

from humpback.corpus import wordlists
from humpback.corpus.lists import ORDINAL

_LOOKS_BACK, _REFERS_BACK, _SHOWS_BELOW = (
    [(frozenset(words), re.compile(pattern)) for words, pattern in said.items()]
    for said in (wordlists.LOOKS_BACK, wordlists.REFERS_BACK, wordlists.SHOWS_BELOW)
)
_SMALL_REFERENCE = re.compile(wordlists.SMALL_REFERENCE)
_REFERENCE_WORDS = frozenset(("above", "earlier", "before", "previously", "already"))
_OPENING = 300  # characters of a text in which nothing may refer to what was before
_LONG_TEXT = 1000  # characters of one in which a small reference elsewhere does no harm
_CONTINUES = re.compile(wordlists.CONTINUES)
_LOOKS_AHEAD = re.compile(wordlists.LOOKS_AHEAD)
_THE_EXAMPLE = re.compile(wordlists.THE_EXAMPLE)
_SHOWS_PICTURE = re.compile(wordlists.SHOWS_PICTURE)
_NUMBERED_FIGURE = re.compile(wordlists.NUMBERED_FIGURE)
_NO_WORD = re.compile(r"[\W_]*")
_AHEAD_WORDS = frozenset(wordlists.AHEAD_WORDS)
_POINTING_WORDS = _AHEAD_WORDS.union(*(words for said in (_LOOKS_BACK, _REFERS_BACK, _SHOWS_BELOW) for words, _ in said))
_NEAR = 80  # characters to either side of such a word in which what is said with it is looked for
_EXAMPLE_WORDS = frozenset(wordlists.EXAMPLE_WORDS)
_PICTURE_WORDS = frozenset(wordlists.PICTURE_WORDS)
FIGURE = re.compile(r"(?:^|\n)[ >:]*(?:```|\|)")  # code or a table, of which a text may speak
_SHOWN = re.compile(rf"^(?:[ >:]*(?:```|\||- |{ORDINAL}|: )|>)", re.MULTILINE)  # what can be shown below: that, a list, a term, a quotation


def pointing_reason(text: str, words: Set[str]) -> str:
    """Drops a text that leans on what is not in it, before or behind it on its page, or speaks of pictures: it cannot be read alone."""
    text = text.lower()
    if not _leans(text, words):
        return ""
    if len(text) >= _LONG_TEXT and not _REFERENCE_WORDS.isdisjoint(words):
        shorter = _without_small_reference(text)
        if len(shorter) < len(text) and not _leans(shorter, words):
            return ""
    return "points elsewhere"


def _leans(text: str, words: Set[str]) -> bool:
    """Whether a text, in lower case, leans on what is not in it, or speaks of pictures."""
    present = _POINTING_WORDS & words
    figure = FIGURE.search(text) if "|" in text or "```" in text else None
    before = text[: figure.start()] if figure else text
    if (
        ((start := _NO_WORD.match(before)) and _CONTINUES.match(before, start.end()))
        or any(_said(_LOOKS_BACK, before, present))
        or any(_said(_REFERS_BACK, text, present))
        or any(not _SHOWN.search(text, found.end()) for found in _said(_SHOWS_BELOW, text, present))
        or (not _AHEAD_WORDS.isdisjoint(present) and _looks_ahead(text[text.rstrip().rfind("\n") + 1 :]))
    ):
        return True
    if figure is None and not _EXAMPLE_WORDS.isdisjoint(words) and (found := _THE_EXAMPLE.search(text)) and found[1]:
        return True
    if _PICTURE_WORDS.isdisjoint(words):
        return False
    return bool(_NUMBERED_FIGURE.search(text) or (figure is None and _SHOWS_PICTURE.search(text)))


def _without_small_reference(text: str) -> str:
    """A text, in lower case, without the first "as described above", if that is neither at its beginning nor in its last line."""
    found = _SMALL_REFERENCE.search(text)
    if found is None or not _OPENING <= found.start() < text.rstrip().rfind("\n"):
        return text
    return text[: found.start()] + text[found.end() :]


def _looks_ahead(line: str) -> bool:
    """Whether the last line of a text, in lower case, speaks of what follows."""
    return any(map(line.__contains__, _AHEAD_WORDS)) and bool(_LOOKS_AHEAD.search(line))


def _said(patterns: list[tuple[frozenset[str], re.Pattern]], text: str, present: frozenset[str]) -> Iterator[re.Match]:
    """What patterns find in a text, looked for only around the words of which each of their matches has one, and which are `present`."""
    for words, pattern in patterns:
        for word in words & present:
            at = text.find(word)
            while at >= 0:
                if not text[at - 1 : at].isalnum():
                    end = text.find(" ", at + _NEAR)
                    if found := pattern.search(text, max(at - _NEAR, 0), end if end >= 0 else len(text)):
                        yield found
                at = text.find(word, at + len(word))
