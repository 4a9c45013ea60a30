"""Word n-grams of a text as sets of 64-bit numbers: what near-duplicates and contamination are measured by.

Two n-grams of other words have the same number once in 2**64 (one wrong match in a comparison of two texts: 1e-14), so a Jaccard
similarity of such sets is that of the n-grams.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator

import numpy as np

_NOT_WORDS = re.compile(r"[\W_]+")
# Multiplier of the polynomial in a gram's words: odd, and 5 modulo 8, so that no two of its powers differ by more than a few factors of 2.
_STEP = np.uint64(0x9E3779B97F4A7C15)


def normalised(text: str) -> str:
    """A text's words alone: compatibility forms unified, case folded, whitespace and punctuation as one space."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def gram_hashes(words: list[str], n: int) -> np.ndarray:
    """uint64 [G], sorted and distinct: the n-grams of a text's words; of fewer than n words all of them make one gram."""
    *_, (_, grams) = hashes_by_length(words, n)
    return np.unique(grams)


def hashes_by_length(words: list[str], longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (n, uint64 [W - n + 1]), the n-grams of W words in their order, for n from 1 to `longest` or W."""
    hashes = grams = np.fromiter(map(_word_hash, words), np.uint64, len(words))
    yield 1, grams
    for n in range(2, min(longest, len(words)) + 1):
        grams = grams[:-1] * _STEP + hashes[n - 1 :]
        yield n, grams


@functools.lru_cache(1 << 17)  # a hundred bytes each; most words of a text are among so many
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
