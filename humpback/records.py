"""The values that travel from stage to stage, and their JSONL shards: Page → Segment → Candidate → Rated → Example.

A record's `id` survives every hop, and each record carries the one it was made from, so a curated example leads back to its page,
header and byte range, to the model and seed that wrote its instruction, and to the raw text of its ratings.
"""

import dataclasses
import functools
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from etils import epath

from humpback import storage
from humpback.errors import UserError

RECORDS_PER_SHARD = 50_000


@dataclass(frozen=True)
class Page:
    """One web page: `start` and `end` are the bytes of `source` that hold it."""

    source: str
    url: str
    start: int
    end: int
    html: bytes
    charset: str = ""  # as the HTTP header says
    language: str = ""  # as the crawl says, a code of ISO 639-1


@dataclass(frozen=True)
class Segment:
    """A self-contained piece of a page: the text below a header, lower-level headers included (paper, appendix E)."""

    id: str
    text: str
    header: str
    header_path: tuple[str, ...]  # from the page's first header level down to this header
    url: str
    source: str
    start: int
    end: int
    language: str = ""  # found in the text, a code of ISO 639-1 …
    confidence: float = 0.0  # … and in which share of it


@dataclass(frozen=True)
class Candidate:
    """A segment and the instruction that the backward model wrote for it; `reason` says why it is not usable ("" if it is)."""

    id: str
    segment: Segment
    instruction: str
    reason: str
    model: str  # digest of the weights that wrote it
    seed: int


@dataclass(frozen=True)
class Rated:
    """A candidate with its rating: raw texts and scores of the samples (`sampled`), or none and the five probabilities (`expected`)."""

    id: str
    candidate: Candidate
    score: float | None
    scores: tuple[float | None, ...]
    texts: tuple[str, ...]
    probabilities: tuple[float, ...]
    reason: str
    model: str
    seed: int


@dataclass(frozen=True)
class Example:
    """A training pair. `kind` decides its tag: `seed` (S_a) or `augmented` (S_w); `rated` is its history when augmented."""

    id: str
    instruction: str
    response: str
    kind: str
    source: str
    rated: Rated | None = None


Record = TypeVar("Record", Segment, Candidate, Rated, Example)


def record_id(source: str, start: int, end: int, text: str) -> str:
    """The first 16 hex digits of sha256(source, byte range, text)."""
    return hashlib.sha256("\0".join((source, f"{start}-{end}", text)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def to_json(record: Any) -> str:
    """One line of JSON, keys in the order of the fields."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False)


def from_json(kind: type[Record], line: str, where: str = "") -> Record:
    """The inverse of `to_json`. UserError names `where` and the field that is missing, unknown or of another type."""
    try:
        return _build(kind, json.loads(line))
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: not a {kind.__name__} record: {error}") from error


def write_shards(folder: storage.PathLike, name: str, records: Iterable[Any], count: int) -> list[str]:
    """Publishes `count` records as `name-00000-of-00001.jsonl`, … and returns the names of the files. Streams."""
    return write_lines(folder, name, (to_json(record).encode() + b"\n" for record in records), count)


def write_lines(folder: storage.PathLike, name: str, lines: Iterable[bytes], count: int) -> list[str]:
    """`write_shards` for records that are lines of JSON already."""
    shards = max(1, -(-count // RECORDS_PER_SHARD))
    iterator, files, written = iter(lines), [], 0
    for shard in range(shards):
        size = min(RECORDS_PER_SHARD, count - written)
        files.append(f"{name}-{shard:05d}-of-{shards:05d}.jsonl")
        storage.publish(epath.Path(folder) / files[-1], (next(iterator) for _ in range(size)))
        written += size
    return files


def read_shards(folder: storage.PathLike, name: str, kind: type[Record]) -> Iterator[Record]:
    """Yields the records of all shards of `name` in order; UserError when a shard is missing or a line is malformed."""
    for path in shard_paths(folder, name):
        yield from read_lines(path, kind)


def shard_paths(folder: storage.PathLike, name: str) -> list[epath.Path]:
    """The shards of `name` in order; UserError when one is missing."""
    folder = epath.Path(folder)
    pattern = re.compile(re.escape(name) + r"-(\d{5})-of-(\d{5})\.jsonl")
    found = [(match.group(), match.group(2)) for file in storage.list_files(folder) if (match := pattern.fullmatch(file))]
    if not found or any(total != found[0][1] for _, total in found) or len(found) != int(found[0][1]):
        raise UserError(f"{folder}: the shards of {name!r} are not complete (found {[file for file, _ in found]})")
    return [folder / file for file, _ in found]


def read_lines(path: storage.PathLike, kind: type[Record]) -> Iterator[Record]:
    """Yields the records of one JSONL file."""
    for where, line in numbered_lines(path):
        yield from_json(kind, line, where)


def numbered_lines(path: storage.PathLike) -> Iterator[tuple[str, str]]:
    """Yields ("file:line", text) for each line of a UTF-8 file that is not blank."""
    with epath.Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 ({error})") from error
            if text.strip():
                yield f"{path}:{number}", text


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(hint: Any, value: Any) -> Any:
    """Turns a JSON value into what a type hint says: a dataclass, a tuple, an optional of these, or a plain value."""
    if dataclasses.is_dataclass(hint):
        hints = _fields(hint)
        if not isinstance(value, dict):
            raise TypeError(f"expected an object for {hint.__name__}, found {value!r:.60}")
        optional = {f.name for f in dataclasses.fields(hint) if f.default is not dataclasses.MISSING}
        if wrong := (hints.keys() - optional - value.keys()) | (value.keys() - hints.keys()):
            raise TypeError(f"{hint.__name__}: missing or unknown fields {sorted(wrong)}")
        return hint(**{name: _build(hints[name], item) for name, item in value.items()})
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        return _build(next(option for option in typing.get_args(hint) if option is not types.NoneType), value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, found {value!r:.60}")
        return tuple(_build(typing.get_args(hint)[0], item) for item in value)
    if hint is float and isinstance(value, int):
        return float(value)
    if not isinstance(value, hint):
        raise TypeError(f"expected {hint.__name__}, found {value!r:.60}")
    return value
