"""WARC files to pages: containers, codings, dialects, damage; what a record costs that is not sound."""

import gzip
import pathlib
import random
import re
import subprocess
import sys
import zlib

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from humpback.corpus import warc
from humpback.records import Page
from tests.corpus import warcs
from tests.corpus.warcs import HTML, chunked, encoded, http, record
from tests.timing import at_most


def read(data: bytes, folder: pathlib.Path) -> tuple[list[Page], list[str], list[str]]:
    """(pages, reasons of what is dropped, warnings)."""
    (folder / "x.warc").write_bytes(data)
    drops: list[tuple[str, str]] = []
    warnings: list[str] = []
    pages = list(warc.read_pages("a/x.warc", folder / "x.warc", lambda *drop: drops.append(drop), warnings.append))
    assert all(page.source == "a/x.warc" for page in pages) and all(source == "a/x.warc" for source, _ in drops)
    return pages, [reason for _, reason in drops], warnings


def urls(pages: list[Page]) -> list[str]:
    return [page.url.removeprefix("http://example.org/") for page in pages]


CONTAINERS = {
    "plain": b"".join, "gzip per record": warcs.gzipped, "one gzip": lambda records: gzip.compress(b"".join(records)),
    "zstd per record": lambda records: b"".join(map(warcs.zstd, records)), "one zstd": lambda records: warcs.zstd(b"".join(records)),
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_and_byte_ranges(tmp_path: pathlib.Path, container: str) -> None:
    records = warcs.crawl(20)
    data = CONTAINERS[container](records)
    pages, drops, warnings = read(data, tmp_path)
    assert urls(pages) == [str(number) for number in range(20)] and not drops and not warnings
    for number, page in enumerate(pages):
        assert page.html == HTML + b"<p>page %d" % number and not page.charset and not page.language
        held = gzip.decompress(data[page.start : page.end]) if container == "gzip per record" else b"".join(records)[page.start : page.end]
        assert held == records[2 + 3 * number]


def test_a_gzip_member_of_several_records(tmp_path: pathlib.Path) -> None:
    records = warcs.crawl(4)
    data = warcs.gzipped([b"".join(records[:7]), *records[7:]])
    pages, drops, _ = read(data, tmp_path)
    assert urls(pages) == ["0", "1", "2", "3"] and not drops
    assert [b"".join(records)[page.start : page.end] for page in pages[:2]] == [records[2], records[5]]
    assert [gzip.decompress(data[page.start : page.end]) for page in pages[2:]] == [records[8], records[11]]


@pytest.mark.parametrize("body, headers", [
    (HTML, ()), (HTML, ("Content-Encoding: identity",)),
    *((encoded(HTML, coding), (f"Content-Encoding: {coding}",)) for coding in ("gzip", "deflate", "br", "zstd")),
    (encoded(HTML, "raw deflate"), ("Content-Encoding: deflate",)), (encoded(HTML, "gzip"), ("Content-Encoding: X-GZip",)),
    (encoded(HTML, "gzip") + b"\0garbage", ("Content-Encoding: gzip",)),
    (chunked(HTML), ("Transfer-Encoding: chunked",)), (chunked(HTML, 7, ";a=b"), ("transfer-encoding: Chunked",)),
    (chunked(HTML).replace(b"\r\n", b"  \r\n", 1), ("Transfer-Encoding: chunked",)),
    (chunked(encoded(HTML, "gzip")), ("Transfer-Encoding: chunked", "Content-Encoding: gzip")),
    (chunked(encoded(HTML, "gzip")), ("Transfer-Encoding: gzip, chunked",)),
    (encoded(encoded(HTML, "gzip"), "br"), ("Content-Encoding: gzip, br",)),
    (encoded(encoded(HTML, "gzip"), "br"), ("Content-Encoding: gzip", "Content-Encoding: br")),
    # The archive has undone the coding and left the header.
    *((HTML, (f"Content-Encoding: {coding}",)) for coding in ("gzip", "deflate", "br", "zstd", "compress", "utf-8")),
    (HTML, ("Transfer-Encoding: chunked",)), (encoded(HTML, "gzip"), ("Transfer-Encoding: chunked", "Content-Encoding: gzip")),
], ids=lambda value: "" if isinstance(value, bytes) else " ".join(value))  # fmt: skip
def test_codings(tmp_path: pathlib.Path, body: bytes, headers: tuple[str, ...]) -> None:
    pages, drops, warnings = read(record(http(body, *headers)), tmp_path)
    assert not drops and not warnings
    assert [page.html for page in pages] == [HTML]


@pytest.mark.parametrize("block, fields, reason", [
    (http(status="HTTP/1.1 404 Not Found"), {}, "status"), (http(status="HTTP/1.1 301"), {}, "status"),
    (http(status="HTTP/1.0 206 x"), {}, "status"),
    (http(status="HTTP/1.1"), {}, "bad record"), (b"\x16\x03\x01", {}, "bad record"), (b"HTTP/1.1", {}, "bad record"),
    (http(content_type="application/pdf"), {}, "not html"), (http(content_type="text/plain; charset=utf-8"), {}, "not html"),
    (http(b"%PDF-1.7"), {}, "not html"), (http(b"\x89PNG\r\n\x1a\n", content_type=""), {}, "not html"),
    (http(b""), {}, "empty"), (b"", {}, "empty"), (http(), {"WARC_Truncated": "length"}, "truncated"),
    (http(b"x" * 10_000_001), {}, "too large"), (http(b"x" * 12_000_000), {}, "too large"), (http(b"x" * 30_000_000), {}, "too large"),
    *((http(encoded(bytes(20_000_000), it), f"Content-Encoding: {it}"), {}, "too large") for it in ("gzip", "deflate", "br", "zstd")),
    *((http(encoded(HTML, coding)[:-10], f"Content-Encoding: {coding}"), {}, "truncated") for coding in ("gzip", "deflate")),
    *((http(encoded(HTML, coding)[:-10], f"Content-Encoding: {coding}"), {}, "damaged") for coding in ("br", "zstd")),
    (http(chunked(HTML)[:-5], "Transfer-Encoding: chunked"), {}, "truncated"),
    (http(chunked(HTML)[:-50], "Transfer-Encoding: chunked"), {}, "truncated"),
    (http(b"64\r\n" + b"x" * 200, "Transfer-Encoding: chunked"), {}, "damaged"),
    (http(b"\x1f\x8b\x08" + bytes(100), "Content-Encoding: gzip"), {}, "damaged"),
    (http(b"\x1f\x9d\x90", "Content-Encoding: compress"), {}, "unknown encoding"),
    (http(HTML, "X: " + "y" * 100_000), {}, "bad record"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_dropped(tmp_path: pathlib.Path, block: bytes, fields: dict[str, str], reason: str) -> None:
    good = record(http(), url="http://example.org/good")
    pages, drops, _ = read(good + record(block, **fields) + good, tmp_path)
    assert drops == [reason] and urls(pages) == ["good", "good"]


def test_the_charset_that_the_header_declares(tmp_path: pathlib.Path) -> None:
    kinds = ["text/html; charset=Shift_JIS", 'Text/HTML;charset="koi8-r"', "application/xhtml+xml; charset=utf-8; x=y", "text/html"]
    pages, _, _ = read(b"".join(record(http(content_type=kind)) for kind in kinds), tmp_path)
    assert [page.charset.strip('"').lower() for page in pages] == ["shift_jis", "koi8-r", "utf-8", ""]


def test_records_that_hold_no_pages(tmp_path: pathlib.Path) -> None:
    dns = record(b"20240518\nexample.org. IN A 1.2.3.4\n").replace(b"application/http; msgtype=response", b"text/dns")
    assert read(dns, tmp_path)[:2] == ([], ["not html"])
    others = [record(http(), kind) for kind in ("revisit", "resource", "conversion", "continuation", "request", "unheard")]
    pages, drops, warnings = read(b"".join(others), tmp_path)
    assert not pages and not drops and "no response record" in warnings[0]
    assert read(b"", tmp_path)[:2] == ([], ["empty"])
    assert read(b"\r\n\r\n", tmp_path)[:2] == ([], [])
    assert read(b"no WARC at all " * 10_000, tmp_path)[:2] == ([], ["bad record"])


def test_real_samples(test_data: pathlib.Path) -> None:
    found = {}
    for path in sorted((test_data / "web").glob("*.warc*")):
        drops: list[str] = []
        warnings: list[str] = []
        for page in warc.read_pages(path.name, path, lambda *drop, drops=drops: drops.append(drop), warnings.append):
            found[path.name] = (page.url, page.start, page.end, len(page.html), page.charset)
        assert not drops and bool(warnings) == ("cw09" in path.name)
    assert found == {
        "anserini-cw09-segment1.warc.gz": ("http://clueweb09.test.com/", 408, 1122, 46, ""),
        "warcio-example-iana.org-chunked.warc": ("http://www.iana.org/", 405, 8379, 7223, "utf-8"),
        "warcio-example.warc.gz": ("http://example.com/", 784, 2012, 1270, ""),
        "whirlwind.warc.gz": ("https://an.wikipedia.org/wiki/Escopete", 1023, 18374, 72848, "utf-8"),
    }


def test_sound_files_are_read_as_fastwarc_reads_them(tmp_path: pathlib.Path, test_data: pathlib.Path) -> None:
    (tmp_path / "crawl.warc.gz").write_bytes(warcs.gzipped(warcs.crawl(20)))
    paths = [tmp_path / "crawl.warc.gz", *(path for path in (test_data / "web").glob("*.warc*") if "cw09" not in path.name)]
    for path in paths:
        expected = [
            (record.headers["WARC-Target-URI"], record.stream_pos, record.reader.read(), record.http_charset or "")
            for record in ArchiveIterator(str(path), record_types=WarcRecordType.response, auto_decode="all", fsspec_args=False)
        ]
        pages = warc.read_pages(path.name, path, lambda *_: None, lambda _: None)
        assert [(page.url, page.start, page.html, page.charset) for page in pages] == expected


PAGES = {f"http://example.org/{number}": HTML + b"<p>page %d" % number for number in range(5)}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("length_of", ["HTTP/1.1 200 OK\n", "", "HTTP/1.1 203 Non-Authoritative Information\r\n"])
def test_clueweb09(tmp_path: pathlib.Path, pack: type, length_of: str) -> None:
    data = warcs.clueweb09(PAGES, length_of=length_of)
    pages, drops, warnings = read(pack(data), tmp_path)
    assert {page.url: page.html.rstrip() for page in pages} == PAGES and not drops
    assert len(warnings) == 1 and "a/x.warc: byte 0: lines end with LF" in warnings[0]
    assert all(data[page.start :].startswith(b"WARC/0.18") and data[page.end :][:4] in (b"WARC", b"") for page in pages)


def test_clueweb09_headers_that_are_broken_over_lines(tmp_path: pathlib.Path) -> None:
    data = warcs.clueweb09(PAGES).replace(b"http://example.org/1\n", b"http://example.org/1\n\nx\xff\n\n\xc3\xa9\n")
    data = data.replace(b"http://example.org/3\n", b"http://example.org/3\x08\r\ny\n")
    pages, drops, _ = read(data, tmp_path)
    assert [page.html.rstrip() for page in pages] == list(PAGES.values()) and not drops
    assert urls(pages)[::2] == ["0", "2", "4"] and all(url.startswith(begin) for url, begin in zip(urls(pages)[1::2], "13"))


def test_a_status_line_that_is_there_counts(tmp_path: pathlib.Path) -> None:
    data = warcs.clueweb09(PAGES, length_of="").replace(b"Content-Type: text/html\n", b"HTTP/1.0 404 No\nContent-Type: text/html\n", 1)
    pages, drops, _ = read(data, tmp_path)
    assert urls(pages) == ["1", "2", "3", "4"] and drops == ["status"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_clueweb22(tmp_path: pathlib.Path, container: str) -> None:
    odd = b"Content-Type: none\r\n\r\n" + HTML
    given = [("clueweb22-en0000-00-00000", "http://example.org/0", HTML), ("clueweb22-en0000-00-00001", "", odd)]
    pages, drops, warnings = read(CONTAINERS[container](warcs.clueweb22(given)), tmp_path)
    assert [page.html for page in pages] == [HTML, odd] and not drops
    assert urls(pages) == ["0", "clueweb22-en0000-00-00001"]
    assert {(page.language, page.charset) for page in pages} == {("en", "utf-8")}
    assert len(warnings) == 1 and "no Content-Length" in warnings[0]


@pytest.mark.parametrize("change", [-300, -20, 20, 300, 5_000, 10_000, 10**9, 10**17])
def test_a_wrong_length_costs_no_other_record(tmp_path: pathlib.Path, change: int) -> None:
    block = http()
    data = b"".join([*warcs.crawl(1), record(block, url="http://example.org/wrong", length=len(block) + change), *warcs.crawl(3)])
    pages, drops, warnings = read(data, tmp_path)
    if change < 0:  # the page is there
        assert urls(pages) == ["0", "wrong", "0", "1", "2"] and not drops
        assert pages[1].html.rstrip() == HTML.rstrip()
    else:
        assert urls(pages) == ["0", "0", "1", "2"]
        assert drops == ["truncated" if change < 10_000_000 else "too large"]
    assert len(warnings) == (change < 0)


@pytest.mark.parametrize("container", CONTAINERS)
def test_cut_anywhere(tmp_path: pathlib.Path, container: str) -> None:
    """What is whole is read, the cut is counted once, unless it is between two records."""
    records = warcs.crawl(3, b"<h1>x</h1>")
    data = CONTAINERS[container](records)
    whole, _, _ = read(data, tmp_path)
    seen = set()
    for cut in range(8, len(data), 7):
        pages, drops, warnings = read(data[:cut], tmp_path)
        assert [(page.url, page.html) for page in pages] == [(page.url, page.html) for page in whole[: len(pages)]]
        assert drops in (["truncated"], []) and (warnings or drops or container in ("plain", "gzip per record", "zstd per record"))
        seen.update(drops)
        if container == "plain":
            ends = [sum(map(len, records[:count])) for count in range(len(records) + 1)]
            assert bool(drops) == all(not end - 4 <= cut <= end for end in ends)
    assert seen == {"truncated"}


def test_damage_costs_one_record(tmp_path: pathlib.Path) -> None:
    members = [gzip.compress(each) for each in warcs.crawl(60)]
    for which in (31, 32, 33):  # a request, the response, its metadata
        for place in (2, 5, 12, len(members[which]) // 2, len(members[which]) - 6):
            damaged = bytearray(members[which])
            damaged[place] ^= 0x55
            pages, drops, _ = read(b"".join([*members[:which], damaged, *members[which + 1 :]]), tmp_path)
            harmless = place == 5  # the time in the member's header
            assert urls(pages) == [str(number) for number in range(60) if number != 10 or which != 32 or harmless]
            assert drops == ["damaged"] * (not harmless)
    large = bytearray(gzip.compress(record(http(random.Random(0).randbytes(500_000).hex().encode()))))
    large[-20_000] ^= 0x55
    pages, drops, _ = read(b"".join([*members[:30], large, *members[30:]]), tmp_path)
    assert len(pages) == 60 and drops == ["damaged"]
    pages, drops, warnings = read(b"".join(members) + b"garbage", tmp_path)
    assert len(pages) == 60 and drops == ["damaged"] and len(warnings) == 1
    pages, drops, warnings = read(b"".join(members) + bytes(5_000_000), tmp_path)  # a tape's last block
    assert len(pages) == 60 and not drops and not warnings


def test_garbage_between_records(tmp_path: pathlib.Path) -> None:
    one, two = record(http(), url="http://example.org/1"), record(http(), url="http://example.org/2")
    heads = [b"WARC/1.0\r\n\r\n", b"WARC/1.0\r\nWARC-Type: response\r\n", b"WARC/1.0\r\nno header\r\n"]
    for garbage in [b"x" * 100 + b"\r\n", b"\0" * 100_000 + b"\n", *heads]:
        pages, drops, _ = read(one + garbage + two, tmp_path)
        assert urls(pages) == ["1", "2"] and drops == ["bad record"]


def test_a_record_without_type_or_address(tmp_path: pathlib.Path) -> None:
    data = record(http()).replace(b"WARC-Type: response\r\n", b"") + record(http(), url="") + record(http(), url="<http://example.org/1>")
    pages, drops, _ = read(data.replace(b"WARC-Target-URI", b"warc-target-uri"), tmp_path)
    assert urls(pages) == ["a/x.warc", "1"] and drops == ["bad record"]
    pages, drops, _ = read(re.sub(rb"Content-Type: application/http[^\n]*\n", b"", record(http())) + record(HTML), tmp_path)
    assert [page.html for page in pages] == [HTML, HTML] and not drops


WET = {f"http://example.org/{n}": text for n, text in enumerate(("Über\nContent: 5\n\nwords", "http/ is\n\nWARC/1.0 in a text\n", "words"))}


@pytest.mark.parametrize("container", CONTAINERS)
def test_wet(tmp_path: pathlib.Path, container: str) -> None:
    pack, wet = CONTAINERS[container], warcs.wet
    pages, drops, warnings = read(pack(wet(WET, WARC_Identified_Content_Language="deu,eng")), tmp_path)
    assert {page.url: page.html.decode() for page in pages} == WET and not drops and not warnings
    assert {(page.kind, page.charset, page.language) for page in pages} == {("text", "utf-8", "deu")}
    assert {page.language for page in read(pack(wet(WET)), tmp_path)[0]} == {""}


def test_wet_that_is_broken(tmp_path: pathlib.Path) -> None:
    texts = list(WET.values())
    without = b"".join(re.sub(rb"Content-Length: \d+\r\n", b"", record) for record in warcs.wet(WET))
    too_long, too_short = (re.sub(rb"(?<=Length: )\d+", length, b"".join(warcs.wet(WET))) for length in (b"99999", b"2"))
    for data in (without, too_short):
        pages, drops, warnings = read(data, tmp_path)
        assert [page.html.decode() for page in pages] == texts and not drops and len(warnings) == 1
    pages, drops, warnings = read(too_long, tmp_path)
    assert not pages and drops == ["truncated"] * 3 and "no response record" in warnings[-1]
    cut = b"".join(warcs.wet(WET))[:-40]
    assert read(cut[: cut.rindex(b"WARC/1.0") + 100], tmp_path)[1] == ["truncated"]
    untyped = b"".join(warcs.wet(WET | {"": " \n"})).replace(b"Content-Type: text/plain\r\n", b"")
    pages, drops, _ = read(untyped, tmp_path)
    assert [page.html.decode() for page in pages] == texts and drops == ["empty"]


def test_hostile_headers_take_no_long_time(tmp_path: pathlib.Path) -> None:
    lines = b"WARC/1.0\r\n" + b"A: b\r\n" * 500_000
    wrong = record(b"", length=10_000_000) * 5_000
    for data in (lines, wrong, b"WARC/1.0\nA\n" * 200_000, b"WARC/1.0\nWARC-A: a\n\n" + b"WARC-A: a\n\n" * 100_000):
        for tail in (b"", record(http())):
            with at_most(4):
                read(data + tail, tmp_path)


LARGE = """
import resource, sys
from humpback.corpus import warc
from fastwarc.warc import WarcRecord
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
drops = []
pages = [page.url for page in warc.read_pages("x", sys.argv[1], lambda *drop: drops.append(drop[1]), print)]
assert len(pages) == 2 and drops == ["too large"], (pages, drops)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_record_takes_no_memory(tmp_path: pathlib.Path) -> None:
    size = 300_000_000
    with open(tmp_path / "x.warc", "wb") as file:
        file.write(record(http()))
        file.write(record(b"", length=size)[:-4])
        file.seek(size, 1)  # a hole in the file
        file.write(b"\r\n\r\n" + record(http()))
    result = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path / "x.warc")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 20  # MiB


def test_a_bomb_costs_nothing(tmp_path: pathlib.Path) -> None:
    compressor = zlib.compressobj(9, wbits=31)
    begin = compressor.compress(record(http()) + record(b"", length=10**15)[:-4]) + compressor.flush(zlib.Z_FULL_FLUSH)
    megabyte = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)  # the same bytes each time
    with at_most(5):
        pages, drops, warnings = read(begin + megabyte * 20_000, tmp_path)
    assert len(pages) == 1 and drops == ["too large"] and "too large after" in warnings[0]
