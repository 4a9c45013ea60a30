"""The lengths that prompts are padded to: few, for the prompts that there are."""

import itertools

import numpy as np
import pytest

from humpback.decoding import buckets


def padded(chosen, lengths):
    return sum(next(bucket for bucket in chosen if length <= bucket) for length in lengths)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_other_choice_fills_up_less(most):
    lengths = [3, 64, 65, 130, 131, 200, 200, 200, 500, 501, 640, 700]
    ends = [64, 128, 192, 256, 512, 640, 700]  # none is longer than 700
    chosen = buckets.choose(lengths, 700, most)
    others = [(*some, 700) for some in itertools.combinations(ends[:-1], most - 1)]
    assert len(chosen) <= most and padded(chosen, lengths) == min(padded(other, lengths) for other in others)


def test_a_length_that_no_prompt_has_gets_none():
    assert buckets.choose([10, 20, 300], 2_000) == (64, 320)
    assert buckets.choose([], 2_000) == (2_000,)
    assert buckets.choose([1_990], 2_000) == (2_000,)


def test_at_most_eight_of_any():
    lengths = np.random.default_rng(0).integers(1, 2_000, 5_000).tolist()
    chosen = buckets.choose(lengths, 2_000)
    assert len(chosen) == buckets.MOST and chosen[-1] == 2_000 and list(chosen) == sorted(set(chosen))
    assert padded(chosen, lengths) < 1.15 * sum(lengths)


COUNTS = {64: 900.0, 192: 500.0, 320: 100.0, 1_792: 1.0}  # prompts of each bucket


def cost(limits, slots):
    """Places that all rows take, and fillings of all slots."""
    rows = {64: 128, 192: 256, 320: 384, 1_792: 1_920}  # with 50 new tokens, in whole tiles
    taken = sum(count * next(limit for limit in limits if rows[bucket] <= limit) for bucket, count in COUNTS.items())
    return taken + buckets._FILLINGS * slots * 2_048 * len(limits)


@pytest.mark.parametrize(("slots", "most", "expected"), [
    (4, 4, (128, 256, 384, 1_920)), (4, 2, (256, 1_920)), (60, 4, (256, 1_920)), (400, 4, ()),
])  # fmt: skip
def test_classes_of_rows_cost_least(slots, most, expected):
    assert buckets.classes(COUNTS, 50, 2_048, slots, most) == expected
    limits = [(*some, 1_920) for count in range(most) for some in itertools.combinations((128, 256, 384), count)]
    least = min(cost(each, slots) for each in limits)
    assert least >= 2_048 * sum(COUNTS.values()) if expected == () else cost(expected, slots) == least


def test_no_class_is_longer_than_a_row_and_none_is_made_of_nothing():
    assert buckets.classes({64: 1e6, 500: 1e6}, 60, 500, 4, 4) == (128, 500)
    assert buckets.classes(COUNTS, 50, 2_048, 4, 1) == ()
    assert buckets.classes({}, 60, 500, 4, 4) == buckets.classes({500: 1e6}, 60, 500, 4, 4) == ()
