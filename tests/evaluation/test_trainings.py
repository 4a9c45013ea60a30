import math
import random

import pytest

from humpback.evaluation import statistics
from humpback.evaluation.trainings import difference, holm


def made(chance: random.Random, of_training: float, pairs: int = 40) -> dict[str, tuple[float, int]]:
    return {str(pair): ((pair % 7 + of_training + chance.gauss(0, 0.3)) * 10, 10 + pair % 3) for pair in range(pairs)}


def test_one_training_has_the_error_of_pairs_alone():
    chance = random.Random(1)
    one, other = made(chance, 0.1), made(chance, 0)
    found = difference([one], [other])
    plain = statistics.paired_difference([one[pair] for pair in sorted(one)], [other[pair] for pair in sorted(one)])
    for name in ("difference", "standard_error", "interval"):
        assert found[name] == pytest.approx(plain[name])
    assert found["signs"] == pytest.approx([found["difference"]])
    assert found["t"] == pytest.approx(found["difference"] / found["standard_error"])
    assert found["p"] == pytest.approx(math.erfc(abs(found["t"]) / math.sqrt(2)))


def test_trainings_that_differ_make_the_error_larger():
    """Three trainings whose own shifts are 0, 3 and 6: the error of their mean is that of three numbers, though there are 40 pairs."""
    chance = random.Random(2)
    apart = difference([made(chance, shift) for shift in (0.0, 3.0, 6.0)], [made(chance, 0.0)])
    alike = difference([made(chance, 3.0) for _ in range(3)], [made(chance, 0.0)])
    tokens = sum(10 + pair % 3 for pair in range(40)) / 40
    assert apart["standard_error"] == pytest.approx(3 * 10 / tokens / math.sqrt(3), rel=0.05) and alike["standard_error"] < 0.1
    assert [round(sign * tokens / 10) for sign in apart["signs"]] == [0, 3, 6] and apart["trainings"] == 3
    assert alike["difference"] == pytest.approx(sum(alike["signs"]) / 3)


def test_planted_differences_lie_within_two_errors():
    within = 0
    for number in range(200):
        chance = random.Random(number)
        one, other = ([made(chance, shift + chance.gauss(0, 0.02)) for _ in range(3)] for shift in (0.1, 0.0))
        found = difference(one, other)
        tokens = sum(count for _, count in one[0].values()) / 40
        within += abs(found["difference"] - 0.1 * 10 / tokens) <= 2 * found["standard_error"]
    assert within >= 185


def test_holm():
    assert holm({"a": 0.01, "b": 0.04}) == {"a": 0.02, "b": 0.04} and holm({"a": 0.03, "b": 0.02}) == {"a": 0.04, "b": 0.04}
    assert holm({"a": 0.9, "b": 0.8, "c": 0.01})["a"] == 1.0
    with pytest.raises(ValueError, match="1 pairs have all scores"):
        difference([{"a": (1.0, 1)}], [{"a": (1.0, 1), "b": (1.0, 1)}])
