"""The rules by which a page, a header or a text is dropped: small literal functions that return the reason, or "" to keep it.

Source: the paper's appendix E (length, header, repetition); the measure of repetition and the lists of words are ours.
"""

import itertools
import math
import re
from collections import Counter, defaultdict

from humpback.config import Segments

# A header with one of these words or phrases, anywhere in it, is navigation. The first four are the paper's examples.
NAVIGATION_PHRASES = (
    "advertisement", "forum", "quick link", "free newsletter",
    "advertisements", "forums", "quick links", "newsletter", "newsletters", "related article", "related articles", "related post",
    "related posts", "related stories", "related links", "related topics", "related content", "related pages", "recent posts",
    "recent comments", "popular posts", "most popular", "most read", "latest news", "you may also like", "you might also like",
    "more from", "read next", "read more", "up next", "leave a reply", "leave a comment", "post a comment", "add a comment", "share this",
    "follow us", "sign up", "log in", "subscribe", "table of contents", "in this section", "on this page", "navigation menu",
    "main menu", "site map", "sitemap", "cookie policy", "cookie settings", "privacy policy", "terms of use", "terms of service",
    "terms and conditions", "all rights reserved", "sponsored", "shopping cart", "search results",
)  # fmt: skip
# A header that is nothing but one of these (digits and punctuation apart: "12 Comments") is navigation.
NAVIGATION_HEADERS = frozenset((
    "about us", "account", "archive", "archives", "ask a question", "back to top", "bookmarks", "categories", "category", "comment",
    "comments", "contact", "contact us", "contents", "external links", "footer", "further reading", "home", "index", "links", "login",
    "menu", "meta", "my account", "navigation", "next", "next topic", "notes and references", "pages", "page", "partners", "previous",
    "previous topic", "quick search", "references", "register", "related", "replies", "reviews", "search", "see also", "share",
    "sidebar", "skip to content", "social", "source code", "sources", "sponsors", "tags", "this page", "tools", "topics", "trending",
    "views", "write to us", "your cart",
))  # fmt: skip
_PHRASE = re.compile(r"\b(?:" + "|".join(map(re.escape, NAVIGATION_PHRASES)) + r")\b")

_WORD = re.compile(r"\w+")
_FENCE = re.compile(r"[\s>:-]*(?:\d+\.\s+)?(`{3,})")
_SENTENCE_END = re.compile(r"[.!?…\n](?:(?<=\n)\n*|[\"'”’)\]]*\s+)")


def language_reason(declared: str | None) -> str:
    """Drops a page that declares another language than English; one that declares none is kept."""
    primary = re.split(r"[-_,;\s]", (declared or "").strip().lower())[0]
    return "" if primary in ("", "en", "eng", "english") else "language"


def header_reason(header: str) -> str:
    """Drops an empty header, one all in upper case, and navigation.

    Upper case is the paper's rule taken by the letter, so "FAQ" and "NASA" go with "BUY NOW"; one letter ("C", "4.2 X") does not count.
    """
    if not _WORD.search(header):
        return "empty header"
    if header.isupper() and sum(map(str.isalpha, header)) >= 2:
        return "all upper case header"
    return "navigation header" if is_navigation(header) else ""


def is_navigation(header: str) -> bool:
    """Whether a header announces links, comments or notices instead of text."""
    words = _WORD.findall(header.casefold())
    return " ".join(word for word in words if not word.isdigit()) in NAVIGATION_HEADERS or bool(_PHRASE.search(" ".join(words)))


def length_reason(length: int, cfg: Segments) -> str:
    """Drops a text of fewer or more characters than the config wants."""
    if length < cfg.min_chars:
        return "too short"
    return "too long" if length > cfg.max_chars else ""


def text_reason(text: str, cfg: Segments) -> str:
    """Drops a text for what it says: characters that were lost in decoding, sentences that repeat each other."""
    if "\ufffd" in text:
        return "broken characters"
    return "repetition" if repeats(text, cfg.repeat_ngram, cfg.repeat_jaccard, cfg.repeat_min_words) else ""


def sentences(text: str) -> list[str]:
    """The sentences of a text without their full stops: a line's end ends one, too. Code and table rows are not sentences."""
    if "```" in text:
        text = _without_code(text)
    if "| " in text:
        text = "\n".join(line for line in text.split("\n") if not line.lstrip(" >:").startswith("| "))
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence]


def _without_code(text: str) -> str:
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


def repeats(text: str, ngram: int, jaccard: float, min_words: int) -> bool:
    """Whether two sentences of at least `min_words` words share a word n-gram and have a Jaccard similarity of at least `jaccard`."""
    folded = text.casefold()
    words = _WORD.findall(folded)
    every = [words[i:] for i in range(ngram)]
    fewest = max(1, math.ceil(2 * jaccard / (1 + jaccard) * max(min_words - ngram + 1, 1)))  # what two such sentences have in common
    if len(every[-1]) - len(set(zip(*every, strict=False))) < fewest:
        return False
    grams = []
    for sentence in sentences(folded):
        words = _WORD.findall(sentence)
        if len(words) >= max(min_words, ngram):
            grams.append(set(zip(*(words[i:] for i in range(ngram)), strict=False)))
    counts = Counter(itertools.chain.from_iterable(grams))
    repeated = {gram for gram, count in counts.items() if count > 1}
    # Of a sentence that is as similar as that to another, at least this share of its n-grams is elsewhere, too.
    similar = [found for found in grams if len(repeated & found) >= max(jaccard * len(found), 1)]
    holders = defaultdict(list)
    for number, found in enumerate(similar):
        for gram in found:
            holders[gram].append(number)
    shared = Counter(pair for numbers in holders.values() for pair in itertools.combinations(numbers, 2))
    return any(count >= jaccard * (len(similar[a]) + len(similar[b]) - count) for (a, b), count in shared.items())
