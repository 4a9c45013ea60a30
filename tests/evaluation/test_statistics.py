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
    assert statistics.length_matched([("x", 104), ("y", 106), ("z", 900)], others) == ["b", "a", "d"]
    assert statistics.length_matched([("x", 1), ("y", 2)], [("a", 5)]) == ["a"]


def test_paired_difference_by_hand():
    """Two pairs: d = (-1, -4) over (10, 20) tokens."""
    found = statistics.paired_difference([(19.0, 10), (36.0, 20)], [(20.0, 10), (40.0, 20)])
    assert found["nll"] == pytest.approx(55 / 30)
    assert found["difference"] == pytest.approx(-5 / 30)
    residuals = [-1 + 10 / 6, -4 + 20 / 6]
    expected = math.sqrt(sum(r * r for r in residuals) / (2 * 1)) / 15  # se of the mean residual over the mean tokens
    assert found["standard_error"] == pytest.approx(expected)
    assert (found["pairs"], found["tokens"]) == (2, 30)
    assert statistics.paired_difference([(1.0, 1)], [(2.0, 1)])["standard_error"] is None


def test_equal_models_differ_by_nothing():
    scores = [(3.0, 2), (8.0, 3), (1.0, 1)]
    found = statistics.paired_difference(scores, scores)
    assert found["difference"] == 0 and found["standard_error"] == 0
