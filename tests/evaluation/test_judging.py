"""What is said of judges that see, are blind, or look at something else."""

import math
import random

import pytest

from humpback.evaluation.judging import Probe, diagnose


def test_a_judge_of_noise_is_blind_and_one_that_sees_is_not():
    chance = random.Random(1)
    noise = [Probe("a", chance.random(), chance.random(), 10) for _ in range(60)]
    found = diagnose(noise)
    assert found["blind"] and found["interval"][0] < 0.5 < found["interval"][1] and found["pairs"] == 60
    seeing = [Probe("ab"[i % 2], p.swapped + (0.1 if i % 5 else -0.1), p.swapped, 10) for i, p in enumerate(noise)]
    found = diagnose(seeing)
    assert found["true_above"] == 0.8 and not found["blind"] and list(found["sets"]) == ["a", "b"]
    assert found["sets"]["a"]["pairs"] == 30


def test_few_pairs_prove_nothing_and_ties_are_halves():
    assert diagnose([Probe("a", 2.0, 1.0, 1)] * 3)["blind"]
    found = diagnose([Probe("a", 2.0, 1.0, 1), Probe("a", 1.0, 1.0, 1), Probe("a", None, 1.0, 1)])
    assert (found["true_above"], found["auc"], found["pairs"], found["unrated"]) == (0.75, 0.75, 2, 1)
    assert diagnose([]) is None and diagnose([Probe("a", None, 1.0, 1)]) is None


def test_what_else_it_may_look_at():
    """A judge of lengths, who gives the same for nonsense, with two habits of digits."""
    digits = [(0.5, 0.0, 0.0, 0.0, 0.5), (0.0, 0.25, 0.5, 0.25, 0.0)]
    probes = [Probe("a", n / 10, 1.0, n, nonsense=n / 5, mass=n / 10, probabilities=digits[n == 3]) for n in range(1, 6)]
    found = diagnose(probes)
    assert found["length_correlation"] == pytest.approx(1) and found["nonsense_correlation"] == pytest.approx(1)
    assert found["mass"] == {"p5": pytest.approx(0.12), "median": pytest.approx(0.3)}
    assert found["entropy"] == pytest.approx((4 * math.log(2) + 1.5 * math.log(2)) / 5)
    assert found["modes"] == {"1": 4, "2": 0, "3": 1, "4": 0, "5": 0}
