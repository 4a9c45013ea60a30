"""Whether a rewritten response is still what a person wrote: reasons to keep the draft instead (arXiv 2408.04614 checks none of them)."""

import re
from collections.abc import Callable
from typing import NamedTuple

from humpback.prompts import ANSWER_CLOSE as CLOSE
from humpback.prompts import ANSWER_OPEN as OPEN

LEAST_RATIO, MOST_RATIO = 0.3, 1.5  # of the answer's characters to the draft's
LEAST_COPIED = 0.2  # of the answer's words in runs of _RUN that the draft has: less is the rewriter's own text
_RUN = 3

_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am) (?:sorry|unable)|I (?:can(?:'|no)t|cannot|won't|will not) (?:help|assist|answer|rewrite|provide|comply|fulfil)"
    r"|as an? (?:AI|language model)|I apologi[sz]e)", re.IGNORECASE,
)  # fmt: skip
_DRAFT = re.compile(
    r"\b(?:(?:the|this|your|my|given|provided|above) (?:draft|rewrite|original (?:answer|response|text))|rewritten (?:answer|version)"
    r"|(?:here is|here's) (?:the|a|an|my) (?:improved|revised|rewritten|better|edited))", re.IGNORECASE,
)  # fmt: skip
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_URL = re.compile(r"\b(?:https?://|www\.)[^\s<>()\[\]\"']+", re.IGNORECASE)
_ADDRESS = re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b")
_QUOTED = re.compile(r"[\"“”]([^\"“”\n]{2,80})[\"“”]")
_NAME = re.compile(r"(?<![.!?:\n] )(?<![.!?:\n])(?<!^)(?<=[a-z,;] )[A-Z][a-zà-ÿ]+(?: [A-Z][a-zà-ÿ]+)+")
_WORD = re.compile(r"[^\W_]+")
_END = re.compile(r"[.!?:…)\]}\"'”’»`|*]\s*$|```\s*$")


# What `rewritten` gives, in its order.
REASONS = (
    "no markers", "empty", "unfinished", "too short", "too long", "refusal", "speaks of the draft", "other language", "new URL",
    "new address", "new number", "new quotation", "new name", "little is copied",
)  # fmt: skip


class Rewritten(NamedTuple):
    """What a rewriter wrote: the answer, or the draft with the reason why."""

    text: str
    reason: str


def rewritten(output: str, instruction: str, draft: str, language_of: Callable[[str], str] | None = None) -> Rewritten:
    """The answer in a rewriter's output, or the draft and the first reason that holds, of:

    no markers · empty · unfinished · too short or too long · refusal · speaks of the draft · other language · new number, new URL, new
    address, new quotation, new name (in neither draft nor instruction) · little is copied. language_of: a text's language.
    """
    found = re.search(f"{re.escape(OPEN)}(.*?){re.escape(CLOSE)}", output, re.DOTALL)
    if found is None:
        return Rewritten(draft, "unfinished" if OPEN in output else "no markers")
    answer = found[1].strip()
    reason = _reason(answer, instruction, draft, language_of)
    return Rewritten(draft if reason else answer, reason)


def _reason(answer: str, instruction: str, draft: str, language_of: Callable[[str], str] | None) -> str:
    if not answer:
        return "empty"
    if OPEN in answer or not _END.search(answer):
        return "unfinished"
    ratio = len(answer) / max(1, len(draft.strip()))
    if not LEAST_RATIO <= ratio <= MOST_RATIO:
        return "too short" if ratio < LEAST_RATIO else "too long"
    known = f"{instruction}\n{draft}"
    for name, pattern in (("refusal", _REFUSAL), ("speaks of the draft", _DRAFT)):
        if pattern.search(answer) and not pattern.search(known):
            return name
    if language_of is not None and language_of(answer) != language_of(draft):
        return "other language"
    return _invented(answer, known) or ("little is copied" if copied(answer, draft) < LEAST_COPIED else "")


def _invented(answer: str, known: str) -> str:
    """Which kind of fact is in an answer and nowhere in what it was made from, "" when none is."""
    for name, pattern, form in (
        ("new URL", _URL, _plain_url),
        ("new address", _ADDRESS, str.lower),
        ("new number", _NUMBER, _plain_number),
    ):
        there = {form(text) for text in pattern.findall(known)}
        if any(form(text) not in there for text in pattern.findall(answer)):
            return name
    words = _words(known)
    for name, pattern in (("new quotation", _QUOTED), ("new name", _NAME)):
        if any(f" {_words(text).strip()} " not in words for text in pattern.findall(answer)):
            return name
    return ""


def copied(answer: str, draft: str) -> float:
    """The share of an answer's words that stand in a run of three which the draft has, too; 0 for fewer words."""
    words, known = _words(answer).split(), _words(draft).split()
    runs = {tuple(known[i : i + _RUN]) for i in range(len(known) - _RUN + 1)}
    held = [False] * len(words)
    for start in range(len(words) - _RUN + 1):
        if tuple(words[start : start + _RUN]) in runs:
            held[start : start + _RUN] = [True] * _RUN
    return sum(held) / len(words) if words else 0.0


def _words(text: str) -> str:
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _plain_number(text: str) -> str:
    """"1,000" and "1000" are the same number, so are "3.50" and "3.5"."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        text = text.replace(",", "")
    return re.sub(r"\.?0+$", "", text) if re.fullmatch(r"\d+\.\d+", text) else text


def _plain_url(text: str) -> str:
    return re.sub(r"^(?:https?://)?(?:www\.)?|[/.,;:!?]+$", "", text.lower())
