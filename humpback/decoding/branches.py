"""Several continuations of one context in one row, so that what they have in common is read once. Ids only, numpy only."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Target(NamedTuple):
    """Ids int32 [T], of which those from `start` on, of at least 1, are asked about."""

    ids: np.ndarray
    start: int


class Row(NamedTuple):
    """Ids int32 [T]: a trunk, then a branch for each target, which begins with the token before what may be asked about.

    start: the place behind the trunk and one more token. numbers, places int32 [T]: as `model.attention.Branches`. asked: of each branch
    the places in the row that are asked about.
    """

    ids: np.ndarray
    start: int
    numbers: np.ndarray
    places: np.ndarray
    asked: tuple[tuple[int, int], ...]

    def sums(self, found_T2: np.ndarray, shared: int = 0) -> np.ndarray:
        """What is asked, f32 [targets, 2], as `Engine.score` says it: found_T2 is of each token but the first `shared` ones."""
        parts = [found_T2[start - shared : end - shared] for start, end in self.asked]
        return np.array([(part[:, 0].sum(dtype=np.float64), part[:, 1].min(initial=1)) for part in parts], np.float32)


def pack(targets: Sequence[Target], length: int) -> Iterator[Row]:
    """The targets, in their order, in as few rows of at most `length` ids as that order allows; one that is longer has a row by itself."""
    some: list[Target] = []
    for target in targets:
        if some and len(_row([*some, target]).ids) > length:
            yield _row(some)
            some = []
        some.append(target)
    if some:
        yield _row(some)


def _row(targets: Sequence[Target]) -> Row:
    alike = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*(target.ids.tolist() for target in targets), strict=False))
    trunk = min(sum(1 for _ in alike), min(target.start for target in targets) - 1)
    ids, numbers, places = [targets[0].ids[:trunk]], [np.zeros(trunk)], [np.arange(trunk)]
    asked, end = [], trunk
    for number, target in enumerate(targets, 1):
        own = len(target.ids) - trunk
        ids.append(target.ids[trunk:])
        numbers.append(np.full(own, number))
        places.append(trunk + np.arange(own))
        asked.append((end + target.start - trunk, end + own))
        end += own
    joined = (np.concatenate(parts).astype(np.int32) for parts in (ids, numbers, places))
    row_ids, row_numbers, row_places = joined
    return Row(row_ids, trunk + 1, row_numbers, row_places, tuple(asked))
