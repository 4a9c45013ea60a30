"""Each rule by which a header or a text is dropped, as literal tables."""

import pytest

from humpback.config import Segments
from humpback.corpus import filters

HEADERS = {
    "": "empty header",
    "***": "empty header",
    "BUY NOW": "all upper case header",
    "FAQ": "all upper case header",  # the paper's rule knows no exceptions
    "2. WARNING!": "all upper case header",
    "Advertisement": "navigation header",
    "Forum": "navigation header",
    "Quick Links": "navigation header",
    "Get our FREE newsletter": "navigation header",
    "Related  Articles:": "navigation header",
    "Comments": "navigation header",
    "12 Comments": "navigation header",
    "Comments (3)": "navigation header",
    "Leave a Reply": "navigation header",
    "See also": "navigation header",
    "What the comments of a programme are for": "",
    "The forums of Rome": "navigation header",
    "Performing a forumla": "",  # words, not letters
    "C": "",
    "4.2. X": "",
    "Why NASA flies": "",
    "How espresso works": "",
    "2.4": "",
}


@pytest.mark.parametrize("header, reason", HEADERS.items())
def test_header_reason(header: str, reason: str) -> None:
    assert filters.header_reason(header) == reason


@pytest.mark.parametrize("declared, reason", [
    (None, ""), ("", ""), ("en", ""), ("EN-us", ""), ("en_GB", ""), ("English", ""), ("de", "language"), ("zh-Hant", "language"),
    ("enm", "language"), ("fr, en", "language"),
])  # fmt: skip
def test_language_reason(declared: str | None, reason: str) -> None:
    assert filters.language_reason(declared) == reason


def test_length_reason() -> None:
    cfg = Segments()
    assert [filters.length_reason(n, cfg) for n in (599, 600, 3_000, 3_001)] == ["too short", "", "", "too long"]


REPETITION = [
    ("The red fox ran over the hill. The red fox ran over the wall.", True),  # 4 of 6 three-grams shared
    ("The red fox ran over the hill. A red fox ran over a wall.", False),  # 2 of 8
    ("One two three four.\nOne two three four.", False),  # fewer than five words
    ("One two three four five.\nOne two three four five.", True),
    ("ONE two, three four - five!\n\none Two three: four five", True),
    ("- one two three four five\n- one two three four five six", True),
    ("```\nsudo apt install the tool\nsudo apt install the tool\n```", False),  # code
    ("| one two three four five |\n| one two three four five |", False),  # a table
    ("One two three four five, and one two three four five, and no more.", False),  # one sentence
    ("", False),
]


@pytest.mark.parametrize("text, repeated", REPETITION)
def test_repetition(text: str, repeated: bool) -> None:
    assert filters.repeats(text, ngram=3, jaccard=0.5, min_words=5) is repeated
    assert filters.text_reason(text, Segments()) == ("repetition" if repeated else "")


def test_repetition_at_the_threshold() -> None:
    text = "a b c d e f. a b c d e g h."  # 3 shared of 4 + 5 - 3 = 6
    assert filters.repeats(text, 3, 0.5, 5)
    assert not filters.repeats(text, 3, 0.51, 5)
    assert not filters.repeats(text, 3, 0.5, 7)
    assert not filters.repeats(text, 5, 0.5, 5)  # 1 of 2 + 3 - 1


def test_sentences() -> None:
    text = 'He said "Go." She went! Why?\nA line\n> ```\n> code. more\n> ```\n- x'
    assert filters.sentences(text) == ['He said "Go', "She went", "Why", "A line", "- x"]
