"""Several examples in one row: which go together, and the arrays of a batch. Pure functions, no iterator, no state."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from humpback.tokens.examples import TokenExample

ROW_LENGTHS = (512, 1_024, 2_048)  # besides the longest that a config allows


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
    """The lengths that rows may have when an example has at most `longest` tokens, at most three."""
    return [*(length for length in ROW_LENGTHS if length < longest), longest][-3:]


def choose_rows(lengths: Sequence[int], longest: int, groups: int) -> tuple[int, list[list[int]]]:
    """The row length of a step and which examples share a row.

    The longest row length that gives every one of `groups` equal groups of rows one at least; when none does, the shortest. Rows
    shorter than an example are never taken.
    """
    allowed = [length for length in row_lengths(longest) if length >= max(lengths)]
    packed = {length: pack(lengths, length) for length in allowed}
    enough = [length for length in allowed if len(packed[length]) >= groups]
    length = max(enough) if enough else allowed[0]
    return length, packed[length]


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
