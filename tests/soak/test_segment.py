"""Soak: mutated pages become segments quickly and say nothing that the page does not; `humpback segment` is killed and continued."""

import html as entities
import json
import os
import pathlib
import random
import re
import textwrap
import time
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import strategies as some
from selectolax.lexbor import LexborHTMLParser

from humpback.config import Segments
from humpback.corpus import filters
from humpback.corpus.charset import decode
from humpback.corpus.lists import ORDINAL
from humpback.corpus.segments import extract
from humpback.records import Page
from tests import kills
from tests.corpus.parquets import parquet
from tests.corpus.test_markdown import TREES
from tests.corpus.test_plain_text import OTHER, PROSE
from tests.corpus.test_segments import HOSTILE
from tests.corpus.test_text import TABLE
from tests.pages import UNJUDGED
from tests.soak import fuzz

PAGES = 2_500  # a schedule
SECONDS = 2
DEMO = kills.REPOSITORY / "humpback" / "demo" / "pages"
SEEDS = [path.read_text() for path in sorted(DEMO.glob("*.html"))]
SEEDS += [f"<h1>Title</h1>{html}" for _, html, _ in TABLE]
PIECES = sorted({
    *re.findall(r"<[^>]{0,80}>", "".join(SEEDS)), *(html[:3_000] for html in HOSTILE.values()), "<", ">", "&", "&#0;", "\0", "--", "]]>",
    "<!--", "<![CDATA[", "<script>", "</script", "<plaintext>", "<xmp>", "<template>", "<svg><title>", "<math><mi>", "<select>",
    "<table><td>", "<frameset>", "\u202e", "\ufeff", "&nbsp;" * 50, "<h2 role=heading aria-level=99>", "<li role=heading>",
    '<a href="#x">', "<sup>", "<q>", "<form>", "</body></html>", "x" * 5_000, "<b>" * 40,
})  # fmt: skip
_SENTENCES = [f"{sentence}." for sentence in f"{PROSE} {OTHER}".rstrip(".").split(". ")]
MARKDOWN_SEEDS = [text for _, text, _ in TREES] + [
    "---\ntitle: Mill\n---\n\n# Milling\n\n{}\n\nStones\n------\n\n* one *{}*\n  1. two\n\n~~~\n# code\n~~~\n\n> {}\n\n| a | b |\n"
    "|---|:-:|\n| c | d |\n\n## Flour {{#f}}\n\n{} [link](http://a/ 'b') ![c](d) `e` &amp; $f_1$.[^1]\n\n[^1]: g".format(*_SENTENCES),
    f"{PROSE}\n\n{OTHER}\n", textwrap.fill(f"{PROSE} {OTHER}", 72), f"---\nlang: en\n---\n{OTHER}\n```\ncode\n```\n",
]  # fmt: skip
MARKDOWN_PIECES = [
    "#", "# ", "\n## B\n", "\n===\n", "\n---\n", "```", "\n```\n", "\n~~~~\n", "`", "**", "_", "[", "](", "[^1]", "> ",
    "\n\n", "\n- ", "\n    ", "|", "\n|---|\n", "$", "$$", "\\", "\r", "\0", "\t", "<!--", "-->", "<b>", "<script>", "<title>",
    "<svg>", "</div>", "<details>", "&", "&lt;", "![", "<http://a>", "\ufeff", "x" * 5_000, "> " * 300, "[" * 300, "*" * 300,
]  # fmt: skip
XHTML_SEEDS = [
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x">\n<html '
    'xmlns="http://www.w3.org/1999/xhtml"><head><title/><script src="x"/></head><body><a id="y"/><h1>A</h1><div/>'
    "<p>{}</p><p><![CDATA[b < c & {}]]></p><h2>D</h2><ul><li>e<br/></li></ul><pre>f\n  g</pre><p>{}</p><p>{}</p></body></html>"
    .format(*_SENTENCES),
]  # fmt: skip
XHTML_PIECES = [
    "/>", "<", ">", "<p/>", "<div/>", "<h1/>", "<h2>", "<script/>", "<title/>", "<textarea/>", "<![CDATA[", "]]>", "<!--", "-->", "&",
    "&amp;", '"', "'", "<?xml ", "<a b='c'/>", "<svg:x/>", "</body>", "<br/>", "<td/>", "<x " * 200, "x" * 3_000,
]  # fmt: skip


def changes_of(pieces: list[str]) -> some.SearchStrategy:
    kinds = some.sampled_from(["insert", "delete", "copy", "byte"])
    return some.lists(some.tuples(kinds, some.floats(0, 1), some.floats(0, 1), some.sampled_from(pieces)), min_size=1, max_size=12)


def changed(html: str, changes: list[tuple[str, float, float, str]]) -> bytes:
    for what, first, second, piece in changes:
        place = int(first * len(html))
        end = place + int(second * second * 2_000)
        if what == "insert":
            html = html[:place] + piece + html[place:]
        elif what == "delete":
            html = html[:place] + html[end:]
        elif what == "copy":
            html = html[:place] + html[place:end] * (1 + int(second * 20)) + html[place:]
        else:
            html = html[:place] + chr(int(second * 255)) + html[place + 1 :]
    return html.encode("utf-8", "surrogatepass")


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text)).casefold()


def html_letters(data: bytes) -> str:
    return letters(LexborHTMLParser(decode(data), scripting=True).text(separator=" "))


def source_letters(data: bytes) -> str:
    """Those of the marks, too, and what entities stand for."""
    return letters(re.sub(r"&#?\w+;?", lambda match: f"{match[0]} {entities.unescape(match[0])}", decode(data)))


def check_words(whole: str, text: str) -> None:
    """A segment's letters are in its page, in that order; so are nearly all words, code apart: what is left out can stand in one."""
    text = re.sub(rf"(?m)^[\s>:-]*(?:{ORDINAL})+", "", text)  # the numbers and letters of lists are not in the page
    rows = re.compile(r"(?m)^[\s>:-]*\|.*$")  # of tables, where a cell of several rows stands in each
    words = [letters(word) for word in rows.sub("", text).split() if not re.fullmatch(ORDINAL.strip(), word)]
    position = 0
    for letter in "".join(words):
        position = whole.find(letter, position) + 1
        assert position, f"{letter!r} is not in the page where it should be"
    words = {letters(word) for word in filters.without_code(text).split()}
    strange = [word for word in words if word not in whole]
    assert len(strange) <= 0.2 * len(words) + 3, strange[:5]


@pytest.mark.parametrize("kind, seeds, pieces, letters_of", [
    ("html", SEEDS, PIECES, html_letters), ("html", XHTML_SEEDS, XHTML_PIECES, source_letters),
    ("markdown", MARKDOWN_SEEDS, MARKDOWN_PIECES, source_letters), ("text", MARKDOWN_SEEDS, MARKDOWN_PIECES, source_letters),
], ids=["html", "xhtml", "markdown", "text"])  # fmt: skip
def test_mutated_pages(kind: str, seeds: list[str], pieces: list[str], letters_of: Callable[[bytes], str]) -> None:
    """HUMPBACK_SOAK_SCHEDULES times PAGES (sixteen), seed HUMPBACK_SOAK_SEED."""
    schedules = int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "16"))
    cfg, slowest = Segments(min_chars=40, **UNJUDGED), 0.0
    counts = {"pages": 0, "segments": 0, "drops": 0}

    def one_page(html: str, changes: list) -> None:
        nonlocal slowest
        data = changed(html, changes)
        drops: list[str] = []
        started = time.process_time()
        found = extract(Page("p", "p", 0, len(data), data, kind=kind), cfg, lambda reason, _: drops.append(reason))
        slowest = max(slowest, time.process_time() - started)
        assert slowest < SECONDS
        assert found or drops
        for segment in found:
            check_words(letters_of(data), segment.text)
            assert segment.text == segment.text.strip("\n") and 40 <= len(segment.text) <= 3_000
        counts.update(pages=counts["pages"] + 1, segments=counts["segments"] + len(found), drops=counts["drops"] + len(drops))

    fuzz.run(one_page, PAGES, schedules, some.sampled_from(seeds), changes_of(pieces))
    print(f"{kind}: {counts}, the slowest {slowest:.2f} s")
    pages = PAGES * schedules
    assert counts["pages"] >= pages * 0.9 and min(counts["segments"], counts["drops"]) > pages / 8


def test_kills(tmp_path: pathlib.Path) -> None:
    """HUMPBACK_SOAK_SCHEDULES commands (4), each killed three times at moments drawn over the undisturbed run: the same bytes.

    Half of the pages are lines of JSON, a quarter rows of Parquet, a quarter texts of Markdown in lines.
    """
    chance = random.Random(int(os.environ.get("HUMPBACK_SOAK_SEED", "0")))
    pages = tmp_path / "pages"
    pages.mkdir()
    texts = [path.read_text() for path in sorted(DEMO.glob("*.html"))]
    for part in range(8):
        words = [f"the {chance.choice(['old', 'new', 'red', 'far'])} " for _ in range(600)]
        found = [chance.choice(texts).replace("the ", word, chance.randrange(40)) for word in words]
        if part in (2, 5):
            addresses = [f"http://example.org/{part}/{number}" for number in range(600)]
            (pages / f"{part}.parquet").write_bytes(parquet({"html": found, "url": addresses}, 100))
            continue
        if part in (3, 6):
            found = [re.sub(r"<h1[^>]*>", "\n\n# ", re.sub(r"<(?!h1)[^>]*>", "\n\n", html)) for html in found]
        with (pages / f"{part}.jsonl").open("w") as file:
            for number, page in enumerate(found):
                key = "text" if part in (3, 6) else "html"
                file.write(json.dumps({"url": f"http://example.org/{part}/{number}", key: page}) + "\n")

    def command(out: str) -> list[str]:
        return kills.humpback("segment", f"--input={pages}", f"--out={tmp_path / out}")

    seconds, _ = kills.finish(command("whole"))
    whole = contents(tmp_path / "whole")
    hit = tried = 0
    for schedule in range(int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "4"))):
        for _ in range(3):
            tried += 1
            moment = chance.uniform(0, seconds)
            killed = kills.kill_at(command(f"killed-{schedule}"), moment)
            working = killed and not (tmp_path / f"killed-{schedule}" / "manifest.json").exists()
            hit += working
            print(f"killed after {moment:.1f} s of {seconds:.1f}: {'in progress' if working else 'it had ended'}")
        kills.finish(command(f"killed-{schedule}"))
        assert contents(tmp_path / f"killed-{schedule}") == whole
    assert 2 * hit >= tried


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """All files but those that say how the folder came about."""
    names = ("timing.json", "stage.json", "manifest.json", "lock", "digests.json")
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in names}
    return found | {"files": json.dumps(json.loads((folder / "manifest.json").read_text())["files"]).encode()}
