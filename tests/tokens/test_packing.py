"""Which examples share a row, and the arrays of a batch, as literal tables."""

import numpy as np
import pytest

from humpback.tokens.examples import TokenExample
from humpback.tokens.packing import choose_shapes, gather_targets, pack, row_lengths, to_rows


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
    ("longest", "lengths"),
    [(32, [32]), (512, [256, 512]), (700, [256, 512, 700]), (2048, list(range(256, 2049, 256))), (4096, list(range(512, 4097, 512)))],
)
def test_row_lengths(longest, lengths):
    assert row_lengths(longest) == lengths


MANY = 200  # steps: enough that a further shape is worth compiling


@pytest.mark.parametrize(
    ("steps", "groups", "shapes"),
    [
        ([{2048: 3}], 1, [(2048, 3)]),
        ([{1024: 7, 1280: 4, 2048: 3}], 4, [(1280, 4)]),  # one row a group, as short as the examples fit into it
        ([{2048: 1}, {256: 5, 2048: 1}], 1, [(2048, 1)] * 2),  # a second shape would save too little to be compiled
        ([{2048: 1}, {256: 5, 2048: 1}] * MANY, 1, [(2048, 1), (256, 5)] * MANY),
        ([{2048: 2}, {2048: 3}] * MANY, 1, [(2048, 2), (2048, 3)] * MANY),  # shapes of one length, too
        ([{512: 8, 1024: 4}, {512: 9, 1024: 4}] * MANY, 4, [(1024, 4)] * 2 * MANY),  # not the length that the first alone would do with
        ([{2048: count} for count in range(1, 7)] * MANY, 1, [(2048, rows) for rows in (1, 3, 3, 6, 6, 6)] * MANY),
    ],
)
def test_shapes_that_leave_few_places_idle(steps, groups, shapes):
    assert choose_shapes(steps, groups) == shapes
