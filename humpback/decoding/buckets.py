"""The lengths to which prompts are padded, so that few programs read all of them, and those of the rows in which they are answered."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from humpback.rounding import round_up

MOST = 8  # programs to read prompts: on a TPU each takes the chip's memory for as long as it is loaded, 6 MiB a layer of a 7B
CLASSES = 4  # of rows, where the memory that decoding reads decides the speed: each is a program that decodes
_GRAIN = 64  # tokens
_ROW_GRAIN = 128  # tokens, of the rows: a TPU fills them up to so many
_FILLINGS = 4  # of all slots, in rows of the full length, are what a class must save: to fill and to empty its slots costs about one
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


def classes(counts: Mapping[int, float], max_new: int, own: int, slots: int, most: int) -> tuple[int, ...]:
    """The lengths of rows for so many prompts of each bucket, and at most `max_new` new tokens: at most `most` of them, ascending.

    own: of the rows of `slots` slots without classes, and the longest that there can be. A class has as many slots as fill the same
    memory, so that a record costs what its row takes. Empty where that is worth no class: for few prompts, or such as fill their
    rows; and where one is all that there may be.
    """
    rows = {bucket: min(own, round_up(bucket + max_new, _ROW_GRAIN)) for bucket in sorted(counts)}
    ends, filling = sorted(set(rows.values())), _FILLINGS * slots * own
    if not ends or most == 1:
        return ()

    def cost(limits: Sequence[int]) -> float:
        taken = sum(count * next(limit for limit in limits if rows[bucket] <= limit) for bucket, count in counts.items())
        return taken + filling * len(limits)

    possible = ((*some, ends[-1]) for count in range(min(most, len(ends))) for some in itertools.combinations(ends[:-1], count))
    best = min(possible, key=cost)
    return best if cost(best) < own * sum(counts.values()) else ()
