"""Files and folders to pages, and the segment stage on them."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from humpback.corpus import readers
from humpback.corpus.fields import USUAL, Keys
from humpback.corpus.readers import Input, list_inputs
from humpback.errors import UserError
from humpback.records import Page
from tests.corpus import warcs
from tests.corpus.parquets import parquet
from tests.timing import at_most

WORDS = " ".join(f"w{i}" for i in range(300))
HTML = warcs.HTML


def pages_of(*given: Input) -> tuple[list[Page], list[tuple[str, str]], list[str]]:
    """(pages, (source, reason) of what is dropped, warnings)."""
    drops: list[tuple[str, str]] = []
    warnings: list[str] = []
    pages = [page for each in given for page in readers.read_pages(each, lambda *drop: drops.append(drop), warnings.append)]
    return pages, drops, warnings


def read(inputs: str) -> tuple[list[str], list[tuple[str, str]]]:
    pages, drops, _ = pages_of(*list_inputs(inputs))
    assert all(page.end == len(page.html) and page.url == page.source for page in pages)
    return [page.source for page in pages], drops


def put(path: Path, data: bytes = HTML) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def jsonl(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_folders_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.html", "a/z.htm", "a/y.XHTML", "a.html", "c.css", "d.html.bak", "a/deep/er/q.html"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<h1>x</h1>")
    os.symlink(tmp_path / "nowhere", tmp_path / "in" / "e.html")
    assert read(f"{tmp_path / 'in'}") == (["a.html", "a/deep/er/q.html", "a/y.XHTML", "a/z.htm", "b.html"], [("e.html", "unreadable")])
    assert read(f" {tmp_path / 'in' / 'a'} ,")[0] == ["deep/er/q.html", "y.XHTML", "z.htm"]


def test_of_several_inputs_a_source_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one/pages/index.html", "two/pages/index.html", "three/index.html", "x.html", "two/x.html"):
        put(tmp_path / name)
    os.symlink(tmp_path / "three", tmp_path / "linked")
    monkeypatch.chdir(tmp_path)
    assert read("one/pages,two/pages/")[0] == ["one/pages/index.html", "two/pages/index.html"]
    assert read("one/pages, ./linked,x.html")[0] == ["pages/index.html", "linked/index.html", "x.html"]
    assert read("./x.html,two/x.html,three")[0] == [f"{tmp_path.name}/x.html", "two/x.html", "three/index.html"]
    monkeypatch.chdir(tmp_path / "two")
    assert read("../one/pages,.")[0] == ["pages/index.html", "two/pages/index.html", "two/x.html"]
    monkeypatch.chdir(tmp_path)
    for twice in ("one,two,./one/", "three,linked"):
        with pytest.raises(UserError, match=f"segments.input: .*{twice[-4:-1]}.*: is given twice"):
            read(twice)


def test_each_folder_is_read_once_whatever_links_there_are(tmp_path: Path) -> None:
    """A link is followed when what it leads to is read by no other way; loops are counted."""
    for name in ("in/b/1.html", "else/2.html", "else/deep/3.html", "in/z/4.html"):
        put(tmp_path / name)
    for place, target in (
        ("in/a", "in/z"), ("in/b/loop", "in"), ("in/c", "else"), ("in/d", "else"), ("in/0", "else/deep"), ("else/up", "in"),
        ("in/e.html", "in/b/1.html"),
    ):  # fmt: skip
        os.symlink(tmp_path / target, tmp_path / place)
    os.symlink("self", tmp_path / "in/self")
    warnings: list[str] = []
    [found] = list_inputs(str(tmp_path / "in"), warnings.append)
    assert [source for source, _ in found.files] == ["0/3.html", "b/1.html", "c/2.html", "e.html", "z/4.html"]
    assert len(pages_of(found)[0]) == 5
    assert [text.partition("in: ")[2] for text in warnings] == [
        "1 links lead nowhere and are skipped, self the first of them",
        "5 links lead to folders that are read already and are skipped, a the first of them",
    ]


def test_of_several_inputs_each_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link from one to another is not followed, nor is a folder of one read that is given itself."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.html", "a/sub/2.html", "a/sub/deep/3.html", "b/4.html", "b/below/5.html"):
        put(tmp_path / name)
    for place, target in (("a/sub/to_b", "b"), ("a/to_below", "b/below"), ("a/sub/loop", "a"), ("b/to_sub", "a/sub")):
        os.symlink(tmp_path / target, tmp_path / place)
    os.symlink("nowhere", tmp_path / "a/gone")

    def listed(inputs: str) -> tuple[list[str], list[str]]:
        warnings: list[str] = []
        files = [source for unit in list_inputs(inputs, warnings.append) for source, _ in unit.files]
        return files, [text.removeprefix("segments.input: ").partition(" and are skipped")[0] for text in warnings]

    read_already = "links lead to folders that are read already"
    for inputs in ("a,b", "b,a"):
        files, warnings = listed(inputs)
        assert sorted(files) == ["a/1.html", "a/sub/2.html", "a/sub/deep/3.html", "b/4.html", "b/below/5.html"]
        assert sorted(warnings) == ["a: 1 links lead nowhere", f"a: 3 {read_already}", f"b: 1 {read_already}"]
    for inputs in ("a,a/sub", "a/sub,a"):
        files, warnings = listed(inputs)
        assert len(files) == 5 and sorted(files)[:3] == ["a/1.html", "a/to_below/5.html", "sub/2.html"]
        assert {"a: 1 folders are given themselves", f"a/sub: 3 {read_already}"} <= set(warnings)


def test_what_would_be_waited_for_is_skipped(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.html")
    os.mkfifo(tmp_path / "in" / "b.html")
    os.symlink(tmp_path / "in" / "b.html", tmp_path / "in" / "c")
    os.symlink("/dev/zero", tmp_path / "in" / "d.warc")
    warnings: list[str] = []
    [found] = list_inputs(str(tmp_path / "in"), warnings.append)
    assert [source for source, _ in found.files] == ["a.html"]
    assert warnings[0].endswith("in: 3 are pipes, sockets or devices and are skipped, b.html the first of them")
    listed = put(tmp_path / "warc.paths", b"in/b.html\n")
    assert pages_of(*list_inputs(str(listed)))[1] == [("in/b.html", "unreadable")]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    """The name stands in the record with its bytes in hex, and the file is found by it as it is."""
    put(tmp_path / "in" / "a.html")
    for name in (b"\xff.html", b"\xe9t\xe9"):
        path = os.path.join(os.fsencode(tmp_path / "in"), name)
        with open(path, "wb") as file:
            file.write(HTML if name.endswith(b"l") else b"text")
    warnings: list[str] = []
    [found] = list_inputs(str(tmp_path / "in"), warnings.append)
    pages, drops, _ = pages_of(found)
    assert [page.source for page in pages] == ["\\xff.html", "a.html"] and not drops
    assert "\\xe9t\\xe9 the first" in warnings[0]


def test_a_folder_may_hold_any_mixture(tmp_path: Path) -> None:
    crawl = warcs.crawl(2)
    files = {
        "a/1.html": HTML, "a/2.htm.gz": gzip.compress(HTML), "a/3": HTML, "a/4.php": b"<?xml version='1.0'?>\n<!-- x -->\n" + HTML,
        "b.warc.gz": warcs.gzipped(crawl), "c.warc": b"".join(crawl), "d.warc.zst": warcs.zstd(b"".join(crawl)), "e": warcs.gzipped(crawl),
        "f.jsonl.gz": gzip.compress(jsonl({"url": "http://a/", "html": "<p>f"})), "g.json": jsonl({"url": "http://a/", "html": "<p>g"}),
        "h.html": HTML, "i.css": b"<html>", "j.html.bak": HTML, "k": b"text", "l.json": b'{"a": [', "m.warc.paths": b"c.warc\n", ".n": HTML,
    }  # fmt: skip
    for name, data in reversed(files.items()):
        put(tmp_path / name, data)
    warnings: list[str] = []
    found = list_inputs(str(tmp_path), warnings.append)
    assert [(unit.source, unit.kind, len(unit.files)) for unit in found] == [
        ("a/1.html..a/4.php", "html", 4), ("b.warc.gz", "warc", 1), ("c.warc", "warc", 1), ("d.warc.zst", "warc", 1), ("e", "warc", 1),
        ("f.jsonl.gz", "jsonl", 1), ("g.json", "jsonl", 1), ("h.html", "html", 1),
    ]  # fmt: skip
    assert len(warnings) == 1 and f"{tmp_path}: 6 files are no HTML, WARC or WET, JSONL, Parquet, Markdown or plain" in warnings[0]
    pages, drops, _ = pages_of(*found)
    assert len(pages) == 4 + 4 * 2 + 2 + 1 and not drops
    assert [page.source for page in pages[:4]] == ["a/1.html", "a/2.htm.gz", "a/3", "a/4.php"]
    assert {(page.start, page.end) for page in pages[:3]} == {(0, len(HTML))}


def test_html_files_are_read_in_runs(tmp_path: Path) -> None:
    for number in range(1_203):
        put(tmp_path / f"{number:04d}.html", b"<p>")
    found = list_inputs(str(tmp_path))
    assert [(unit.source, len(unit.files)) for unit in found] == [
        ("0000.html..0499.html", 500), ("0500.html..0999.html", 500), ("1000.html..1202.html", 203),
    ]  # fmt: skip
    assert [source for unit in found for source, _ in unit.files] == [f"{number:04d}.html" for number in range(1_203)]


def test_files_of_a_page_each_are_read_in_runs_of_a_kind(tmp_path: Path) -> None:
    for name in ("a.md", "b.markdown", "c.txt", "d.txt", "e.html", "f.txt"):
        put(tmp_path / name)
    found = [(unit.source, unit.kind) for unit in list_inputs(str(tmp_path))]
    assert found == [("a.md..b.markdown", "markdown"), ("c.txt..d.txt", "text"), ("e.html", "html"), ("f.txt", "text")]


def test_sources_are_unique_among_the_inputs(tmp_path: Path) -> None:
    paths = [str(put(tmp_path / name / "x.warc", b"".join(warcs.crawl(1)))) for name in "ab"]
    found = list_inputs(",".join([*paths, str(tmp_path)]))
    here = tmp_path.name
    assert [unit.source for unit in found] == ["a/x.warc", "b/x.warc", f"{here}/a/x.warc", f"{here}/b/x.warc"]
    lists = [str(put(tmp_path / name / "warc.paths", b"x.warc\n")) for name in "ab"]
    found = list_inputs(",".join(lists))
    assert [unit.source for unit in found] == ["x.warc", "x.warc#2"]
    assert {page.source for page in pages_of(*found)[0]} == {"x.warc"}


def test_a_file_given_itself_is_told_by_content(tmp_path: Path) -> None:
    for name, data, kind in (
        ("x.txt", HTML, "html"), ("y.dat", warcs.gzipped(warcs.crawl(1)), "warc"),
        ("z", jsonl({"html": "<p>" + "x" * 50_000, "url": "u"}), "jsonl"), ("a.json", jsonl({"x": 1}), "jsonl"),
        ("b.txt", b"words", "text"), ("c", b"words", "text"), ("d.txt", jsonl({"x": 1}), "jsonl"),
        ("e.dat", parquet({"a": ["b"]}), "parquet"),
    ):  # fmt: skip
        assert [unit.kind for unit in list_inputs(str(put(tmp_path / name, data)))] == [kind]


def test_telling_by_content_takes_no_long_time(tmp_path: Path) -> None:
    for number, data in enumerate((b"<!---->" * 600, b"<?xml " * 700, b"{" * 1_000_000, b'{"html":' * 1_000_000, b" " * 5_000)):
        put(tmp_path / f"x{number}", data)
    with at_most(2):
        assert list_inputs(str(tmp_path), lambda _: None) == []


@pytest.mark.parametrize("pack, name", [(bytes, "warc.paths"), (gzip.compress, "warc.paths.gz")])
def test_file_lists(tmp_path: Path, pack: type, name: str) -> None:
    lines = ["crawl-data/b/1.warc.gz", "", "crawl-data/a/2.warc.gz", str(tmp_path / "crawl-data/a/2.warc.gz"), "gs://bucket/3.warc.gz"]
    for line in lines[:3:2]:
        put(tmp_path / line, warcs.gzipped(warcs.crawl(1)))
    given = put(tmp_path / name, pack("\r\n".join(lines).encode()))
    found = list_inputs(str(given))
    assert [unit.source for unit in found] == [lines[0], lines[2], "2.warc.gz", "3.warc.gz"]
    assert found[3].files == (("3.warc.gz", "gs://bucket/3.warc.gz"),)
    assert len(pages_of(*found[:3])[0]) == 3


@pytest.mark.parametrize("text, part", [
    (b"x.warc\nnowhere.warc.gz\n", "warc.paths:2: .*nowhere.warc.gz: no such file"),
    (b"s3://b/1.warc", "warc.paths:1: s3://b/1.warc: only local"), (b"\n", "no path in it"),
    (gzip.compress(b"x.warc\n", mtime=0)[:-4], "truncated"),
])  # fmt: skip
def test_file_lists_that_are_none(tmp_path: Path, text: bytes, part: str) -> None:
    put(tmp_path / "x.warc")
    with pytest.raises(UserError, match=part):
        list_inputs(str(put(tmp_path / "warc.paths", text)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, warcs.zstd])
def test_jsonl(tmp_path: Path, pack: type) -> None:
    good = {"url": "http://a/é ", "html": "<h1>é\ud800</h1>"}
    bad = [[1], "x", {"url": "u"}, {"html": 3}, {"url": 3, "html": "<p>"}, {"html": None}]
    rest = [{"html": ""}, {"html": "%PDF-1"}, {"html": "<p>b"}]
    data = b"\n" + jsonl(good, *bad) + b"{\n" + b"[" * 100_000 + b"\n\xff\xfe\n" + jsonl(*rest)[:-1]
    pages, drops, warnings = pages_of(*list_inputs(str(put(tmp_path / "x.jsonl", pack(data)))))
    assert len(warnings) == 1 and "x.jsonl:5: no key of a usual name for HTML or text; the keys are url; name" in warnings[0]
    assert [(page.url, page.html) for page in pages] == [("http://a/é", "<h1>é?</h1>".encode()), ("x.jsonl", b"<p>b")]
    assert {page.charset for page in pages} == {"utf-8"}
    assert [json.loads(data[page.start : page.end])["html"][:3] for page in pages] == ["<h1", "<p>"]
    reasons = ["bad record"] * 2 + ["no text"] + ["bad record"] * 2 + ["empty"] + ["bad record"] * 3 + ["empty", "not html"]
    assert drops == [(f"x.jsonl:{number}", reason) for number, reason in enumerate(reasons, 3)]


def test_jsonl_of_a_member_a_line(tmp_path: Path) -> None:
    lines = [jsonl({"url": f"http://a/{number}", "html": f"<p>{number}"}) for number in range(9)]
    data = warcs.gzipped(lines)
    pages, _, _ = pages_of(*list_inputs(str(put(tmp_path / "x.jsonl.gz", data))))
    assert [gzip.decompress(data[page.start : page.end]) for page in pages] == lines
    pages, drops, warnings = pages_of(*list_inputs(str(put(tmp_path / "x.jsonl.gz", data[:-20]))))
    assert len(pages) == 8 and drops == [("x.jsonl.gz", "truncated")] and "truncated" in warnings[0]


def test_jsonl_lines_that_are_too_long(tmp_path: Path) -> None:
    page = jsonl({"url": "u", "html": "<p>"})
    data = page + jsonl({"html": "x" * 10_000_001}) + b"{" * 50_000_000 + b"\n" + page
    pages, drops, _ = pages_of(*list_inputs(str(put(tmp_path / "x.jsonl", data))))
    assert len(pages) == 2 and [reason for _, reason in drops] == ["too large"] * 2


def check(inputs: str, keys: Keys = USUAL) -> list[str]:
    told: list[str] = []
    readers.check_keys(list_inputs(inputs, lambda _: None), keys, told.append)
    return told


def test_clueweb22s_txt_is_refused(tmp_path: Path) -> None:
    line = jsonl({"URL": "http://a/\n", "Language": "en", "ClueWeb22-ID": "clueweb22-en0000-00-00000", "Clean-Text": "Text"})
    path = put(tmp_path / "en0000-00.json.gz", warcs.gzipped([line] * 3))
    with pytest.raises(UserError, match=r"en0000-00.json.gz:1: ClueWeb22's txt, which has lost the headings.*text_key=Clean-Text"):
        check(str(path))
    pages, drops, warnings = pages_of(*list_inputs(str(tmp_path)))
    assert not pages and [reason for _, reason in drops] == ["no headings"] * 3 and len(warnings) == 1
    (page, *_) = readers.read_pages(*list_inputs(str(path)), lambda *_: None, lambda _: None, Keys(text="Clean-Text"))
    assert (page.url, page.html, page.kind) == ("http://a/", b"Text", "text")


@pytest.mark.parametrize("record, kind, url", [
    ({"text": "a", "url": "u"}, "text", "u"), ({"raw_content": "a", "URL": " u "}, "text", "u"),
    ({"content": "a", "link": None}, "text", "x"),
    ({"id": 1, "text": "a", "metadata": {"url": "u"}}, "text", "u"), ({"text": "a", "metadata": {}}, "text", "x"),
    ({"text": "a", "meta": "x"}, "text", "x"), ({"raw_html": "a", "text": "b"}, "html", "x"), ({"html": None, "text": "a"}, "text", "x"),
    ({"content": {"b": 1}, "body": "a"}, "text", "x"), ({"Text": "a", "source_url": "u"}, "text", "u"),
])  # fmt: skip
def test_keys_of_usual_names(tmp_path: Path, record: dict, kind: str, url: str) -> None:
    (page,), _, _ = pages_of(Input("x", (("x", str(put(tmp_path / "x", jsonl(record)))),), "jsonl"))
    assert (page.html, page.kind, page.url) == (b"a", kind, url)


def test_keys_that_are_named(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", jsonl({"text": "no", "a": {"b": "yes"}, "c.d": "u", "page": "<p>"}))
    for keys, kind, text, url in (
        (Keys(text="a.b", url="c.d"), "text", b"yes", "u"), (Keys(html="page"), "html", b"<p>", "x.jsonl"),
        (Keys(html="none", text="a.b"), "text", b"yes", "x.jsonl"),
    ):  # fmt: skip
        (page,) = readers.read_pages(*list_inputs(str(path)), lambda *_: None, lambda _: None, keys)
        assert (page.kind, page.html, page.url) == (kind, text, url)
        assert len(check(str(path), keys)) == 1


def test_wrong_keys_are_an_error_before_the_work(tmp_path: Path) -> None:
    path = put(tmp_path / "in" / "x.jsonl", b"\n" + jsonl({"id": 1, "payload": {"a": "x"}}) * 2)
    for given in (path, path.parent):
        with pytest.raises(UserError, match=r"x.jsonl:1: no key of a usual name .*; the keys are id, payload.a; name .*text_key=KEY"):
            check(str(given))
    with pytest.raises(UserError, match=r"no key 'body' \(segments.text_key\); the keys are id, payload.a"):
        check(str(path), Keys(text="body"))
    put(tmp_path / "in" / "y.jsonl", jsonl({"body": "x"}))
    assert check(str(path.parent)) == ["y.jsonl: a page is taken from the key `body`, as text"]
    put(tmp_path / "other" / "x.jsonl", jsonl({"id": 1}))
    put(tmp_path / "other" / "y.html")
    assert check(str(tmp_path / "other")) == []
    with pytest.raises(UserError, match="the keys are id"):
        check(f"{tmp_path / 'other' / 'y.html'},{tmp_path / 'other' / 'x.jsonl'}")


def test_keys_that_change_within_a_file(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", jsonl({"text": "a"}, {"content": "b"}, {"id": 3}, {"text": "c"}, {"id": 4}))
    pages, drops, warnings = pages_of(*list_inputs(str(path)))
    assert [page.html for page in pages] == [b"a", b"b", b"c"] and drops == [("x.jsonl:3", "no text"), ("x.jsonl:5", "no text")]
    assert [warning.partition(";")[0] for warning in warnings] == [
        "x.jsonl:2: the page is taken from the key 'content', before it was 'text'",
        "x.jsonl:3: no key of a usual name for HTML or text",
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:])])
def test_lines_of_text(tmp_path: Path, pack: type) -> None:
    data = b"\xef\xbb\xbf" + jsonl({"text": "a" * 20}, {"text": ""}, {"text": 5}, {"text": "RIFF b"}).replace(b"\n", b"\r\n")
    pages, drops, _ = pages_of(*list_inputs(str(put(tmp_path / "c4.json.gz", pack(data)))))
    assert [(page.html, page.kind) for page in pages] == [(b"a" * 20, "text"), (b"RIFF b", "text")]
    assert drops == [("c4.json.gz:2", "empty"), ("c4.json.gz:3", "bad record")]
    assert data[pages[1].start : pages[1].end].startswith(b'{"text": "RIFF')


def test_a_data_set_as_people_download_it(tmp_path: Path) -> None:
    card = b"---\nlicense: odc-by\nconfigs:\n- config_name: default\n---\n# A data set\n\nWords.\n"
    for name, data in {
        "data/train-00000-of-00002.parquet": parquet({"text": ["a", "b"]}), "data/train-00001-of-00002.parquet": parquet({"text": ["c"]}),
        "README.md": card, ".gitattributes": b"*.parquet filter=lfs", "LICENSE": b"Words of law.", "dataset_infos.json": b'{"default": {}}',
        ".cache/huggingface/download/data/x.parquet.metadata": b"abc\n", ".cache/huggingface/.gitignore": b"*",
    }.items():  # fmt: skip
        put(tmp_path / name, data)
    warnings: list[str] = []
    found = list_inputs(str(tmp_path), warnings.append)
    assert [unit.kind for unit in found] == ["parquet"] * 2 and "6 files are no" in warnings[0]
    assert [(page.source[-27:], page.start, page.html) for page in pages_of(*found)[0]] == [
        ("train-00000-of-00002.parquet"[-27:], 0, b"a"), ("train-00000-of-00002.parquet"[-27:], 1, b"b"),
        ("train-00001-of-00002.parquet"[-27:], 0, b"c"),
    ]  # fmt: skip
    put(tmp_path / "README.md", b"# Words\n\nWords.\n")
    assert [unit.kind for unit in list_inputs(str(tmp_path), lambda _: None)] == ["markdown", "parquet", "parquet"]
    assert [unit.kind for unit in list_inputs(str(put(tmp_path / "readme.markdown", card)))] == ["markdown"]


def test_a_folder_in_which_every_file_is_of_another_kind(tmp_path: Path) -> None:
    files = {
        "a.html": (HTML, "html"), "b.md": (b"# A", "markdown"), "c.MARKDOWN.gz": (gzip.compress(b"# A"), "markdown"),
        "d.txt": (b"a", "text"),
        "e.jsonl": (jsonl({"text": "a"}), "jsonl"), "f.json.zst": (warcs.zstd(jsonl({"body": "a"})), "jsonl"),
        "g.json": (jsonl({"a": 1}, {"a": 2}), "jsonl"), "h.parquet": (parquet({"text": ["a"]}), "parquet"),
        "i": (parquet({"text": ["a"]}), "parquet"), "j.warc.wet.gz": (warcs.gzipped(warcs.wet({"http://a/": "text"})), "warc"),
        "k.json": (jsonl({"a": 1}), ""), "l.json": (b'{\n"text": "a"}', ""), "m.pdf": (b"%PDF-1.7", ""), "n": (b"text", ""),
    }  # fmt: skip
    for name, (data, _) in files.items():
        put(tmp_path / name, data)
    found = list_inputs(str(tmp_path), lambda _: None)
    kinds = {source: unit.kind for unit in found for source, _ in unit.files}
    assert kinds == {name: kind for name, (_, kind) in files.items() if kind}
    pages, drops, _ = pages_of(*found)
    assert Counter(page.kind for page in pages) == {"text": 6, "markdown": 2, "html": 1}
    assert drops == [("g.json:1", "no text"), ("g.json:2", "no text")]


def test_html_files_that_are_no_pages(tmp_path: Path) -> None:
    files = {
        "binary.html": (os.urandom(300_000), ""), "bomb.html.gz": (gzip.compress(bytes(50_000_000)), "too large"),
        "cut.html.gz": (gzip.compress(HTML)[:-9], "truncated"), "damaged.html.gz": (b"\x1f\x8b\x08" + bytes(90), "damaged"),
        "image.html": (b"GIF89a", "not html"),
        "none.html": (b"", "empty"), "none.html.gz": (gzip.compress(b""), "empty"), "pdf.html": (b"%PDF-1.7", "not html"),
        "utf16.html": ("<p>é".encode("utf-16"), ""),
    }  # fmt: skip
    for name, (data, _) in files.items():
        put(tmp_path / name, data)
    sources, drops = read(str(tmp_path))
    assert sources == [name for name, (_, reason) in files.items() if not reason]
    assert drops == [(name, reason) for name, (_, reason) in files.items() if reason]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a.warc.gz", "b.jsonl", "c.html"):
        os.symlink(tmp_path / "nowhere", tmp_path / name)
        put(tmp_path / "empty" / name, b"")
    reasons = [(name, "unreadable") for name in ("a.warc.gz", "b.jsonl", "c.html")]
    assert read(str(tmp_path))[1] == reasons + [(f"empty/{name}", "empty") for name, _ in reasons]


@pytest.mark.parametrize("inputs, part", [
    ("", "is empty"), (" , ", "is empty"), ("nowhere", "no such file"), ("x.bin", "neither HTML, WARC .*name text .txt"),
    ("x.mhtml", "save the page as HTML"), ("x.json", "a line of JSON"), ("x", "neither HTML"),
])  # fmt: skip
def test_inputs_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: str, part: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"x.bin": "x", "x.mhtml": "From: <Saved by Blink>\n<html>", "x.json": '[{"text": "a"}]', "x": "a\0b"}.items():
        Path(name).write_text(text)
    with pytest.raises(UserError, match=part):
        read(inputs)
