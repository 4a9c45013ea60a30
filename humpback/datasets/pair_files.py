"""Seed pairs from a file: Open Assistant tree export, or JSONL of {"instruction", "response"}."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from humpback.datasets.oasst import Pair, pair_of_tree
from humpback.errors import UserError
from humpback.records import Example, record_id

_EXPECTED = 'expected an Open Assistant tree ({"prompt": {…}}) or {"instruction": …, "response": …}'


def read_file(path: str, single_reply: str = "drop") -> tuple[list[Example], dict[str, int]]:
    """Returns (pairs in the order of the file, counts: "kept" and each reason why a record gave no pair).

    `path` is a `.jsonl` or `.jsonl.gz` file, its lines of either form. An id is made of the file's name, the line's bytes in the
    (uncompressed) file and the texts, so it is the same on every machine. Of equal pairs the first stays. UserError names the file and
    line of what is malformed or without text.
    """
    return distinct(_from_file(epath.Path(path), single_reply))


def distinct(examples: Iterable[Example | str]) -> tuple[list[Example], dict[str, int]]:
    """Of equal pairs the first, and the counts; a text stands for a record without a pair, and says why."""
    pairs: list[Example] = []
    counts: Counter[str] = Counter(kept=0)
    seen: set[Pair] = set()
    for example in examples:
        if isinstance(example, str):
            counts[example] += 1
        elif (pair := Pair(example.instruction, example.response)) in seen:
            counts["duplicate"] += 1
        else:
            seen.add(pair)
            pairs.append(example)
    counts["kept"] = len(pairs)
    return pairs, dict(sorted(counts.items()))


def pair_of_record(record: Any, single_reply: str) -> Pair | str:
    """The pair of one line's JSON value, or the reason why there is none. ValueError says what is wrong with its form."""
    if not isinstance(record, dict):
        raise ValueError(_EXPECTED)
    if "prompt" in record and "instruction" not in record:
        return pair_of_tree(record, single_reply)
    if "message_id" in record:
        raise ValueError("this is Open Assistant's export of messages; take the one of trees")
    if not {"instruction", "response"} & record.keys():
        raise ValueError(_EXPECTED)
    return pair_of_fields(record)


def pair_of_fields(record: Mapping[str, Any]) -> Pair:
    """The pair of a record with `instruction` and `response`. ValueError names the one that is empty or missing."""
    for field in Pair._fields:
        if not isinstance(record.get(field), str) or not record[field].strip():
            raise ValueError(f"{field!r} is empty or missing")
    return Pair(record["instruction"].strip(), record["response"].strip())


def _from_file(path: epath.Path, single_reply: str) -> Iterator[Example | str]:
    for number, start, end, line in _lines(path):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if start == 0 else "utf-8")
            if not text.strip():
                continue
            pair = pair_of_record(json.loads(text), single_reply)
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg} at character {error.pos + 1}); every line must be one JSON object") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: no seed pair: {error}") from error
        if isinstance(pair, str):
            yield pair
        else:
            key = record_id(path.name, start, end, "\0".join(pair))
            yield Example(key, pair.instruction, pair.response, "seed", f"{path.name}:{number}")


def _lines(path: epath.Path) -> Iterator[tuple[int, int, int, bytes]]:
    """(number from 1, start byte, end byte without the line break, bytes) of each line; positions are those of the uncompressed file."""
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file; seed_pairs.source names a .jsonl or .jsonl.gz file, or tfds:NAME")
    position = 0
    with path.open("rb") as raw:
        file = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
        try:
            for number, line in enumerate(file, 1):
                content = line.rstrip(b"\r\n")
                yield number, position, position + len(content), content
                position += len(line)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
