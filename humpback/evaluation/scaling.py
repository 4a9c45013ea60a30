"""How a measure grows with the number of examples, w = α · ln N + C (the paper's section 3.5)."""

import math
from collections.abc import Sequence
from typing import Any

from humpback.errors import UserError


def fit(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The least-squares α and C of points (N, w): {alpha, standard_error, per_doubling, constant, points}.

    The paper does not say which logarithm it takes: alpha is of the natural one, per_doubling is α · ln 2. The standard error is the
    residuals', None with two points. UserError for fewer than two different N, or one below 1.
    """
    if any(count < 1 for count, _ in points):
        raise UserError(f"a number of examples must be at least 1, not {min(count for count, _ in points):g}")
    xs, ys = [math.log(count) for count, _ in points], [value for _, value in points]
    if len(set(xs)) < 2:
        raise UserError(f"a line takes at least two different numbers of examples; {len(points)} points have {len(set(xs))}")
    n = len(points)
    x_mean, y_mean = math.fsum(xs) / n, math.fsum(ys) / n
    spread = math.fsum((x - x_mean) ** 2 for x in xs)
    alpha = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    constant = y_mean - alpha * x_mean
    squares = math.fsum((y - constant - alpha * x) ** 2 for x, y in zip(xs, ys, strict=True))
    error = math.sqrt(squares / (n - 2) / spread) if n > 2 else None
    return {"alpha": alpha, "standard_error": error, "per_doubling": alpha * math.log(2), "constant": constant, "points": n}
