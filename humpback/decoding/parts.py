"""What a run over record files reads and leaves: its inputs, the small parts that replicas publish meanwhile, the final shards.

Nothing here holds the records themselves. In memory are some bytes for each of them: its number, whether it is done and, in the
first process, where it lies in the parts.
"""

import array
import base64
import concurrent.futures
import functools
import hashlib
import itertools
import json
import re
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from humpback import distributed, records, storage
from humpback.errors import UserError
from humpback.locks import Anybody, Maker

_MERGED_AT_ONCE = 4_096  # records held in memory while shards are written
_READ_AT_ONCE = 32  # parts: on gs:// most of a small file's time is waiting
MADE_FROM = "made_from"
_HEAD = f'{{"{MADE_FROM}"'.encode()
_ID = re.compile(r"[0-9a-f]{16}")


REJECTED = "rejected: "  # what the reason begins with where a stage counts them


class Reject(records.Record, frozen=True):
    """A record that could not be served: why, and where it stands, as file:line and as the number of the record in the input."""

    reason: str
    where: str
    position: int


class Inputs:
    """The records of JSONL files, in their order, read anew for each pass. `parse` makes one of a line and where it stands.

    A process parses only the records that it asks for; of the others it reads the id alone, where `id_of` can.

    A record's number, which deals it to a replica and is the root of its draws, is its id, or of an id that is not 16 hex digits
    a hash. `rejected` holds what can be said of a record by its id alone: 0 nothing, else 1 + the place in REASONS.
    """

    REASONS = ("bad id", "duplicate id")

    def __init__(
        self,
        files: Sequence[storage.PathLike],
        parse: Callable[[str, str], Any],
        *,
        id_of: Callable[[str, str], str] | None = None,
        any_id: bool = False,
        read: Callable[[storage.PathLike], Iterator[tuple[str, str]]] = records.numbered_lines,
    ):
        """Reads everything once. id_of: the id in a line, for less than `parse` costs. any_id: ids may be any text; otherwise all but 16
        hex digits are rejected. read: a file's lines, each after its place."""
        self._files, self._parse, self._read = files, parse, read
        numbers, bad = array.array("Q"), bytearray()
        for _, where, line in self._lines():
            record_id = id_of(line, where) if id_of else parse(line, where).id
            numbers.append(number_of(record_id))
            bad.append(not any_id and not _ID.fullmatch(record_id))
        self.numbers = np.array(numbers, np.uint64)
        self._order = np.argsort(self.numbers, kind="stable")
        self._sorted = self.numbers[self._order]
        self.rejected = np.zeros(len(numbers), np.uint8)
        self.rejected[self._order[1:][self._sorted[1:] == self._sorted[:-1]]] = 2
        self.rejected[np.frombuffer(bytes(bad), bool)] = 1

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, str, Any]]:
        """Yields (position, "file:line", record)."""
        return self.of(np.ones(len(self), bool))

    def of(self, wanted: np.ndarray) -> Iterator[tuple[int, str, Any]]:
        """Yields (position, "file:line", record) of the records that bool [len(self)] is true for."""
        for position, where, line in self._lines():
            if wanted[position]:
                yield position, where, self._parse(line, where)

    def _lines(self) -> Iterator[tuple[int, str, str]]:
        lines = itertools.chain.from_iterable(map(self._read, self._files))
        return ((position, where, line) for position, (where, line) in enumerate(lines))

    def sample(self, count: int) -> np.ndarray:
        """Says of each record whether it is one of `count` that their numbers choose, bool [len(self)]: always the same ones."""
        chosen = np.zeros(len(self), bool)
        chosen[self._order[:count]] = True
        return chosen

    def position(self, record_id: str) -> int:
        """Where the (first) record of an id stands; KeyError when there is none."""
        number = np.uint64(number_of(record_id))
        at = int(np.searchsorted(self._sorted, number))
        if at == len(self) or self._sorted[at] != number:
            raise KeyError(record_id)
        return int(self._order[at])


def number_of(record_id: str) -> int:
    """64 bits: the id itself where it is 16 hex digits, otherwise a hash of it."""
    if _ID.fullmatch(record_id):
        return int(record_id, 16)
    return int(hashlib.sha256(record_id.encode("utf-8", "surrogatepass")).hexdigest()[:16], 16)


class PartName(NamedTuple):
    """The name of a part tells what was done, so that a look at the folder is enough to know how far all replicas are."""

    kind: str  # `made` or `rejects`
    lock: int  # number of the lock that its maker held: who has lost it meanwhile writes under names of its own
    replica: int
    number: int  # of the replica's parts
    records: int
    prompt_tokens: int
    output_tokens: int

    def __str__(self) -> str:
        who = f"{self.lock:04d}-{self.replica:04d}-{self.number:06d}"
        return f"{self.kind}-{who}-{self.records}-{self.prompt_tokens}-{self.output_tokens}.jsonl"

    @classmethod
    def parse(cls, name: str) -> "PartName | None":
        match = re.fullmatch(r"(made|rejects)-(?:(\d{4,})-)?(\d{4,})-(\d{6,})-(\d+)-(\d+)-(\d+)\.jsonl", name)
        return match and cls(match[1], *(int(number or 0) for number in match.groups()[1:]))  # before there were locks, names had none


class Totals(NamedTuple):
    """What all replicas have done."""

    records: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


class Merged(NamedTuple):
    """The names of the files, how many results are in them, and how many rejects, by reason."""

    files: list[str]
    made: int
    rejects: dict[str, int]


class Parts:
    """The parts in FOLDER, of any number of replicas, earlier ones included. `done` says of each input whether it is in one.

    Every process makes one, and all see the same, as the first process reads the parts, each once; only the first process of a replica
    publishes, what is older than `seconds`. UserError for a part that was made from something else.
    """

    def __init__(
        self,
        folder: storage.PathLike,
        inputs: Inputs,
        replica: distributed.Replica,
        seconds: float,
        maker: Maker | None = None,
    ):
        self._maker = maker or Anybody()
        self.folder, self._inputs, self._replica, self._seconds = epath.Path(folder), inputs, replica, seconds
        self._files = _Files(self.folder)
        if distributed.is_first():
            storage.clean(self.folder)
        distributed.barrier(f"parts clean {folder}")  # all writers of an earlier run are gone
        self._names: set[PartName] = set()
        self._index: dict[PartName, _Index] = {}  # of the first process
        self.look()
        # Nobody publishes before all have looked.
        self.done = _unpacked(distributed.by_first(f"parts done {folder}", self._told), len(inputs))
        mine = (name.number for name in self._names if (name.lock, name.replica) == (self._maker.lock, replica.index))
        self._next = 1 + max(mine, default=-1)
        self._waiting: dict[str, list[bytes]] = {"made": [], "rejects": []}
        self._tokens = {"made": [0, 0], "rejects": [0, 0]}
        self._published = time.monotonic()

    def add(self, position: int, record: Any, prompt_tokens: int = 0, output_tokens: int = 0) -> None:
        """Takes one result, or a Reject, of the input at `position`."""
        kind = "rejects" if isinstance(record, Reject) else "made"
        self.done[position] = True
        self._waiting[kind].append(records.to_json(record))
        self._tokens[kind][0] += prompt_tokens
        self._tokens[kind][1] += output_tokens
        self.publish()

    def publish(self, now: bool = False) -> None:
        """Has what waits put on disk if it is time, or `now`; in the background, which `settle` waits for."""
        if not now and time.monotonic() - self._published < self._seconds:
            return
        for kind, lines in self._waiting.items():
            if not lines:
                continue
            name = PartName(kind, self._maker.lock, self._replica.index, self._next, len(lines), *self._tokens[kind])
            if self._replica.is_first:
                self._maker.background.submit(functools.partial(self._write, name, lines))
                self._names.add(name)
            self._next += 1
            self._waiting[kind], self._tokens[kind] = [], [0, 0]
        self._published = time.monotonic()

    def settle(self) -> None:
        """Returns when what was to be published is on disk; raises what went wrong in that."""
        self._maker.background.join()

    def _write(self, name: PartName, lines: list[bytes]) -> None:
        """The part of `publish` in the background."""
        self._maker.begin()
        head = json.dumps({MADE_FROM: self._maker.identity}).encode() + b"\n"
        storage.publish(self.folder / str(name), data := b"".join([head, *lines]))
        if distributed.is_first():  # which merges, and need not read it again
            self._files.keep(str(name), data)
            self._index[name] = self._indexed(name, data)

    def look(self) -> None:
        """Lists the folder, for the parts of other replicas."""
        self._names |= {name for file in storage.list_files(self.folder) if (name := PartName.parse(file))}

    def totals(self) -> Totals:
        """Of all replicas, as far as this process has looked; its own work whether published or not."""
        waiting = ((len(self._waiting[kind]), *self._tokens[kind]) for kind in self._waiting)
        counted = [*waiting, *((name.records, name.prompt_tokens, name.output_tokens) for name in self._names)]
        return Totals(*map(sum, zip(*counted, strict=True)))

    def merge(self, target: storage.PathLike, name: str) -> "Merged":
        """Writes the results as shards of `name` and the rejects as shards of `rejects`, each in the order of the input.

        What was merged is known in the first process, nothing in the others. RuntimeError when results and rejects are not together as
        many as the inputs, or one input has both.
        """
        self.publish(now=True)
        self.settle()
        distributed.barrier(f"parts merge {self.folder}")
        merged = self._merge(target, name) if distributed.is_first() else Merged([], 0, {})
        self._files.close()
        distributed.barrier(f"parts merged {self.folder}")  # the others may read what was written
        return merged

    def _merge(self, target: storage.PathLike, name: str) -> "Merged":
        self._maker.begin()  # of no inputs there are no parts
        self.look()
        self._look_into_all()
        found = {kind: self._found(kind) for kind in ("made", "rejects")}
        made, rejected = (found[kind].positions for kind in ("made", "rejects"))
        missing = np.setdiff1d(np.arange(len(self._inputs)), np.concatenate([made, rejected]))
        if len(missing) or len(made) + len(rejected) != len(self._inputs):
            first = f"; nothing came for {len(missing)}, the first is {self.describe(missing[0])}" if len(missing) else ""
            raise RuntimeError(f"{self.folder}: {len(self._inputs)} in, but {len(made)} out and {len(rejected)} rejects{first}")
        files = records.write_lines(target, name, found["made"].lines(), len(made))
        reasons: Counter[str] = Counter()

        def counted() -> Iterator[bytes]:
            for line in found["rejects"].lines():
                reasons[records.from_json(Reject, line).reason] += 1
                yield line

        files += records.write_lines(target, "rejects", counted(), len(rejected))
        return Merged(files, len(made), dict(sorted(reasons.items())))

    def describe(self, position: int) -> str:
        """Where an input stands and its id, for an error."""
        wanted = np.arange(len(self._inputs)) == position
        return next(f"{where}, id {record.id}" for _, where, record in self._inputs.of(wanted))

    def _look_into_all(self) -> None:
        """Reads the parts that were not read yet, several at once."""
        unknown = sorted(self._names - self._index.keys())
        with concurrent.futures.ThreadPoolExecutor(_READ_AT_ONCE) as threads:
            read = threads.map(lambda name: self._indexed(name, self._files.read(str(name))), unknown)
            self._index |= zip(unknown, read, strict=True)

    def _told(self) -> str:
        """Whose records are in a part, for `_unpacked`."""
        self._look_into_all()
        done = np.zeros(len(self._inputs), bool)
        for index in self._index.values():
            done[index.positions] = True
        return base64.b64encode(zlib.compress(np.packbits(done).tobytes())).decode()

    def _indexed(self, name: PartName, data: bytes) -> "_Index":
        lines = data.splitlines(keepends=True)
        begin = 0
        if lines and lines[0].startswith(_HEAD):  # of versions before there is none
            begin = 1
            if json.loads(lines[0])[MADE_FROM] not in self._maker.identities:
                path, folder = self.folder / str(name), self.folder.parent
                raise UserError(f"{path}: was not made from what {folder} is made from now; delete {folder} to begin it anew")
        rejects = name.kind == "rejects"
        positions = (records.from_json(Reject, x).position if rejects else self._inputs.position(records.id_of(x)) for x in lines[begin:])
        ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
        return _Index(np.fromiter(positions, np.int64), ends if begin else np.insert(ends, 0, 0))

    def _found(self, kind: str) -> "_Found":
        names = sorted(name for name in self._names if name.kind == kind)
        return _Found(self._files, [(str(name), self._index[name]) for name in names], len(self._inputs))


class _Index(NamedTuple):
    """Of the lines of a part: the position of each one's input; where each begins in the file, and where the last one ends."""

    positions: np.ndarray  # int64 [lines]
    places: np.ndarray  # int64 [lines + 1]


def _unpacked(done: str, count: int) -> np.ndarray:
    """bool [count], of what `_told` says."""
    packed = np.frombuffer(zlib.decompress(base64.b64decode(done)), np.uint8)
    return np.unpackbits(packed, count=count).astype(bool)


class _Files:
    """The files of a folder. What lies on gs:// is kept on this machine (TMPDIR says where) when it was read or written once."""

    def __init__(self, folder: epath.Path):
        self._folder, self._local = folder, storage.is_local(folder)
        self._kept: tempfile.TemporaryDirectory | None = None
        self._making = threading.Lock()

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        data = storage.read_bytes(self._folder / name)
        self.keep(name, data)
        return data

    def keep(self, name: str, data: bytes) -> None:
        """Takes a file's bytes, so that they need not be read again."""
        if not self._local:
            self._path(name).write_bytes(data)

    def open(self, name: str) -> Any:
        """A file whose bytes were read, or kept."""
        return self._path(name).open("rb")

    def close(self) -> None:
        """Forgets what was kept."""
        if self._kept:
            self._kept.cleanup()
            self._kept = None

    def _path(self, name: str) -> epath.Path:
        if self._local:
            return self._folder / name
        with self._making:
            self._kept = self._kept or tempfile.TemporaryDirectory(prefix="humpback-parts-")
            return epath.Path(self._kept.name) / name


class _Found:
    """Where the lines of one kind of parts lie. An input that two parts have (of a run that went on beside this) counts once."""

    def __init__(self, files: _Files, parts: Sequence[tuple[str, _Index]], inputs: int):
        self._files, self._parts = files, parts
        self._part, self._line = np.full(inputs, -1, np.int32), np.zeros(inputs, np.int32)
        for number, (_, index) in reversed(list(enumerate(parts))):  # the first one that has it counts
            self._part[index.positions[::-1]] = number
            self._line[index.positions[::-1]] = np.arange(len(index.positions))[::-1]
        self.positions = np.flatnonzero(self._part >= 0)

    def lines(self) -> Iterator[bytes]:
        """The lines in the order of the input. Replicas work along the input, so a few parts hold what stands together."""
        for start in range(0, len(self.positions), _MERGED_AT_ONCE):
            block = self.positions[start : start + _MERGED_AT_ONCE]
            lines: dict[int, bytes] = {}  # by position
            for part in np.unique(self._part[block]):
                name, index = self._parts[part]
                with self._files.open(name) as file:
                    for position in block[self._part[block] == part].tolist():
                        line = self._line[position]
                        file.seek(index.places[line])
                        lines[position] = file.read(index.places[line + 1] - index.places[line])
            yield from map(lines.__getitem__, block.tolist())
