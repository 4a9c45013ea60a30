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


def _ratio(rows: Sequence[tuple[float, str, bool, bool]]) -> dict[str, Any] | None:
    """Of (weight, stratum, counts above, counts below) the weighted share; each counts above only where it counts below."""
    below = math.fsum(weight for weight, _, _, is_below in rows if is_below)
    if not below:
        return None
    value = math.fsum(weight for weight, _, is_above, _ in rows if is_above) / below
    strata: dict[str, list[float]] = {}
    for weight, stratum, is_above, is_below in rows:
        strata.setdefault(stratum, []).append(weight * (is_above - value * is_below))
    variance = 0.0
    for residuals in strata.values():
        n, mean = len(residuals), math.fsum(residuals) / len(residuals)
        variance += n / max(1, n - 1) * math.fsum((r - mean) ** 2 for r in residuals)
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
