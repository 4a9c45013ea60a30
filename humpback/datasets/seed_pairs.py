"""Seed pairs from a file or a tfds dataset: Open Assistant tree export, JSONL of {"instruction", "response"}, `tfds:NAME[:SPLIT]`."""

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from etils import epath

from humpback.datasets.oasst import Pair, pair_of_tree
from humpback.errors import UserError
from humpback.records import Example, record_id

_TFDS = "tfds:"
_EXPECTED = 'expected an Open Assistant tree ({"prompt": {…}}) or {"instruction": …, "response": …}'


def read_pairs(source: str, single_reply: str = "drop") -> tuple[list[Example], dict[str, int]]:
    """Returns (pairs in the order of the source, counts: "kept" and each reason why a record gave no pair).

    `source` is a `.jsonl` or `.jsonl.gz` file (its lines of either form), or `tfds:NAME[:SPLIT][?data_dir=DIR]`: a prepared dataset with
    the features `instruction` and `response` (and `id`, `source` if it has them); SPLIT is train by default, DIR the environment's
    TFDS_DATA_DIR or else tfds' own. An id is made of the file's name, the line's bytes in the (uncompressed) file and the texts, so it is
    the same on every machine. Of equal pairs the first stays. UserError names the file and line of what is malformed or without text.
    """
    if source.startswith(_TFDS):
        found: Iterator[Example | str] = _from_tfds(source)
    elif source:
        found = _from_file(epath.Path(source), single_reply)
    else:
        raise UserError("seed_pairs.source is empty: name an Open Assistant export, a JSONL file of pairs, or tfds:NAME")
    pairs: list[Example] = []
    counts: Counter[str] = Counter(kept=0)
    seen: set[Pair] = set()
    for item in found:
        if isinstance(item, str):
            counts[item] += 1
        elif (pair := Pair(item.instruction, item.response)) in seen:
            counts["duplicate"] += 1
        else:
            seen.add(pair)
            pairs.append(item)
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
            found = pair_of_record(json.loads(text), single_reply)
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg} at character {error.pos + 1}); every line must be one JSON object") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: no seed pair: {error}") from error
        if isinstance(found, str):
            yield found
        else:
            key = record_id(path.name, start, end, "\0".join(found))
            yield Example(key, found.instruction, found.response, "seed", f"{path.name}:{number}")


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


def _from_tfds(source: str) -> Iterator[Example]:
    import tensorflow_datasets as tfds  # only here: it takes a second to import

    import humpback.datasets.oasst_seed  # noqa: F401  (registers the builder)

    name, _, query = source.removeprefix(_TFDS).partition("?")
    name, _, split = name.partition(":")
    split = split or "train"
    folder = query.removeprefix("data_dir=") or os.environ.get("TFDS_DATA_DIR") or None
    if not name or (query and not query.startswith("data_dir=")):
        raise UserError(f"{source!r}: expected tfds:NAME[:SPLIT][?data_dir=DIR]")
    way_out = f"prepare it with python -m humpback.datasets {name} --source=FILE, or give its folder with ?data_dir=DIR"
    try:
        builder = tfds.builder(name, data_dir=folder)
        if not builder.is_prepared():
            raise UserError(f"{source}: there is no prepared dataset at {builder.data_path}; {way_out}")
        data = builder.as_data_source(split=split)
    except UserError:
        raise
    except Exception as error:  # tfds raises a dozen kinds for a name, split or format that is not there
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{source}: cannot be read ({type(error).__name__}: {first_line}); {way_out}") from error
    for number, row in enumerate(data):
        row = {key: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
        try:
            found = pair_of_record({field: row.get(field) for field in Pair._fields}, "drop")
        except ValueError as error:
            raise UserError(f"{source}: record {number}: no seed pair: {error}; its features are {sorted(row)}") from error
        place = f"{_TFDS}{name}:{split}"
        key = row.get("id") or record_id(place, number, number + 1, "\0".join(found))
        yield Example(str(key), found.instruction, found.response, "seed", str(row.get("source") or f"{place}:{number}"))
