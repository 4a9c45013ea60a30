"""Soak: mutated files of every kind are read to their end, quickly, the same each time, and nothing in them goes unsaid."""

import gzip
import json
import os
import pathlib
import time

from hypothesis import strategies as some

from humpback.corpus import charset, readers
from tests.corpus import warcs
from tests.corpus.parquets import parquet
from tests.soak import fuzz

FILES = 4_000  # a schedule
SECONDS = 2

_PAGES = {f"http://example.org/{number}": warcs.HTML + b"<p>page %d" % number for number in range(4)}
_BODIES = [warcs.http(warcs.encoded(warcs.HTML, coding), f"Content-Encoding: {coding}") for coding in ("gzip", "deflate", "br", "zstd")]
_BODIES.append(warcs.http(warcs.chunked(warcs.encoded(warcs.HTML, "gzip")), "Transfer-Encoding: chunked", "Content-Encoding: gzip"))
_CODINGS = [warcs.record(body) for body in _BODIES]
_CLUEWEB22 = warcs.clueweb22([(f"clueweb22-en0000-00-0000{number}", url, html) for number, (url, html) in enumerate(_PAGES.items())])
_LINES = b"".join(json.dumps({"url": url, "html": html.decode()}).encode() + b"\n" for url, html in _PAGES.items())
_TEXTS = {url: f"A text\n\n{number} with *some* words.\n" for number, url in enumerate(_PAGES)}
_TEXT_LINES = b"".join(json.dumps({"text": text, "metadata": {"url": url}}).encode() + b"\n" for url, text in _TEXTS.items())
_COLUMNS = {"text": [*_TEXTS.values(), None], "url": [*_TEXTS, None], "meta": [{"html": "<p>x"}] * 5}
_MARKDOWN = b"---\ntitle: A\n---\n# A\n\n```\n# b\n```\n\nC\n---\n\n- d\n\n| e | f |\n|---|---|\n| g | h |\n"
SEEDS = [
    ("warc", warcs.gzipped(warcs.crawl(4))), ("warc", b"".join(warcs.crawl(4))), ("warc", gzip.compress(b"".join(warcs.crawl(4)), mtime=0)),
    ("warc", warcs.zstd(b"".join(warcs.crawl(4)))), ("warc", warcs.clueweb09(_PAGES)), ("warc", warcs.gzipped([warcs.clueweb09(_PAGES)])),
    ("warc", b"".join(_CLUEWEB22)), ("warc", b"".join(_CODINGS)), ("warc", warcs.gzipped(_CODINGS)),
    ("jsonl", _LINES), ("jsonl", warcs.gzipped(_LINES.splitlines(keepends=True))),
    ("html", warcs.HTML), ("html", gzip.compress(warcs.HTML, mtime=0)),
    ("warc", b"".join(warcs.wet(_TEXTS))), ("warc", warcs.gzipped(warcs.wet(_TEXTS, WARC_Identified_Content_Language="eng"))),
    ("jsonl", _TEXT_LINES), ("markdown", _MARKDOWN), ("markdown", gzip.compress(_MARKDOWN, mtime=0)), ("text", b"\xef\xbb\xbfA text.\n"),
    *(("parquet", parquet(_COLUMNS, 2, compression=how, write_page_checksum=how == "none")) for how in ("none", "snappy", "zstd")),
    ("parquet", parquet({"raw_content": [b"a", b"b"] * 500}, 300)), ("parquet", parquet({"html": ["<p>x"]}, use_dictionary=False)),
    ("html", "<h1>Größe</h1>".encode("utf-16")), ("html", "<meta charset=shift_jis>日本語".encode("cp932")),
]  # fmt: skip
PIECES = [
    b"\r\n", b"\n", b"\r\n\r\n", b"\n\n", b"WARC/1.0\r\n", b"WARC-Type: response\r\n", b"HTTP/1.1 200 OK\r\n", b"ffffffff\r\n",
    b"Content-Length: 99999999999\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: br\r\n", b"Content-Encoding: zstd\r\n", b"Content-Type: text/html; charset=\xff\"utf-16\r\n",
    b"WARC-Type: conversion\r\n", b"Content-Type: text/plain\r\n", b"PAR1", b"PARE", b"```\n", b"---\n", b"# ", b"<!--",
    b"\0" * 50, b"\xff" * 20, b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"<", b"{", b'"', b":", b" ", b"A" * 70_000,
]  # fmt: skip
Change = tuple[str, float, float, int, bytes]  # (what, where from, to or from where else, a byte, a piece)
CHANGES = some.lists(
    some.tuples(
        some.sampled_from(["flip", "set", "digit", "delete", "copy", "insert", "replace", "cut"]),
        some.floats(0, 1), some.floats(0, 1), some.integers(0, 255), some.sampled_from(PIECES),
    ), min_size=1, max_size=12,
)  # fmt: skip


def changed(data: bytes, changes: list[Change]) -> bytes:
    out = bytearray(data)
    for what, first, second, byte, piece in changes:
        place = int(first * max(0, len(out) - 1))
        end = place + 1 + int(second * second * 1000)
        if not out or what == "insert":
            out[place:place] = piece
        elif what in ("flip", "set", "digit"):
            out[place] = {"flip": out[place] ^ 1 << byte % 8, "set": byte, "digit": b"0123456789"[byte % 10]}[what]
        elif what == "copy":
            other = int(second * len(out))
            out[place:place] = out[other : other + 4 * byte]
        else:
            out[place : len(out) if what == "cut" else end] = piece if what == "replace" else b""
    return bytes(out)


def read(kind: str, path: pathlib.Path) -> tuple[list, list[str], list[str]]:
    drops: list[str] = []
    warnings: list[str] = []
    one = readers.Input("x", (("x", str(path)),), kind)
    return list(readers.read_pages(one, lambda _, reason: drops.append(reason), warnings.append)), drops, warnings


def test_mutated_files(tmp_path: pathlib.Path) -> None:
    """HUMPBACK_SOAK_SCHEDULES times FILES (forty), seed HUMPBACK_SOAK_SEED."""
    schedules = int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "40"))
    path, slowest, counts = tmp_path / "x", 0.0, {"files": 0, "pages": 0, "drops": 0}

    def one_file(begin: tuple[str, bytes], changes: list[Change]) -> None:
        nonlocal slowest
        kind, data = begin
        path.write_bytes(changed(data, changes))
        started = time.process_time()  # another process may have the machine
        pages, drops, warnings = read(kind, path)
        for page in pages:
            charset.decode(page.html, page.charset)
            assert page.html and 0 <= page.start < page.end
        took = time.process_time() - started
        slowest = max(slowest, took)
        assert took < SECONDS
        assert pages or drops or warnings or not path.read_bytes().strip()
        assert (pages, drops, warnings) == read(kind, path)
        counts.update(files=counts["files"] + 1, pages=counts["pages"] + len(pages), drops=counts["drops"] + len(drops))

    fuzz.run(one_file, FILES, schedules, some.sampled_from(SEEDS), CHANGES)
    print(f"{counts}, the slowest {slowest:.2f} s")
    files = FILES * schedules
    assert counts["files"] >= files * 0.9 and min(counts["pages"], counts["drops"]) > files / 2
