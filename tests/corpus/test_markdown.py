"""Markdown as trees of headers, what of it is none, and Markdown that would cost much."""

from collections import Counter

import pytest

from humpback.config import Segments
from humpback.corpus import markdown
from humpback.corpus.segments import PageDropped, Tree, cut
from humpback.records import Page
from tests.timing import at_most

LONG = "This is a paragraph that says what is said of it, and it is long enough to be no label of anything."


def trees_of(text: str | bytes, kind: str = "markdown", counts: Counter[str] | None = None, **fields: str) -> list[Tree]:
    data = text.encode() if isinstance(text, str) else text
    return cut(Page("p.md", "p.md", 0, len(data), data, kind=kind), Segments(**fields), counts)[1]


def said(text: str | bytes, kind: str = "markdown", **fields: str) -> list[tuple[str, str]]:
    """(path of headers, text) of each tree."""
    return [(" > ".join(tree.header_path), tree.text) for tree in trees_of(text, kind, **fields)]


TREES = [
    ("levels", "# A\n\na\n\n## B ##\nb\n\n# C #\n\nc", [("A", "a\n\nB\n\nb"), ("A > B", "b"), ("C", "c")]),
    ("setext", "A\n===\n\na\n\nB\n-\n\nb", [("A", "a\n\nB\n\nb"), ("A > B", "b")]),
    ("setext of two lines", "A\nand so on\n===\n\na", [("A and so on", "a")]),
    ("no setext below an item", "# A\n\n- one\n---\n\n- two\n===\n\na", [("A", "- one\n\n- two ===\n\na")]),
    ("no header without a blank", "# A\n\n#b\n\n####### c", [("A", "#b\n\n####### c")]),
    ("a header needs no blank line", "# A\na\n## B\nb", [("A", "a\n\nB\n\nb"), ("A > B", "b")]),
    ("not in fences", "# A\n\n```bash\n# no\n```\n\n~~~~\n# no\n~~~\n~~~~\n\n   ```\n   # no\n   ```\n\n    # no",
     [("A", "```\n# no\n```\n\n```\n# no\n~~~\n```\n\n```\n# no\n```\n\n```\n# no\n```")]),
    ("a shorter or another fence closes none", "# A\n\n````\n```\n~~~\n# no\n````\n\na", [("A", "````\n```\n~~~\n# no\n````\n\na")]),
    ("in a quotation and a list", "# A\n\n> ## B\n> b\n\n- ## C\n  c", [("A", "B\n\n> b\n\nC\n\nc"), ("A > B", "> b"), ("A > C", "c")]),
    ("line ends of Windows", "\ufeff---\r\nlang: en\r\n---\r\n# A\r\n\r\na\r\nb\r\n\r\nB\r\n---\r\n\r\n~~~\r\n# no\r\n~~~\r\n",
     [("A", "a b\n\nB\n\n```\n# no\n```"), ("A > B", "```\n# no\n```")]),
    ("old line ends of Macintosh", "# A\r\ra\r", [("A", "a")]),
    ("front matter", "---\ntitle: \"A page\"\n# remark\ntags:\n  - x\n---\n\n# Introduction\n\na", [("A page > Introduction", "a")]),
    ("front matter that ends in dots", "---\nx: 1\n...\n# A\n\na", [("A", "a")]),
    ("a rule is no front matter", "---\n\n# A\n\na\n\n---\n\nb", [("A", "a\n\nb")]),
    ("inline", "# *A* `b` {#anchor}\n\nSee [c](http://d.org/e \"f\") **and** g_h_i, ![j](k.png)&amp; \\*l\\*.[^1]\n\n[^1]: m",
     [("A b", "See c and g_h_i, & *l*.")]),
    ("formulas", "# A\n\nLet $a*b$ and $c*d_1$, for $5 and $6.\n\n$$\nx_1 < \\frac{1}{2}\n$$",
     [("A", "Let $a*b$ and $c*d_1$, for $5 and $6.\n\n$$ x_1 < \\frac{1}{2} $$")]),
    ("HTML", "<h1 align=center>A</h1>\n\n<!-- no -->\n\na<br>b &lt;title> <title> c\n\n<details><summary>d</summary>\n\ne\n\n</details>",
     [("A", "a\nb <title> <title> c\n\nd\n\ne")]),
    ("a table", "# A\n\n| b | c |\n|---|---|\n| d | e |\n| f | g |\n| h | i |",
     [("A", "| b | c |\n| --- | --- |\n| d | e |\n| f | g |\n| h | i |")]),
    ("lists", "# A\n\n* b\n* c\n   1. d\n\n7) e\n8) f", [("A", "- b\n- c\n  1. d\n\n7. e\n8. f")]),
]  # fmt: skip


@pytest.mark.parametrize("text, expected", [row[1:] for row in TREES], ids=[row[0] for row in TREES])
def test_trees(text: str, expected: list[tuple[str, str]]) -> None:
    assert said(text) == expected
    assert [tree.length for tree in trees_of(text)] == [len(text) for _, text in expected]


@pytest.mark.parametrize("text", [
    "# A\n\na", "a\n\n## B\nb\n", "A\n===\n\nb", "a\n\nB\n---\nb", "\r\n# A\r\na", "a\n\n```\nb\n```", "a\n~~~ sh\nb\n~~~", "a\n```\nb",
    "x\n\n> ```\n> b\n> ```",
])  # fmt: skip
def test_a_text_is_markdown_by_its_headers_and_fences(text: str) -> None:
    assert markdown.is_markdown(text)


@pytest.mark.parametrize("text", [
    "a\n\nb", "#a\n\nb", "x = 1\n# a remark\ny = 2", f"{LONG} {LONG}\n-----\nb", "a\nb\n---\nc", "-----\na\n-----", "=====\n\na",
    "a\n\n~~~~~~~~~~\n\nb\n\n~~~~~~~~~~", "a ``` b", "a | b\nc | d", "- a\n- b", "", "\n",
])  # fmt: skip
def test_a_text_is_no_markdown(text: str) -> None:
    assert not markdown.is_markdown(text)


@pytest.mark.parametrize("text, trees", [
    ("# A\n\na\n\n# B\n\n```\nb\n\n# C\n\nc", {"A": False, "B": True}),
    ("# A\n\n## B\n\n~~~\nb\n~~", {"A": True, "B": True}),
    ("# A\n\n- a\n\n  ```\n  b\n", {"A": True}),
    ("# A\n\na\n\n<!-- b\n\n# C\n\nc", {"A": True}),
    ("# A\n\na\n\n<script>\nb\n\n# C\n\nc", {"A": True}),
    ("# A\n\n- ```\n  b\n\na", {"A": False}),
    ("# A\n\n```\nb\n```", {"A": False}), ("# A\n\n> ```\n> b\n> ```\n", {"A": False}), ("# A\n\n```\n```\n\n", {"A": False}),
])  # fmt: skip
def test_what_is_never_closed(text: str, trees: dict[str, bool]) -> None:
    assert {tree.header: tree.is_open for tree in trees_of(text)} == trees


def test_pages_without_headers() -> None:
    with pytest.raises(PageDropped, match="no header"):
        trees_of(LONG)
    with pytest.raises(PageDropped, match="never closed"):
        trees_of(f"```\n# A\n\n{LONG}")
    with pytest.raises(PageDropped, match="language"):
        trees_of("---\nlang: de\n---\n# A\n\na")
    counts: Counter[str] = Counter()
    (tree,) = trees_of(f"{LONG}\n{LONG}\n\n- *a*", counts=counts, without_headers="whole")
    assert (tree.header, tree.header_path, tree.text) == ("", (), f"{LONG} {LONG}\n\n- a")
    assert tree.length == len(tree.text) and counts["whole_documents"] == 1 and not counts["headers"]


HOSTILE = {
    "headers": "# a\n" * 10_000, "empty headers": "#\n" * 10_000, "quotations": ">" * 50_000 + "a", "brackets": "# a\n\n" + "[" * 10_000,
    "stars": "# a\n\n" + "*a_ " * 10_000, "links": "[a](" * 10_000, "items": "\n".join(" " * 2 * i + "- a" for i in range(1_000)),
    "references": "".join(f"[a{i}]: b\n" for i in range(5_000)) + "[a1]" * 5_000, "tags": "<a " * 10_000, "ticks": "`a``" * 10_000,
    "fences": "```\n" * 10_001, "underlines": "a\n===\n" * 5_000, "dollars": "$a " * 20_000, "notes": "[^a" * 10_000,
    "front matter": "---\na: b\n" * 10_000, "comments": "<!--\n\n" * 10_000, "dashes": "-\n" * 10_000,
    "rows": "|a" * 5_000 + "\n" + "|-" * 5_000,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_markdown_takes_no_long_time(name: str) -> None:
    with at_most(3):
        for kind in ("markdown", "text"):
            try:
                trees = trees_of(HOSTILE[name], kind)
            except PageDropped:
                continue
            assert trees
