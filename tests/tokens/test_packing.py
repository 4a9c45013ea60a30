"""Which examples share a row, and the arrays of a batch, as literal tables."""

import numpy as np
import pytest

from humpback.tokens.examples import TokenExample
from humpback.tokens.packing import choose_rows, gather_targets, pack, row_lengths, to_rows


def example(name: str, ids: list[int], target_start: int) -> TokenExample:
    return TokenExample(name, np.array(ids, np.int32), target_start)


EXAMPLES = [example("a", [11, 12, 13, 14], 2), example("b", [21, 22, 23], 1), example("c", [31, 32], 1)]


@pytest.mark.parametrize(
    ("lengths", "length", "rows"),
    [
        ([4, 3, 2], 6, [[0, 2], [1]]),
        ([2, 3, 4], 6, [[2, 0], [1]]),
        ([3, 3, 3, 3], 6, [[0, 1], [2, 3]]),
        ([5, 4, 3, 2, 2], 8, [[0, 2], [1, 3, 4]]),
        ([6], 6, [[0]]),
        ([], 6, []),
    ],
)
def test_first_fit_decreasing(lengths, length, rows):
    assert pack(lengths, length) == rows


def test_pack_uses_each_example_once_and_no_row_is_too_long():
    lengths = np.random.default_rng(0).integers(1, 65, 200).tolist()
    rows = pack(lengths, 64)
    assert sorted(i for row in rows for i in row) == list(range(200))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)
    assert len(rows) <= 1.1 * sum(lengths) / 64  # first-fit decreasing is near the best there is


def test_pack_refuses_what_no_row_holds():
    with pytest.raises(ValueError, match="example 1 has 7 tokens"):
        pack([6, 7], 6)


def test_rows_as_a_table():
    batch = to_rows(EXAMPLES, [[0, 1], [2]], 3, 8)
    assert batch.ids_BT.tolist() == [[11, 12, 13, 14, 21, 22, 23, 0], [31, 32, 0, 0, 0, 0, 0, 0], [0] * 8]
    assert batch.targets_BT.tolist() == [[12, 13, 14, 0, 22, 23, 0, 0], [32, 0, 0, 0, 0, 0, 0, 0], [0] * 8]
    assert batch.weights_BT.tolist() == [[0, 1, 1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], [0] * 8]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0], [0, 1, 0, 0, 0, 0, 0, 0], [0] * 8]
    assert batch.segments_BT.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 0, 0, 0, 0, 0, 0], [0] * 8]
    assert batch.examples_BT.tolist() == [[0, 0, 0, 0, 1, 1, 1, -1], [2, 2, -1, -1, -1, -1, -1, -1], [-1] * 8]


def test_every_target_token_carries_weight_once():
    batch = to_rows(EXAMPLES, pack([4, 3, 2], 6), 2, 6)
    found = sorted(batch.targets_BT[batch.weights_BT > 0].tolist())
    assert found == sorted(int(i) for e in EXAMPLES for i in e.ids[e.target_start :])


def test_gathered_places_as_a_table():
    batch = to_rows(EXAMPLES, [[0, 1], [2]], 4, 8)
    one = gather_targets(batch, 1, 6)
    assert one.places_GM.tolist() == [[1, 2, 4, 5, 8, 0]]
    assert one.targets_GM.tolist() == [[13, 14, 22, 23, 32, 12]]
    assert one.weights_GM.tolist() == [[1, 1, 1, 1, 1, 0]]
    two = gather_targets(batch, 4, 4)
    assert two.places_GM.tolist() == [[1, 2, 4, 5], [0, 0, 0, 0], [0] * 4, [0] * 4]
    assert two.weights_GM.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [0] * 4, [0] * 4]


def test_what_does_not_fit_raises():
    with pytest.raises(ValueError, match="2 rows"):
        to_rows(EXAMPLES, [[0], [1]], 1, 8)
    with pytest.raises(ValueError, match="row 0"):
        to_rows(EXAMPLES, [[0, 1]], 1, 6)
    batch = to_rows(EXAMPLES, [[0, 1], [2]], 2, 8)
    with pytest.raises(ValueError, match="4 target tokens"):
        gather_targets(batch, 2, 3)
    with pytest.raises(ValueError, match="equal groups"):
        gather_targets(batch, 3, 8)


@pytest.mark.parametrize(
    ("lengths", "longest", "groups", "wanted"),
    [
        ([2000, 300, 300], 2048, 1, (2048, [[0], [1, 2]])),
        ([400, 300, 300], 2048, 1, (2048, [[0, 1, 2]])),
        ([400, 300, 300], 2048, 2, (512, [[0], [1], [2]])),  # the three fill one row of 1,024
        ([700, 300, 300], 2048, 2, (1024, [[0, 1], [2]])),
        ([400, 300, 300], 2048, 8, (512, [[0], [1], [2]])),  # never enough: the shortest
        ([700, 300, 300], 2048, 8, (1024, [[0, 1], [2]])),  # but none shorter than an example
        ([200, 100], 300, 1, (300, [[0, 1]])),
        ([1500, 1000], 4096, 1, (4096, [[0, 1]])),
    ],
)
def test_row_length_of_a_step(lengths, longest, groups, wanted):
    assert choose_rows(lengths, longest, groups) == wanted


def test_row_lengths_are_three_at_most():
    assert [row_lengths(n) for n in (300, 512, 700, 2048, 4096)] == [
        [300], [512], [512, 700], [512, 1024, 2048], [1024, 2048, 4096],
    ]  # fmt: skip
