"""Soak: mutated pages become segments quickly and say nothing that the page does not; `humpback segment` is killed and continued."""

import json
import os
import pathlib
import random
import re
import time
import unicodedata

from hypothesis import strategies as some
from selectolax.lexbor import LexborHTMLParser

from humpback.config import Segments
from humpback.corpus import filters
from humpback.corpus.charset import decode
from humpback.corpus.segments import extract
from humpback.records import Page
from tests import kills
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
CHANGES = some.lists(
    some.tuples(some.sampled_from(["insert", "delete", "copy", "byte"]), some.floats(0, 1), some.floats(0, 1), some.sampled_from(PIECES)),
    min_size=1, max_size=12,
)  # fmt: skip


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


def check_words(html: bytes, text: str) -> None:
    """A segment's letters are in its page, in that order; so are nearly all words, code apart: what is left out can stand in one."""
    whole = letters(LexborHTMLParser(decode(html), scripting=True).text(separator=" "))
    text = re.sub(r"(?m)^[\s>:-]*(?:-?\d+\. )+", "", text)  # the numbers of lists are not in the page
    words = [letters(word) for word in text.split() if not re.fullmatch(r"-?\d+\.", word)]
    position = 0
    for letter in "".join(words):
        position = whole.find(letter, position) + 1
        assert position, f"{letter!r} is not in the page where it should be"
    words = {letters(word) for word in filters.without_code(text).split()}
    strange = [word for word in words if word not in whole]
    assert len(strange) <= 0.2 * len(words) + 3, strange[:5]


def test_mutated_pages() -> None:
    """HUMPBACK_SOAK_SCHEDULES times PAGES (sixteen), seed HUMPBACK_SOAK_SEED."""
    schedules = int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "16"))
    cfg, slowest = Segments(min_chars=40, **UNJUDGED), 0.0
    counts = {"pages": 0, "segments": 0, "drops": 0}

    def one_page(html: str, changes: list) -> None:
        nonlocal slowest
        data = changed(html, changes)
        drops: list[str] = []
        started = time.process_time()
        found = extract(Page("p", "p", 0, len(data), data), cfg, lambda reason, _: drops.append(reason))
        slowest = max(slowest, time.process_time() - started)
        assert slowest < SECONDS
        assert found or drops
        for segment in found:
            check_words(data, segment.text)
            assert segment.text == segment.text.strip("\n") and 40 <= len(segment.text) <= 3_000
        counts.update(pages=counts["pages"] + 1, segments=counts["segments"] + len(found), drops=counts["drops"] + len(drops))

    fuzz.run(one_page, PAGES, schedules, some.sampled_from(SEEDS), CHANGES)
    print(f"{counts}, the slowest {slowest:.2f} s")
    pages = PAGES * schedules
    assert counts["pages"] >= pages * 0.9 and min(counts["segments"], counts["drops"]) > pages / 4


def test_kills(tmp_path: pathlib.Path) -> None:
    """HUMPBACK_SOAK_SCHEDULES commands (4), each killed three times at moments drawn over the undisturbed run: the same bytes."""
    chance = random.Random(int(os.environ.get("HUMPBACK_SOAK_SEED", "0")))
    pages = tmp_path / "pages"
    pages.mkdir()
    texts = [path.read_text() for path in sorted(DEMO.glob("*.html"))]
    for part in range(8):
        with (pages / f"{part}.jsonl").open("w") as file:
            for number in range(600):
                html = chance.choice(texts).replace("the ", f"the {chance.choice(['old', 'new', 'red', 'far'])} ", chance.randrange(40))
                file.write(json.dumps({"url": f"http://example.org/{part}/{number}", "html": html}) + "\n")

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
