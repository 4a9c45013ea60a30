"""Curation as a classifier of labelled pairs (the paper's table 6), and what an imperfect judge's share is worth."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from humpback.errors import UserError
from humpback.evaluation.statistics import Z95, wilson


class Label(NamedTuple):
    """Whether a person calls a pair good, and a judge picks it. weight: how many pairs of the whole it stands for, in its stratum."""

    good: bool
    picked: bool
    weight: float = 1.0
    stratum: str = ""


def classify(labels: Sequence[Label]) -> dict[str, Any]:
    """{labels, good, picked, right, precision, recall}, the last two {value, standard_error, interval of 95 %}, None without a case.

    Wilson's interval where all labels weigh the same; else that of a ratio over a stratified sample, by linearisation.
    """
    return {
        "labels": len(labels),
        "good": sum(label.good for label in labels),
        "picked": sum(label.picked for label in labels),
        "right": sum(label.good and label.picked for label in labels),
        "precision": _ratio([(label.weight, label.stratum, label.good and label.picked, label.picked) for label in labels]),
        "recall": _ratio([(label.weight, label.stratum, label.good and label.picked, label.good) for label in labels]),
    }


class Scored(NamedTuple):
    """Whether a person calls a pair good, and a judge's score of it, None for one that it gave none. weight, stratum: as in Label."""

    good: bool
    score: float | None
    weight: float = 1.0
    stratum: str = ""


def curve(labels: Sequence[Scored], thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """`classify` at each threshold, under its name, with F1, the harmonic mean of precision and recall."""
    return [{"threshold": t, **classify(_at(labels, t)), "f1": _f1(labels, t)} for t in thresholds]


def suggest(labels: Sequence[Scored], thresholds: Sequence[float]) -> dict[str, Any] | None:
    """{threshold, f1, interval}: the threshold of the highest F1, of several the highest one; None where no label is good.

    interval: the lowest and the highest threshold whose F1, of the same labels, cannot be told from it: their paired difference, a
    difference of two ratios by linearisation, is within 1.96 standard errors.
    """
    if not any(label.good for label in labels):
        return None
    scores = {t: _f1(labels, t) for t in thresholds}
    best = max(thresholds, key=lambda t: (scores[t], t))
    alike = [t for t in thresholds if scores[best] - scores[t] <= Z95 * _f1_error(labels, best, t)]
    return {"threshold": best, "f1": scores[best], "interval": [min(alike), max(alike)]}


def _at(labels: Sequence[Scored], threshold: float) -> list[Label]:
    return [Label(good, score is not None and score >= threshold, weight, stratum) for good, score, weight, stratum in labels]


def _f1(labels: Sequence[Scored], threshold: float) -> float:
    """2 · (right) / (picked + good); nought where nothing is either."""
    return _f1_parts(_at(labels, threshold))[0]


def _f1_parts(labels: Sequence[Label]) -> tuple[float, float]:
    below = math.fsum(label.weight * (label.picked + label.good) for label in labels)
    above = math.fsum(2 * label.weight * (label.picked and label.good) for label in labels)
    return (above / below if below else 0.0), below


def _f1_error(labels: Sequence[Scored], one: float, other: float) -> float:
    """The standard error of the difference between the F1 of two thresholds."""
    residuals = [0.0] * len(labels)
    for threshold, sign in ((one, 1), (other, -1)):
        at = _at(labels, threshold)
        value, below = _f1_parts(at)
        for place, label in enumerate(at):
            above = 2 * (label.picked and label.good) - value * (label.picked + label.good)
            residuals[place] += sign * label.weight * above / below if below else 0.0
    return math.sqrt(_variance(residuals, [label.stratum for label in labels]))


def _variance(residuals: Sequence[float], strata: Sequence[str]) -> float:
    """Of a sum over a stratified sample, of its residuals."""
    parts: dict[str, list[float]] = {}
    for residual, stratum in zip(residuals, strata, strict=True):
        parts.setdefault(stratum, []).append(residual)
    found = 0.0
    for part in parts.values():
        n, mean = len(part), math.fsum(part) / len(part)
        found += n / max(1, n - 1) * math.fsum((r - mean) ** 2 for r in part)
    return found


def _ratio(rows: Sequence[tuple[float, str, bool, bool]]) -> dict[str, Any] | None:
    """Of (weight, stratum, counts above, counts below) the weighted share; each counts above only where it counts below."""
    below = math.fsum(weight for weight, _, _, is_below in rows if is_below)
    if not below:
        return None
    value = math.fsum(weight for weight, _, is_above, _ in rows if is_above) / below
    variance = _variance([weight * (above - value * counted) for weight, _, above, counted in rows], [stratum for _, stratum, _, _ in rows])
    error = math.sqrt(variance) / below
    if len({weight for weight, _, _, _ in rows}) == 1:
        counted = sum(is_below for _, _, _, is_below in rows)
        interval = wilson(value * counted, counted)
    else:
        interval = [max(0.0, value - Z95 * error), min(1.0, value + Z95 * error)]
    return {"value": value, "standard_error": error, "interval": interval}


def corrected_share(share: float, sensitivity: float, specificity: float, counts: tuple[int, int, int] | None = None) -> dict[str, Any]:
    """θ = (p + q₀ - 1) / (q₀ + q₁ - 1): the true share of wins, of which a judge with sensitivity q₁ and specificity q₀ reports p.

    counts: of the judged, of the labelled wins, of the labelled losses; with them {interval} from all three samples, by the delta method
    (arXiv 2511.21140). UserError for a judge that is no better than chance.
    """
    better = sensitivity + specificity - 1
    if better <= 0:
        raise UserError(f"a judge with sensitivity {sensitivity:g} and specificity {specificity:g} is no better than chance")
    theta = (share + specificity - 1) / better
    found: dict[str, Any] = {"share": theta}
    if counts:
        by_share, by_sensitivity, by_specificity = 1 / better, -theta / better, (1 - theta) / better
        parts = zip((by_share, by_sensitivity, by_specificity), (share, sensitivity, specificity), counts, strict=True)
        error = math.sqrt(math.fsum(slope**2 * p * (1 - p) / n for slope, p, n in parts))
        found |= {"standard_error": error, "interval": [theta - Z95 * error, theta + Z95 * error]}
    return found
