"""A dataset by reference made whole again, by who holds the same pages: cut as the run cut them, checked by hash."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from etils import epath

from humpback import config as configs
from humpback.corpus import readers, segments
from humpback.corpus.fields import Keys
from humpback.errors import UserError
from humpback.export import dataset, rows
from humpback.progress import say

_SHOWN = 5


def fill(source: epath.Path, pages: str, out: epath.Path) -> dict[str, Any]:
    """Writes to `out` what the export would have been with its texts, byte for byte. UserError names the rows that cannot be filled."""
    facts = dataset.read_facts(source)
    if not facts["by_reference"]:
        raise UserError(f"{source}: not a dataset by reference; nothing is to be filled")
    wanted = {row["id"]: row["text_sha256"] for row in dataset.read_rows(source) if row["kind"] == "augmented"}
    places = {(row["source"], row["start"], row["end"]) for row in dataset.read_rows(source) if row["kind"] == "augmented"}
    with tempfile.TemporaryFile() as store:
        found = _cut(pages, _config(facts["segments"]), wanted, places, store)
        missing = [row for row in dataset.read_rows(source) if row["kind"] == "augmented" and row["id"] not in found]
        if missing:
            shown = "; ".join(f"{row['id']} ({row['source']}, {row['start']} to {row['end']})" for row in missing[:_SHOWN])
            more = f"; and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            why = f"their pages are not in --input={pages} or have changed"
            raise UserError(f"{len(missing)} of {len(wanted)} rows cannot be filled, as {why}: {shown}{more}")
        whole = {**facts, "by_reference": False}
        dataset.publish(out, _filled(source, found, store, facts["options"]["tags"]), rows.PAIR_COLUMNS, whole)
    return whole


def _config(fields: Mapping[str, Any]) -> configs.Segments:
    """How the run cut its pages."""
    config = configs.Config()
    for name, value in fields.items():
        if not hasattr(config.segments, name):
            raise UserError(f"segments has no field {name!r}: the dataset is of another version of Humpback")
        setattr(config.segments, name, value)
    return configs.finish(config).segments


def _cut(pages: str, cfg: configs.Segments, wanted: Mapping[str, str], places: set, store: BinaryIO) -> dict[str, int]:
    """Where in `store` the texts of the ids stand that the pages still have."""
    found: dict[str, int] = {}
    for unit in readers.list_inputs(pages, lambda text: say(f"export: {text}")):
        for page in readers.read_pages(unit, lambda source, reason: None, lambda text: say(f"export: {text}"), Keys.of(cfg)):
            if (page.source, page.start, page.end) not in places:
                continue
            for segment in segments.extract(page, cfg, lambda reason, tree: None):
                if wanted.get(segment.id) == rows.text_digest(segment.text) and segment.id not in found:
                    found[segment.id] = store.tell()
                    store.write(json.dumps([segment.text, segment.header, segment.header_path]).encode() + b"\n")
    return found


def _filled(source: epath.Path, found: Mapping[str, int], store: BinaryIO, tags: bool) -> Iterator[rows.Row]:
    for row in dataset.read_rows(source):
        if row["kind"] == "augmented":
            store.seek(found[row["id"]])
            text, header, path = json.loads(store.readline())
            asked = rows.question(row["instruction"], row["kind"], tags)
            row |= {"messages": rows.chat(asked, text), "response": text, "header": header, "header_path": path}
        yield row
