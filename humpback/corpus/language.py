"""The language of a text, by CLD2, whose tables are in the package."""

import functools
import re

import pycld2

from humpback.corpus import wordlists
from humpback.corpus.boilerplate import words

# Codes of ISO 639-1. What is none of these says nothing: "und", "us", "utf-8", "x-default", a template's "%lang%".
_CODES = words(
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es et eu "
    "fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn "
    "ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nd ne ng nl no nr nv ny oc oj om or os pa pi "
    "pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug "
    "uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
# Codes of three letters that name no language; others that have none of two letters name themselves.
_NO_CODES = words("und mul zxx mis xxx utf lng lan var www all any")
# Other names of them: older ones, ISO 639-2's, forms of one language, and the words that some pages write.
_NAMES = {
    "iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro", "nb": "no", "nn": "no", "sh": "sr", "fil": "tl", "eng": "en",
    "english": "en", "deu": "de", "ger": "de", "german": "de", "deutsch": "de", "fra": "fr", "fre": "fr", "french": "fr", "spa": "es",
    "spanish": "es", "ita": "it", "italian": "it", "por": "pt", "nld": "nl", "dut": "nl", "rus": "ru", "jpn": "ja", "zho": "zh",
    "chi": "zh",
    "cmn": "zh", "yue": "zh", "pol": "pl", "heb": "he", "nor": "no", "nob": "no", "nno": "no", "ara": "ar", "hin": "hi", "kor": "ko",
    "swe": "sv", "dan": "da", "fin": "fi", "tur": "tr", "ces": "cs", "cze": "cs", "ell": "el", "gre": "el", "hun": "hu", "ron": "ro",
    "rum": "ro", "ukr": "uk", "vie": "vi", "ind": "id", "tha": "th", "fas": "fa", "per": "fa", "bul": "bg", "hrv": "hr", "srp": "sr",
    "slk": "sk", "slo": "sk", "slv": "sl", "cat": "ca", "eus": "eu", "baq": "eu", "lat": "la",
}  # fmt: skip
_NONE: frozenset[str] = frozenset()
_LATIN = frozenset(("en", "de", "fr", "es", "it", "pt", "nl", "pl"))
# Two letters in a row of Greek, Cyrillic, Hebrew, Arabic, an Indian or East Asian script; one is a symbol.
_OTHER_SCRIPT = re.compile("[\u0370-\u03ff\u0400-\u052f\u0590-\u06ff\u0900-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2}")


@functools.lru_cache(maxsize=1024)
def canonical(code: str) -> str:
    """The code of ISO 639-1 of a language however it is named ("en-US", "eng", "iw", "nb"); "" for what names none."""
    primary = re.split(r"[-_,;\s]", code.strip().lower(), maxsplit=1)[0]
    primary = _NAMES.get(primary, primary)
    known = primary in _CODES or (len(primary) == 3 and primary.isascii() and primary.isalpha() and primary not in _NO_CODES)
    return primary if known else ""


def detect(text: str) -> tuple[str, float]:
    """(code of ISO 639-1, or longer where CLD2 tells scripts apart; share of the text, 0 to 1) of the language that most of it is in.

    ("", 0.0) when none is found.
    """
    try:
        _, _, found = pycld2.detect(text, bestEffort=True)
    except pycld2.error:  # characters that it does not take for text
        return "", 0.0
    _, code, percent, _ = found[0]
    return ("", 0.0) if code == "un" else (_NAMES.get(code, code), percent / 100)


def is_other(header: str, language: str, path: tuple[str, ...] = ()) -> bool:
    """Whether a header, short as it is, is surely in another language, or, in part, in another script. `path`: the headers above it, and
    it, which are longer.
    """
    if language in _LATIN and _OTHER_SCRIPT.search(header):
        return True
    try:
        reliable, _, found = pycld2.detect(header)
        if not reliable:  # it may say so still with one of the words that hold a text of the other language together
            _, _, found = pycld2.detect(header, bestEffort=True)
            telling = wordlists.STOP_WORDS.get(found[0][1], _NONE) - wordlists.STOP_WORDS.get(language, _NONE)
            reliable = not telling.isdisjoint(header.lower().split())
            if not reliable and path and canonical(found[0][1]) != canonical(language):
                reliable, _, around = pycld2.detect(" ".join(path))
                found = around if reliable else found
    except pycld2.error:
        return False
    return reliable and found[0][1] != "un" and canonical(found[0][1]) != canonical(language)
