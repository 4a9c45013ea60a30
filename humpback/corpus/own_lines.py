"""A page's own lines, which are no part of its text: credits of pictures, dates, bylines, invitations, what leads on to other pages.

They are paragraphs of their own, outside of lists, tables, quotations and code, so a sentence that mentions one of their words stays.
"""

import functools
import re

from humpback.corpus.items import Block, Edge, Header, Item
from humpback.corpus.lists import ORDINAL
from humpback.corpus.own_words import OWN_LINES

_MAX_LINE = 200  # characters; a longer paragraph is text
_MAX_DATE = 80
_MAX_AUTHOR = 400  # characters of what a page says of who wrote it
_SET_APART = re.compile(rf"- |{ORDINAL}|: |\||>| |```")  # lists, definitions, tables, quotations, code
_LINK, _LONG_LINK = 0.95, 20  # share and number of a paragraph's characters that are a link
_DAY_FIRST = re.compile(r"\d{1,2}\. [^\W\d]+ \d{4}\b")  # which begins as an item does
_WORD = re.compile(r"[^\W\d_]+")
_NAME = r"(?:[A-ZÀ-Þ][\w.’'-]*|(?:de|van|von|der|den|del|della|di|da|la|le|el|al|bin|ibn|ter)\b)"
_NAMES = rf"{_NAME}(?:(?:,? (?:and|und|et|y|e|en|&) |, | ){_NAME}){{1,7}}"
_ADDRESS = re.compile(
    r"(?:e-?mail|web|website|tel|phone|twitter|contact)?\s*:?\s*(?:[\w.+-]+@[\w-]+\.[\w.]+|https?://\S+|www\.\S+|@\w+|\+?[\d ()/-]{7,})",
    re.IGNORECASE,
)
_READING_TIME = re.compile(r"(?:\D{0,30}\b)?\d+(?:[–-]\d+)?[ -]?min(?:ute|uten|utos|uti)?s?\.?(?: \D{0,20})?", re.IGNORECASE)
_COUNT = re.compile(
    r"[\d.,]+[kKmM]?\+? (?:shares?|comments?|views?|likes?|replies|reads?|votes?|followers?|kommentare?|commentaires?|comentarios|commenti"
    r"|reacties)"
)


def without_own_lines(items: list[Item], language: str) -> tuple[list[Item], int]:
    """A page's items without its own lines, and how many characters these had."""
    own = _Patterns.of(language)
    kept: list[Item] = []
    cut, named = 0, False  # whether the last line that was cut says only that a name follows
    for position, item in enumerate(items):
        if type(item) is Block and len(item.text) <= _MAX_AUTHOR and item.text:
            is_own = own.is_line(item.text) or (named and own.is_name(item.text)) or (item.linked and _leads_elsewhere(item, kept))
            if is_own or (_is_edge(items, position) and own.is_author(item.text)):
                named = own.announces_name(item.text)
                cut += len(item.text)
                continue
        named = False
        kept.append(item)
    return kept, cut


def _is_edge(items: list[Item], position: int) -> bool:
    """Whether a block is the first or the last one of what stands below its header."""
    around = (items[position - 1] if position else None, items[position + 1] if position + 1 < len(items) else None)
    return any(item is None or isinstance(item, Header | Edge) for item in around)


def _leads_elsewhere(block: Block, before: list[Item]) -> bool:
    """Whether a paragraph is nothing but a link, and not the one that the text before it announces."""
    if block.linked < _LINK * len(block.text) or block.text.endswith((".", "?", "!")) or _SET_APART.match(block.text):
        return False
    announced = bool(before) and isinstance(before[-1], Block) and before[-1].text.endswith(":")
    return not announced and len(block.text) >= _LONG_LINK


class _Patterns:
    """What a page's own lines look like in one language."""

    def __init__(self, language: str) -> None:
        words = {**OWN_LINES["en"], **OWN_LINES.get(language, {})}
        self._whole = frozenset(words["whole"].split(", "))
        begins = "|".join(re.escape(phrase).replace(r"\ ", r"\s") for phrase in words["begins"].split(", "))
        labels = "|".join(map(re.escape, words["labels"].split(", ")))
        self._begins = re.compile(rf"(?:{begins})(?![\w-])|(?:{labels})\s?:", re.IGNORECASE)
        by = "|".join(map(re.escape, words["by"].split(", ")))
        self._by = re.compile(rf"(?i:{by})\s?:?\s+{_NAMES}(?:[\s,|·•–—-]+.{{0,60}})?")
        self._by_alone = re.compile(rf"(?i:{by})\s?:?")
        self._name = re.compile(_NAMES)
        self._dated = frozenset(" ".join([words["dated"], OWN_LINES["en"]["dated"]]).split())
        writers = "|".join(words["writers"].split(", "))
        self._author = re.compile(rf"{_NAMES},? (?:{words['is']}) [^.]{{0,80}}\b(?:{writers})\b", re.DOTALL)

    @staticmethod
    @functools.cache
    def of(language: str) -> "_Patterns":
        return _Patterns(language)

    def is_line(self, text: str) -> bool:
        """Whether a paragraph is a line of the page."""
        if len(text) > _MAX_LINE:
            return False
        if _SET_APART.match(text):
            return bool(_DAY_FIRST.match(text)) and len(text) <= _MAX_DATE and self._is_date(text)
        if self._begins.match(text) or self._by.fullmatch(text) or self._by_alone.fullmatch(text):
            return True
        if len(text) > _MAX_DATE:
            return False
        said = text.casefold().strip(" .:!…»›>→|*-–—•[]()")
        return bool(said in self._whole or _ADDRESS.fullmatch(text) or _COUNT.fullmatch(said) or self._is_date(text))

    def is_author(self, text: str) -> bool:
        """Whether a paragraph says who wrote the text, if it stands at the edge of that."""
        return bool(self._author.match(text))

    def is_name(self, text: str) -> bool:
        """Whether a line is a name, where one is expected."""
        return bool(self._name.fullmatch(text))

    def announces_name(self, text: str) -> bool:
        """Whether a line is "Written by", and nothing else."""
        return bool(self._by_alone.fullmatch(text))

    def _is_date(self, text: str) -> bool:
        """Whether a line is a date, a time, or how long it takes to read the text, and no more."""
        if not any(map(str.isdigit, text)):
            return False
        if len(text) <= _MAX_DATE // 2 and _READING_TIME.fullmatch(text):
            return True
        words = [word.casefold() for word in _WORD.findall(text)]
        digits = sum(map(str.isdigit, text))
        return digits >= 3 and bool(words or re.search(r"\d[-./]\d", text)) and all(word in self._dated for word in words)
