"""A page's bytes to text, in whatever charset they are; and whether they are a page at all."""

import codecs
import re

import chardetng_py

MAX_PAGE_BYTES = 10_000_000  # a larger "page" is a data dump or an attack
MAX_BROKEN_SHARE = 0.01  # of the characters; text has none, a misread binary many

_PRESCAN_BYTES = 65_536  # searched only when bytes are not UTF-8; some pages have long scripts first
_DETECT_BYTES = 32_768
_UTF16_BYTES = 256
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# HTML's own reading of these labels (WHATWG Encoding, "names and labels") in the names of Python's codecs.
_LABELS = {
    "iso-8859-1": "cp1252", "iso8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252", "ascii": "cp1252", "us-ascii": "cp1252",
    "iso-8859-9": "cp1254", "iso-8859-11": "cp874", "tis-620": "cp874", "windows-874": "cp874", "iso-8859-8-i": "iso-8859-8",
    "shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932", "x-sjis": "cp932", "windows-31j": "cp932", "x-euc-jp": "euc-jp",
    "gb2312": "gb18030", "gb_2312-80": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "big5": "big5hkscs", "big5-hkscs": "big5hkscs",
    "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "ksc5601": "cp949", "windows-949": "cp949", "ibm866": "cp866", "koi8": "koi8-r",
    "macintosh": "mac-roman", "x-mac-cyrillic": "mac-cyrillic", "unicode-1-1-utf-8": "utf-8", "utf8": "utf-8",
    "utf-16": "utf-16-le", "utf-16le": "utf-16-le", "utf-16be": "utf-16-be",
}  # fmt: skip
# Python also knows codecs that are no charset of a page (punycode, unicode_escape, ...).
_CHARSETS = re.compile(r"utf-8|utf-16-[lb]e|big5hkscs|(iso-?8859-|windows-|cp|koi8-|mac-|euc-|gb|iso-2022-)[\w-]*")
_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w:.-]+)|^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w:.-]+)""", re.I)
_MULTIBYTE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_ISO_2022_JP = re.compile(rb"\x1b[$(][@BJ]")
_HIGH = re.compile(rb"[\x80-\xff]")
_BROKEN_BYTES = bytes([*range(9), 11, *range(14, 32), 127])
_REPLACEMENT = "\ufffd".encode()
_C1_CONTROL = re.compile(rb"\xc2[\x80-\x9f]")  # in UTF-8

# How files begin that a crawl has under an address of a page: documents, images, archives, fonts, media, programs.
_MAGIC = (
    b"%PDF-", b"%!PS", b"{\\rtf", b"\xd0\xcf\x11\xe0", b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!",
    b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"\0\0\1\0", b"wOFF", b"wOF2", b"\0\1\0\0\0", b"OTTO",
    b"OggS", b"ID3", b"fLaC", b"\x1aE\xdf\xa3", b"FWS", b"CWS", b"\x7fELF", b"\0asm", b"\xca\xfe\xba\xbe", b"SQLite format 3",
)  # fmt: skip


def no_page(data: bytes, kind: str = "html") -> str:
    """Why bytes are no page whatever text they hold: "empty", "too large", "not html" by how they begin; "" if they may be one.

    A text ("text", "markdown") may begin with any letters, but not be all blank.
    """
    if not data or (kind != "html" and not data.strip()):
        return "empty"
    if len(data) > MAX_PAGE_BYTES:
        return "too large"
    if kind != "html":
        return ""
    return "not html" if data.startswith(_MAGIC) or data[4:8] == b"ftyp" else ""


def decode(html: bytes, declared: str = "") -> str | None:
    """A page's text, None if it is binary.

    Its charset is that of the byte order mark; else UTF-8, if all its bytes are that, whatever was declared long ago; else the one the
    HTTP header declared, else the one the page declares, else what its bytes look like. A server's UTF-8 does not count where the bytes
    are not that at all. What is not of the charset becomes U+FFFD; a few NULs are dropped.
    """
    for mark, encoding in _BOMS:
        if html.startswith(mark):
            return _unless_broken(html[len(mark) :].decode(encoding, "replace"))
    label = _codec(declared)
    if label.startswith("utf-16"):
        if b"\0" in html[:_UTF16_BYTES]:  # markup is ASCII, which UTF-16 writes with NULs
            return _unless_broken(html.decode(label, "replace"))
        label = ""
    if b"\0" in html:  # browsers drop them; a file with many is no page
        if html.count(b"\0") > MAX_BROKEN_SHARE * len(html):
            return None
        html = html.replace(b"\0", b"")
    try:
        text = html.decode("utf-8")
    except UnicodeDecodeError:
        return _unless_broken(html.decode(*_charset(html, label)))
    if html.isascii() and _ISO_2022_JP.search(html) and (jis := _declared_inside(html)) == "iso-2022-jp":
        return _unless_broken(html.decode(jis, "replace"))
    return _unless_broken(text, html)


def _charset(html: bytes, label: str) -> tuple[str, str]:
    """(codec, how it takes errors) of bytes that are not all UTF-8 and were declared to be `label`, "" if nothing was."""
    if label == "utf-8" and _unless_broken(html.decode(label, "replace")) is not None:
        return label, "replace"
    label = _declared_inside(html) if label in ("", "utf-8") else label
    return label or _detect(html), "replace"


def _codec(label: str) -> str:
    """Python's name for a charset of a page; "" for what is none."""
    label = label.strip(" \t\r\n\"'").lower()
    label = _LABELS.get(label, label)
    if not _CHARSETS.fullmatch(label):
        return ""
    try:
        codecs.lookup(label)
    except LookupError:
        return ""
    return label


def _declared_inside(html: bytes) -> str:
    if meta := _META.search(html[:_PRESCAN_BYTES]):
        label = _codec((meta.group(1) or meta.group(2)).decode("ascii"))
        # A page whose bytes could be searched for an ASCII declaration is not UTF-16, whatever it says (HTML, "prescan").
        return "utf-8" if label.startswith("utf-16") else label
    return "iso-2022-jp" if _ISO_2022_JP.search(html) else ""


def _detect(html: bytes) -> str:
    """The charset of bytes that are not all UTF-8: UTF-8 still, if more of the non-ASCII bytes form its sequences than do not."""
    first = next(_HIGH.finditer(html)).start()
    sample = html[max(0, first - _DETECT_BYTES // 16) : first + _DETECT_BYTES]
    if 2 * sum(map(len, _MULTIBYTE.findall(sample))) > len(_HIGH.findall(sample)):
        return "utf-8"
    return _codec(chardetng_py.detect(sample, allow_utf8=False)) or "cp1252"


def _unless_broken(text: str, data: bytes | None = None) -> str | None:
    """A text that is one; `data` is its UTF-8, if that is at hand."""
    data = text.encode("utf-8", "surrogatepass") if data is None else data  # bytes are searched in a tenth of the time
    broken = len(data) - len(data.translate(None, _BROKEN_BYTES))
    if _REPLACEMENT[:1] in data:
        broken += data.count(_REPLACEMENT)
    if b"\xc2" in data:
        broken += len(_C1_CONTROL.findall(data))
    return None if "\0" in text or broken > MAX_BROKEN_SHARE * len(text) else text
