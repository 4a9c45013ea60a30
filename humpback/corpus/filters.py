"""The rules by which a page, a header or a text is dropped: small literal functions that return the reason, or "" to keep it.

Source: the paper's appendix E (length, header, repetition); the measures, the other rules and the lists of words are ours.
"""

import functools
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence, Set

from humpback.config import Segments
from humpback.corpus import wordlists
from humpback.corpus.lists import ORDINAL
from humpback.corpus.pointing import FIGURE, pointing_reason
from humpback.languages import canonical

_PRICE = re.compile(wordlists.PRICE)
_WORD = re.compile(r"\w+")


def _by_word(marks: Sequence[str]) -> list[tuple[str, str]]:
    """Marks behind the longest word of each, without which there is none."""
    return [(max(_WORD.findall(mark), key=len), mark) for mark in marks]


# A reason, how many times config.marks make it, the marks.
_MARKS = [
    (reason, many, _by_word(marks))
    for reason, many, marks in (
        ("forum", 1, wordlists.FORUM_MARKS), ("legal", 1, wordlists.LEGAL_MARKS), ("points elsewhere", 1.5, wordlists.POINTERS)
    )
]
_SPONSORED, _ADVERTS, _SHOP_MARKS = map(_by_word, (wordlists.SPONSORED, wordlists.ADVERTS, wordlists.SHOP_MARKS))
_FORMULA = re.compile(r"\$[^$\n]+\$")
_FENCE = re.compile(r"[\s>:-]*(?:\d+\.\s+)?(`{3,})")
_SENTENCE_END = re.compile(r"[.!?…\n](?:(?<=\n)\n*|[\"'”’)\]]*\s+)")
# An item or a row; these, or a term and what is said of it in a line.
_LIST_LINE = re.compile(rf"^[ >]*(?:- |{ORDINAL}|: |\|).*", re.MULTILINE)
_TERM_LINE = re.compile(rf"{_LIST_LINE.pattern}|^[^\n]{{1,80}}(?=\n: [^\n]{{0,78}}$)", re.MULTILINE)
_SEE_ALSO = re.compile(wordlists.SEE_ALSO, re.IGNORECASE)
_ENOUGH_ADVERTS = 2
_FEW_WORDS = 3  # of a header that may be a call to do something
_MAX_SEE_ALSO = 200  # characters
_MAX_REPEATED = 2  # lines
_LABEL = re.compile(rf"(?!- |{ORDINAL}|: |\||>| )[^\n]*[^\n.!?…:;,\"”’)]")
_LAST_LABEL = re.compile(r"\n\n[A-Z][^\W\d]*(?: [^\W\d]+){0,3}\Z")
_MAX_ALONE = 3  # labels with nothing below them
# A form: so many labels, such a share of the blocks, with no more characters than that between them, on average.
_MIN_LABELS, _LABEL_SHARE, _SHORT_BLOCK = 4, 0.35, 110
_PROMISE = re.compile(r"^(?:: |  )[^\n]{40,}:(?=\n\n[^\n]+\n: )", re.MULTILINE)  # "It looks like this:", and then the next term
# A colon before a paragraph, and what it announces there.
_ANNOUNCED = re.compile(rf":\n\n(?!- |{ORDINAL}|: |\||>| |```|[“\"]|[^\n]{{0,60}}(?:\n|\Z))[A-Z]")
_SHOWN_HERE = re.compile(rf"\b(?:{wordlists.SHOWN})\b[^\n.:]{{0,40}}\Z")
_ANNOUNCEMENT = 60  # characters before the colon
# A line by itself that breaks off: what it opens, or goes on to, is not there ("Read more …").
_BREAKS_OFF = re.compile(rf"(?:\A|\n\n)(?!- |{ORDINAL}|: |\||>| )[^\n]{{1,60}}(?:\.\.\.|…)(?=\n\n|\Z)")
_SET_APART = re.compile(rf"- |{ORDINAL}|: |\||>| |```")
# What is left of a sentence where a formula or a picture stood in it: "is , where", "to , .", "by .".
_GAP, _GAPS = re.compile(r" [,.;](?=\s|\Z)"), (" ,", " .", " ;")
_BEFORE_GAP = re.compile(r"(?:,|[=≈<≤]|\b(?:is|are|of|by|the|a|an|as|with|let|where|that|to|for|in|if|than|from|between|and|or|at))\Z")
_LONGEST_BEFORE = 10  # characters
_TWICE_ENCODED = re.compile("â€|Ã[\xa0-\xba\xbc-\xbf¢]")  # UTF-8 that was read as Windows-1252, and encoded anew
_UNFINISHED = re.compile(rf"\b(?:{'|'.join(wordlists.UNFINISHED)})\b")
_EMAIL = re.compile(r"(?<![\w.+%/-])[\w.+%-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24}(?![\w@/]|:[^\s])")
_APART = 3  # n-grams, of which at least half are somewhere else, and at least two
_PUNCTUATION = tuple(".!?…:;,\"”’)")
_LABEL_ABOVE_LABEL = re.compile(r"^[^\n]{1,30}:(?=\n\n[^\n]{1,30}:\n)", re.MULTILINE)
_DIGITS = b"0123456789"
_LETTERS = bytes(c for c in range(256) if c >= 128 or bytes([c]).isalnum() or bytes([c]).isspace())

def language_reason(declared: str | None, language: str) -> str:
    """Drops a page that declares another language; one that declares none, or what is none, is kept."""
    named = canonical(declared or "")
    return "" if named in ("", canonical(language)) else "language"


def header_reason(header: str, navigation: str = "", language: str = "en") -> str:
    """Drops an empty header, one all in upper case, and navigation.

    Upper case is the paper's rule taken by the letter, so "FAQ" and "NASA" go with "BUY NOW"; one letter ("C", "4.2 X") does not count.
    """
    if not _WORD.search(header):
        return "empty header"
    if header.isupper():
        letters = [char for char in header if char.isalpha()]
        if len(letters) >= 2 and all(map(str.isupper, letters)):  # "URL の形" has letters without case
            return "all upper case header"
    return "navigation header" if is_navigation(header, navigation, language) else ""


def is_see_also(text: str, linked: int, language: str = "en") -> bool:
    """Whether a line says where to read on, and nothing else: "See also", "See also the lists of functions and constants"."""
    if not linked:
        return is_navigation(text.rstrip(":"), language=language)
    return len(text) <= _MAX_SEE_ALSO and bool(_SEE_ALSO.match(text))


def is_remark(header: str) -> bool:
    """Whether a header is only the first word of a remark within the text around it ("Note")."""
    return len(header) < 20 and _only_words(header) in wordlists.REMARKS


def is_generic(header: str) -> bool:
    """Whether a header says nothing without another above it ("2.1. Description")."""
    return _only_words(header) in wordlists.GENERIC


@functools.lru_cache(maxsize=4096)
def is_navigation(header: str, navigation: str = "", language: str = "en") -> bool:
    """Whether a header announces links, comments or notices instead of text, in its language (English, if it has no list).

    `navigation`: more phrases, comma-separated.
    """
    language = language if language in wordlists.NAVIGATION_PHRASES else "en"
    words = _WORD.findall(header.casefold())
    if _only_words(header) in wordlists.NAVIGATION_HEADERS[language]:
        return True
    anywhere, spoken_of = _phrases(language)
    said = " ".join(words)
    if words and words[-1] in wordlists.NEWSLETTERS:
        return True
    if anywhere.search(said) or (spoken_of.search(said) if len(words) <= _FEW_WORDS else spoken_of.match(said)):
        return True
    return any(f" {' '.join(_WORD.findall(phrase.casefold()))} " in f" {said} " for phrase in navigation.split(",") if phrase.strip())


@functools.cache
def _phrases(language: str) -> tuple[re.Pattern, re.Pattern]:
    """The navigation phrases of a language: those that are such anywhere in a header, and those that an article may be about."""
    spoken_of = wordlists.SPOKEN_OF[language]
    anywhere = [phrase for phrase in wordlists.NAVIGATION_PHRASES[language] if phrase not in spoken_of]
    first, second = (re.compile(rf"\b(?:{'|'.join(map(re.escape, some))})\b") for some in (anywhere, sorted(spoken_of)))
    return first, second


def place_reason(header_path: Sequence[str], url: str, text: str) -> str:
    """Drops what leans on its place in a page: an offer in a list of such; a part of a tutorial, which builds on those before it; and a
    text under "Example" that opens with the example itself, so that it does not say of what it is one, and goes on with something else.
    """
    headers = " ".join(header_path).casefold()
    if any(map(headers.__contains__, wordlists.ADVERTS)):
        lowered = text.lower()
        if sum(mark in headers or mark in lowered for mark in wordlists.ADVERTS) >= _ENOUGH_ADVERTS:
            return "prices"
    around = " ".join((url, *header_path[:-1])).casefold()
    if len(header_path) > 1 and not wordlists.LESSONS.isdisjoint(_WORD.findall(around)):
        return "points elsewhere"
    return "points elsewhere" if _only_words(header_path[-1]) in wordlists.EXAMPLES and FIGURE.match(text) else ""


@functools.lru_cache(maxsize=4096)
def _only_words(header: str) -> str:
    return " ".join(word for word in _WORD.findall(header.casefold()) if not word.isdigit())


def length_reason(length: int, cfg: Segments) -> str:
    """Drops a text of fewer or more characters than the config wants."""
    if length < cfg.min_chars:
        return "too short"
    return "too long" if length > cfg.max_chars else ""


def text_reason(text: str, linked: int, cfg: Segments) -> str:
    """Drops a text for what it says, code apart. `linked` is how many of its characters are links."""
    if not text.isascii() and ("\ufffd" in text or _TWICE_ENCODED.search(text)):
        return "broken characters"
    if linked > cfg.max_link_share * len(text):
        return "links"
    prose = without_code(text)
    if any(map(prose.__contains__, _GAPS)) and any(
        _BEFORE_GAP.search(prose[max(gap.start() - _LONGEST_BEFORE, 0) : gap.start()]) for gap in _GAP.finditer(prose)
    ):
        return "holes"
    if text.endswith(":") or _LAST_LABEL.search(text) or _is_teaser(text):  # of what is not there
        return "fragments"
    if len(text) - len(prose) > cfg.max_code_share * len(text):
        return "code"
    words = _WORD.findall(prose.casefold())
    present = frozenset(words)
    reason = (
        words_reason(words, cfg)
        or characters_reason(prose, cfg)
        or structure_reason(text, cfg)
        or fragments_reason(prose, cfg)
        or marks_reason(prose, present, cfg)
        or pointing_reason(text, present)
    )
    rule = cfg.repeat_ngram, cfg.repeat_jaccard, cfg.repeat_min_words
    if reason or not (repeated := may_repeat(words, *rule)):
        return reason
    return "repetition" if repeats(prose, *rule, repeated) else ""


def _is_teaser(text: str) -> bool:
    """Whether a text's last paragraph breaks off: the rest is not shown."""
    return text.rstrip("])").endswith(("...", "…")) and not _SET_APART.match(text, text.rfind("\n") + 1)


def characters_reason(text: str, cfg: Segments) -> str:
    """Drops a text with too large a share of ASCII symbols or digits: formulas, dumps, score tables."""
    data = text.encode("utf-8", "replace")
    if len(data.translate(None, _LETTERS)) > cfg.max_symbol_share * len(text):
        return "symbols"
    return "digits" if len(data) - len(data.translate(None, _DIGITS)) > cfg.max_digit_share * len(text) else ""


def structure_reason(text: str, cfg: Segments) -> str:
    """Drops a text that is little but table rows and short list items: an index, a menu, a sheet of data."""
    found = (_TERM_LINE if "\n: " in text else _LIST_LINE).findall(text)
    lines = [line for line in found if len(line) <= cfg.short_item or line.lstrip(" >").startswith("|")]
    return "list" if sum(map(len, lines)) > cfg.max_list_share * len(text) else ""


def fragments_reason(text: str, cfg: Segments) -> str:
    """Drops a text of which a large part is lines that end in the air: labels, captions, headers with nothing below; in
    which such lines are there twice, as a header and below its icon; that is a form; that promises or opens what is not
    there; or that its author has marked as unfinished.
    """
    lines = [line for line in _lines_in_the_air(text) if len(line) <= cfg.short_item]
    if sum(map(len, lines)) > cfg.max_fragment_share * len(text):
        return "fragments"
    repeated = sum(count > 1 and not is_remark(line) for line, count in Counter(lines).items())
    unfilled = sum(line.endswith(":") for line in lines)
    if repeated >= _MAX_REPEATED or unfilled >= _MAX_ALONE or (len(lines) >= _MAX_ALONE and _is_form(text, cfg)):
        return "fragments"
    lowered = text.lower()
    if any(map(lowered.__contains__, wordlists.PAYWALLS)):
        return "fragments"
    if ":\n\n" in text and (
        _PROMISE.search(text)
        or any(_SHOWN_HERE.search(lowered[max(found.start() - _ANNOUNCEMENT, 0) : found.start()]) for found in _ANNOUNCED.finditer(text))
    ):
        return "fragments"
    if ("..." in text or "…" in text) and _BREAKS_OFF.search(text):
        return "fragments"
    if any(map(text.__contains__, wordlists.UNFINISHED)) and _UNFINISHED.search(text):
        return "fragments"
    return ""


def _lines_in_the_air(text: str) -> list[str]:
    """The lines of no list, table or quote, and no terms that a definition follows, that end in no sign of punctuation; and labels before
    another one.
    """
    lines = text.split("\n")
    found = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if line and not line.endswith(_PUNCTUATION) and not after.startswith(": ") and not _SET_APART.match(line)
    ]
    return found + _LABEL_ABOVE_LABEL.findall(text) if ":\n\n" in text else found


def _is_form(text: str, cfg: Segments) -> bool:
    """Whether a text is the labels of a form or a menu, with a line each, or has labels with nothing below them."""
    blocks = [block for block in text.split("\n\n") if block]
    labels = [bool(_LABEL.fullmatch(block)) and len(block) <= cfg.short_item and not is_remark(block) for block in blocks]
    alone = sum(a and b and not block.isupper() for a, b, block in zip(labels, [*labels[1:], True], blocks, strict=True))
    if alone >= _MAX_ALONE:
        return True
    rest = [len(block) for block, label in zip(blocks, labels, strict=True) if not label]
    count = len(blocks) - len(rest)
    return count >= _MIN_LABELS and count >= _LABEL_SHARE * len(blocks) and sum(rest) < _SHORT_BLOCK * len(rest)


def marks_reason(text: str, words: Set[str], cfg: Segments) -> str:
    """Drops what bears the marks of a forum or comments, of a price list, of a cookie, licence or legal notice, and what speaks of other
    parts of its page all the time.

    So many marks make one, in a text of a thousand characters or less; in a longer one, in proportion more.
    """
    enough = cfg.marks * max(1.0, len(text) / 1000)
    lowered = text.lower()
    for reason, many, marks in _MARKS:
        if sum(lowered.count(mark) for word, mark in marks if word in words) >= many * enough:
            return reason
    if any(mark in lowered for word, mark in _SPONSORED if word in words):
        return "sponsored"
    if sum(mark in lowered for word, mark in _ADVERTS if word in words) >= _ENOUGH_ADVERTS:
        return "prices"
    prices = sum(lowered.count(mark) for word, mark in _SHOP_MARKS if word in words)
    if any(map(lowered.__contains__, wordlists.CURRENCIES)):
        prices += len(_PRICE.findall(lowered))
    return "prices" if prices >= 2 * enough else ""


def words_reason(words: list[str], cfg: Segments) -> str:
    """Drops a text with too few words, case-folded, or too few of those that hold a language together: code, names, keywords."""
    if len(words) < cfg.min_words:
        return "few words"
    common = wordlists.STOP_WORDS.get(cfg.language)
    if common is None:
        return ""
    return "few common words" if sum(map(common.__contains__, words)) < cfg.min_stop_word_share * len(words) else ""


def count_emails(text: str) -> int:
    """How many e-mail addresses are in a text; those of programs ("git@host:path", "https://user@host") are none."""
    return len(_EMAIL.findall(text)) if "@" in text else 0


def sentences(text: str) -> list[str]:
    """The sentences of a text without their full stops: a line's end ends one, too. Code, rows and lines of formulas are none."""
    text = without_code(text)
    if "| " in text:
        text = "\n".join(line for line in text.split("\n") if not line.lstrip(" >:").startswith("| "))
    if "$" in text:
        text = "\n".join(line for line in text.split("\n") if 2 * sum(map(len, _FORMULA.findall(line))) <= len(line))
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence]


def unquoted(text: str) -> str:
    """A text that is one quotation, without the signs before its lines; any other text as it is."""
    if not text.startswith(">"):
        return text
    lines = text.split("\n")
    quoted = all(line.startswith(">") or not line for line in lines)
    return "\n".join(line[2:] for line in lines).strip("\n") if quoted else text


def without_code(text: str) -> str:
    """A text without its fenced code."""
    if "```" not in text:
        return text
    lines, fence = [], ""
    for line in text.split("\n"):
        mark = _FENCE.match(line) if "```" in line else None
        if fence:
            fence = "" if mark and mark.group(1) == fence else fence
        elif mark:
            fence = mark.group(1)
        else:
            lines.append(line)
    return "\n".join(lines)


def may_repeat(words: list[str], ngram: int, jaccard: float, min_words: int) -> set[tuple[str, ...]]:
    """The n-grams that are twice in a text with these words, case-folded; none if `repeats` cannot be true of it, as they are too few, or
    none stands close to another.

    Two such sentences of g n-grams and more have at least 2 j g / (1 + j) in common, and then there are two of them in the larger
    sentence that stand no farther apart than its n-grams divided by those.
    """
    common = math.ceil(2 * jaccard / (1 + jaccard) * max(min_words - ngram + 1, 1))
    places: dict[tuple[str, ...], int] = {}  # of each n-gram the first
    again: list[int] = []  # those of others
    repeated: dict[int, tuple[str, ...]] = {}  # n-grams that are there twice, by the first
    for place, gram in enumerate(zip(*(words[i:] for i in range(ngram)), strict=False)):
        first = places.setdefault(gram, place)
        if first != place:
            again.append(place)
            repeated[first] = gram
    if len(again) < max(common, 1):
        return set()
    apart = jaccard >= 0.5 and common >= 2 and all(b - a > _APART for a, b in itertools.pairwise(sorted({*again, *repeated})))
    return set() if apart else set(repeated.values())


def repeats(text: str, ngram: int, jaccard: float, min_words: int, repeated: Set[tuple[str, ...]] | None = None) -> bool:
    """Whether two sentences of at least `min_words` words share a word n-gram and have a Jaccard similarity of at least `jaccard`.

    `repeated`: all n-grams that are twice in the text, if they are known.
    """
    grams = []
    for sentence in sentences(text.casefold()):
        words = _WORD.findall(sentence)
        if len(words) >= max(min_words, ngram):
            grams.append(set(zip(*(words[i:] for i in range(ngram)), strict=False)))
    if repeated is None:
        counts = Counter(itertools.chain.from_iterable(grams))
        repeated = {gram for gram, count in counts.items() if count > 1}
    # Of a sentence that is as similar as that to another, at least this share of its n-grams is elsewhere, too.
    similar = [found for found in grams if len(repeated & found) >= max(jaccard * len(found), 1)]
    if len(similar) < 2:
        return False
    holders = defaultdict(list)
    for number, found in enumerate(similar):
        for gram in found:
            holders[gram].append(number)
    shared = Counter(pair for numbers in holders.values() for pair in itertools.combinations(numbers, 2))
    return any(count >= jaccard * (len(similar[a]) + len(similar[b]) - count) for (a, b), count in shared.items())
