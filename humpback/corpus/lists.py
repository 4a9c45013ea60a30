"""The numbers of lists: 1, a, A, i, I, forwards and backwards."""

from humpback.corpus.markup import LISTS, Markup

_ROMAN = ((50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))
_MOST_ROMAN = 89
_LETTERS = 26
# How items begin in a text, as a pattern: these numbers, as far as they are no words.
ORDINAL = r"(?:-?\d+|[A-Za-z]|[ivxl]{2,7}|[IVXL]{2,7})\. "


def ordinal(number: int, kind: str) -> str:
    """A number as HTML's `type` says; in figures where that cannot write it."""
    if kind in ("a", "A") and 1 <= number <= _LETTERS:
        return chr(ord(kind) + number - 1)
    if kind in ("i", "I") and 1 <= number <= _MOST_ROMAN:
        written = ""
        for value, letters in _ROMAN:
            written += letters * (number // value)
            number %= value
        return written if kind == "i" else written.upper()
    return str(number)


def count_items(page: Markup, position: int) -> int:
    """How many items the list has that begins at `position`, those of lists in it apart."""
    count = depth = 0
    for place in range(position + 1, page.end_of(position)):
        name, closes = page.tags[place].name, page.heads[place][:1] == "/"
        if name in LISTS:
            depth += -1 if closes else 1
        elif name == "li" and not closes and not depth:
            count += 1
    return count
