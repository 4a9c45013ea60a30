"""Lines of JSON to pages: a record a line, of HTML or of text."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from humpback import storage
from humpback.corpus import fields
from humpback.corpus.charset import MAX_PAGE_BYTES, no_page
from humpback.corpus.fields import Keys
from humpback.corpus.streams import Stream
from humpback.records import Page

_MAX_LINE_BYTES = 2 * MAX_PAGE_BYTES  # quotes and line ends are escaped
_LINE_END = re.compile(rb"\n")

OnDrop = Callable[[str, str], None]
Warn = Callable[[str], None]


def read_pages(source: str, path: storage.PathLike, keys: Keys, on_drop: OnDrop, warn: Warn) -> Iterator[Page]:
    """Yields the page of each line that holds one, with its bytes; the others go to `on_drop(source:line, reason)`.

    Warns of the first line in which no key holds one, and the first whose key is another. OSError as `Stream` raises it.
    """
    taken, changed, complained, number = "", False, False, 0
    with Stream(path) as stream:
        if not stream.fill(1) and not stream.fault:
            on_drop(source, "empty")
        while size := line_end(stream):
            number += 1
            stream.begin()
            if size > _MAX_LINE_BYTES:
                stream.skip_to(_LINE_END, 0)
                on_drop(f"{source}:{number}", "too large")
                continue
            line = bytes(stream.window[:size])
            stream.advance(size)
            stream.fill(1)  # so that the next gzip member is known
            if not line.strip():
                continue
            if stream.broken(stream.start):
                on_drop(f"{source}:{number}", "damaged")
                continue
            if stream.fault and not line.endswith(b"\n"):  # told below
                break
            record = parse(line)
            page, key = _page(source, record, keys) if record is not None else ("bad record", "")
            if isinstance(page, str):
                on_drop(f"{source}:{number}", page)
                if record is not None and page in (fields.NO_TEXT, fields.NO_HEADINGS) and not complained:
                    complained = True
                    warn(f"{source}:{number}: {keys.complaint(fields.flat_names(record))}")
                continue
            if taken and key != taken and not changed:
                changed = True
                warn(f"{source}:{number}: the page is taken from the key {key!r}, before it was {taken!r}")
            taken = key
            start, end = stream.file_range()
            yield dataclasses.replace(page, start=start, end=end)
        for _ in stream.breaks:
            on_drop(source, "damaged")
        if stream.fault:
            on_drop(source, stream.fault)
            warn(f"{source}: {stream.fault} after {stream.start} bytes (decompressed); what follows is lost")


def line_end(stream: Stream) -> int:
    """The bytes of the stream's next line with its end, at most one more than a line may have; 0 at the end of the file."""
    place = 0
    while (end := stream.window.find(b"\n", place)) < 0:
        place = len(stream.window)
        if place > _MAX_LINE_BYTES or stream.fill(place + 1) == place:
            return min(place, _MAX_LINE_BYTES + 1)
    return min(end + 1, _MAX_LINE_BYTES + 1)


def parse(line: bytes | bytearray) -> dict[str, Any] | None:
    """A line's record; None if it is no JSON object."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def first_record(path: storage.PathLike) -> dict[str, Any] | None:
    """The record of a file's first line that is not blank; None if that is none."""
    with Stream(path) as stream:
        while size := line_end(stream):
            line = bytes(stream.window[:size])
            if line.strip():
                return parse(line)
            stream.advance(size)
    return None


def _page(source: str, record: dict[str, Any], keys: Keys) -> tuple[Page | str, str]:
    """(the page of a record, without its place in the file, or the reason why it is none; the key that holds it or ought to)."""
    pages, urls = keys.candidates(record)
    if not pages:
        return keys.reason(record), ""
    found = [(kind, key, fields.value(record, key)) for kind, key in pages]
    kind, key, held = next((item for item in found if isinstance(item[2], str)), found[0])
    if not isinstance(held, str):
        missing = held is None and all(item is None for _, _, item in found)
        return ("empty" if missing else "bad record"), key
    addresses = [fields.value(record, name) or "" for name in urls]
    url = next((item for item in addresses if item), source)
    if not isinstance(url, str):
        return "bad record", key
    data = held.encode("utf-8", "replace")
    return no_page(data, kind) or Page(source, url.strip(), 0, 0, data, "utf-8", kind=kind), key
