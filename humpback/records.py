"""The values that travel from stage to stage, and their JSONL shards: Page → Segment → Candidate → Rated → Example.

A record's `id` survives every hop, and each record carries the one it was made from, so a curated example leads back to its page,
header and byte range, to the model and seed that wrote its instruction, and to the raw text of its ratings.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from etils import epath

from humpback import storage
from humpback.digests import printable
from humpback.errors import UserError
from humpback.rounding import ceil_div

RECORDS_PER_SHARD = 50_000


@dataclass(frozen=True)
class Page:
    """One page, of HTML, Markdown or text: `start` and `end` are the bytes of `source` that hold it, or the rows of a Parquet file."""

    source: str
    url: str
    start: int
    end: int
    html: bytes  # or what `kind` says
    charset: str = ""  # as the HTTP header says
    language: str = ""  # as the crawl says, a code of ISO 639-1
    kind: str = "html"  # "html", "markdown", "text": the last may be any of them, which is told by content


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a line of a shard holds."""

    id: str


class Segment(Record, frozen=True):
    """A self-contained piece of a page: the text below a header, lower-level headers included (paper, appendix E)."""

    text: str
    header: str
    header_path: tuple[str, ...]  # from the page's first header level down to this header
    url: str
    source: str
    start: int  # bytes of the source, …
    end: int  # … or rows, from 0, of a Parquet file
    language: str = ""  # found in the text, a code of ISO 639-1 …
    confidence: float = 0.0  # … and in which share of it


class Candidate(Record, frozen=True, omit_defaults=True):
    """A segment and the instruction that the backward model wrote for it; `reason` says why it is not usable ("" if it is)."""

    segment: Segment
    instruction: str
    reason: str
    model: str  # digest of the weights that wrote it
    seed: int
    prompt_cut: bool = False  # the model saw only the beginning of the segment
    log_prob: float | None = None  # nats a token, the end among them, of the instruction under that model


class Rated(Record, frozen=True, omit_defaults=True):
    """A candidate with its rating: raw texts and scores of the samples (`sampled`), or none and the five probabilities (`expected`).

    mass: what the five digits had of the whole vocabulary's probability, before they were made to sum to 1.
    """

    candidate: Candidate
    score: float | None
    scores: tuple[float | None, ...]
    texts: tuple[str, ...]
    probabilities: tuple[float, ...]
    reason: str
    model: str
    seed: int
    prompt_cut: bool = False  # the judge saw only the beginning of the segment
    lost: tuple[str, ...] = ()  # why, of each sample without a score
    mass: float | None = None


class Likely(Record, frozen=True, omit_defaults=True):
    """A candidate, and log p of its text with its end, in nats, under a judge: given the instruction, and alone. tokens: of that text."""

    candidate: Candidate
    reason: str
    model: str
    given: float | None = None
    alone: float | None = None
    tokens: int = 0
    prompt_cut: bool = False  # the judge saw only the beginning of the instruction

    @property
    def score(self) -> float | None:
        """How much likelier a token of the text is under the instruction, in nats."""
        return None if self.given is None or self.alone is None else (self.given - self.alone) / self.tokens


class Probe(Record, frozen=True):
    """A human pair of a set as a judge is asked about it: `true`, `swapped`, with another pair's instruction, or `nonsense`, true but
    asked for something absurd. pair: the id of the response's pair."""

    set: str
    kind: str
    pair: str
    instruction: str
    response: str


class Judged(Record, frozen=True, omit_defaults=True):
    """A probe and what the judge said of it, as in Rated."""

    probe: Probe
    score: float | None
    probabilities: tuple[float, ...] = ()
    mass: float | None = None
    prompt_cut: bool = False


class Example(Record, frozen=True, omit_defaults=True):
    """A training pair. `kind` decides its tag: `seed` (S_a) or `augmented` (S_w); `rated` and `likely` are its history when augmented."""

    instruction: str
    response: str
    kind: str
    source: str
    rated: Rated | None = None
    likely: Likely | None = None


class Rewrite(Record, frozen=True, omit_defaults=True):
    """A curated example whose response is a rewriter's, or, with the reason, still the draft. output: what the rewriter wrote, whole.
    model: digest of its weights."""

    example: Example
    draft: str
    output: str
    reason: str
    model: str
    seed: int


Kind = TypeVar("Kind", bound=Record)


def record_id(source: str, start: int, end: int, text: str) -> str:
    """The first 16 hex digits of sha256(source, byte range, text)."""
    return hashlib.sha256("\0".join((source, f"{start}-{end}", text)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def half_surrogate(text: str) -> bool:
    """Whether half of a surrogate pair is in a text, as JSON can bring it; UTF-8 cannot hold one."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def to_json(record: Record, errors: str = "strict") -> bytes:
    """One line of JSON with its end, keys in the order of the fields. UnicodeEncodeError for half of a surrogate pair, unless
    errors="replace", which writes a question mark for it."""
    try:
        return _ENCODER.encode(record) + b"\n"
    except UnicodeEncodeError:
        if errors == "strict":
            raise
        return json.dumps(msgspec.to_builtins(record), ensure_ascii=False).encode("utf-8", errors) + b"\n"


def from_json(kind: type[Kind], line: str | bytes, where: str = "") -> Kind:
    """The inverse of `to_json`. UserError names `where` and the field that is missing, unknown or of another type."""
    try:
        return _decoder(kind).decode(line)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise UserError(f"{where}: not a {kind.__name__} record: {error}") from error


def id_of(line: str | bytes, where: str = "") -> str:
    """The id of a record of any kind, whose other fields are not looked at. UserError names `where`."""
    try:
        return _ID.decode(line).id
    except (msgspec.DecodeError, UnicodeError) as error:
        raise UserError(f"{where}: not a record: {error}") from error


def write_shards(folder: storage.PathLike, name: str, records: Iterable[Record], count: int) -> list[str]:
    """Publishes `count` records as `name-00000-of-00001.jsonl`, … and returns the names of the files. Streams."""
    return write_lines(folder, name, map(to_json, records), count)


def write_lines(folder: storage.PathLike, name: str, lines: Iterable[bytes], count: int) -> list[str]:
    """`write_shards` for records that are lines of JSON already."""
    shards = max(1, ceil_div(count, RECORDS_PER_SHARD))
    iterator, files, written = iter(lines), [], 0
    for shard in range(shards):
        size = min(RECORDS_PER_SHARD, count - written)
        files.append(f"{name}-{shard:05d}-of-{shards:05d}.jsonl")
        storage.publish(epath.Path(folder) / files[-1], (next(iterator) for _ in range(size)))
        written += size
    return files


def read_shards(folder: storage.PathLike, name: str, kind: type[Kind]) -> Iterator[Kind]:
    """Yields the records of all shards of `name` in order; UserError when a shard is missing or a line is malformed."""
    for path in shard_paths(folder, name):
        yield from read_lines(path, kind)


def shard_paths(folder: storage.PathLike, name: str) -> list[epath.Path]:
    """The shards of `name` in order; UserError when one is missing."""
    path = epath.Path(folder)
    pattern = re.compile(re.escape(name) + r"-(\d{5})-of-(\d{5})\.jsonl")
    found = [(match.group(), match.group(2)) for file in storage.list_files(path) if (match := pattern.fullmatch(file))]
    if not found or any(total != found[0][1] for _, total in found) or len(found) != int(found[0][1]):
        raise UserError(f"{path}: the shards of {name!r} are not complete (found {[file for file, _ in found]})")
    return [path / file for file, _ in found]


def read_lines(path: storage.PathLike, kind: type[Kind]) -> Iterator[Kind]:
    """Yields the records of one JSONL file."""
    for where, line in numbered_lines(path):
        yield from_json(kind, line, where)


def read_rows(path: storage.PathLike) -> Iterator[dict[str, Any]]:
    """Yields the objects of one JSONL file that are no records; none of a file that is not there. UserError names a line that is none."""
    for where, line in numbered_lines(path) if epath.Path(path).exists() else ():
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object")
        yield row


def numbered_lines(path: storage.PathLike) -> Iterator[tuple[str, str]]:
    """Yields ("file:line", text) for each line of a UTF-8 file that is not blank."""
    name = printable(os.fspath(path))
    with epath.Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{name}:{number}: not UTF-8 ({error})") from error
            if text.strip():
                yield f"{name}:{number}", text


class _Identified(msgspec.Struct):
    id: str


_ENCODER, _ID = msgspec.json.Encoder(), msgspec.json.Decoder(_Identified)



@functools.cache
def _decoder(kind: type[Kind]) -> msgspec.json.Decoder[Kind]:
    return msgspec.json.Decoder(kind)
