"""How much of an article the segmenter finds on pages of the real web, beside trafilatura and resiliparse on the same pages.

--sets=DIR holds the public sets, each as its repository has it (git clone; nothing of them is kept in this one):
  DIR/readability                   github.com/mozilla/readability, at ab4027a: test/test-pages
  DIR/article-extraction-benchmark  github.com/scrapinghub/article-extraction-benchmark, at 4a3bc97: html, ground-truth.json
  DIR/trafilatura                   github.com/adbar/trafilatura, at e90b0ef5: tests/eval, tests/evaldata.json
  DIR/defuddle                      github.com/kepano/defuddle, at 6de1634: tests/fixtures, tests/expected (code and formulas; optional)

Measured is the level before the rules for trees, languages and lengths: all blocks and headers of a page. Readability's and Zyte's pages
are lost where fewer than 20 % of the word 5-grams of their article are found, trafilatura's where all strings that must be there are
missing. Half of the pages, by the sha256 of their names, are for looking at (even) and half for judging (odd): figures are given of each.

Last line: a JSON object with `lost_articles` (share), `lost_by_set`, `lost_even`, `lost_odd`, `must_strings`, `must_not_strings` (shares
found; each also `_trafilatura`, `_trafilatura_fast`, `_resiliparse`), `kept_segments`, `articles_without_segment` and
`median_kept_share` of their 5-grams, `formulas_lost`, `code_as_expected`, `pages_per_second` of the processor.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import re
import statistics
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import common
from selectolax.lexbor import LexborHTMLParser

from humpback.config import Segments
from humpback.corpus.charset import decode
from humpback.corpus.segments import Tree, extract
from humpback.corpus.text import Block, Header, to_items
from humpback.records import Page

SETS = ("readability", "article-extraction-benchmark", "trafilatura")
READERS = ("trafilatura", "trafilatura_fast", "resiliparse")
LOST = 0.2  # of an article's 5-grams
NO_ARTICLE = 5  # 5-grams; a shorter one says nothing
SMOKE = 12  # pages of each set
MOST_SHOWN = 4_000  # characters of a dropped text
Grams = frozenset[tuple[str, ...]]


@dataclass
class Case:
    """A page and what is known of it: its article's 5-grams, or strings that must and must not be in its text."""

    set: str
    name: str
    path: pathlib.Path
    grams: Grams = frozenset()
    must: list[str] = field(default_factory=list)
    must_not: list[str] = field(default_factory=list)

    @property
    def even(self) -> bool:
        """Whether it may be looked at."""
        return not int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 2

    def share(self, text: str) -> float:
        """The share of its article in a text."""
        if self.grams:
            return len(self.grams & grams_of(text)) / len(self.grams)
        return sum(map(folded(text).__contains__, self.must)) / len(self.must)

    def lost(self, text: str) -> bool:
        """Whether its article is not in a text."""
        return self.share(text) < (LOST if self.grams else 1e-9)


def grams_of(text: str) -> Grams:
    """The word 5-grams of a text."""
    words = re.findall(r"\w+", text.casefold())
    return frozenset(zip(*(words[i:] for i in range(5)), strict=False))


def folded(text: str) -> str:
    """A text with single spaces."""
    return " ".join(text.split())


def read_cases(sets: pathlib.Path) -> list[Case]:
    """All pages of the three sets."""
    readability = sets / "readability" / "test" / "test-pages"
    zyte, trafilatura = sets / "article-extraction-benchmark", sets / "trafilatura" / "tests"
    cases = []
    for folder in sorted(readability.iterdir()):
        article = LexborHTMLParser((folder / "expected.html").read_bytes()).text(separator=" ")
        cases.append(Case(SETS[0], folder.name, folder / "source.html", grams_of(article)))
    for name, truth in sorted(json.loads((zyte / "ground-truth.json").read_text()).items()):
        cases.append(Case(SETS[1], name, zyte / "html" / f"{name}.html.gz", grams_of(truth["articleBody"])))
    for truth in json.loads((trafilatura / "evaldata.json").read_text()).values():
        path = trafilatura / "eval" / truth["file"]
        if path.exists():  # the others are in tests/cache
            must, must_not = (list(filter(None, map(folded, truth[key] or []))) for key in ("with", "without"))
            cases.append(Case(SETS[2], truth["file"], path, must=must, must_not=must_not))
    return [case for case in cases if case.must or len(case.grams) >= NO_ARTICLE]


def contents(path: pathlib.Path) -> bytes:
    """A page's bytes."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def text_of(html: bytes) -> str:
    """All blocks and headers of a page."""
    items = to_items(LexborHTMLParser(decode(html) or "", scripting=True))
    return "\n\n".join(item.text for item in items if isinstance(item, Block | Header))


def shares(cases: Iterable[Case], text: Callable[[Case], str], strings: Callable[[Case], list[str]]) -> float:
    """The share of strings that are in their pages' texts."""
    found = [string in page for case in cases for page in [folded(text(case))] for string in strings(case)]
    return sum(found) / max(len(found), 1)


def figures(cases: list[Case], texts: dict[pathlib.Path, str], suffix: str) -> dict[str, float]:
    """What one reader's texts are worth."""
    lost = {case.path for case in cases if case.lost(texts[case.path])}
    text = lambda case: texts[case.path]  # noqa: E731
    return {
        f"lost_articles{suffix}": len(lost) / len(cases),
        f"lost_by_set{suffix}": {name: sum(case.set == name and case.path in lost for case in cases) for name in SETS},
        f"must_strings{suffix}": shares(cases, text, lambda case: case.must),
        f"must_not_strings{suffix}": shares(cases, text, lambda case: case.must_not),
    }


def halves(cases: list[Case], texts: dict[pathlib.Path, str]) -> dict[str, float]:
    """The share of lost articles, and of the strings that must and must not be there, of each half."""
    result: dict[str, float] = {}
    for name, even in (("even", True), ("odd", False)):
        found = figures([case for case in cases if case.even is even], texts, "")
        result |= {f"lost_{name}": found["lost_articles"], f"must_{name}": found["must_strings"]}
        result[f"must_not_{name}"] = found["must_not_strings"]
    return result


def kept(cases: list[Case]) -> dict[str, float]:
    """Of the segments that all rules keep (English): how many, and how much of the articles is in them; and the speed of it all."""
    pages = [Page(case.name, case.name, 0, 0, contents(case.path)) for case in cases]
    drops: Counter[str] = Counter()
    started = time.process_time()
    segments = [extract(page, Segments(), lambda reason, tree: drops.update([reason])) for page in pages]
    seconds = time.process_time() - started
    found = [case.share("\n\n".join(segment.text for segment in some)) for case, some in zip(cases, segments, strict=True) if some]
    return {
        "kept_segments": sum(map(len, segments)),
        "pages_with_segments": len(found),
        "articles_without_segment": sum(share < LOST for share in found),
        "median_kept_share": statistics.median(found) if found else 0.0,
        "pages_per_second": len(cases) / seconds,
        "dropped": dict(drops.most_common()),
    }


def draw(cases: list[Case], kept: int, dropped: int, seed: str) -> list[dict[str, Any]]:
    """What readers judge: kept English segments, drawn evenly from the sets, and dropped texts, evenly from the reasons, as far as each
    has so many. Those with the smallest sha256 of seed and key are drawn.
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {"kept": {}, "dropped": {}}
    for case in cases:
        page = Page(case.name, case.name, 0, 0, contents(case.path))
        title = LexborHTMLParser(decode(page.html) or "").css_first("head > title")
        about = {"set": case.set, "page": case.name, "title": folded(title.text()) if title is not None else ""}
        lost: list[tuple[str, Tree]] = []
        for segment in extract(page, Segments(), lambda reason, tree, lost=lost: lost.append((reason, tree)) if tree else None):
            row = {"what": "kept", "key": segment.id, **about, "header_path": segment.header_path, "text": segment.text}
            found["kept"].setdefault(case.set, []).append(row)
        for reason, tree in lost:
            key = hashlib.sha256(f"{case.name}\0{tree.start}\0{reason}".encode()).hexdigest()[:16]
            row = {"what": "dropped", "key": key, **about, "reason": reason, "header_path": tree.header_path}
            row["text"] = tree.text[:MOST_SHOWN]
            found["dropped"].setdefault(reason, []).append(row)
    return [row for what, number in (("kept", kept), ("dropped", dropped)) for row in _evenly(list(found[what].values()), number, seed)]


def _evenly(groups: list[list[dict[str, Any]]], number: int, seed: str) -> list[dict[str, Any]]:
    order = lambda row: hashlib.sha256(f"{seed}:{row['key']}".encode()).hexdigest()  # noqa: E731
    drawn: list[dict[str, Any]] = []
    for left, group in zip(range(len(groups), 0, -1), sorted(groups, key=len), strict=True):
        drawn += sorted(group, key=order)[: round((number - len(drawn)) / left)]
    return sorted(drawn, key=order)


def defuddle(folder: pathlib.Path, listed: bool) -> dict[str, int]:
    """How many of its fixtures of formulas lose or change one, and of how many of code all blocks are as expected.

    A formula counts by its letters and digits, in their order, and its fraction lines; a block of code by its lines without spaces at
    their ends.
    """
    lost, right, seen = [], [], 0
    for path in sorted((folder / "tests" / "expected").glob("*.md")):
        kind = path.name.partition("--")[0]
        if kind not in ("math", "codeblocks", "code-blocks"):
            continue
        text = text_of((folder / "tests" / "fixtures" / f"{path.stem}.html").read_bytes())
        expected = path.read_text()
        if kind == "math":
            if not all(formula_in(text, formula) for formula in formulas_of(expected)):
                lost.append(path.stem)
        else:
            seen += 1
            if code_of(expected)[1:] == code_of(text):  # the first says who wrote the page
                right.append(path.stem)
    if listed:
        common.say(f"formulas lost: {', '.join(lost)}; code right: {', '.join(right)}")
    return {"formulas_lost": len(lost), "code_as_expected": len(right), "code_fixtures": seen}


def formulas_of(markdown: str) -> list[str]:
    """The TeX of its formulas."""
    prose = re.sub(r"(?s)```.*?```", "", markdown)
    return [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", prose, re.DOTALL)]


def formula_in(text: str, tex: str) -> bool:
    """Whether a text has a formula, as TeX or written out."""
    fractions = len(re.findall(r"\\[dt]?frac", text)) + text.count("/")
    return bare(tex) in bare(text) and len(re.findall(r"\\[dt]?frac", tex)) <= fractions


def bare(text: str) -> str:
    """Letters and digits, without the names of TeX's commands and environments, and without what these stand for."""
    text = re.sub(r"\\(arccos|arcsin|arctan|arg|cos|cosh|det|dim|exp|gcd|inf|ker|lim|ln|log|max|min|sin|sinh|sup|tan|tanh)\b", r"\1", text)
    text = re.sub(r"\\(?:begin|end)\{\w+\*?\}|\\[A-Za-z]+", "", text)
    text = text.replace("{0pt}", "")  # a fraction without its line
    return re.sub(r"[^A-Za-z0-9]", "", unicodedata.normalize("NFKC", text))


def code_of(text: str) -> list[list[str]]:
    """The fenced blocks of a text, without what their fences say."""
    blocks = re.findall(r"(?ms)^ *(`{3,})[^\n`]*\n(.*?)\n? *\1", text)
    return [[line.rstrip() for line in block.strip("\n").split("\n")] for _, block in blocks]


def main() -> int:
    """Measures and prints; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=pathlib.Path, required=True, help="the folder of the public sets")
    parser.add_argument("--no_peers", action="store_true", help="ours alone")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE} pages of each set: shows only that it works")
    parser.add_argument("--list_even", action="store_true", help="names the pages of the even half whose article is lost")
    parser.add_argument("--draw", type=int, default=0, help="prints so many kept segments of the odd half, a JSON object a line, and ends")
    parser.add_argument("--draw_dropped", type=int, default=0, help="and so many dropped texts")
    parser.add_argument("--draw_even", action="store_true", help="of the even half instead")
    parser.add_argument("--seed", default="0", help="of --draw")
    values = parser.parse_args()
    missing = [name for name in SETS if not (values.sets / name).is_dir()]
    if missing:
        parser.error(f"{values.sets}: {', '.join(missing)} missing; the beginning of {parser.prog} says where to get them")
    cases = read_cases(values.sets)
    if values.draw or values.draw_dropped:
        for row in draw([case for case in cases if case.even is values.draw_even], values.draw, values.draw_dropped, values.seed):
            print(json.dumps(row, ensure_ascii=False), flush=True)
        return 0
    if values.smoke:
        cases = [case for name in SETS for case in [case for case in cases if case.set == name][:SMOKE]]
    common.begin(f"{len(cases)} pages of the web")
    texts = {case.path: text_of(contents(case.path)) for case in cases}
    result = figures(cases, texts, "") | halves(cases, texts) | kept(cases)
    if values.list_even:
        for case in cases:
            if case.even and case.lost(texts[case.path]):
                common.say(f"lost: {case.set} {case.name}")
    if not values.no_peers:
        with common.Peer("trafilatura_peer.py") as peer:
            common.say(f"compared with {peer.ask('versions')}")
            for reader in READERS:
                found = peer.ask("texts", files=[str(case.path) for case in cases], reader=reader)["texts"]
                result |= figures(cases, dict(zip(texts, found, strict=True)), f"_{reader}")
                common.say(f"  {reader}: lost {result[f'lost_articles_{reader}']:.1%}")
    if (values.sets / "defuddle").is_dir():
        result |= defuddle(values.sets / "defuddle", values.list_even)
    for name, value in result.items():
        common.say(f"  {name}: {common.rounded(value)}")
    print(json.dumps({**common.rounded(result), "pages": len(cases), "machine": common.machine(), "smoke": values.smoke}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
