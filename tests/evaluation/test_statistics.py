import math

import pytest

from humpback.evaluation import statistics


def test_mean_and_sample_deviation():
    assert statistics.mean_sd([2, 4, 6]) == {"mean": 4.0, "sd": 2.0}
    assert statistics.mean_sd([5]) == {"mean": 5.0, "sd": None}
    assert statistics.mean_sd([]) == {"mean": None, "sd": None}


def test_histogram_counts_half_points():
    found = statistics.histogram([1.0, 1.24, 1.25, 2.99, 4.75, 5.0])
    assert {key: count for key, count in found.items() if count} == {"1.0": 2, "1.5": 1, "3.0": 1, "5.0": 2}
    assert sum(found.values()) == 6 and list(found) == sorted(found)


def test_correlation():
    assert statistics.correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert statistics.correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert statistics.correlation([1, 1, 1], [3, 2, 1]) is None
    assert statistics.correlation([1], [1]) is None


def test_length_matched_control_takes_each_once_and_the_nearest():
    others = [("a", 100), ("b", 105), ("c", 300), ("d", 1000)]
    found = statistics.length_matched([("y", 106), ("x", 104), ("z", 900)], others)
    assert found == [("x", "b"), ("y", "a"), ("z", "d")]
    assert statistics.length_matched([("x", 1), ("y", 2)], [("a", 5)]) == [("x", "a")]


def test_paired_difference_by_hand():
    """Two pairs: d = (-1, -4) over (10, 20) tokens."""
    found = statistics.paired_difference([(19.0, 10), (36.0, 20)], [(20.0, 10), (40.0, 20)])
    assert found["value"] == pytest.approx(55 / 30)
    assert found["difference"] == pytest.approx(-5 / 30)
    residuals = [-1 + 10 / 6, -4 + 20 / 6]
    expected = math.sqrt(sum(r * r for r in residuals) / (2 * 1)) / 15  # se of the mean residual over the mean tokens
    assert found["standard_error"] == pytest.approx(expected)
    assert found["interval"] == pytest.approx([-5 / 30 - 2 * expected, -5 / 30 + 2 * expected])
    assert (found["pairs"], found["tokens"], found["below"]) == (2, 30, 2)
    alone = statistics.paired_difference([(1.0, 1)], [(2.0, 1)])
    assert alone["standard_error"] is None and alone["interval"] is None


def test_the_error_of_two_models_difference_is_not_that_of_a_model_and_the_base():
    """Pairs differ much in how much both models gain, and little in what one gains more than the other."""
    base = [(10.0, 4)] * 24
    first = [(10.0 - number, 4) for number in range(24)]
    second = [(nats - 0.1 - 0.01 * (number % 2), 4) for number, (nats, _) in enumerate(first)]
    far, near = statistics.paired_difference(second, base), statistics.paired_difference(second, first)
    assert near["difference"] == pytest.approx(-0.105 / 4) and near["standard_error"] < 0.01 * far["standard_error"]


@pytest.mark.parametrize(
    ("pairs", "difference", "error", "lower_is_better", "said"),
    [
        (20, -0.3, 0.1, True, "better"),
        (20, -0.3, 0.1, False, "worse"),
        (20, 0.3, 0.1, True, "worse"),
        (20, 0.3, 0.1, False, "better"),
        (20, -0.19, 0.1, True, "no difference can be seen"),
        (1000, 0.0, 0.0, True, "no difference can be seen"),
        (19, -9.0, 0.1, True, "fewer than 20 pairs: no verdict"),
        (1, -9.0, None, True, "fewer than 20 pairs: no verdict"),
    ],
)
def test_a_verdict_needs_two_errors_and_twenty_pairs(pairs, difference, error, lower_is_better, said):
    interval = None if error is None else [difference - 2 * error, difference + 2 * error]
    assert statistics.verdict({"pairs": pairs, "difference": difference, "interval": interval}, lower_is_better) == said


def test_equal_models_differ_by_nothing():
    scores = [(3.0, 2), (8.0, 3), (1.0, 1)]
    found = statistics.paired_difference(scores, scores)
    assert found["difference"] == 0 and found["standard_error"] == 0


def test_wilsons_interval():
    assert statistics.wilson(22, 42) == pytest.approx([0.3772, 0.6664], abs=1e-4)
    assert statistics.wilson(0, 10) == pytest.approx([0, 0.2775], abs=1e-4)
    assert statistics.wilson(51, 60)[0] > 0.7 and statistics.wilson(28, 60)[0] < 0.5
    with pytest.raises(ValueError, match="share of nothing"):
        statistics.wilson(0, 0)


def test_auc_ranks_and_quantiles_by_hand():
    assert statistics.auc([3, 2], [1, 2]) == 0.875 and statistics.auc([1], [2]) == 0 and statistics.auc([], [1]) is None
    assert statistics.ranks([10, 30, 20, 20]) == [0, 1, 0.5, 0.5] and statistics.ranks([7]) == [0]
    assert statistics.quantile([4, 1, 3, 2], 0.5) == 2.5 and statistics.quantile([5], 0.05) == 5 and statistics.quantile([], 0.5) is None
