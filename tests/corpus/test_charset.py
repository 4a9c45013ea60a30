"""Bytes to text: byte order marks, declarations, detection, and what is no page."""

import random

import pytest

from humpback.corpus.charset import MAX_PAGE_BYTES, decode, no_page
from tests.timing import at_most

RUSSIAN = "<h1>Заголовок страницы</h1><p>Это обычный текст на русском языке, который никто не объявил."
JAPANESE = "<h1>見出し</h1><p>これは日本語で書かれた普通の文章です。どの文字コードかは宣言されていません。"
CHINESE = "<h1>标题</h1><p>这是一个没有声明编码的中文网页，里面只有普通的句子，用来检验检测。"
KOREAN = "<h1>제목</h1><p>이것은 문자 집합을 선언하지 않은 한국어 문서의 평범한 문장입니다."
GERMAN = "<h1>Überschrift</h1><p>Größere Bäume stehen für schöne Gärten – „so ist es“."
PLAIN = "<h1>Title</h1><p>Nothing but ASCII."


@pytest.mark.parametrize("text, encoding, declared", [
    (PLAIN, "utf-8", ""), (GERMAN, "utf-8", ""), (GERMAN, "utf-8-sig", "windows-1252"), (GERMAN, "utf-16", ""),
    (RUSSIAN, "utf-16-le", "utf-16le"), (RUSSIAN, "utf-16-be", "UTF-16BE"),
    (PLAIN, "utf-8", "utf-16"),  # a false declaration: there is no NUL in it
    (GERMAN, "cp1252", ""), (GERMAN, "cp1252", "ISO-8859-1"), (GERMAN, "cp1252", ' "latin1" '),
    (GERMAN, "utf-8", "ISO-8859-1"),  # a server's default against what the bytes are
    (RUSSIAN, "cp1251", "utf-8"), (GERMAN, "cp1252", "utf-8"),
    (RUSSIAN, "cp1251", ""), (RUSSIAN, "koi8-r", ""), (RUSSIAN, "koi8-r", "koi8-r"), (RUSSIAN, "iso-8859-5", "ISO-8859-5"),
    (RUSSIAN, "cp866", "ibm866"),
    (JAPANESE, "cp932", ""), (JAPANESE, "euc-jp", ""), (JAPANESE, "iso-2022-jp", ""), (JAPANESE, "cp932", "x-sjis"),
    (CHINESE, "gb18030", ""), (CHINESE, "gb18030", "gb2312"), (KOREAN, "cp949", ""), (KOREAN, "cp949", "ks_c_5601-1987"),
    # As if they were not there.
    (RUSSIAN, "cp1251", "x-user-defined"), (RUSSIAN, "cp1251", "punycode"), (RUSSIAN, "cp1251", "windows-99999"),
])  # fmt: skip
def test_charsets(text: str, encoding: str, declared: str) -> None:
    assert decode(text.encode(encoding), declared) == text


@pytest.mark.parametrize("head, encoding, declared", [
    ("<meta charset=koi8-r>", "koi8-r", ""), ("<META http-equiv=Content-Type content='text/html; charset=KOI8-R'>", "koi8-r", ""),
    ('<?xml version="1.0" encoding="koi8-r"?>', "koi8-r", ""),
    ("<meta charset=utf-8>", "koi8-r", "koi8-r"),  # the header first
    ("<meta charset=utf-16>", "utf-8", ""), ("<meta charset=nonsense>", "cp1251", ""),
])  # fmt: skip
def test_declarations_inside(head: str, encoding: str, declared: str) -> None:
    assert decode((head + RUSSIAN).encode(encoding), declared) == head + RUSSIAN


def test_stray_bytes_do_not_cost_the_page() -> None:
    mixed = GERMAN.encode() + b" caf\xe9 " + GERMAN.encode()
    for declared in ("", "utf-8"):
        assert decode(mixed, declared) == f"{GERMAN} caf\ufffd {GERMAN}"
    assert decode(PLAIN.encode() * 9 + b"caf\xe9", "utf-8") == PLAIN * 9 + "caf\ufffd"
    assert decode(b"<meta charset=utf-8>" + GERMAN.encode("cp1252")) is None  # too many to be strays


def test_binary() -> None:
    noise = random.Random(0).randbytes(20_000)
    assert decode(GERMAN.encode("utf-16-le")) is None  # neither marked nor declared
    for data in (b"<p>a\0b", b"\0" * 500, bytes(range(256)) * 20, noise, noise.replace(b"\0", b"a"), b"\xef\xbb\xbf<p>" + b"\x01" * 200):
        assert decode(data) is None


def test_the_largest_pages_take_no_long_time() -> None:
    size = MAX_PAGE_BYTES
    hostile = [b"\xe9" * size, b"a" * (size - 1) + b"\xe9", "é".encode() * (size // 2 - 1) + b"\xc3", b"\x1b" * size]
    for data in [*hostile, b"<meta " * (size // 6)]:
        with at_most(2):
            decode(data)


@pytest.mark.parametrize("data, reason", [
    (b"", "empty"), (b"<p>", ""), (b"%PDF-1.4 <p>", "not html"), (b"\x89PNG\r\n", "not html"), (b"GIF89a", "not html"),
    (b"\xff\xd8\xff\xe0", "not html"), (b"PK\x03\x04", "not html"), (b"\0\0\0\x18ftypmp42", "not html"),
])  # fmt: skip
def test_what_is_no_page(data: bytes, reason: str) -> None:
    assert no_page(data) == reason


def test_the_largest_page() -> None:
    assert (no_page(b"x" * MAX_PAGE_BYTES), no_page(b"x" * (MAX_PAGE_BYTES + 1))) == ("", "too large")


@pytest.mark.parametrize("declared", ["gb2312", "windows-1251", "iso-8859-2", "shift_jis"])
def test_what_is_all_utf8_is_utf8_whatever_was_declared(declared: str) -> None:
    html = f"<meta charset={declared}>{GERMAN}"
    assert decode(html.encode()) == html
    assert decode(html.encode(), declared) == html


def test_a_few_nuls_are_dropped_and_many_are_no_page() -> None:
    assert decode(PLAIN.encode() * 4 + b"a\0b") == PLAIN * 4 + "ab"
    assert decode(PLAIN.encode().replace(b"Nothing", b"No" + b"\0" * 40 + b"thing")) is None


def test_a_declaration_behind_a_long_script_counts() -> None:
    html = f"<script>{'var a = 1;' * 600}</script><meta charset=koi8-r>{RUSSIAN}"
    assert decode(html.encode("koi8-r")) == html
