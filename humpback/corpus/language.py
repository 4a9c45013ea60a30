"""The language of a text, by CLD2, whose tables are in the package."""

import functools
import re

import pycld2

from humpback.corpus import wordlists
from humpback.languages import NAMES, canonical

_NONE: frozenset[str] = frozenset()
_LATIN = frozenset(("en", "de", "fr", "es", "it", "pt", "nl", "pl"))
# Two letters in a row of Greek, Cyrillic, Hebrew, Arabic, an Indian or East Asian script; one is a symbol.
_OTHER_SCRIPT = re.compile("[\u0370-\u03ff\u0400-\u052f\u0590-\u06ff\u0900-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2}")


def detect(text: str) -> tuple[str, float]:
    """(code of ISO 639-1, or longer where CLD2 tells scripts apart; share of the text, 0 to 1) of the language that most of it is in.

    ("", 0.0) when none is found.
    """
    try:
        _, _, found = pycld2.detect(text, bestEffort=True)
    except pycld2.error:  # characters that it does not take for text
        return "", 0.0
    _, code, percent, _ = found[0]
    return ("", 0.0) if code == "un" else (NAMES.get(code, code), percent / 100)


def is_other(header: str, language: str, path: tuple[str, ...] = ()) -> bool:
    """Whether a header, short as it is, is surely in another language, or, in part, in another script. `path`: the headers above it, and
    it, which are longer.
    """
    if language in _LATIN and _OTHER_SCRIPT.search(header):
        return True
    try:
        reliable, code = _of_header(header)
        if not reliable:  # it may say so still with one of the words that hold a text of the other language together
            theirs, ours = (wordlists.STOP_WORDS.get(name, _NONE) for name in (code, language))
            reliable = any(word in theirs and word not in ours for word in header.lower().split())
            if not reliable and path and canonical(code) != canonical(language):
                reliable, _, around = pycld2.detect(" ".join(path))
                code = around[0][1] if reliable else code
    except pycld2.error:
        return False
    return reliable and code != "un" and canonical(code) != canonical(language)


@functools.lru_cache(maxsize=4096)  # many pages have the same ones
def _of_header(header: str) -> tuple[bool, str]:
    """Whether a header's language is sure, and its code, or the likeliest one. Raises pycld2.error."""
    reliable, _, found = pycld2.detect(header)
    if not reliable:
        _, _, found = pycld2.detect(header, bestEffort=True)
    return reliable, found[0][1]
