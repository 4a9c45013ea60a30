"""Seed pairs from files, and what every reading of pairs counts, drops and says (the files: containers.py, the forms: forms.py)."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from etils import epath

from humpback import storage
from humpback.datasets import forms
from humpback.datasets.containers import Container, Row, open_container
from humpback.datasets.oasst import Pair, is_message, tree_of
from humpback.errors import UserError
from humpback.records import Example, record_id

OnDrop = Callable[[str, str, str], None]
_SHOWN, _FIELDS = 3, 20  # bad lines and fields that are named
BAD_LINE = "bad line"
# What a user can do about a reason.
_WAYS_OUT = {
    "single reply, no rank": "see seed_pairs.single_reply",
    "prompt: other language": "see seed_pairs.language",
    "best reply: other language": "see seed_pairs.language",
}


class SeedPairs(NamedTuple):
    """Of a source: its pairs, in its order; how many were kept, and dropped by reason; in how many records a field was not
    read, and how many turns of chats."""

    pairs: list[Example]
    counts: dict[str, int]
    unread: dict[str, int]


@dataclass
class Reader:
    """One reading of a source: its rules, and what it counts. `say` hears of what was recognised, of the first bad lines, and of fields
    that are not read; `on_drop` of each record that is left out: reason, place, text."""

    single_reply: str = "drop"
    language: str = "en"
    strict: bool = False
    say: Callable[[str], None] = lambda _: None
    on_drop: OnDrop = lambda reason, place, text: None
    counts: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    recognised: Counter[str] = field(default_factory=Counter)
    kind: str = ""  # of file
    first_bad: str = ""

    def pair(self, where: str, record: Any, known: Collection[str] = ()) -> Pair | None:
        """A record's pair, or None where its reason is counted; `known`: further fields that are not missed.

        ValueError for a form that is not read, UserError for one with two forms that differ.
        """
        try:
            found = forms.read_record(record, self.single_reply, self.language)
        except forms.Ambiguous as error:
            raise UserError(f"{where}: {error}") from error
        if isinstance(found, str):
            self.recognised[forms.TREE] += 1
            self.counts[found] += 1
            self.on_drop(found, _place(where), _text(forms.named(record)["prompt"].get("text")))
            return None
        self.recognised[found.form] += 1
        self.turns.update(found.turns)
        self.unread.update([*(key for key in record if key not in found.read and key not in known), *found.unread])
        return found.pair

    def bad(self, where: str, what: str, record: Any) -> None:
        """Counts a line that gives no pair for its form, and shows the first ones. UserError when `strict`."""
        if self.strict:
            raise UserError(f"{where}: {what}")
        self.first_bad = self.first_bad or f"{where}: {what}"
        self.counts[BAD_LINE] += 1
        self.on_drop(BAD_LINE, f"{_place(where)}: {what}", _text(record))
        if self.counts[BAD_LINE] <= _SHOWN:
            self.say(f"{where}: dropped, {what}")

    def collect(self, source: str, examples: Iterable[Example]) -> SeedPairs:
        """Of equal pairs the first, and all counts. UserError, with the reasons, when no pair is left."""
        distinct: dict[Pair, Example] = {}
        for example in examples:
            if distinct.setdefault(Pair(example.instruction, example.response), example) is not example:
                self.counts["duplicate"] += 1
                self.on_drop("duplicate", example.source, f"{example.instruction}\n\n{example.response}")
        self._say_what(source)
        if not distinct:
            raise UserError(f"{source}: no seed pair in it: {self._reasons()}")
        if self.counts[BAD_LINE] > _SHOWN:
            self.say(f"{source}: {self.counts[BAD_LINE]} bad lines are dropped; --strict ends at the first")
        if self.unread:
            rows = sorted(self.unread.items())
            fields = ", ".join(f"{key!r} ({count} records)" for key, count in rows[:_FIELDS])
            more = f" and {len(rows) - _FIELDS} more" if len(rows) > _FIELDS else ""
            self.say(f"{source}: fields that are not read: {fields}{more}")
        counts = {**self.counts, "kept": len(distinct)}
        return SeedPairs(list(distinct.values()), dict(sorted(counts.items())), dict(sorted((self.unread + self.turns).items())))

    def _say_what(self, source: str) -> None:
        """One line of what was recognised."""
        if self.recognised:
            found = ", ".join(f"{form} ({count})" for form, count in self.recognised.most_common())
            unread = "".join(f"; {count} {kind} are not read" for kind, count in sorted(self.turns.items()))
            self.say(f"{source}: recognised {f'{self.kind}: ' if self.kind else ''}{found}{unread}")

    def _reasons(self) -> str:
        """Why no pair is left, the commonest reason first."""
        ways_out = {**_WAYS_OUT, BAD_LINE: self.first_bad}
        told = []
        for reason, count in self.counts.most_common():
            told.append(f"{count} dropped: {reason}" + (f" ({ways_out[reason]})" if reason in ways_out else ""))
        return "; ".join(told) or "it is empty"


def read_file(path: str, reader: Reader) -> SeedPairs:
    """Reads a file or a folder of any kind that containers.py knows.

    An id is made of the file's name, where the record is (of JSON lines the bytes in the uncompressed file, elsewhere its place) and the
    texts, so it is the same on every machine. Of equal pairs the first stays. A record that is malformed or without text is dropped and
    counted. UserError for such a one when `reader.strict`; for a file that is not read, with its name; for a record in two forms that
    differ; and when no pair is left, with the reasons.
    """
    return reader.collect(path, _from_file(epath.Path(path), reader))


def _from_file(path: epath.Path, reader: Reader) -> Iterator[Example]:
    container = open_container(path)
    reader.kind = container.kind
    for note in container.notes:
        reader.say(f"{path}: {note}")
    for row in _with_trees(container):
        pair = None
        try:
            if not row.error:
                pair = reader.pair(row.where, row.value)
        except ValueError as error:
            row = row._replace(error=str(error))
        if row.error:
            reader.bad(row.where, row.error, row.value)
        elif pair:
            key = record_id(row.file.name, row.start, row.end, "\0".join(pair))
            yield Example(key, pair.instruction, pair.response, "seed", f"{row.file.name}:{row.number}")


def read_rows(path: storage.PathLike) -> Iterator[Row]:
    """The records of a file or folder of any kind, as `read_file` sees them. UserError for what cannot be read."""
    return _with_trees(open_container(epath.Path(path)))


def numbered_records(path: storage.PathLike) -> Iterator[tuple[str, str]]:
    """Yields ("file:number", JSON of the record) of `read_rows`. UserError for a row that is none."""
    for row in read_rows(path):
        if row.error:
            raise UserError(f"{row.where}: {row.error}")
        yield row.where, json.dumps(row.value, default=str)


def _with_trees(container: Container) -> Iterator[Row]:
    """The rows; messages of Open Assistant's as the trees that they make, in the place of the prompt, after all others."""
    prompts: list[Row] = []
    replies: dict[str, list[Row]] = {}  # by the message that they answer
    known: set[str] = set()
    for row in container.rows():
        if row.error or not is_message(row.value):
            yield row
            continue
        known.add(str(row.value["message_id"]))
        if (parent := row.value["parent_id"]) is None:
            prompts.append(row)
        else:
            replies.setdefault(str(parent), []).append(row)
    for row in prompts:
        try:
            yield row._replace(value=tree_of(row.value, [reply.value for reply in replies.get(str(row.value["message_id"]), [])]))
        except ValueError as error:
            yield row._replace(error=str(error))
    for parent in (parent for parent in replies if parent not in known):
        yield from (row._replace(error=f"the message that it answers, {parent!r:.60}, is not there") for row in replies[parent])


def _place(where: str) -> str:
    """Where a record is, without the folders of this machine."""
    return where.rpartition("/")[2]


def _text(record: Any) -> str:
    return record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=str)
