"""Segments that say the same across the corpus: one stays, the one with the smallest id, whatever the order and number of the parts.

Exact duplicates first: the same words, up to case, whitespace and punctuation. Then near-duplicates among those left: a MinHash of word
5-grams is cut into bands, texts that share a band are compared by the Jaccard similarity of their 5-grams itself, and of each connected
component of similar pairs one stays. The chance that a pair is compared is 1 - (1 - J**ROWS)**BANDS for a similarity of J: 99.8 % at 0.8,
27 % at 0.5.

A worker makes one `ROW` for each segment that it keeps; `find` reads the columns it needs of all parts, and texts only where they share
a band. It takes 150 bytes of memory for each segment, and 200 MiB for texts.
"""

import hashlib
import itertools
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import rensa
from etils import epath

from humpback import storage
from humpback.corpus.grams import gram_hashes, normalised
from humpback.errors import UserError
from humpback.records import Segment

NGRAM = 5  # words
BANDS, ROWS = 20, 6
_SEED = 20230811  # of the MinHash; it decides which pairs are compared, not how

ROW = np.dtype([("id", "<u8"), ("exact", "<u8", 2), ("offset", "<u8"), ("length", "<u4"), ("bands", "<u8", BANDS)])
# Where a row's line is, and the component that the row belongs to so far.
LOCATED = np.dtype([("position", "<i8"), ("part", "<i4"), ("length", "<u4"), ("offset", "<u8"), ("label", "<i8")])

KEPT, EXACT, NEAR = 0, 1, 2

BLOCK = 4_096  # texts that are compared with each other at once
_CACHED_GRAMS = 1 << 24  # 128 MiB
_READERS = 8  # files read at once, for the sake of gs://

Progress = Callable[[int, int], None]  # (done, of how many)


@dataclass(frozen=True)
class Part:
    """What one worker kept of one input: `lines` is a JSONL file of segments, `index` an array of `ROW` (.npy), a row for each line."""

    lines: storage.PathLike
    index: storage.PathLike


PairFinder = Callable[["Index", np.ndarray, float, Progress], Iterable[np.ndarray]]


def row(segment: Segment, offset: int, length: int) -> np.void:
    """The ROW of a segment whose line, its end included, is `length` bytes at `offset` of its part's .jsonl."""
    text = normalised(segment.text)
    rows = np.zeros(1, ROW)
    rows["id"] = int(segment.id, 16)
    rows["exact"] = np.frombuffer(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16], "<u8")
    rows["offset"], rows["length"] = offset, length
    rows["bands"] = band_keys(gram_hashes(text.split(" "), NGRAM))
    return rows[0]


def band_keys(grams: np.ndarray) -> np.ndarray:
    """uint64 [BANDS] of a set of grams: two sets agree in a band with probability J**ROWS, or by a chance of 2**-64."""
    bounds = np.array([0, len(grams)], np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(grams, bounds, BANDS * ROWS, _SEED)
    values = np.array(matrix.to_rows(), "<u4").tobytes()
    size = 4 * ROWS
    digests = (hashlib.blake2b(values[i : i + size], digest_size=8).digest() for i in range(0, len(values), size))
    return np.frombuffer(b"".join(digests), "<u8")


def read_index(part: Part) -> np.ndarray:
    """ROW [R] of a part. UserError when the file is none."""
    try:
        with epath.Path(part.index).open("rb") as file:
            rows = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise UserError(f"{part.index}: not a whole index ({error}); {_again(part)}") from error
    if rows.dtype != ROW:
        raise UserError(f"{part.index}: made by another version of Humpback; {_again(part)}")
    return rows


def find(
    parts: Sequence[Part], *, jaccard: float, pairs: PairFinder | None = None, progress: Progress = lambda done, of: None
) -> np.ndarray:
    """int8 [rows of all parts, in order]: KEPT, EXACT (another has the same words, or the same id) or NEAR (similar to another).

    jaccard: the similarity, of sets of word 5-grams, from which on two texts are near-duplicates.
    pairs: finds the similar ones, `verified_pairs` unless another engine does; progress: hears of how many keys (rows × bands) are done.
    """
    index = Index(parts)
    ids, exact = index.columns("id", "exact")
    verdict = np.full(len(ids), KEPT, np.int8)
    verdict[_repeated(ids, exact)] = EXACT
    del exact
    alive = np.flatnonzero(verdict == KEPT)
    alive = alive[np.argsort(ids[alive])]  # so that the first of a component has its smallest id
    del ids
    components = Components(alive)
    for found in (pairs or verified_pairs)(index, alive, jaccard, progress):
        components.merge(found)
    verdict[alive[components.labels != np.arange(len(alive))]] = NEAR
    return verdict


class Index:
    """The rows of all parts, in order. `starts`, int64 [P + 1], are the positions of the parts' first rows and the number of all rows;
    it is known when a column has been read."""

    starts: np.ndarray

    def __init__(self, parts: Sequence[Part]):
        self.parts = parts

    def columns(self, *names: str) -> tuple[np.ndarray, ...]:
        """The columns of ROW by name; "bands:3" is the key of band 3 alone. Only these are held in memory."""

        def read(part: Part | None) -> list[np.ndarray]:
            rows = np.empty(0, ROW) if part is None else read_index(part)
            split = [name.partition(":") for name in names]
            return [rows[name][:, int(band)].copy() if band else rows[name].copy() for name, _, band in split]

        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(read, [None, *self.parts]))
        self.starts = np.cumsum([len(pieces[0]) for pieces in found])
        return tuple(np.concatenate(pieces) for pieces in zip(*found))


def _repeated(ids: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Positions of the rows whose id or words another row has that stays. Of equal ids (the same input given twice) one stays."""
    order = np.lexsort((exact[:, 1], exact[:, 0], ids))
    same = ids[order[1:]] == ids[order[:-1]]
    twice = order[1:][same]
    rest = np.sort(np.concatenate((order[:1], order[1:][~same])))
    order = rest[np.lexsort((ids[rest], exact[rest, 1], exact[rest, 0]))]
    same = (exact[order[1:]] == exact[order[:-1]]).all(axis=1)
    return np.concatenate((twice, order[1:][same]))


class Components:
    """The connected components of a growing graph of rows: `labels[i]` is the smallest j that `alive[i]` is connected with."""

    def __init__(self, alive: np.ndarray):
        self.labels = np.arange(len(alive))
        self._rank = np.empty(int(alive.max(initial=-1)) + 1, np.int64)
        self._rank[alive] = self.labels

    def merge(self, pairs: np.ndarray) -> None:
        """pairs: int64 [P, 2], positions of rows."""
        labels, (left, right) = self.labels, self._rank[pairs].T
        while True:
            a, b = labels[left], labels[right]
            if (a == b).all():
                return
            low = np.minimum(a, b)  # a root takes the smallest root that it is paired with, then all follow their roots
            np.minimum.at(labels, a, low)
            np.minimum.at(labels, b, low)
            while (labels != (roots := labels[labels])).any():
                labels[:] = roots


def verified_pairs(index: Index, alive: np.ndarray, jaccard: float, progress: Progress) -> Iterator[np.ndarray]:
    """Yields int64 [P, 2]: pairs of rows that share a band and are similar, enough of them to connect what all such pairs connect.

    alive: int64 [A], the positions of the rows to compare, sorted by id. A pair whose rows are connected already is not compared.
    """
    components, texts = Components(alive), Texts(index.parts)
    offset, length = index.columns("offset", "length")
    rows = np.zeros(len(alive), LOCATED)
    rows["position"], rows["part"] = alive, np.searchsorted(index.starts, alive, side="right") - 1
    rows["offset"], rows["length"] = offset[alive], length[alive]
    del offset, length
    for band in range(BANDS):
        rows["label"] = components.labels
        (keys,) = index.columns(f"bands:{band}")
        groups = shared(keys[alive], rows, lambda done: progress(band * len(rows) + done, BANDS * len(rows)))  # noqa: B023 (used at once)
        found = join(groups, texts, jaccard)
        components.merge(found)
        yield found


def located(index: np.ndarray, part: int, start: int) -> np.ndarray:
    """LOCATED [R] of the ROW [R] of the part of this number, whose first row has position `start`; the labels are not set."""
    rows = np.zeros(len(index), LOCATED)
    rows["position"], rows["part"] = np.arange(start, start + len(index)), part
    rows["offset"], rows["length"] = index["offset"], index["length"]
    return rows


def shared(keys: np.ndarray, rows: np.ndarray, progress: Callable[[int], None] = lambda done: None) -> Iterator[np.ndarray]:
    """Yields LOCATED [M]: the rows of one key each, where they are at least two and not all connected already."""
    if not len(keys):
        return
    order = np.argsort(keys, kind="stable")
    keys, labels = keys[order], rows["label"][order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    ends = np.append(starts[1:], len(keys))
    unconnected = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
    for start, end in zip(starts[unconnected].tolist(), ends[unconnected].tolist()):
        yield rows[order[start:end]]
        progress(end)
    progress(len(keys))


def join(groups: Iterable[np.ndarray], texts: "Texts", jaccard: float) -> np.ndarray:
    """int64 [P, 2]: positions of similar rows of the same group, LOCATED [M] each; enough of them to connect all that are."""
    return np.fromiter(_pairs(groups, texts, jaccard), np.dtype((np.int64, 2)))


def _pairs(groups: Iterable[np.ndarray], texts: "Texts", jaccard: float) -> Iterator[tuple[int, int]]:
    waiting: list[np.ndarray] = []
    size = 0
    for group in itertools.chain(groups, [None]):
        if waiting and (group is None or size + len(group) > BLOCK):
            sets = iter(texts.grams(np.concatenate(waiting)))  # of many groups at once, so that each file is read in order
            for small in waiting:
                yield from _compare(small, list(itertools.islice(sets, len(small))), len(small), jaccard)
            waiting, size = [], 0
        if group is not None and len(group) > BLOCK:
            yield from _join_blocks(group.copy(), texts, jaccard)
        elif group is not None:
            waiting.append(group)
            size += len(group)


def _join_blocks(group: np.ndarray, texts: "Texts", jaccard: float) -> Iterator[tuple[int, int]]:
    """A large group, two blocks at a time. Where all are alike, the first round connects them and no block is read twice."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(group), BLOCK)]
    for left, right in itertools.combinations_with_replacement(blocks, 2):
        rows = group[left].copy() if left is right else np.concatenate((group[left], group[right]))
        if (rows["label"] == rows["label"][0]).all():
            continue
        before = rows["label"].copy()
        yield from _compare(rows, texts.grams(rows), len(group[left]), jaccard)
        changed = before != rows["label"]
        for old, new in set(zip(before[changed].tolist(), rows["label"][changed].tolist())):
            group["label"][group["label"] == old] = new


def _compare(rows: np.ndarray, sets: list[np.ndarray], split: int, jaccard: float) -> Iterator[tuple[int, int]]:
    """Compares rows[:split] with rows[split:], or with each other where that is empty; unites the labels of `rows` in place.

    Each row in turn is compared with all those that it is not connected with, so a group of copies is done after its first row. Two
    more kinds of pairs are passed over: sets of too different a size, and what the triangle inequality keeps apart (1 - J is a metric).
    For the latter the first row of a component is compared with the rest of it, too.
    """
    sizes = np.array([len(s) for s in sets])
    numbers = np.split(np.unique(np.concatenate(sets), return_inverse=True)[1], np.cumsum(sizes)[:-1])
    marked = np.zeros(max(int(n.max()) for n in numbers) + 1, np.uint8)
    label, position = rows["label"], rows["position"]
    distances: dict[int, np.ndarray] = {}  # of a row: float32 [M], exact or less for each row, exact for those that have it as origin
    origin: dict[int, int] = {}  # row → a row that it was compared with
    first = split if split < len(rows) else 0
    for i in range(split):
        apart = label != label[i]
        apart[: max(i + 1, first)] = False
        if not apart.any():
            continue
        ratio = np.minimum(sizes, sizes[i]) / np.maximum(sizes, sizes[i])
        apart &= ratio >= jaccard
        compared = apart.copy()
        if (start := origin.get(i)) is not None:
            compared &= distances[start] - distances[start][i] <= 1 - jaccard + 1e-6
        else:
            compared[i + 1 :] |= label[i + 1 :] == label[i]
        others = np.flatnonzero(compared)
        if not len(others):
            continue
        marked[numbers[i]] = 1
        starts = np.concatenate(([0], np.cumsum(sizes[others])[:-1]))
        common = np.add.reduceat(marked[np.concatenate([numbers[j] for j in others])], starts, dtype=np.int64)
        marked[numbers[i]] = 0
        similarity = common / (sizes[i] + sizes[others] - common)
        similar = others[(similarity >= jaccard) & apart[others]]
        label[np.isin(label, label[similar])] = label[i]
        yield from zip(itertools.repeat(int(position[i])), position[similar].tolist())
        if connected := [j for j in others[label[others] == label[i]].tolist() if j not in origin]:
            distances[i] = (1 - ratio).astype(np.float32)
            distances[i][others] = 1 - similarity
            origin.update(dict.fromkeys(connected, i))


class Texts:
    """The gram sets of rows, read from the parts; the last ones stay in memory."""

    def __init__(self, parts: Sequence[Part]):
        self._parts = parts
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()  # by position
        self._size = 0

    def grams(self, rows: np.ndarray) -> list[np.ndarray]:
        """uint64 [G] for each of LOCATED [M], each file read in its order. UserError when a part's lines are not what its index says."""
        positions = rows["position"].tolist()
        sets = {position: self._held[position] for position in positions if position in self._held}
        missing = rows[[position not in sets for position in positions]]
        missing = missing[np.lexsort((missing["offset"], missing["part"]))]
        for number, group in itertools.groupby(missing, key=lambda row: int(row["part"])):
            with epath.Path(self._parts[number].lines).open("rb") as file:
                for row in group:
                    sets[int(row["position"])] = self._read(file, row)
        for position in dict.fromkeys(positions):
            self._hold(position, sets[position])
        return [sets[position] for position in positions]

    def _read(self, file: BinaryIO, row: np.void) -> np.ndarray:
        file.seek(int(row["offset"]))
        line = file.read(int(row["length"]))
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            part = self._parts[row["part"]]
            raise UserError(f"{part.lines}: no segment at byte {row['offset']} ({error}); {_again(part)}") from error
        return gram_hashes(normalised(text).split(" "), NGRAM)

    def _hold(self, position: int, grams: np.ndarray) -> None:
        if position not in self._held:
            self._size += len(grams)
            self._held[position] = grams
        self._held.move_to_end(position)
        while self._size > _CACHED_GRAMS:
            self._size -= len(self._held.popitem(last=False)[1])


def _again(part: Part) -> str:
    return f"remove {os.path.splitext(os.fspath(part.index))[0]}.* and run the same command again"
