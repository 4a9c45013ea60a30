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
