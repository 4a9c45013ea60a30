import math

import pytest

from humpback.errors import UserError
from humpback.evaluation.scaling import fit

SIZES = (100, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200)


def test_exact_points_have_no_error():
    found = fit([(n, 6.95 * math.log(n) + 3) for n in SIZES])
    assert found["alpha"] == pytest.approx(6.95) and found["standard_error"] == pytest.approx(0, abs=1e-9)
    assert found["constant"] == pytest.approx(3) and found["per_doubling"] == pytest.approx(6.95 * math.log(2))


def test_points_that_alternate():
    found = fit([(n, 6.95 * math.log(n) + (-1) ** i) for i, n in enumerate(SIZES)])
    assert found["alpha"] == pytest.approx(6.804518147, abs=1e-8) and found["standard_error"] == pytest.approx(0.207638693, abs=1e-8)


@pytest.mark.parametrize(("points", "part"), [([(10, 1)], "two different"), ([(10, 1), (10, 2)], "have 1"), ([(0, 1), (2, 1)], "not 0")])
def test_too_few_points(points, part):
    with pytest.raises(UserError, match=part):
        fit(points)
    assert fit([(10, 1), (20, 2)])["standard_error"] is None
