"""Whether two ways of training differ, over several trainings of each and the same held-out pairs. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from humpback.evaluation.paired import Scores
from humpback.evaluation.statistics import LEAST_T


def difference(first: Sequence[Scores], other: Sequence[Scores]) -> dict[str, Any]:
    """All nats over all tokens of `first` less those of `other`, each a score of the pairs for each training; `other` may be of one, the
    base's.

    standard_error: of pairs and of trainings, both taken for drawn: the mean squares of pairs and of trainings less what is left, by
    trainings times pairs, and never less than that of either alone. signs: the difference of each training. p: of the normal distribution.
    ValueError without two pairs.
    """
    others = list(other) * len(first) if len(other) == 1 else list(other)
    pairs = sorted(set.intersection(*map(set, (*first, *others))))
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} pairs have all scores; at least two are needed")
    tokens = [first[0][pair][1] for pair in pairs]
    nats = [[one[pair][0] - two[pair][0] for pair in pairs] for one, two in zip(first, others, strict=True)]
    P, R, each = len(pairs), len(nats), math.fsum(tokens) / len(pairs)
    value = math.fsum(map(math.fsum, nats)) / (R * P * each)
    # How far each pair of each training lies from the ratio; the mean of all is 0.
    left = [[(n - value * t) / each for n, t in zip(of, tokens, strict=True)] for of in nats]
    by_training = [math.fsum(of) / P for of in left]
    by_pair = [math.fsum(column) / R for column in zip(*left, strict=True)]
    of_pairs = R * math.fsum(x * x for x in by_pair) / (P - 1)
    squares = of_pairs
    if R > 1:
        of_trainings = P * math.fsum(x * x for x in by_training) / (R - 1)
        rest = math.fsum((z - a - b) ** 2 for of, a in zip(left, by_training, strict=True) for z, b in zip(of, by_pair, strict=True))
        squares = max(of_pairs, of_trainings, of_pairs + of_trainings - rest / ((P - 1) * (R - 1)))
    error = math.sqrt(squares / (R * P))
    t = value / error if error else 0.0
    return {
        "difference": value, "standard_error": error, "interval": [value - LEAST_T * error, value + LEAST_T * error], "t": t,
        "p": math.erfc(abs(t) / math.sqrt(2)), "pairs": P, "trainings": R, "signs": [value + mean for mean in by_training],
    }  # fmt: skip


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: each p as if it alone were looked at, at the level that all of them together have."""
    corrected, least = {}, 0.0
    for place, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, (len(ps) - place) * p))
        corrected[name] = least
    return corrected
