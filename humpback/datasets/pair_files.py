"""Seed pairs from a file of JSON lines, and what every reading of pairs counts, drops and says (the forms: forms.py)."""

import codecs
import contextlib
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from etils import epath

from humpback.datasets import forms
from humpback.datasets.oasst import Pair
from humpback.errors import UserError
from humpback.records import Example, record_id

_HEAD = 4_096  # bytes that tell what a file is
_SHOWN = 3  # bad lines
BAD_LINE = "bad line"
# What a user can do about a reason.
_WAYS_OUT = {
    "single reply, no rank": "see seed_pairs.single_reply",
    "prompt: other language": "see seed_pairs.language",
    "best reply: other language": "see seed_pairs.language",
}


class SeedPairs(NamedTuple):
    """Of a source: its pairs, in its order; how many were kept, and dropped by reason; in how many records a field was not read."""

    pairs: list[Example]
    counts: dict[str, int]
    unread: dict[str, int]


@dataclass
class Reader:
    """One reading of a source: its rules, and what it counts. `say` hears of the first bad lines and of fields that are not read."""

    single_reply: str = "drop"
    language: str = "en"
    strict: bool = False
    say: Callable[[str], None] = lambda _: None
    counts: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    first_bad: str = ""

    def pair(self, record: Any, known: frozenset[str] = forms.KNOWN) -> Pair | None:
        """A record's pair, or None where its reason is counted. ValueError for a form that is not read."""
        found = forms.pair_of_record(record, self.single_reply, self.language)
        if isinstance(found, str):
            self.counts[found] += 1
            return None
        if "instruction" in record:
            self.unread.update(key for key in record if key not in known)
        return found

    def bad(self, where: str, what: str) -> None:
        """Counts a line that gives no pair for its form, and shows the first ones. UserError when `strict`."""
        if self.strict:
            raise UserError(f"{where}: {what}")
        self.first_bad = self.first_bad or f"{where}: {what}"
        self.counts[BAD_LINE] += 1
        if self.counts[BAD_LINE] <= _SHOWN:
            self.say(f"{where}: dropped, {what}")

    def collect(self, source: str, examples: Iterable[Example]) -> SeedPairs:
        """Of equal pairs the first, and all counts. UserError, with the reasons, when no pair is left."""
        distinct: dict[Pair, Example] = {}
        for example in examples:
            if distinct.setdefault(Pair(example.instruction, example.response), example) is not example:
                self.counts["duplicate"] += 1
        if not distinct:
            raise UserError(f"{source}: no seed pair in it: {self._reasons()}")
        if self.counts[BAD_LINE] > _SHOWN:
            self.say(f"{source}: {self.counts[BAD_LINE]} bad lines are dropped; --strict ends at the first")
        if self.unread:
            fields = ", ".join(f"{key!r} ({count} records)" for key, count in sorted(self.unread.items()))
            self.say(f"{source}: fields that are not read: {fields}")
        counts = {**self.counts, "kept": len(distinct)}
        return SeedPairs(list(distinct.values()), dict(sorted(counts.items())), dict(sorted(self.unread.items())))

    def _reasons(self) -> str:
        """Why no pair is left, the commonest reason first."""
        ways_out = {**_WAYS_OUT, BAD_LINE: self.first_bad}
        told = []
        for reason, count in self.counts.most_common():
            told.append(f"{count} dropped: {reason}" + (f" ({ways_out[reason]})" if reason in ways_out else ""))
        return "; ".join(told) or "it is empty"


def read_file(path: str, reader: Reader) -> SeedPairs:
    """Reads a `.jsonl` or `.jsonl.gz` file.

    An id is made of the file's name, the line's bytes in the (uncompressed) file and the texts, so it is the same on every machine. Of
    equal pairs the first stays. A line that is malformed or without text is dropped and counted. UserError for such a line when
    `reader.strict`; for a file of another form, with its name; and when no pair is left, with the reasons.
    """
    return reader.collect(path, _from_file(epath.Path(path), reader))


def _from_file(path: epath.Path, reader: Reader) -> Iterator[Example]:
    head = b""
    if path.exists() and not path.is_dir():
        with _opened(path) as file:
            head = file.read(_HEAD)
    check_file(path, head)
    if head.startswith(codecs.BOM_UTF8):
        reader.say(f"{path}: begins with a byte order mark, which is passed over")
    for number, start, end, line in _lines(path):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if start == 0 else "utf-8")
            if not text.strip():
                continue
            pair = reader.pair(json.loads(text))
        except UnicodeDecodeError as error:
            reader.bad(where, f"not UTF-8 ({error.reason} at byte {error.start} of the line)")
        except json.JSONDecodeError as error:
            what = "a comma follows the object" if text.rstrip().endswith("},") else f"{error.msg} at character {error.pos + 1}"
            reader.bad(where, f"not JSON ({what}); every line must be one JSON object")
        except (ValueError, RecursionError) as error:
            reader.bad(where, str(error))
        else:
            if pair:
                key = record_id(path.name, start, end, "\0".join(pair))
                yield Example(key, pair.instruction, pair.response, "seed", f"{path.name}:{number}")


def check_file(path: epath.Path, head: bytes) -> None:
    """UserError for a path that is none of a file of JSON lines, as far as its first bytes tell."""
    if not path.exists():
        raise UserError(f"{path}: no such file; seed_pairs.source names a .jsonl or .jsonl.gz file, or tfds:NAME")
    if foreign := forms.foreign_file(path, head):
        raise UserError(f"{path}: this is {foreign}. seed_pairs.source takes JSON lines (.jsonl, .jsonl.gz) or tfds:NAME")


def _lines(path: epath.Path) -> Iterator[tuple[int, int, int, bytes]]:
    """(number from 1, start byte, end byte without the line break, bytes) of each line; positions are those of the uncompressed file."""
    position = 0
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            content = line.rstrip(b"\r\n")
            yield number, position, position + len(content), content
            position += len(line)


@contextlib.contextmanager
def _opened(path: epath.Path) -> Iterator[Any]:
    """The file, unpacked where its name ends with .gz. UserError when it is damaged."""
    with path.open("rb") as raw:
        try:
            yield gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
