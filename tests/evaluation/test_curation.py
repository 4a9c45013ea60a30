import math
import random

import pytest

from humpback.errors import UserError
from humpback.evaluation.curation import Label, classify, corrected_share


def test_precision_and_recall_of_250_labels():
    """50 are good, the judge picks 42, of which 22 are."""
    labels = [Label(True, i < 22) for i in range(50)] + [Label(False, i < 20) for i in range(200)]
    found = classify(labels)
    assert (found["labels"], found["good"], found["picked"], found["right"]) == (250, 50, 42, 22)
    assert found["precision"]["value"] == pytest.approx(0.5238, abs=1e-4) and found["recall"]["value"] == pytest.approx(0.44)
    assert found["precision"]["interval"] == pytest.approx([0.3772, 0.6664], abs=1e-4)
    assert found["recall"]["interval"] == pytest.approx([0.3116, 0.5769], abs=1e-4)
    assert classify([Label(False, False)])["precision"] is None


def test_weights_of_a_stratified_sample_recover_what_is_planted():
    """Of 4,000 pairs in four strata of scores, 60 of each are labelled; the judge picks the two upper strata."""
    sizes, shares, picked = (2_000, 1_000, 700, 300), (0.05, 0.2, 0.5, 0.8), (False, False, True, True)
    good = [round(n * share) for n, share in zip(sizes, shares, strict=True)]
    planted = {"precision": sum(good[2:]) / sum(sizes[2:]), "recall": sum(good[2:]) / sum(good)}
    within = dict.fromkeys(planted, 0)
    chance = random.Random(0)
    for _ in range(100):
        labels = [
            Label(place < good[s], picked[s], sizes[s] / 60, str(s)) for s in range(4) for place in chance.sample(range(sizes[s]), 60)
        ]
        found = classify(labels)
        for name, value in planted.items():
            within[name] += abs(found[name]["value"] - value) <= 2 * found[name]["standard_error"]
    assert min(within.values()) >= 95, within


def test_an_imperfect_judges_share_is_corrected():
    assert corrected_share(0.30, 0.9, 0.8)["share"] == pytest.approx(0.142857, abs=1e-6)
    found = corrected_share(0.30, 0.9, 0.8, (805, 100, 100))
    by_hand = math.sqrt(0.3 * 0.7 / 805 + (1 / 7) ** 2 * 0.09 / 100 + (6 / 7) ** 2 * 0.16 / 100) / 0.7
    assert found["standard_error"] == pytest.approx(by_hand) and found["interval"][0] < found["share"] < found["interval"][1]
    with pytest.raises(UserError, match="no better than chance"):
        corrected_share(0.3, 0.5, 0.5)
