"""Files and folders to pages, and the segment stage on them."""

import dataclasses
import os
import time
from pathlib import Path

import pytest

from humpback.config import Segments
from humpback.corpus import readers
from humpback.errors import UserError
from humpback.stages.segment import segment_pages

WORDS = " ".join(f"w{i}" for i in range(300))


def read(inputs: str) -> tuple[list[str], list[tuple[str, str]]]:
    drops: list[tuple[str, str]] = []
    pages = list(readers.read_pages(inputs, lambda source, reason: drops.append((source, reason))))
    assert all(page.end == len(page.html) and page.url == page.source for page in pages)
    return [page.source for page in pages], drops


def test_folders_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.html", "a/z.htm", "a/y.XHTML", "a.html", "c.txt", "d.html.bak", "a/deep/er/q.html"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<h1>x</h1>")
    os.symlink(tmp_path / "in", tmp_path / "in" / "a" / "loop")
    os.symlink(tmp_path / "nowhere", tmp_path / "in" / "e.html")
    assert read(f"{tmp_path / 'in'}") == (["a.html", "a/deep/er/q.html", "a/y.XHTML", "a/z.htm", "b.html"], [("e.html", "unreadable")])
    assert read(f" {tmp_path / 'in' / 'a'} ,{tmp_path / 'in' / 'b.html'},")[0] == ["deep/er/q.html", "y.XHTML", "z.htm", "b.html"]


def test_ids_do_not_depend_on_where_the_pages_are(tmp_path: Path) -> None:
    found = []
    for place in ("one", "two/three"):
        (tmp_path / place / "x").mkdir(parents=True)
        (tmp_path / place / "x" / "p.html").write_text(f"<h1>A title</h1><p>{WORDS}</p>")
        found.append(segment_pages(Segments(input=str(tmp_path / place)))[0])
    assert found[0] == found[1] and len(found[0]) == 1


@pytest.mark.parametrize("inputs, part", [
    ("", "is empty"), (" , ", "is empty"), ("nowhere", "no such file"), ("x.txt", "not an HTML file"),
])  # fmt: skip
def test_inputs_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: str, part: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.txt").write_text("x")
    with pytest.raises(UserError, match=part):
        read(inputs)


def test_hostile_files_cost_themselves(tmp_path: Path) -> None:
    (tmp_path / "binary.html").write_bytes(os.urandom(200_000))
    (tmp_path / "huge.html").write_bytes(b"<p>" + b"x" * 50_000_000)
    (tmp_path / "deep.html").write_text("<div>" * 100_000)
    (tmp_path / "empty.html").write_text("")
    (tmp_path / "latin.html").write_bytes(b"<meta charset=utf-8><h1>Title</h1><p>" + WORDS.encode() + b"\xe9</p>")
    (tmp_path / "good.html").write_text(f"<h1>Title</h1><p>{WORDS}</p>")
    started = time.process_time()
    segments, counts, drops = segment_pages(Segments(input=str(tmp_path)))
    assert time.process_time() - started < 4
    assert [s.source for s in segments] == ["good.html"]
    assert counts == {"pages": 5, "cut": 1, "segments": 1, "over_limit": 0}
    assert drops == {"binary": 1, "broken characters": 1, "no header": 1, "too deep": 1, "too large": 1}


def test_duplicates_limit_and_order(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / f"{name}.html").write_text(f"<h1>Title</h1><p>{name if name < 'e' else 'same'} {WORDS}</p>")
    cfg = Segments(input=str(tmp_path))
    every, counts, drops = segment_pages(cfg)
    assert counts == {"pages": 6, "cut": 6, "segments": 5, "over_limit": 0} and drops == {"duplicate": 1}
    assert [s.id for s in every] == sorted(s.id for s in every)
    some, counts, _ = segment_pages(dataclasses.replace(cfg, limit=2))
    assert some == every[:2] and counts["over_limit"] == 3


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no segment of 600 to 3000 characters in 0 pages"):
        segment_pages(Segments(input=str(tmp_path)))
    (tmp_path / "a.html").write_text("<h1>Title</h1><p>short</p>")
    with pytest.raises(UserError, match="too short: 1"):
        segment_pages(Segments(input=str(tmp_path)))
