"""Several examples in one row: which go together, and the arrays of a batch. Pure functions, no iterator, no state."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from humpback.rounding import ceil_div, round_up
from humpback.tokens.examples import TokenExample

# Of rows' lengths, or a multiple of it; a TPU's attention goes over blocks of 512 where that is cheaper (kernels.block_for).
UNIT = 256
_LENGTHS = 8  # of rows, among which is chosen
_SHAPES = 3  # of a training's steps at most, as each is compiled
_WORTH, _SHARE = 1 << 16, 0.03  # places, and the share of all, that a further shape must save: else compiling it takes longer


class Batch(NamedTuple):
    """One step's rows. B rows of T tokens; segments count from 1 within a row, 0 is padding; positions restart in each."""

    ids_BT: np.ndarray  # int32
    targets_BT: np.ndarray  # int32, the next token of the same segment, 0 where there is none
    weights_BT: np.ndarray  # float32, 1 where the next token is a target token of the same segment
    positions_BT: np.ndarray  # int32
    segments_BT: np.ndarray  # int32
    examples_BT: np.ndarray  # int32, the index of the example that a token belongs to, -1 in padding


class Targets(NamedTuple):
    """The M places of each of G equal groups of rows where there is a loss, so that the head is applied to no others.

    A place is row * T + column within its group. Groups are the shards of the batch: a device picks from its own rows.
    """

    places_GM: np.ndarray  # int32
    targets_GM: np.ndarray  # int32
    weights_GM: np.ndarray  # float32, 0 in the places that only fill up


def pack(lengths: Sequence[int], length: int) -> list[list[int]]:
    """First-fit decreasing: the longest first, each into the first row with room. Returns the indices of each row.

    Depends on nothing but the lengths (equal ones go in order). Raises ValueError for one longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        size = lengths[index]
        if size > length:
            raise ValueError(f"example {index} has {size} tokens, a row has {length}")
        row = next((row for row, left in enumerate(room) if size <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(index)
        room[row] -= size
    return rows


def row_lengths(longest: int) -> list[int]:
    """The lengths that rows may have when an example has at most `longest` tokens: multiples of one number, and this."""
    unit = round_up(ceil_div(longest, _LENGTHS), UNIT)
    return [*range(unit, longest, unit), longest]


def choose_shapes(rows: Sequence[Mapping[int, int]], groups: int) -> list[tuple[int, int]]:
    """(row length, rows) of each step, at most three different ones, which leave few places idle.

    rows: of each step {row length: how many rows its examples fill}; the longest length is in all of them. Rows are a multiple of
    `groups`. The first shape is the smallest that all steps fit into; each further one is that which saves most places.
    """
    shapes = sorted({(length, round_up(count, groups)) for step in rows for length, count in step.items()})
    places = np.array([[length * count if step.get(length, count + 1) <= count else np.inf for length, count in shapes] for step in rows])
    taken = [int(np.argmin(places.sum(axis=0)))]
    while len(taken) < _SHAPES:
        least = places[:, taken].min(axis=1)
        with_each = np.minimum(least[:, None], places).sum(axis=0)
        best = int(np.argmin(with_each))
        if least.sum() - with_each[best] < max(_WORTH, _SHARE * least.sum()):
            break
        taken.append(best)
    taken.sort()
    return [shapes[taken[index]] for index in places[:, taken].argmin(axis=1)]


def to_rows(examples: Sequence[TokenExample], rows: Sequence[Sequence[int]], num_rows: int, length: int) -> Batch:
    """The arrays of `rows` (from `pack`), filled up to `num_rows` with rows that carry no loss.

    Raises ValueError when there are more rows than that, or one does not fit.
    """
    if len(rows) > num_rows:
        raise ValueError(f"{len(rows)} rows do not fit a batch of {num_rows}")
    ids, targets, positions, segments = (np.zeros((num_rows, length), np.int32) for _ in range(4))
    weights = np.zeros((num_rows, length), np.float32)
    owners = np.full((num_rows, length), -1, np.int32)
    for row, members in enumerate(rows):
        start = 0
        for segment, index in enumerate(members, 1):
            example = examples[index]
            size = len(example.ids)
            if start + size > length:
                raise ValueError(f"row {row} is longer than {length} tokens")
            ids[row, start : start + size] = example.ids
            targets[row, start : start + size - 1] = example.ids[1:]
            weights[row, start + example.target_start - 1 : start + size - 1] = 1
            positions[row, start : start + size] = np.arange(size)
            segments[row, start : start + size] = segment
            owners[row, start : start + size] = index
            start += size
    return Batch(ids, targets, weights, positions, segments, owners)


def gather_targets(batch: Batch, groups: int, count: int) -> Targets:
    """The places with a loss, `count` in each of `groups` equal groups of rows, filled up with places of weight 0.

    Raises ValueError when the groups are not equal or a group has more places than `count`.
    """
    num_rows = len(batch.weights_BT)
    if num_rows % groups:
        raise ValueError(f"{num_rows} rows do not make {groups} equal groups")
    weights = batch.weights_BT.reshape(groups, -1)
    targets = batch.targets_BT.reshape(groups, -1)
    places_GM = np.zeros((groups, count), np.int32)
    for group in range(groups):
        places = np.flatnonzero(weights[group])
        if len(places) > count:
            raise ValueError(f"{len(places)} target tokens in one group of rows, more than {count}")
        places_GM[group, : len(places)] = places
    real = np.arange(count) < np.count_nonzero(weights, axis=1)[:, None]
    weights_GM = np.where(real, np.take_along_axis(weights, places_GM, axis=1), 0).astype(np.float32)
    return Targets(places_GM, np.take_along_axis(targets, places_GM, axis=1), weights_GM)
