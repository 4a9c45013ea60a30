"""Small statistics of records: lengths, histograms, a length-matched control, paired differences. Pure functions of lists."""

import bisect
import math
from collections.abc import Sequence
from typing import Any, TypeVar

Id = TypeVar("Id", str, int)


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


def length_matched(chosen: Sequence[tuple[Id, int]], others: Sequence[tuple[Id, int]]) -> list[Id]:
    """For each chosen (id, length), in the order of ids, the other of the nearest length that is not taken yet.

    Ids are hashes, so among equal lengths this is a random control. It shows what of a selection is not length.
    """
    free = sorted((length, other) for other, length in others)
    control = []
    for _, length in sorted(chosen):
        if not free:
            break
        right = bisect.bisect_left(free, (length,))
        places = [place for place in (right - 1, right) if 0 <= place < len(free)]
        nearest = min(places, key=lambda place: (abs(free[place][0] - length), free[place][1]))
        control.append(free.pop(nearest)[1])
    return control


def paired_difference(scores: Sequence[tuple[float, int]], base: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Per-token likelihoods of the same pairs under a model and the base; each score is (nats, tokens) of one pair.

    nll: all nats over all tokens. difference: that of the model minus the base's. standard_error: of this ratio over pairs, by
    linearisation: the pairs are the sample, and each has its own number of tokens.
    """
    tokens = sum(count for _, count in scores)
    differences = [(s - b, count) for (s, count), (b, _) in zip(scores, base, strict=True)]
    difference = math.fsum(d for d, _ in differences) / tokens
    pairs = len(scores)
    squares = math.fsum((d - difference * count) ** 2 for d, count in differences)
    error = math.sqrt(squares * pairs / (pairs - 1)) / tokens if pairs > 1 else None
    return {
        "nll": math.fsum(nats for nats, _ in scores) / tokens,
        "difference": difference,
        "standard_error": error,
        "pairs": pairs,
        "tokens": tokens,
    }
