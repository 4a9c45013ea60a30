"""Plain text: paragraphs, lines that were broken at a width, and texts as whole documents."""

import textwrap
from collections import Counter

import pytest

from humpback.config import Segments
from humpback.corpus.plain_text import to_items
from humpback.corpus.segments import PageDropped, cut, extract
from humpback.records import Page, Segment
from tests.corpus.test_segments import words
from tests.pages import UNJUDGED
from tests.timing import at_most

PROSE = (
    "The miller carries the sacks up to the stone floor and empties them into the hopper, from where the grain runs between two stones. "
    "Of these only the upper one turns. Its weight is taken up by a screw, so that the gap can be made wider or narrower at work."
)
OTHER = (
    "What comes out at the rim falls through a spout into the bolter below, where a sieve of silk keeps back what is too coarse for bread. "
    "A good miller hears from the sound of the stones whether they are dressed well, and stops them long before the smell tells him."
)


def text_of(text: str) -> str:
    return "".join(("\n" if item.tight else "\n\n") + item.text for item in to_items(text)).lstrip("\n")


def page(text: str | bytes, language: str = "") -> Page:
    data = text.encode() if isinstance(text, str) else text
    return Page("p", "http://a/", 3, 4, data, "", language, "text")


def run(text: str | bytes, **fields: str) -> tuple[list[Segment], list[str], Counter[str]]:
    drops: list[str] = []
    counts: Counter[str] = Counter()
    cfg = Segments(min_chars=20, max_chars=600, **UNJUDGED, **fields)
    return extract(page(text), cfg, lambda reason, _: drops.append(reason), counts), drops, counts


@pytest.mark.parametrize("text, expected", [
    ("a\r\n\r\n\r\nb\n\tc \rd", "a\n\nb\n    c\nd"), ("  a\n\n    b\n      c", "a\n\nb\n  c"), ("* a\n• b\n\n*c*", "- a\n- b\n\n*c*"),
    ("\x00a\u200bb\x0cc", "ab\nc"), ("", ""), (" \n\t\n", ""),
])  # fmt: skip
def test_lines(text: str, expected: str) -> None:
    assert text_of(text) == expected


@pytest.mark.parametrize("width", [50, 72, 100])
def test_lines_that_were_broken_at_a_width_are_joined(width: int) -> None:
    paragraphs = [PROSE, f"{PROSE} {PROSE}", "Short."]
    broken = "\n\n".join(textwrap.fill(paragraph, width) for paragraph in paragraphs)
    assert text_of(broken) == "\n\n".join(paragraphs)
    assert text_of(textwrap.indent(broken, "  ")) == "\n\n".join(paragraphs)
    items = "\n".join(textwrap.fill(PROSE, width, initial_indent=f"{n}. ", subsequent_indent="   ") for n in (1, 2))
    assert text_of(f"{broken}\n\n{items}") == "\n\n".join([*paragraphs, f"1. {PROSE}\n2. {PROSE}"])


def test_lines_that_stand_for_themselves_are_not_joined() -> None:
    verse = "The woods are still as evening falls,\nThe river keeps its tune,\nAnd over all the village walls\nThere climbs a yellow moon."
    steps = "\n".join(f"Take the {name} and put it on the table beside the others." for name in ("bowl", "sieve", "flour", "butter"))
    for text in (verse, steps, f"{PROSE}\n{PROSE}\nshort line\n{PROSE}"):
        assert text_of(text) == text


def test_a_text_is_one_whole_document() -> None:
    (segment,), drops, counts = run(f"A title\n\n{PROSE}")
    assert (segment.text, segment.header, segment.header_path, segment.url) == (f"A title\n\n{PROSE}", "", (), "http://a/")
    assert (segment.start, segment.end) == (3, 4) and not drops
    assert counts == {"own_characters": 0, "whole_documents": 1}


def test_a_text_with_headers_is_cut_at_them() -> None:
    found, drops, counts = run(f"---\ntitle: T\n---\n# Bread\n\n{PROSE}\n\n## Crust\n\n{PROSE} {OTHER}")
    assert [(segment.header_path, segment.text) for segment in found] == [(("Bread", "Crust"), f"{PROSE} {OTHER}")]
    assert drops == ["too long"] and counts["headers"] == 2 and not counts["whole_documents"]


def test_texts_that_are_not_taken_whole() -> None:
    assert run(PROSE, without_headers="drop")[1] == ["no header"]
    assert run("<!DOCTYPE html><p>" + PROSE)[1] == ["no header"]
    assert run("<html><h1>Bread</h1><p>" + PROSE)[0][0].header == "Bread"
    assert run(bytes(range(256)) * 9)[1] == ["binary"]
    assert run(words(601))[1] == ["too long"]
    with pytest.raises(PageDropped, match="language"):
        cut(page(PROSE, "de"), Segments())


@pytest.mark.parametrize("text", [
    f"Bread\n=====\n\n.. versionadded:: 3.2\n\n{PROSE} See :func:`print` for more.",
    f".. _label:\n\nHow to bake ^^^\n\n.. code-block:: sh\n\n   # Mix\n   mix\n\n{PROSE}",
    f"Bread\n-----\n[[crust]]\n{PROSE} See linkgit:git-log[1].",
    f"[source,python]\n----\nbake()\n----\n\n{PROSE}\n\ninclude::more.txt[]",
])  # fmt: skip
def test_sources_in_another_markup_are_dropped_and_counted(text: str) -> None:
    assert run(text)[:2] == ([], ["other markup"])


def test_one_mark_of_another_markup_may_be_spoken_of() -> None:
    assert len(run(f"{PROSE}\n\nSphinx has roles: :func:`print` is one, and they are many. [source] is none.")[0]) == 1
    assert run(f"<html><h1>Bread</h1><p>.. note:: a :func:`b` and :func:`c`. {PROSE}")[1] != ["other markup"]


def test_html_without_headers_may_be_taken_whole() -> None:
    data = f"<p>{PROSE}".encode()
    (segment,) = extract(Page("p", "p", 0, 9, data), Segments(min_chars=20, without_headers="whole", **UNJUDGED), lambda *_: None)
    assert (segment.text, segment.header) == (PROSE, "")


def test_a_text_without_its_own_lines() -> None:
    (segment,), _, counts = run(f"By Jane Miller\nPublished on 3 May 2019\n{PROSE}\nRead more\n")
    assert segment.text == PROSE and counts["own_characters"] > 30


def test_email_addresses() -> None:
    text = f"{PROSE} Write to jane.miller+mill@mill.example.org or to info@mill.example, not to git@host.org:mill.git."
    assert run(text)[2]["email_addresses"] == 2
    found, drops, counts = run(text, emails="drop")
    assert not found and drops == ["e-mail address"] and counts["email_addresses"] == 2
    found, drops, counts = run(f"# A\n\n{PROSE}\n\n## B\n\n{OTHER} a@b.org", emails="drop")
    assert not found and drops == ["e-mail address"] * 2 and counts["email_addresses"] == 1


def test_long_texts_take_no_long_time() -> None:
    with at_most(5):
        for text in (
            "a " * 500_000, "a\n" * 100_000, "a" * 1_000_000, "@a." * 300_000, "a@" * 300_000, " \n" * 200_000, "\t" * 500_000,
            "\n".join(" " * 2 * i + "a" for i in range(1_000)),
        ):  # fmt: skip
            run(text)
