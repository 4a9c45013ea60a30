"""WARC and WET files to pages: each record framed and checked here, then parsed by FastWARC.

FastWARC's own iterator stops without a word at the first record it does not understand or in the middle of a file that was cut, and a
length that is wrong costs it the records after. So where a record ends is checked before FastWARC is given it: its Content-Length must
lead to the next record or to the end of the file. Where it does not, a lenient reading takes over for that record, and says so: the
record ends where the next one begins. That is what ClueWeb09 needs (LF line ends, lengths too large by that of a status line that is
missing, headers broken over lines) and ClueWeb22 (a first record without a length).
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastwarc.stream_io import BrotliReader, WarcReader, ZstdReader
from fastwarc.warc import HeaderMap, WarcRecord

from humpback import storage
from humpback.corpus.charset import MAX_PAGE_BYTES, no_page
from humpback.corpus.streams import Stream
from humpback.records import Page

_MAX_HEADER_BYTES = 1 << 20  # ClueWeb22 lists the nodes of the page in it
_USUAL_HEADER_BYTES = 1 << 14
_MAX_HTTP_BYTES = 1 << 16  # of HTTP headers
_MAX_BLOCK_BYTES = MAX_PAGE_BYTES + (1 << 20)  # of a page's record as it was sent: headers, chunks
_STATUS = b"HTTP/1.1 200 OK\r\n"
_STATUS_BYTES = 64  # as long as status lines are
_MARK = rb"WARC/\d\.\d{1,2}[ \t]*\r?\n"
_BEGIN = re.compile(_MARK)
_BEGIN_CUT = re.compile(rb"(W(A(R(C(/[\d.]*[ \t]*\r?)?)?)?)?)?")  # or nothing
_NEXT = re.compile(rb"\n(?=" + _MARK + rb"[A-Za-z])")  # ends where a record begins
_NEXT_BYTES = 32  # it looks no farther
_BLANK = re.compile(rb"[\r\n]*")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(rb"^Content-Length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?\n", re.I | re.M)
_TYPE = re.compile(rb"^WARC-Type[ \t]*:[ \t]*([a-z]+)", re.I | re.M)
_NO_TEXT_TYPE = re.compile(rb"^Content-Type[ \t]*:[ \t]*(?!text/(?:plain|markdown))[^\s]", re.I | re.M)
_HTML_TYPE = re.compile(rb"^Content-Type[ \t]*:[ \t]*[^\r\n]*html", re.I | re.M)
_HTTP = re.compile(rb"http/", re.I)
_CLUEWEB22 = re.compile(rb"^ClueWeb22-ID:", re.I | re.M)
_NODES = re.compile(rb"^VDOM-[^\n]*\n", re.I | re.M)  # longer than FastWARC takes, and of no use here
_HEADER_END = re.compile(rb"\n(?:\r?\n|(?=" + _MARK + rb"[A-Za-z]))")  # a blank line, or where a record begins
_MAX_BLANK_LINES = 8  # in a header
_STILL_HEADER = re.compile(rb"^(WARC-[\w-]+:|Content-Type: *application/http)", re.I | re.M)
_STILL_HEADER_BYTES = 2048
_FIELD = re.compile(rb"[A-Za-z][\w-]*[ \t]*:")
_MARKUP = re.compile(rb"\s*<")
_CHUNK = re.compile(rb"(?:\r?\n)?[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\n]*)?\r?\n")
_CHUNK_CUT = re.compile(rb"[\r\n]*[0-9A-Fa-f]{0,8}\r?")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?![a-z])")

OnDrop = Callable[[str, str], None]


class _Dropped(Exception):
    """What is left out; the message is the reason."""


@dataclass
class _Record:
    """`odd` says what made the reading lenient, "" if nothing did."""

    header: bytes
    block: bytes
    odd: str


def read_pages(source: str, path: storage.PathLike, on_drop: OnDrop, warn: Callable[[str], None]) -> Iterator[Page]:
    """Yields the page of each `response` record, `resource` record of HTML or `conversion` record of text that is one; the others and
    damage go to `on_drop(source, reason)`.

    A page's byte range is that of its gzip members where they hold nothing else, otherwise of the decompressed file. No more than one
    record of 10 MB is held. OSError as `Stream` raises it.
    """
    with Stream(path) as stream:
        if not stream.fill(1) and not stream.fault:
            on_drop(source, "empty")
            return
        responses, odd = 0, ""
        for found in _records(stream):
            if isinstance(found, str):
                on_drop(source, found)
                continue
            if found.odd and not odd:
                odd = found.odd
                warn(f"{source}: byte {stream.begun}: {odd}; such records are read leniently, each to where the next one begins")
            if not _may_be_page(found.header):
                continue
            responses += 1
            try:
                yield _page(source, found, stream.file_range())
            except _Dropped as dropped:
                on_drop(source, str(dropped))
        for _ in stream.breaks:
            on_drop(source, "damaged")
        if stream.fault:
            warn(f"{source}: {stream.fault} after {stream.start} bytes (decompressed); what follows is lost")
        elif not responses:
            warn(f"{source}: no response record, no HTML resource and no text's conversion in it, and only these hold pages")


def _records(stream: Stream) -> Iterator[_Record | str]:
    """The response records, the others that had to be read leniently, and the reasons of what is dropped."""
    told = False  # of the fault that ends the stream
    while True:
        while stream.fill(_NEXT_BYTES) and (blank := _blank_end(stream.window)):
            stream.advance(blank)
        if not stream.window:
            break
        try:
            if not _BEGIN.match(stream.window):
                cut = len(stream.window) < _NEXT_BYTES and _BEGIN_CUT.fullmatch(stream.window)
                stream.skip_to(_NEXT, _NEXT_BYTES)
                raise _Dropped((stream.fault or "truncated") if cut else "bad record")
            if record := _record(stream):
                yield record
        except _Dropped as dropped:
            told = told or str(dropped) == stream.fault
            yield str(dropped)
    if stream.fault and not told:
        yield stream.fault


def _blank_end(window: bytearray, place: int = 0) -> int:
    """Where the line ends stop that stand at a place."""
    blank = _BLANK.match(window, place)
    return blank.end() if blank else place


def _record(stream: Stream) -> _Record | None:
    """Takes one record from the stream; None for one that is sound and no response. Raises _Dropped."""
    window = stream.window
    stream.begin()
    for most in (_USUAL_HEADER_BYTES, _MAX_HEADER_BYTES):
        at_end = stream.fill(most) < most
        body, ended = _header_end(window)
        if body:
            break
    else:
        stream.skip_to(_NEXT, _NEXT_BYTES)
        raise _Dropped((stream.fault or "truncated") if at_end else "bad record")
    if not ended:
        stream.advance(body)
        raise _Dropped("bad record")
    header = bytes(window[:body])
    length = int(found[1]) if (found := _LENGTH.search(header)) else None
    kind, wanted = _kind(header), _may_be_page(header)
    if length is not None and length > _MAX_BLOCK_BYTES:
        size = None
    elif length is not None and _is_whole(stream, body, length):
        size = length
    else:
        size = _size_to_next(stream, body)
    if size is None:
        stream.advance(body - 1)
        stream.skip_to(_NEXT, _NEXT_BYTES)
        if wanted:
            raise _Dropped("too large")
        return None
    odd = _odd(header, length, size)
    block = bytes(window[body : body + size]) if wanted else b""
    stream.advance(body + size)
    stream.fill(_NEXT_BYTES)
    stream.advance(_blank_end(window))
    if stream.broken(stream.start if odd else stream.begun + body + size):
        raise _Dropped("damaged")
    if length is not None and length - size > _tolerance(header, block) and (wanted or not window):
        raise _Dropped(stream.fault or "truncated")
    if not kind:
        raise _Dropped("bad record")
    return _Record(header, block, odd) if odd or wanted else None


def _odd(header: bytes, length: int | None, size: int) -> str:
    """What FastWARC would not read; a date that is none (2009-03-67) is not looked at."""
    if length is None:
        return "no Content-Length"
    if size != length:
        return f"Content-Length is {length} where {size} bytes are"
    return "" if b"\r\n" in header else "lines end with LF"


def _kind(header: bytes) -> bytes:
    return found[1].lower() if (found := _TYPE.search(header)) else b""


def _may_be_page(header: bytes) -> bool:
    """Whether a record is a response, a page that was put into the archive without one, or a page's text (WET)."""
    kind = _kind(header)
    if kind == b"conversion":
        return not _NO_TEXT_TYPE.search(header)
    return kind == b"response" or (kind == b"resource" and bool(_HTML_TYPE.search(header)))


def _header_end(window: bytearray) -> tuple[int, bool]:
    """(where the header ends, whether by a blank line and not by the next record or nothing); 0 if it does not end in the window.

    In ClueWeb09 an address may hold blank lines: then the header goes on.
    """
    end = 0
    for _ in range(_MAX_BLANK_LINES):
        line = _HEADER_END.search(window, max(0, end - 1), _MAX_HEADER_BYTES)
        if not line or line.end() - line.start() == 1:
            return line.end() if line else 0, False
        end = line.end()
        if _LENGTH.search(window, 0, end):
            break
        following = _NEXT.search(window, end - 1, end + _STILL_HEADER_BYTES)
        if not _STILL_HEADER.search(window, end, following.end() if following else end + _STILL_HEADER_BYTES):
            break
    return end, True


def _is_whole(stream: Stream, body: int, length: int) -> bool:
    """Whether a record's Content-Length leads to the two line ends after a record, to the next record or to the end of the file."""
    end = body + length
    if (held := stream.fill(end + 2 * _NEXT_BYTES)) < end:
        return False
    if stream.window.startswith(b"\r\n\r\n", end):
        return True
    following = _blank_end(stream.window, end)
    at_end = held < end + 2 * _NEXT_BYTES and _BEGIN_CUT.fullmatch(stream.window, following)
    return bool(at_end or _BEGIN.match(stream.window, following))


def _size_to_next(stream: Stream, body: int) -> int | None:
    """The bytes from `body` to the next record, or the end of the file, without the blank lines before; None if these are too many."""
    window, place = stream.window, body - 1
    while not (following := _NEXT.search(window, place)):
        held = len(window)
        if held - body > _MAX_BLOCK_BYTES:
            return None
        place = max(body - 1, held - _NEXT_BYTES)
        if stream.fill(held + 1) == held:
            break
    end = following.end() if following else len(window)
    for blank in (b"\r\n\r\n", b"\n\n"):
        if end - len(blank) >= body and window.endswith(blank, body, end):
            return end - len(blank) - body
    return end - body


def _tolerance(header: bytes, block: bytes) -> int:
    """By how much a Content-Length may exceed a block that is whole: by a missing status line, by cut carriage returns."""
    status = _STATUS_BYTES if _FIELD.match(block) else 0
    return status if b"\r\n" in header else status + block.count(b"\n") + len(b"\n\n")


def _page(source: str, record: _Record, place: tuple[int, int]) -> Page:
    """Raises _Dropped."""
    header, block = record.header, record.block
    if not block:
        raise _Dropped("empty")
    is_text = _kind(header) == b"conversion"
    if not is_text and not block.startswith(b"HTTP/") and _HTTP.match(block):
        block = b"HTTP/" + block[5:]
    clueweb22 = bool(_CLUEWEB22.search(header))
    if bare := not is_text and not clueweb22 and not block.startswith(b"HTTP/") and _FIELD.match(block):
        block = _STATUS + block
    if bare or record.odd:
        header = _BLANK_LINE.sub(b"\n", _LENGTH.sub(b"", header)).rstrip() + b"\r\nContent-Length: %d\r\n\r\n" % len(block)
    header = _NODES.sub(b"", header)
    try:
        parsed = WarcRecord.from_reader(io.BytesIO(header + block), quirks_mode=bool(record.odd))
        fields = parsed.headers
        if fields.get("WARC-Truncated"):
            raise _Dropped("truncated")
        kind = (fields.get("Content-Type") or "").lower()
        if is_text or clueweb22:  # the payload is the page alone, in UTF-8 whatever the page declares
            html, encoding = block, "utf-8"
        elif kind and not kind.startswith("application/http"):
            if "html" not in kind:  # a DNS answer
                raise _Dropped("not html")
            html, encoding = block, ""
        elif block.startswith(b"HTTP/"):
            html, encoding = _payload(parsed)
        elif _MARKUP.match(block):
            html, encoding = block, ""
        else:
            raise _Dropped("bad record")
    except (OSError, ValueError) as error:
        raise _Dropped("bad record") from error
    page_kind = "text" if is_text else "html"
    if reason := no_page(html, page_kind):
        raise _Dropped(reason)
    url = (fields.get("WARC-Target-URI") or "").strip("<> \t\r\n") or fields.get("ClueWeb22-ID") or source
    said = fields.get("Language") if clueweb22 else fields.get("WARC-Identified-Content-Language") if is_text else None
    language = _LANGUAGE.match((said or "").lower())  # of several the commonest is the first
    return Page(source, url, *place, html, encoding, language[0] if language else "", page_kind)


def _payload(record: WarcRecord) -> tuple[bytes, str]:
    """(body of the HTTP response, charset that its header declares). Raises _Dropped."""
    record.is_http = True
    record.parse_http(auto_decode="none", max_header_len=_MAX_HTTP_BYTES, quirks_mode=True)
    headers = record.http_headers
    if headers is None or headers.status_code is None:
        raise _Dropped("bad record")
    if headers.status_code != 200:
        raise _Dropped("status")
    kind = record.http_content_type or ""
    if kind and "html" not in kind.lower():
        raise _Dropped("not html")
    body = record.reader.read()
    for coding in _codings(headers, "Transfer-Encoding") + _codings(headers, "Content-Encoding"):
        # Many archives keep the header of a coding that they have undone.
        if not _MARKUP.match(body):
            body = _undo(coding, body)
    return body, record.http_charset or ""


def _codings(headers: HeaderMap, name: str) -> list[str]:
    """The codings in the order in which they are undone."""
    listed = ",".join(headers.get_multiple(name)).lower().split(",")
    return [coding for item in reversed(listed) if (coding := item.strip()) not in ("", "identity")]


def _undo(coding: str, body: bytes) -> bytes:
    """Never makes more than a page may have. Raises _Dropped."""
    try:
        if coding == "chunked":
            return _unchunked(body)
        if coding in ("gzip", "x-gzip"):
            data = _inflated(body, zlib.MAX_WBITS | 32)
        elif coding == "deflate":  # zlib's format by the standard, without its header by some servers
            data = _inflated(body, zlib.MAX_WBITS if body[:1] == b"x" else -zlib.MAX_WBITS)
        elif coding == "br":
            data = _read_all(BrotliReader(io.BytesIO(body)))
        elif coding == "zstd":
            data = _read_all(ZstdReader(io.BytesIO(body)))
        else:
            raise _Dropped("unknown encoding")
    except (OSError, zlib.error) as error:
        raise _Dropped("damaged") from error
    if len(data) > MAX_PAGE_BYTES:
        raise _Dropped("too large")
    return data


def _inflated(body: bytes, bits: int) -> bytes:
    reader = zlib.decompressobj(bits)
    data = reader.decompress(body, MAX_PAGE_BYTES + 1)
    if not reader.eof and len(data) <= MAX_PAGE_BYTES:
        raise _Dropped("truncated")
    return data


def _read_all(reader: WarcReader) -> bytes:
    """A call gives what it likes of what was asked for."""
    data = b""
    while len(data) <= MAX_PAGE_BYTES and (more := reader.read(MAX_PAGE_BYTES + 1)):
        data += more
    return data


def _unchunked(body: bytes) -> bytes:
    """FastWARC's reader refuses a chunk's extension, and takes a body for whole that ends before its last chunk."""
    if not _CHUNK.match(body):
        return body
    pieces: list[bytes] = []
    place = 0
    while chunk := _CHUNK.match(body, place):
        size, place = int(chunk[1], 16), chunk.end()
        if not size:
            return b"".join(pieces)
        pieces.append(body[place : place + size])
        place += size
    raise _Dropped("truncated" if place > len(body) or _CHUNK_CUT.fullmatch(body, place) else "damaged")
