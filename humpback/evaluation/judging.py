"""Whether a judge sees anything: human pairs under their own instruction against the same responses under another one."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from humpback.evaluation import statistics


class Probe(NamedTuple):
    """What a judge said of a human pair, and of the same response under an instruction of another pair of the same set.

    nonsense: what it said of the pair when it was asked for something absurd. mass: the probability of all five digits where they were
    asked for; probabilities: of each of them, of these. length: of the response, in characters.
    """

    set: str
    true: float | None
    swapped: float | None
    length: int
    nonsense: float | None = None
    mass: float | None = None
    probabilities: tuple[float, ...] = ()


def diagnose(probes: Sequence[Probe]) -> dict[str, Any] | None:
    """What can be said of a judge; None when no pair has both scores.

    true_above: the share of pairs whose true instruction scores higher, ties as halves, with Wilson's interval of 95 %. auc: of all true
    against all swapped scores. blind: the interval's lower end is not above a half. mass, entropy (nats) and modes (pairs by likeliest
    digit) are of the true pairs.
    """
    rated = [probe for probe in probes if probe.true is not None and probe.swapped is not None]
    if not rated:
        return None
    sets = list(dict.fromkeys(probe.set for probe in rated))
    found = _seen(rated)
    nonsense = [(probe.true, probe.nonsense) for probe in rated if probe.nonsense is not None]
    masses = [probe.mass for probe in rated if probe.mass is not None]
    digits = [probe.probabilities for probe in rated if probe.probabilities]
    modes = Counter(1 + p.index(max(p)) for p in digits)
    return {
        **found,
        "blind": found["interval"][0] <= 0.5,
        "unrated": len(probes) - len(rated),
        "sets": {name: _seen([probe for probe in rated if probe.set == name]) for name in sets},
        "length_correlation": statistics.correlation([float(p.true or 0) for p in rated], [p.length for p in rated]),
        "nonsense_correlation": statistics.correlation(*map(list, zip(*nonsense, strict=True))) if nonsense else None,
        "mass": {"p5": statistics.quantile(masses, 0.05), "median": statistics.quantile(masses, 0.5)} if masses else None,
        "entropy": math.fsum(map(_entropy, digits)) / len(digits) if digits else None,
        "modes": {str(digit): modes[digit] for digit in range(1, 6)} if digits else None,
    }


def _seen(rated: Sequence[Probe]) -> dict[str, Any]:
    true, swapped = [float(probe.true or 0) for probe in rated], [float(probe.swapped or 0) for probe in rated]
    above = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(true, swapped, strict=True))
    return {
        "pairs": len(rated),
        "true_above": above / len(rated),
        "interval": statistics.wilson(above, len(rated)),
        "auc": statistics.auc(true, swapped),
    }


def _entropy(probabilities: Sequence[float]) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)
