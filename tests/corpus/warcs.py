"""WARC files made by code, in the dialects of the crawls."""

import functools
import gzip
import io
import zlib

import brotli
from fastwarc.stream_io import ZstdWriter

HTML = b"<!DOCTYPE html><h1>Title</h1>\n<p>Some text of a page.\n" + b"<p>And more of it.\n" * 40


def record(block: bytes, kind: str = "response", *, url: str = "http://example.org/", length: int | None = None, **fields: str) -> bytes:
    """A WARC 1.0 record; `length` is what its Content-Length says instead of the truth."""
    content_type = "application/http; msgtype=" + kind if kind in ("request", "response") else "application/warc-fields"
    lines = ["WARC/1.0", f"WARC-Type: {kind}", "WARC-Date: 2024-05-18T01:58:10Z", "WARC-Record-ID: <urn:uuid:1>"]
    lines += [f"WARC-Target-URI: {url}"] * bool(url) + [f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    lines += [f"Content-Length: {len(block) if length is None else length}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def http(body: bytes = HTML, *headers: str, status: str = "HTTP/1.1 200 OK", content_type: str = "text/html", end: str = "\r\n") -> bytes:
    lines = [status] * bool(status) + [f"Content-Type: {content_type}"] * bool(content_type) + list(headers)
    return end.join(lines).encode() + 2 * end.encode() + body


def chunked(body: bytes, size: int = 100, extension: str = "") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension.encode(), piece) for piece in pieces) + b"0\r\n\r\n"


def crawl(count: int, body: bytes = HTML) -> list[bytes]:
    """The records of a crawl with `count` pages: a warcinfo, then a request, a response and a metadata record for each."""
    records = [record(b"software: test\r\n", "warcinfo", url="")]
    for page in range(count):
        url = f"http://example.org/{page}"
        records.append(record(f"GET /{page} HTTP/1.1\r\nHost: example.org\r\n\r\n".encode(), "request", url=url))
        records.append(record(http(body + b"<p>page %d" % page), url=url))
        records.append(record(b"fetchTimeMs: 258\r\n", "metadata", url=url))
    return records


def wet(texts: dict[str, str], **fields: str) -> list[bytes]:
    """The records of Common Crawl's WET: a warcinfo, then the text of each page by its address."""
    info = record(b"software: test\r\n", "warcinfo", url="")
    pages = [record(text.encode(), "conversion", url=url, **fields) for url, text in texts.items()]
    return [info, *(page.replace(b"application/warc-fields", b"text/plain", 1) for page in pages)]


def clueweb09(pages: dict[str, bytes], *, length_of: str = "HTTP/1.1 200 OK\n") -> bytes:
    """ClueWeb09's dialect: LF, dates that are none, no status line but its length counted, one blank line between records."""
    out = b"WARC/0.18\nWARC-Type: warcinfo\nWARC-Date: 2009-03-67T08:43:19-0800\nContent-Type: application/warc-fields\n"
    out += b"Content-Length: 16\n\nsoftware: Nutch\n\n"
    for number, (url, html) in enumerate(pages.items()):
        block = f"Content-Type: text/html\nContent-Length: {len(html)}\n\n".encode() + html
        lines = ["WARC/0.18", "WARC-Type: response", f"WARC-Target-URI: {url}", "WARC-Warcinfo-ID: 993d3969"]
        lines += ["WARC-Date: 2009-03-67T08:43:19-0800", f"WARC-TREC-ID: clueweb09-en0000-00-{number:05d}"]
        lines += ["Content-Type: application/http;msgtype=response", f"Content-Length: {len(block) + len(length_of)}"]
        out += "\n".join(lines).encode() + b"\n\n" + block + b"\n"
    return out


def clueweb22(pages: list[tuple[str, str, bytes]]) -> list[bytes]:
    """ClueWeb22's html: a warcinfo without a length, then pages without HTTP headers, each (id, url or "", html)."""
    info = "WARC/1.1\r\nWARC-Type: warcinfo\r\nContent-Type: application/warc-fields\r\n\r\nsoftware: test\r\nisPartOf: ClueWeb22\r\n\r\n"
    records = [info.encode()]
    for name, url, html in pages:
        fields = {"ClueWeb22_ID": name, "URL_Hash": "0123ABCD", "Language": "en", "VDOM_Heading": " ".join(map(str, range(9000)))}
        records.append(record(html, url=url, **fields).replace(b"WARC/1.0", b"WARC/1.1", 1))
    return records


def gzipped(records: list[bytes]) -> bytes:
    """A gzip member for each record."""
    return b"".join(gzip.compress(each, mtime=0) for each in records)


def zstd(data: bytes) -> bytes:
    out = io.BytesIO()
    writer = ZstdWriter(_Open(out))
    while data:
        data = data[writer.write(data) :]
    writer.close()
    return out.getvalue()


def encoded(body: bytes, coding: str) -> bytes:
    if coding == "raw deflate":
        compressor = zlib.compressobj(wbits=-15)
        return compressor.compress(body) + compressor.flush()
    return {"gzip": functools.partial(gzip.compress, mtime=0), "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd}[coding](body)


class _Open:
    """A stream that outlives its writer."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.write, self.flush, self.tell = stream.write, stream.flush, stream.tell

    def close(self) -> None:
        pass
