"""The folder: data/train-….parquet, README.md, export.json (what it was made from) and, last, checksums.json.

Nothing in it depends on when or where it is written, so what a kill interrupted is written again, and is the same.
"""

import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from humpback import extras, storage
from humpback.errors import UserError
from humpback.export import card, rows
from humpback.models import checksums
from humpback.progress import Bar
from humpback.records import RECORDS_PER_SHARD
from humpback.rounding import ceil_div

FACTS = "export.json"
_GROUP = 1_000  # rows that are compressed together
ADDRESS = "an e-mail address"
Rows = Callable[[Counter[str]], Iterator[rows.Row]]  # all rows anew, counting what is left out


def write(out: epath.Path, make: Rows, columns: Mapping[str, str], about: Mapping[str, Any], drop_emails: bool, by_reference: bool) -> dict:
    """Writes the dataset and returns its facts. UserError for a folder with another one, and when no row is left.

    Reads the rows twice: to count them, as a file's name says how many there are, and to write them.
    """
    facts = {**about, "by_reference": by_reference, **_count(make, drop_emails)}
    if not facts["rows"]:
        raise UserError(f"no row is left to export; left out: {facts['dropped'] or 'nothing'}")
    kept = (row for row in make(Counter()) if not (drop_emails and rows.holds_address(row)))
    publish(out, map(rows.withheld, kept) if by_reference else kept, columns, facts)
    return facts


def publish(out: epath.Path, kept: Iterable[rows.Row], columns: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Writes the files, of rows that are as many as the facts say."""
    for folder in (out, out / "data"):
        storage.clean(folder)
    try:
        storage.publish_json(out / FACTS, facts)  # first: a folder is of one export only
        names = _write_shards(out, iter(kept), facts["rows"], columns)
        storage.publish(out / "README.md", card.dataset_card(facts, list(columns)))
    except FileExistsError as error:
        raise UserError(f"{out}: holds another export, or files that have been changed ({error}); name another --out") from error
    checksums.publish(out, [*names, "README.md", FACTS])


def read_facts(folder: epath.Path) -> dict[str, Any]:
    """The facts of an exported folder. UserError when it is none, or damaged."""
    if not (folder / FACTS).exists():
        raise UserError(f"{folder}: not a folder that `humpback export` made ({FACTS} is missing)")
    if damage := checksums.find_damage(folder):
        raise UserError(damage)
    return storage.read_json(folder / FACTS)


def read_rows(folder: epath.Path) -> Iterator[rows.Row]:
    """The rows of an exported folder, in their order."""
    parquet = extras.load("pyarrow.parquet", "corpus", "export")
    for name in storage.list_files(folder / "data"):
        with (folder / "data" / name).open("rb") as file:
            for batch in parquet.ParquetFile(file).iter_batches(_GROUP):
                yield from batch.to_pylist()


def _count(make: Rows, drop_emails: bool) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    addresses = characters = 0
    for row in make(dropped):
        if rows.holds_address(row):
            if drop_emails:
                dropped[ADDRESS] += 1
                continue
            addresses += 1
        kinds[row["kind"]] += 1
        characters += len(row["instruction"]) + len(row["response"])
        languages.update(filter(None, [row.get("language")]))
    return {
        "rows": kinds.total(), "kinds": dict(sorted(kinds.items())), "dropped": dict(sorted(dropped.items())),
        "rows_with_addresses": addresses, "languages": dict(sorted(languages.items())), "characters": characters,
    }  # fmt: skip


def _write_shards(out: epath.Path, kept: Iterator[rows.Row], count: int, columns: Mapping[str, str]) -> list[str]:
    shards = ceil_div(count, RECORDS_PER_SHARD)
    names = [f"data/train-{shard:05d}-of-{shards:05d}.parquet" for shard in range(shards)]
    with Bar("export", "row", count, shown=None) as bar:
        for name in names:
            storage.publish(out / name, (_parquet(itertools.islice(kept, RECORDS_PER_SHARD), columns, bar),))
    if next(kept, None) is not None:
        raise UserError(f"{out}: the records changed while they were read; run the same command again")
    return names


def _parquet(part: Iterable[rows.Row], columns: Mapping[str, str], bar: Bar) -> memoryview:
    """One file's bytes; of the same version of pyarrow always the same."""
    arrow, parquet = (extras.load(name, "corpus", "export") for name in ("pyarrow", "pyarrow.parquet"))
    chat = arrow.struct([("role", arrow.string()), ("content", arrow.string())])
    types = {
        "string": arrow.string(), "double": arrow.float64(), "int32": arrow.int32(), "int64": arrow.int64(), "bool": arrow.bool_(),
        "list<string>": arrow.list_(arrow.string()), "list<double>": arrow.list_(arrow.float64()),
        "list<struct<role: string, content: string>>": arrow.list_(chat),
    }  # fmt: skip
    schema = arrow.schema([(name, types[kind]) for name, kind in columns.items()])
    buffer = io.BytesIO()
    with parquet.ParquetWriter(buffer, schema, compression="zstd") as writer:
        iterator = iter(part)
        while group := list(itertools.islice(iterator, _GROUP)):
            full = [{name: row.get(name) for name in columns} for row in group]
            writer.write_table(arrow.Table.from_pylist(full, schema), row_group_size=_GROUP)
            for _ in group:
                bar.advance()
    return buffer.getbuffer()
