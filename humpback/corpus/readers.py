"""Inputs to pages: files of HTML, WARC, WET, JSONL, Parquet, Markdown and text, and folders of them, local or gs://.

Each but Parquet may be compressed by gzip or zstd.

`list_inputs` divides what was given into units of work, `read_pages` reads one of them. A page that is left out is reported through
`on_drop(source, reason)`.
"""

import codecs
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from absl import logging
from etils import epath

from humpback import storage
from humpback.corpus import folders, jsonl, parquet, warc
from humpback.corpus.boilerplate import words
from humpback.corpus.charset import MAX_PAGE_BYTES, no_page
from humpback.corpus.fields import NO_HEADINGS, USUAL, Keys, flat_names
from humpback.corpus.streams import Stream
from humpback.digests import printable
from humpback.errors import UserError
from humpback.records import Page

FILES_PER_INPUT = 500  # files of one page are small
PAGE_KINDS = ("html", "markdown", "text")  # of a page a file
STREAMS = ("jsonl", "warc")  # whose places are bytes
_RECORDS = ("jsonl", "parquet")  # whose keys say what is a page

_COMPRESSED = (".gz", ".zst", ".zstd")
_KINDS = {
    ".htm": "html", ".html": "html", ".xhtml": "html", ".shtml": "html",
    ".warc": "warc", ".wet": "warc", ".wat": "warc", ".paths": "paths",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".jl": "jsonl",
    ".parquet": "parquet", ".parq": "parquet", ".pq": "parquet",
    ".md": "markdown", ".markdown": "markdown", ".mdown": "markdown", ".mkd": "markdown", ".mkdn": "markdown", ".mdx": "markdown",
    ".qmd": "markdown", ".rmd": "markdown", ".txt": "text", ".text": "text",
}  # fmt: skip
# Names that say that a file is something else. What is left is told by content.
_OTHER = words(
    "avi bak bin bmp cdx css csv db doc docx eot epub exe gif ico idx incomplete jpeg jpg js lock map metadata mjs mov mp3 mp4 offset ogg "
    "old orig otf pdf png ps py rst rtf svg tar tif tiff tmp tsv ttf wav webm webp woff woff2 xls xml yaml zip"
)
_NAMED = "HTML, WARC or WET, JSONL, Parquet, Markdown or plain text"
# What a file that is none of these could be made, by what its name or its content says.
_WAYS_OUT = {
    "mhtml": "save the page as HTML only", "mht": "save the page as HTML only", "csv": "write each row as a line of JSON (.jsonl)",
    "tsv": "write each row as a line of JSON (.jsonl)", "json": "write each record as a line of JSON (.jsonl)",
    "pdf": "take its text out first (.txt)", "epub": "convert it to HTML or Markdown first", "docx": "convert it to HTML or Markdown first",
    "rst": "convert it to HTML or Markdown first", "arrow": "write it as Parquet",
}  # fmt: skip
# A data set's own description on Hugging Face begins with such front matter.
_CARD = re.compile(
    r"\ufeff?---[ \t]*\r?\n(?:[^\n]*\n)*?(?:dataset_info|configs|size_categories|task_categories|task_ids|annotations_creators"
    r"|language_creators|source_datasets|multilinguality|pretty_name|license|viewer)[ \t]*:"
)
_SNIFF_BYTES = 4096
_MOST_LOOKED_AT = 20  # files of folders whose keys are looked at before the work, unless the first has one
_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|(?><!--.*?-->)\s*)*<(?:!doctype html|html|head|body)[\s>]", re.I | re.S)
_WARC = re.compile(rb"WARC/\d\.\d")
_MAX_LIST_BYTES = 1 << 28

OnDrop = Callable[[str, str], None]
Warn = Callable[[str], None]
File = tuple[str, epath.Path]  # (source, path)


@dataclass(frozen=True)
class Input:
    """One unit of work: a WARC, JSONL or Parquet file, or a run of files of a page each that follow each other in a folder."""

    source: str  # stable name, unique among the inputs
    files: tuple[tuple[str, str], ...]  # (source, path) of each file in it; one, except for a run of such files
    kind: str  # "html", "markdown", "text", "warc", "jsonl", "parquet"
    given: bool = False  # whether it was named itself, not found in a folder


def list_inputs(inputs: str, warn: Warn = logging.warning) -> list[Input]:
    """Divides comma-separated paths into units of work, each folder in the order of its paths.

    A path is a folder, a file of one of the kinds, or a list of WARC files such as Common Crawl's warc.paths (one path a line, taken from
    the list's own folder). A file's `source` is its path below the folder or as the list has it, or the name of a file that was given
    itself, so ids do not depend on where a machine keeps its pages. Of several inputs it begins with as much of the end of the input's own
    path as tells that from the others. What a folder holds of no known kind is skipped, counted in a warning. UserError for an input that
    does not exist, is given twice or is none of these.
    """
    roots = [epath.Path(item.strip()) for item in inputs.split(",") if item.strip()]
    if not roots:
        raise UserError(f"segments.input is empty: name at least one file or folder of {_NAMED}")
    labels = _labels(roots)
    if gone := next((root for root in roots if not root.exists()), None):
        raise UserError(f"segments.input: {gone}: no such file or folder")
    units: list[Input] = []
    below = folders.list_files([root for root in roots if root.is_dir()])
    for root, label in zip(roots, labels, strict=True):
        try:
            in_folder = root in below
            units += _units(_folder(root, label, below[root], warn) if in_folder else _given_file(root, label or root.name),
                            given=not in_folder)  # fmt: skip
        except OSError as error:
            raise UserError(f"segments.input: {root}: cannot be read ({error})") from error
    seen: dict[str, int] = {}
    for place, unit in enumerate(units):
        seen[unit.source] = count = seen.get(unit.source, 0) + 1
        if count > 1:
            units[place] = dataclasses.replace(unit, source=f"{unit.source}#{count}")
    return units


def list_files(inputs: str) -> list[tuple[str, str]]:
    """(source, path) of the files that `list_inputs` finds, in their order."""
    return [file for unit in list_inputs(inputs, lambda _: None) for file in unit.files]


def check_keys(inputs: list[Input], keys: Keys, tell: Warn) -> None:
    """Looks at the first record of JSONL and Parquet files, and tells which keys it is read by.

    UserError when a file that was given itself, or all in a folder that has nothing else, have none that can hold a page.
    """
    complaint, looked = "", 0
    for given in inputs:
        if given.kind not in _RECORDS or (not given.given and looked >= _MOST_LOOKED_AT):
            continue
        looked += not given.given
        (source, path) = given.files[0]
        try:
            found = _first_names(given, path)
        except OSError:  # which will be counted
            continue
        if isinstance(found, str) and given.given:
            raise UserError(f"{path}: {found}, so no row of it can be read; get the file again")
        if found is None or isinstance(found, str):
            continue
        names, every = found
        pages, urls = keys.candidates(names)
        if pages:
            address = next((f", its address from `{url}`" for url in urls if url in names), "")
            tell(f"{source}: a page is taken from the key `{pages[0][1]}`, as {pages[0][0]}{address}")
            looked = _MOST_LOOKED_AT
            continue
        complaint = complaint or f"{path}{':1' if given.kind == 'jsonl' else ''}: {keys.complaint(every)}"
        if given.given:
            raise UserError(complaint)
    if complaint and looked < _MOST_LOOKED_AT and all(given.kind in _RECORDS for given in inputs):
        raise UserError(complaint)


def _first_names(given: Input, path: str) -> tuple[list[str], list[str]] | str | None:
    """The keys of a file's first record that can hold a text, and all; or why they cannot be read; None if its first line is none."""
    if given.kind == "parquet":
        return parquet.column_names(path)
    record = jsonl.first_record(path)
    return None if record is None else (flat_names(record), flat_names(record))


def read_pages(given: Input, on_drop: OnDrop, warn: Warn, keys: Keys = USUAL) -> Iterator[Page]:
    """Yields the pages of one unit, always the same in the same order for the same bytes; holds one page, or the rows of a batch of a
    Parquet file, and a little more.

    `url` is the source where the file knows no address (`segments.cut` looks for the page's own). OSError when a bucket fails: what the
    network loses is not dropped, the run stops and goes on there.
    """
    for source, path in given.files:
        try:
            if given.kind == "jsonl":
                yield from jsonl.read_pages(source, path, keys, on_drop, warn)
            elif given.kind == "parquet":
                yield from parquet.read_pages(source, path, keys, on_drop, warn)
            elif given.kind == "warc":
                yield from warc.read_pages(source, path, on_drop, warn)
            else:
                yield from _read_file(source, path, given.kind, on_drop)
        except OSError as error:  # a dangling link, no permission: it costs itself
            if "://" in path and not isinstance(error, FileNotFoundError | PermissionError):
                raise
            on_drop(source, "unreadable")


def _units(files: list[tuple[str, File]], *, given: bool) -> Iterator[Input]:
    """`files` are (kind, file); files of a page each that follow each other and are of one kind are one unit."""
    run: list[tuple[str, str]] = []
    for place, (kind, (source, path)) in enumerate(files):
        run.append((source, os.fspath(path)))
        ends = place + 1 == len(files) or files[place + 1][0] != kind
        if kind not in PAGE_KINDS or ends or len(run) == FILES_PER_INPUT:
            yield Input(run[0][0] if len(run) == 1 else f"{run[0][0]}..{run[-1][0]}", tuple(run), kind, given)
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


def _folder(root: epath.Path, label: str, below: folders.Below, warn: Warn) -> list[tuple[str, File]]:
    found = []
    for source, name in sorted((printable(name), name) for name in below.names):
        path = root / name
        kind = _kind_of(path)
        if kind not in ("", "paths"):
            found.append((kind, (f"{label}/{source}" if label else source, path)))
        elif "://" not in os.fspath(path) and not os.path.exists(path):
            below.skipped["links lead nowhere"].append(source)
        else:
            below.skipped[f"files are no {_NAMED}"].append(source)
    for what, names in sorted(below.skipped.items()):
        first = printable(min(names))
        warn(f"segments.input: {printable(os.fspath(root))}: {len(names)} {what} and are skipped, {first} the first of them")
    return found


def _given_file(path: epath.Path, label: str) -> list[tuple[str, File]]:
    kind = _kind_of(path, given=True)
    if kind == "paths":
        return _listed(path)
    if not kind:
        way = _WAYS_OUT.get(_suffix(path)[1:], "name text .txt, Markdown .md, and JSON with a record a line .jsonl")
        raise UserError(f"segments.input: {path}: neither {_NAMED} nor a list of WARC files (.paths), by name or by content; {way}")
    return [(kind, (printable(label), path))]


def _suffix(path: epath.Path) -> str:
    """The end of a file's name in lower case, that of a compression left out."""
    name = path.name.lower()
    stem = next((name.removesuffix(end) for end in _COMPRESSED if name.endswith(end)), name)
    return os.path.splitext(stem)[1]


def _kind_of(path: epath.Path, *, given: bool = False) -> str:
    """A value of _KINDS or "": by the file's name, and by content where that does not say, or was `given` itself and says otherwise."""
    name, suffix = path.name.lower(), _suffix(path)
    kind = _KINDS.get(suffix, "")
    if kind == "markdown" and name.startswith("readme.") and not given:
        return "" if _CARD.match(_head(path).decode("utf-8", "replace")) else kind
    if kind and not (kind == "text" and given):
        return kind
    if not given and (suffix[1:] in _OTHER or name.endswith("~") or name.startswith(".")):
        return ""
    head = _head(path)
    if _WARC.match(head):
        return "warc"
    if head.startswith(parquet.MAGIC):
        return "parquet"
    if _HTML.match(head):
        return "html"
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{") and _is_jsonl(path, given):
        return "jsonl"
    return kind or ("text" if given and not suffix and _is_text(head) else "")


def _head(path: epath.Path) -> bytes:
    """A file's first bytes, decompressed; none if it cannot be read."""
    try:
        with Stream(path) as stream:
            stream.fill(_SNIFF_BYTES)
            return bytes(stream.window[:_SNIFF_BYTES])
    except OSError:
        return b""


def _is_text(head: bytes) -> bool:
    """Whether a file without a name that says what it is begins as a text."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text.strip()) and text.lstrip()[0] not in "{[<" and not any(ord(sign) < 32 and not sign.isspace() for sign in text)


def _is_jsonl(path: epath.Path, given: bool) -> bool:
    """Whether a file's first line is a JSON object, and has a key of a page or, unless it was `given` itself, another one follows."""
    with Stream(path) as stream:
        size = jsonl.line_end(stream)
        record = jsonl.parse(bytes(stream.window[:size]))
        if record is None:
            return False
        if given or USUAL.candidates(record).pages or USUAL.reason(record) == NO_HEADINGS:
            return True
        stream.advance(size)
        stream.fill(1)
        return stream.window.startswith(b"{")


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


def _read_file(source: str, path: storage.PathLike, kind: str, on_drop: OnDrop) -> Iterator[Page]:
    with Stream(path) as stream:
        stream.fill(MAX_PAGE_BYTES + 1)
        data = bytes(stream.window)
        reason = stream.fault or no_page(data, kind)
    if reason:
        on_drop(source, reason)
    else:
        yield Page(source, source, 0, len(data), data, kind=kind)
