"""Segments that say the same: one stays, the one with the smallest id, whatever the order of the pages.

Exact duplicates up to case, whitespace and punctuation. Near-duplicates across the corpus (MinHash-LSH of word 5-grams) will
take the same shape, (segments) → (kept, dropped), and run after this.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from humpback.records import Segment

_NOT_WORDS = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """A text's words alone: compatibility forms unified, case folded, whitespace and punctuation as one space."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def drop_exact(segments: Iterable[Segment]) -> tuple[list[Segment], list[Segment]]:
    """(kept, dropped), each sorted by id: of the segments with the same normalised text the one with the smallest id is kept."""
    first: dict[bytes, Segment] = {}
    dropped = []
    for segment in segments:
        # A digest, so that memory does not grow with the texts.
        key = hashlib.sha256(normalised(segment.text).encode("utf-8", "surrogatepass")).digest()[:16]
        held = first.setdefault(key, segment)
        if held is not segment:
            first[key], other = (segment, held) if segment.id < held.id else (held, segment)
            dropped.append(other)
    return sorted(first.values(), key=lambda s: s.id), sorted(dropped, key=lambda s: s.id)
