"""The embedded pages and pairs: enough of them, with the nuisances of the web, and no text made from another."""

import dataclasses
import itertools
import re
from pathlib import Path

import pytest

from humpback.config import Segments
from humpback.datasets.seed_pairs import read_pairs
from tests.pages import segment_pages

DEMO = Path(__file__).parents[2] / "humpback" / "demo"
CFG = Segments(input=str(DEMO / "pages"), max_chars=1_500)
PLANTED = {  # copies, and the page that each copies
    frozenset(("copied-cast-iron.html", "caring-for-cast-iron.html")),
    frozenset(("mirror-sleeping-better.html", "sleeping-better.html")),
}


def pairs() -> dict[str, str]:
    found = {}
    for name in ("seed.jsonl", "held_out.jsonl"):
        for pair in read_pairs(str(DEMO / name))[0]:
            found[pair.source] = f"{pair.instruction}\n{pair.response}"
    return found


def page_texts() -> dict[str, str]:
    """Each page's text between its tags, without regard to our own cutter."""
    found = {}
    for path in sorted((DEMO / "pages").glob("*.html")):
        html = re.sub(r"(?s)<(script|style)\b.*?</\1>|<!--.*?-->", " ", path.read_text())
        found[path.name] = re.sub(r"<[^>]+>", " ", html)
    return found


def grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_enough_pages_segments_and_pairs() -> None:
    assert len(list((DEMO / "pages").glob("*.html"))) >= 40
    assert len(read_pairs(str(DEMO / "seed.jsonl"))[0]) >= 64
    assert len(read_pairs(str(DEMO / "held_out.jsonl"))[0]) >= 32
    for max_chars in (1_500, 3_000):
        assert len(segment_pages(dataclasses.replace(CFG, max_chars=max_chars))[0]) >= 96


def test_every_rule_has_something_to_drop() -> None:
    _, counts, drops = segment_pages(CFG)
    expected = {
        "empty header", "all upper case header", "navigation header", "duplicate", "language", "too short", "too long",
    }  # fmt: skip
    assert {reason for reason in expected if not drops.get(reason)} == set()
    assert counts["cut"] - drops["duplicate"] == counts["segments"]


def test_no_line_of_what_surrounds_the_text_is_kept() -> None:
    nuisances = re.compile(r"cookie (policy|consent)|accept all|share on|subscribe|sign up|log in|all rights reserved|©", re.IGNORECASE)
    segments, _, _ = segment_pages(CFG)
    assert [(s.source, s.header, m.group()) for s in segments if (m := nuisances.search(s.text))] == []


@pytest.mark.parametrize("kind", ["pages", "pairs"])
def test_no_two_share_their_words(kind: str) -> None:
    sets = {name: grams(text) for name, text in (page_texts() if kind == "pages" else pairs()).items()}
    for (a, first), (b, second) in itertools.combinations(sets.items(), 2):
        share = len(first & second) / min(len(first), len(second))
        if frozenset((a, b)) in PLANTED:
            assert share > 0.3, f"{a} and {b} are meant to be copies"
        else:
            assert share <= 0.05, f"{a} and {b} share {share:.0%} of their word 5-grams"


def test_responses_are_of_the_papers_length() -> None:
    lengths = {p.source: len(p.response) for name in ("seed.jsonl", "held_out.jsonl") for p in read_pairs(str(DEMO / name))[0]}
    assert {source: length for source, length in lengths.items() if not 300 <= length <= 1_500} == {}


def test_no_instruction_is_both_trained_and_held_out() -> None:
    seed, held_out = ({p.instruction.casefold() for p in read_pairs(str(DEMO / n))[0]} for n in ("seed.jsonl", "held_out.jsonl"))
    assert seed & held_out == set()
