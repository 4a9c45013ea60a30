"""A whole record file through a model: results are published as small parts, so a kill costs seconds, and merged at the end."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from etils import epath
from tqdm import tqdm

from humpback import distributed, records, storage

PART_SECONDS = 10
Made = TypeVar("Made", records.Candidate, records.Rated)


class Parts(Generic[Made]):
    """Records made so far, in FOLDER/part-NNNNN.jsonl; at most `PART_SECONDS` of work is not on disk."""

    def __init__(self, folder: storage.PathLike, kind: type[Made]):
        self.folder, self.kind = epath.Path(folder), kind
        if distributed.is_first():
            storage.clean(self.folder)
        distributed.barrier(f"parts {folder}")
        self._names = [name for name in storage.list_files(self.folder) if re.fullmatch(r"part-\d{5}\.jsonl", name)]
        self.done = {record.id for record in self._read()}
        self._waiting: list[Made] = []
        self._published = time.monotonic()

    def add(self, record: Made) -> None:
        """Takes one finished record, and publishes those that wait when it is time."""
        self._waiting.append(record)
        self.done.add(record.id)
        if time.monotonic() - self._published > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Publishes the records that wait."""
        if self._waiting and distributed.is_first():
            name = f"part-{len(self._names):05d}.jsonl"
            storage.publish(self.folder / name, "".join(records.to_json(record) + "\n" for record in self._waiting))
            self._names.append(name)
        self._waiting, self._published = [], time.monotonic()

    def merge(self, target: storage.PathLike, name: str) -> list[str]:
        """Writes all records, sorted by id, as shards of `name` in `target`; returns the files' names."""
        self.flush()
        if not distributed.is_first():
            return []
        made = sorted(self._read(), key=lambda record: record.id)
        return records.write_shards(target, name, made, len(made))

    def _read(self) -> Iterator[Made]:
        for name in self._names:
            yield from records.read_lines(self.folder / name, self.kind)


def finish(
    parts: Parts[Made],
    items: Sequence,
    serve: Callable[[list], Iterator[tuple[Made, int]]],
    *,
    label: str,
    metrics: Callable[[dict], None],
) -> int:
    """Serves each item (anything with an `id`) that has no record yet; returns the tokens read and written by this call.

    `serve` takes the items and yields (record, tokens) in any order, exactly one record per item.
    """
    todo = [item for item in items if item.id not in parts.done]
    tokens, started = 0, time.monotonic()
    with tqdm(
        total=len(items), initial=len(items) - len(todo), desc=label, unit="record", disable=not distributed.is_first()
    ) as bar:
        for record, used in serve(todo):
            parts.add(record)
            tokens += used
            rate = tokens / (time.monotonic() - started)
            bar.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
            bar.update()
            metrics({"records": len(parts.done), "tokens": tokens, "tokens_per_second": rate})
    missing = [item.id for item in items if item.id not in parts.done]
    if missing:
        raise RuntimeError(f"{label}: no record came for {len(missing)} of {len(items)} items, the first is {missing[0]}")
    return tokens
