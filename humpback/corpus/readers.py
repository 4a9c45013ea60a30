"""Inputs to pages: HTML files and folders, local or gs://. The only module of this room that touches a disk.

Each reader yields `Page`s and reports what it leaves out through `on_drop(source, reason)`. Readers for crawls join `_READERS`.
"""

import codecs
import re
from collections.abc import Callable, Iterator

from etils import epath

from humpback.errors import UserError
from humpback.records import Page

SUFFIXES = (".htm", ".html", ".xhtml")
MAX_PAGE_BYTES = 10_000_000  # a larger "page" is a data dump or an attack
MAX_BROKEN_SHARE = 0.01  # of the characters; text has none, a misread binary many

OnDrop = Callable[[str, str], None]

# HTML's own reading of these labels (WHATWG Encoding, "names and labels").
_LABELS = {"iso-8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252", "ascii": "cp1252", "us-ascii": "cp1252",
           "x-sjis": "cp932", "shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "iso-8859-9": "cp1254"}  # fmt: skip
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w:.-]+)|^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w:.-]+)""", re.I)
# Python also knows codecs that are no charset of a page (punycode, unicode_escape, ...).
_CHARSETS = re.compile(r"utf-?8|(iso-8859-|windows-|cp|koi8-|mac-?|euc[-_]|big5|gb|tis-|iso-2022-)[\w-]*")
_BROKEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd]")


def read_pages(inputs: str, on_drop: OnDrop) -> Iterator[Page]:
    """Yields the pages of HTML files and folders (comma-separated), each folder in the order of its paths.

    `source` is a file's path below the folder that was given, or the name of a file that was given itself, so ids do not depend on
    where a machine keeps its pages. `url` is the source too: a file knows no address (`segments.cut` looks for the page's own).
    UserError when an input does not exist or is neither a folder nor an HTML file.
    """
    roots = [epath.Path(item.strip()) for item in inputs.split(",") if item.strip()]
    if not roots:
        raise UserError("segments.input is empty: name at least one HTML file or a folder of them")
    for root in roots:
        if not root.exists():
            raise UserError(f"segments.input: {root}: no such file or folder")
        if not root.is_dir() and not root.name.lower().endswith(SUFFIXES):
            raise UserError(f"segments.input: {root}: not an HTML file; expected a folder or a name that ends in {', '.join(SUFFIXES)}")
    for root in roots:
        for source, path in _html_files(root):
            yield from _read_file(source, path, on_drop)


def _html_files(root: epath.Path) -> list[tuple[str, epath.Path]]:
    if not root.is_dir():
        return [(root.name, root)]
    files = []
    for folder, _, names in root.walk():
        for name in names:
            if name.lower().endswith(SUFFIXES):
                path = epath.Path(folder) / name
                files.append((path.relative_to(root).as_posix(), path))
    return sorted(files, key=lambda item: item[0])


def _read_file(source: str, path: epath.Path, on_drop: OnDrop) -> Iterator[Page]:
    try:
        if path.stat().length > MAX_PAGE_BYTES:
            on_drop(source, "too large")
            return
        html = path.read_bytes()
    except OSError:  # a dangling link, no permission: it costs itself
        on_drop(source, "unreadable")
        return
    yield Page(source=source, url=source, start=0, end=len(html), html=html)


def decode(html: bytes) -> str | None:
    """A page's text by its byte order mark, else the charset it declares, else UTF-8, else windows-1252 as browsers do; None if binary."""
    for mark, encoding in _BOMS:
        if html.startswith(mark):
            return _unless_broken(html[len(mark) :].decode(encoding, "replace"))
    if b"\0" in html:
        return None
    if declared := _DECLARED.search(html[:4096]):
        label = (declared.group(1) or declared.group(2)).decode("ascii", "replace").lower()
        # A page whose bytes could be searched for an ASCII declaration is not UTF-16, whatever it says (HTML, "prescan").
        label = "utf-8" if label.startswith("utf-16") else _LABELS.get(label, label)
        if _CHARSETS.fullmatch(label):
            try:
                return _unless_broken(html.decode(label, "replace"))
            except LookupError:
                pass
    try:
        return _unless_broken(html.decode("utf-8"))
    except UnicodeDecodeError:
        return _unless_broken(html.decode("cp1252", "replace"))


def _unless_broken(text: str) -> str | None:
    if "\0" in text:
        return None
    return None if len(_BROKEN.findall(text)) > MAX_BROKEN_SHARE * len(text) else text
