"""The lengths to which prompts are padded, so that few programs read all of them."""

import math
from collections import Counter
from collections.abc import Iterable

from humpback.rounding import round_up

MOST = 8  # programs to read prompts: on a TPU each takes the chip's memory for as long as it is loaded, 6 MiB a layer of a 7B
_GRAIN = 64  # tokens
_LADDER = (64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1_024, 1_280, 1_536, 1_792)


def ladder(longest: int) -> tuple[int, ...]:
    """For prompts of which nothing is known, but that none is longer than `longest`."""
    return tuple(length for length in _LADDER if length < longest) + (longest,)


def choose(lengths: Iterable[int], longest: int, most: int = MOST) -> tuple[int, ...]:
    """At most `most` of them for prompts of these lengths, with the fewest tokens that only fill up; the last holds the longest one.

    Multiples of 64, but none above `longest`, which no prompt is. Without lengths `longest` alone.
    """
    counts = sorted(Counter(min(longest, round_up(length, _GRAIN)) for length in lengths).items())
    ends = [length for length, _ in counts]
    # fewest[last] = (tokens, buckets) for all prompts up to ends[last], with as many buckets as there were rounds.
    fewest: list[tuple[float, tuple[int, ...]]] = [(math.inf, ())] * len(ends)
    best = fewest
    for _ in range(min(most, len(ends))):
        best = [_with_last(counts, ends, fewest, last) for last in range(len(ends))]
        fewest = best
    return best[-1][1] if best else (longest,)


def _with_last(
    counts: list[tuple[int, int]], ends: list[int], fewest: list[tuple[float, tuple[int, ...]]], last: int
) -> tuple[float, tuple[int, ...]]:
    """The fewest tokens for the prompts up to ends[last], which is the last bucket; the others are those of `fewest` before it."""
    found, served = [], 0
    for first in range(last, -1, -1):
        served += counts[first][1]
        before = fewest[first - 1] if first else (0.0, ())
        found.append((before[0] + served * ends[last], (*before[1], ends[last])))
    return min(found)
