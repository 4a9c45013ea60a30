"""Small statistics of records and models: lengths, histograms, paired differences, shares, ranks. Pure functions of lists."""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Id = TypeVar("Id", str, int)
# What a verdict needs: fewer pairs, or a difference of fewer standard errors, are what noise gives, too.
LEAST_PAIRS, LEAST_T = 20, 2.0
Z95 = 1.959963984540054  # of the normal distribution: 95 % lie within so many deviations
BETTER, WORSE, UNSEEN = "better", "worse", "no difference can be seen"
TOO_FEW = f"fewer than {LEAST_PAIRS} pairs: no verdict"


def mean_sd(values: Sequence[float]) -> dict[str, float | None]:
    """{"mean", "sd"}, the sample's standard deviation; None where there are too few values."""
    if not values:
        return {"mean": None, "sd": None}
    mean = math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
    return {"mean": mean, "sd": sd}


def histogram(scores: Sequence[float]) -> dict[str, int]:
    """Counts of ratings in half points: "3.0" counts [2.75, 3.25)."""
    bins = {f"{half / 2:.1f}": 0 for half in range(2, 11)}
    for score in scores:
        bins[f"{math.floor(score * 2 + 0.5) / 2:.1f}"] += 1
    return bins


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's r; None where it is not defined."""
    (x_mean, x_sd), (y_mean, y_sd) = mean_sd(xs).values(), mean_sd(ys).values()
    if x_mean is None or y_mean is None or not x_sd or not y_sd:
        return None
    products = math.fsum((a - x_mean) * (b - y_mean) for a, b in zip(xs, ys, strict=True))
    return products / ((len(xs) - 1) * x_sd * y_sd)


def length_matched(chosen: Sequence[tuple[Id, int]], others: Sequence[tuple[Id, int]]) -> list[tuple[Id, Id]]:
    """For each chosen (id, length), in the order of ids, (its id, that of the nearest length among the others not taken yet).

    Ids are hashes, so among equal lengths this is a random control. Compare the two by a score that did not choose: by the one that did,
    ratings of pure noise differ, too.
    """
    free = sorted((length, other) for other, length in others)
    pairs = []
    for record_id, length in sorted(chosen):
        if not free:
            break
        right = bisect.bisect_left(free, (length,))
        places = [place for place in (right - 1, right) if 0 <= place < len(free)]
        nearest = min(places, key=lambda place: (abs(free[place][0] - length), free[place][1]))
        pairs.append((record_id, free.pop(nearest)[1]))
    return pairs


def paired_difference(scores: Sequence[tuple[float, int]], base: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Figures per token of the same pairs under two models; each score is (nats, tokens) of one pair.

    value: all nats over all tokens. difference: that of the first model minus the other's. standard_error: of this ratio over pairs, by
    linearisation: the pairs are the sample, and each has its own number of tokens. interval: the difference and LEAST_T errors to both
    sides. below: the pairs with a difference below 0.
    """
    tokens = sum(count for _, count in scores)
    differences = [(s - b, count) for (s, count), (b, _) in zip(scores, base, strict=True)]
    difference = math.fsum(d for d, _ in differences) / tokens
    pairs = len(scores)
    squares = math.fsum((d - difference * count) ** 2 for d, count in differences)
    error = math.sqrt(squares * pairs / (pairs - 1)) / tokens if pairs > 1 else None
    return {
        "value": math.fsum(nats for nats, _ in scores) / tokens,
        "difference": difference,
        "standard_error": error,
        "interval": None if error is None else [difference - LEAST_T * error, difference + LEAST_T * error],
        "below": sum(d < 0 for d, _ in differences),
        "pairs": pairs,
        "tokens": tokens,
    }


def verdict(difference: Mapping[str, Any], lower_is_better: bool) -> str:
    """What `paired_difference` allows to say of the first model: BETTER or WORSE, UNSEEN, or TOO_FEW."""
    if difference["pairs"] < LEAST_PAIRS:
        return TOO_FEW
    low, high = difference["interval"]
    if low <= 0 <= high:
        return UNSEEN
    return BETTER if (high < 0) == lower_is_better else WORSE


def wilson(successes: float, count: int, z: float = Z95) -> list[float]:
    """Wilson's interval of a share; a success may be half of one, a tie. ValueError without trials."""
    if count < 1:
        raise ValueError("a share of nothing has no interval")
    share, square = successes / count, z * z / count
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """How often a positive's score is above a negative's, of all pairs of the two, ties as halves; None without both."""
    if not positive or not negative:
        return None
    ordered = sorted(negative)
    above = sum(bisect.bisect_left(ordered, score) + bisect.bisect_right(ordered, score) for score in positive)
    return above / (2 * len(positive) * len(negative))


def ranks(values: Sequence[float]) -> list[float]:
    """The place of each value among all, from 0, the lowest, to 1; equal values share the mean of their places."""
    ordered = sorted(values)
    last = max(1, len(ordered) - 1)
    return [(bisect.bisect_left(ordered, value) + bisect.bisect_right(ordered, value) - 1) / (2 * last) for value in values]


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value below which a share of all lies, between two of them linearly; None without values."""
    if not values:
        return None
    ordered, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
