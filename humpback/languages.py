"""Codes of languages: what a page, an export and the config call one, and what CLD2 finds."""

import functools
import re

_WORD = re.compile("[a-z]+")
# Codes of ISO 639-1. What is none of these says nothing: "und", "us", "utf-8", "x-default", a template's "%lang%".
_CODES = frozenset(_WORD.findall(
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es et eu "
    "fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn "
    "ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nd ne ng nl no nr nv ny oc oj om or os pa pi "
    "pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug "
    "uk ur uz ve vi vo wa wo xh yi yo za zh zu"
))  # fmt: skip
# Codes of three letters of languages that CLD2 finds.
FOUND_CODES = frozenset(_WORD.findall("ceb chr crs haw hmn kha lif mfe nso sco syr tlh war zzp"))
# Codes of three letters that name no language; others that have none of two letters name themselves.
_NO_CODES = frozenset(_WORD.findall("und mul zxx mis xxx utf lng lan var www all any"))
# Other names of them: older ones, ISO 639-2's, forms of one language, and the words that some pages write.
NAMES = {
    "iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro", "nb": "no", "nn": "no", "sh": "sr", "fil": "tl", "eng": "en",
    "english": "en", "deu": "de", "ger": "de", "german": "de", "deutsch": "de", "fra": "fr", "fre": "fr", "french": "fr", "spa": "es",
    "spanish": "es", "ita": "it", "italian": "it", "por": "pt", "nld": "nl", "dut": "nl", "rus": "ru", "jpn": "ja", "zho": "zh",
    "chi": "zh",
    "cmn": "zh", "yue": "zh", "pol": "pl", "heb": "he", "nor": "no", "nob": "no", "nno": "no", "ara": "ar", "hin": "hi", "kor": "ko",
    "swe": "sv", "dan": "da", "fin": "fi", "tur": "tr", "ces": "cs", "cze": "cs", "ell": "el", "gre": "el", "hun": "hu", "ron": "ro",
    "rum": "ro", "ukr": "uk", "vie": "vi", "ind": "id", "tha": "th", "fas": "fa", "per": "fa", "bul": "bg", "hrv": "hr", "srp": "sr",
    "slk": "sk", "slo": "sk", "slv": "sl", "cat": "ca", "eus": "eu", "baq": "eu", "lat": "la",
}  # fmt: skip


@functools.lru_cache(maxsize=1024)
def canonical(code: str) -> str:
    """The code of ISO 639-1 of a language however it is named ("en-US", "eng", "iw", "nb"); "" for what names none."""
    primary = re.split(r"[-_,;\s]", code.strip().lower(), maxsplit=1)[0]
    primary = NAMES.get(primary, primary)
    known = primary in _CODES or (len(primary) == 3 and primary.isascii() and primary.isalpha() and primary not in _NO_CODES)
    return primary if known else ""


def is_code(code: str) -> bool:
    """Tells whether a code can be looked for: two letters of a language, or one of FOUND_CODES; a form of one ("en-GB") is none."""
    return code in FOUND_CODES or (len(code) == 2 and code.islower() and bool(canonical(code)))
