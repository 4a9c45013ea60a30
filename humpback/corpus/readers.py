"""Inputs to pages: HTML, WARC and JSONL files and folders of them, local or gs://; each may be compressed by gzip or zstd.

`list_inputs` divides what was given into units of work, `read_pages` reads one of them. A page that is left out is reported through
`on_drop(source, reason)`.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from absl import logging
from etils import epath

from humpback import storage
from humpback.corpus import warc
from humpback.corpus.boilerplate import words
from humpback.corpus.charset import MAX_PAGE_BYTES, no_page
from humpback.corpus.streams import Stream
from humpback.digests import printable
from humpback.errors import UserError
from humpback.records import Page

FILES_PER_INPUT = 500  # HTML files are small

_COMPRESSED = (".gz", ".zst", ".zstd")
_KINDS = {
    ".htm": "html", ".html": "html", ".xhtml": "html", ".shtml": "html",
    ".warc": "warc", ".wet": "warc", ".wat": "warc", ".jsonl": "jsonl", ".ndjson": "jsonl", ".paths": "paths",
}  # fmt: skip
# Names that say that a file is something else. What is left is told by content.
_OTHER = words(
    "avi bak bin bmp cdx css csv db doc eot epub exe gif ico idx jpeg jpg js map md mjs mov mp3 mp4 offset ogg old orig otf pdf png ps py "
    "rst rtf svg tar tif tiff tmp tsv ttf txt wav webm webp woff woff2 xls xml yaml zip"
)
_SNIFF_BYTES = 4096
_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|(?><!--.*?-->)\s*)*<(?:!doctype html|html|head|body)[\s>]", re.I | re.S)
_WARC = re.compile(rb"WARC/\d\.\d")
_MAX_LINE_BYTES = 2 * MAX_PAGE_BYTES  # of JSONL: quotes and line ends are escaped
_MAX_LIST_BYTES = 1 << 28
_LINE_END = re.compile(rb"\n")
_NO_HEADINGS = "ClueWeb22's txt, which has lost the headings that segments begin with; give the html files of the same pages"

OnDrop = Callable[[str, str], None]
Warn = Callable[[str], None]
File = tuple[str, epath.Path]  # (source, path)


@dataclass(frozen=True)
class Input:
    """One unit of work: a WARC or JSONL file, or a run of HTML files that follow each other in a folder."""

    source: str  # stable name, unique among the inputs
    files: tuple[tuple[str, str], ...]  # (source, path) of each file in it; one, except for a run of HTML files
    kind: str  # "html", "warc", "jsonl"


def list_inputs(inputs: str, warn: Warn = logging.warning) -> list[Input]:
    """Divides comma-separated paths into units of work, each folder in the order of its paths.

    A path is a folder, a file of one of the kinds, or a list of WARC files such as Common Crawl's warc.paths (one path a line, taken from
    the list's own folder). A file's `source` is its path below the folder or as the list has it, or the name of a file that was given
    itself, so ids do not depend on where a machine keeps its pages. Of several inputs it begins with as much of the end of the input's own
    path as tells that from the others. What a folder holds of no known kind is skipped, counted in a warning. UserError for an input that
    does not exist, is given twice or is none of these, and for ClueWeb22's `txt`.
    """
    roots = [epath.Path(item.strip()) for item in inputs.split(",") if item.strip()]
    if not roots:
        raise UserError("segments.input is empty: name at least one file or folder of HTML, WARC or JSONL")
    units: list[Input] = []
    for root, label in zip(roots, _labels(roots), strict=True):
        if not root.exists():
            raise UserError(f"segments.input: {root}: no such file or folder")
        try:
            units += _units(_folder(root, label, warn) if root.is_dir() else _given_file(root, label or root.name))
        except OSError as error:
            raise UserError(f"segments.input: {root}: cannot be read ({error})") from error
    seen: dict[str, int] = {}
    for place, unit in enumerate(units):
        seen[unit.source] = count = seen.get(unit.source, 0) + 1
        if count > 1:
            units[place] = Input(f"{unit.source}#{count}", unit.files, unit.kind)
    return units


def list_files(inputs: str) -> list[tuple[str, str]]:
    """(source, path) of the files that `list_inputs` finds, in their order."""
    return [file for unit in list_inputs(inputs, lambda _: None) for file in unit.files]


def read_pages(given: Input, on_drop: OnDrop, warn: Warn) -> Iterator[Page]:
    """Yields the pages of one unit, always the same in the same order for the same bytes; holds one page and a little more.

    `url` is the source where the file knows no address (`segments.cut` looks for the page's own). OSError when a bucket fails: what the
    network loses is not dropped, the run stops and goes on there.
    """
    read = {"html": _read_html, "warc": warc.read_pages, "jsonl": _read_jsonl}[given.kind]
    for source, path in given.files:
        try:
            yield from read(source, path, on_drop, warn)
        except OSError as error:  # a dangling link, no permission: it costs itself
            if "://" in path and not isinstance(error, FileNotFoundError | PermissionError):
                raise
            on_drop(source, "unreadable")


def _units(files: list[tuple[str, File]]) -> Iterator[Input]:
    """`files` are (kind, file); HTML files that follow each other are one unit."""
    run: list[tuple[str, str]] = []
    for place, (kind, (source, path)) in enumerate(files):
        run.append((source, os.fspath(path)))
        ends = place + 1 == len(files) or files[place + 1][0] != "html"
        if kind != "html" or ends or len(run) == FILES_PER_INPUT:
            yield Input(run[0][0] if len(run) == 1 else f"{run[0][0]}..{run[-1][0]}", tuple(run), kind)
            run = []


def _labels(roots: Sequence[epath.Path]) -> list[str]:
    """The shortest end of each path that no other one has, "" of a single one. UserError for one that is there twice."""
    paths = [os.fspath(root) if "://" in os.fspath(root) else os.path.realpath(root) for root in roots]
    if twice := next((root for place, root in enumerate(roots) if paths[place] in paths[:place]), None):
        raise UserError(f"segments.input: {twice}: is given twice; leave one out")
    if len(roots) == 1:
        return [""]
    # As they were given: a link's own name is what its owner calls it.
    named = [os.fspath(root) if "://" in os.fspath(root) else os.path.abspath(root) for root in roots]

    def end(path: str, length: int) -> str:
        return "/".join(path.strip("/").split("/")[-length:])

    def label(path: str) -> str:
        lengths = range(1, path.count("/") + 1)
        return next((end(path, n) for n in lengths if [end(other, n) for other in named].count(end(path, n)) == 1), path.strip("/"))

    return [printable(label(path)) for path in named]


def _folder(root: epath.Path, label: str, warn: Warn) -> list[tuple[str, File]]:
    skipped: dict[str, list[str]] = defaultdict(list)  # by what they are
    found = []
    for source, below in sorted((printable(name), name) for name in _below(root, skipped)):
        kind = _kind_of(root / below)
        if kind in ("", "paths"):
            skipped["files are no HTML, WARC or JSONL"].append(source)
        else:
            found.append((kind, (f"{label}/{source}" if label else source, root / below)))
    for what, names in sorted(skipped.items()):
        first = printable(min(names))
        warn(f"segments.input: {printable(os.fspath(root))}: {len(names)} {what} and are skipped, {first} the first of them")
    return found


def _below(root: epath.Path, skipped: dict[str, list[str]]) -> Iterator[str]:
    """The paths of a folder's files, below it. Each folder is looked into once, by a link only when all others were, whatever loops
    links make."""
    if "://" in os.fspath(root):
        top = ""
        for folder, _, names in root.walk():
            top = top or os.fspath(folder)  # the first is the root; etils leaves out the scheme of gs://
            below = pathlib.PurePosixPath(os.path.relpath(folder, top))
            yield from ((below / name).as_posix() for name in names)
        return
    seen: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        here = folders.pop() if folders else links.pop(links.index(min(links)))
        status = os.stat(os.path.join(root, here))
        if (status.st_dev, status.st_ino) in seen:
            skipped["links lead to folders that are read already"].append(here)
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(root, here)) as entries:
            for entry in entries:
                name, link = f"{here}/{entry.name}" if here else entry.name, entry.is_symlink()
                if os.path.isdir(entry.path) if link else entry.is_dir():
                    (links if link else folders).append(name)
                elif (link and not os.path.exists(entry.path)) or os.path.isfile(entry.path):  # one to nowhere is counted as unreadable
                    yield name
                else:
                    skipped["are pipes, sockets or devices"].append(name)


def _given_file(path: epath.Path, label: str) -> list[tuple[str, File]]:
    kind = _kind_of(path, given=True)
    if kind == "paths":
        return _listed(path)
    if not kind:
        raise UserError(f"segments.input: {path}: neither HTML nor WARC, JSONL or a list of WARC files (.paths), by name or by content")
    if kind == "jsonl":
        _check_jsonl(path)
    return [(kind, (printable(label), path))]


def _kind_of(path: epath.Path, *, given: bool = False) -> str:
    """A value of _KINDS or "": by the file's name, and by content where that does not say, or was `given` itself and says otherwise."""
    name = path.name.lower()
    stem = next((name.removesuffix(end) for end in _COMPRESSED if name.endswith(end)), name)
    suffix = os.path.splitext(stem)[1]
    if suffix in _KINDS:
        return _KINDS[suffix]
    if not given and (suffix[1:] in _OTHER or name.endswith("~") or name.startswith(".")):
        return ""
    try:
        with Stream(path) as stream:
            stream.fill(_SNIFF_BYTES)
            head = bytes(stream.window[:_SNIFF_BYTES])
    except OSError:
        return ""
    if _WARC.match(head):
        return "warc"
    if _HTML.match(head):
        return "html"
    if head.lstrip().startswith(b"{") and {"html", "Clean-Text"} & _first_keys(path):
        return "jsonl"
    return ""


def _first_keys(path: epath.Path) -> set[str]:
    """The keys of a JSONL file's first line; none if it is no object."""
    with Stream(path) as stream:
        try:
            first = json.loads(stream.window[: _line(stream)])
        except (ValueError, RecursionError):
            return set()
    return set(first) if isinstance(first, dict) else set()


def _check_jsonl(path: epath.Path) -> None:
    """UserError when a file that was given itself cannot hold pages, by its first line."""
    keys = _first_keys(path)
    if "html" in keys or not keys:
        return
    if "Clean-Text" in keys:
        raise UserError(f"segments.input: {path}: {_NO_HEADINGS}")
    raise UserError(f"{path}:1: expected the keys url and html, found {', '.join(sorted(keys))[:200]}")


def _listed(path: epath.Path) -> list[tuple[str, File]]:
    """The WARC files that a list names."""
    with Stream(path) as stream:
        stream.fill(_MAX_LIST_BYTES)
        lines = stream.window.decode("utf-8", "replace").splitlines()
        if stream.fault:
            raise UserError(f"segments.input: {path}: {stream.fault}; download the list again")
    found = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line:
            continue
        if "://" in line and not line.startswith("gs://"):
            raise UserError(f"{path}:{number}: {line}: only local files and gs:// can be read; download it and name it by its path")
        file = epath.Path(line) if line.startswith(("gs://", "/")) else path.parent / line
        # Asking a bucket for each of Common Crawl's 90,000 files would take longer than to find one missing later.
        if "://" not in os.fspath(file) and not file.exists():
            raise UserError(f"{path}:{number}: {file}: no such file; paths are taken from the list's own folder")
        found.append(("warc", (file.name if line.startswith(("gs://", "/")) else line, file)))
    if not found:
        raise UserError(f"segments.input: {path}: no path in it")
    return found


def _read_html(source: str, path: storage.PathLike, on_drop: OnDrop, warn: Warn) -> Iterator[Page]:
    with Stream(path) as stream:
        stream.fill(MAX_PAGE_BYTES + 1)
        html = bytes(stream.window)
        reason = stream.fault or no_page(html)
    if reason:
        on_drop(source, reason)
    else:
        yield Page(source, source, 0, len(html), html)


def _read_jsonl(source: str, path: storage.PathLike, on_drop: OnDrop, warn: Warn) -> Iterator[Page]:
    warned = False
    with Stream(path) as stream:
        if not stream.fill(1) and not stream.fault:
            on_drop(source, "empty")
        while size := _line(stream):
            stream.begin()
            if size > _MAX_LINE_BYTES:
                stream.skip_to(_LINE_END, 0)
                on_drop(source, "too large")
                continue
            line = bytes(stream.window[:size])
            stream.advance(size)
            stream.fill(1)  # so that the next gzip member is known
            if not line.strip():
                continue
            page = "damaged" if stream.broken(stream.start) else _json_page(source, line)
            if stream.fault and not line.endswith(b"\n"):  # told below
                break
            if isinstance(page, str):
                on_drop(source, page)
                if page == "no headings" and not warned:
                    warned = True
                    warn(f"{source}: {_NO_HEADINGS}")
            else:
                start, end = stream.file_range()
                yield dataclasses.replace(page, start=start, end=end)
        for _ in stream.breaks:
            on_drop(source, "damaged")
        if stream.fault:
            on_drop(source, stream.fault)
            warn(f"{source}: {stream.fault} after {stream.start} bytes (decompressed); what follows is lost")


def _line(stream: Stream) -> int:
    """The bytes of the stream's next line with its end, at most one more than a line may have; 0 at the end of the file."""
    place = 0
    while (end := stream.window.find(b"\n", place)) < 0:
        place = len(stream.window)
        if place > _MAX_LINE_BYTES or stream.fill(place + 1) == place:
            return min(place, _MAX_LINE_BYTES + 1)
    return min(end + 1, _MAX_LINE_BYTES + 1)


def _json_page(source: str, line: bytes) -> Page | str:
    """The page of a line, without its place in the file, or the reason why it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return "bad record"
    if not isinstance(record, dict):
        return "bad record"
    html, url = record.get("html"), record.get("url") or source
    if not isinstance(html, str) or not isinstance(url, str):
        return "no headings" if "Clean-Text" in record else "bad record"
    data = html.encode("utf-8", "replace")
    return no_page(data) or Page(source, url.strip(), 0, 0, data, "utf-8")
