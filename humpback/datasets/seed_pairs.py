"""Seed pairs from a file or folder (containers.py says which kinds, forms.py which forms) or a tfds dataset (`tfds:NAME[:SPLIT]`)."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from humpback import storage
from humpback.datasets import containers
from humpback.datasets.pair_files import OnDrop, Reader, SeedPairs, read_file
from humpback.errors import UserError
from humpback.records import Example, record_id

_TFDS = "tfds:"
_TFDS_FIELDS = ("id", "source")


def read_pairs(
    source: str, single_reply: str = "drop", language: str = "en", *, strict: bool = False, say: Callable[[str], None] = lambda _: None,
    on_drop: OnDrop = lambda reason, place, text: None,
) -> SeedPairs:  # fmt: skip
    """Reads the human pairs of a source, by the rules of oasst.py and forms.py.

    `source` is a file or folder that `read_file` reads, or `tfds:NAME[:SPLIT][?data_dir=DIR]`: a prepared dataset with the features
    `instruction` and `response` (and `id`, `source` if it has them); SPLIT is train by default, DIR the environment's TFDS_DATA_DIR or
    else tfds' own.
    A record that is malformed or without text is dropped and counted, or ends it when `strict`. `say` is told of the first of them, and
    of fields that are not read; `on_drop` of every record that is left out. UserError as `read_file`.
    """
    reader = Reader(single_reply, language, strict, say, on_drop)
    if source.startswith(_TFDS):
        return reader.collect(source, _from_tfds(source, reader))
    if source:
        return read_file(source, reader)
    raise UserError("seed_pairs.source is empty: name a file of pairs, a folder of them, or tfds:NAME")


def list_files(source: str) -> list[tuple[str, str]]:
    """(name, path) of the files that `read_pairs` reads. UserError for a dataset that is not prepared."""
    if not source.startswith(_TFDS):
        return containers.list_files(source)
    folder = _open_tfds(source)[2]
    return [(name, os.fspath(folder / name)) for name in storage.list_files(folder)]


def _open_tfds(source: str) -> tuple[str, Any, epath.Path]:
    """What a prepared dataset's records are said to come from, the records, and their folder. UserError when it is not prepared."""
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
    return f"{_TFDS}{name}:{split}", data, epath.Path(builder.data_path)


def _from_tfds(source: str, reader: Reader) -> Iterator[Example]:
    place, data, _ = _open_tfds(source)
    for number, row in enumerate(data):
        row = {key: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
        try:
            pair = reader.pair(f"{source}: record {number}", row, _TFDS_FIELDS)
        except ValueError as error:
            reader.bad(f"{source}: record {number}", str(error), row)
            continue
        if pair is None:
            continue
        key = row.get("id") or record_id(place, number, number + 1, "\0".join(pair))
        yield Example(str(key), pair.instruction, pair.response, "seed", str(row.get("source") or f"{place}:{number}"))
