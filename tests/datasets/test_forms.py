"""What makes a pair of a record, and what a file is that holds none."""

from typing import Any

import pytest

from humpback.datasets import forms
from humpback.datasets.oasst import Pair


@pytest.mark.parametrize("record, pair", [
    ({"instruction": " Why?", "response": "Because.\n"}, Pair("Why?", "Because.")),
    ({"instruction": "Why?", "output": "Because."}, Pair("Why?", "Because.")),
    ({"instruction": "Translate.", "input": " Bonjour ", "output": "Hello"}, Pair("Translate.\n\nBonjour", "Hello")),
    ({"instruction": "Who?", "context": "It was\n\nshe.", "response": "She."}, Pair("Who?\n\nIt was\n\nshe.", "She.")),
    ({"instruction": "Who?", "context": "", "input": None, "response": "She."}, Pair("Who?", "She.")),
    ({"instruction": "Who?", "output": "She.", "response": "She. "}, Pair("Who?", "She.")),
])  # fmt: skip
def test_pairs_of_plain_records(record: dict[str, Any], pair: Pair) -> None:
    assert forms.pair_of_record(record) == pair


@pytest.mark.parametrize("record, part", [
    ([], "expected"),
    ({"instruction": "a", "response": " "}, "'response' is empty or missing"),
    ({"instruction": "", "response": "a"}, "'instruction' is empty or missing"),
    ({"instruction": "", "input": "a", "response": "a"}, "'instruction' is empty or missing"),
    ({"instruction": 1, "response": "a"}, "'instruction' is not a text: 1"),
    ({"instruction": "a", "response": "b", "context": ["c"]}, "'context' is not a text"),
    ({"instruction": "a", "response": "b", "output": "c"}, "'response' and 'output' differ"),
    ({"instruction": "\udc00", "response": "b"}, "half of a surrogate pair"),
    ({"prompt": {"text": "\ud800", "lang": "en", "replies": [{"text": "a", "rank": 0, "lang": "en"}]}}, "half of a surrogate pair"),
    ({"question": "a"}, r"its fields are \['question'\]"),
    ({"prompt": "a", "completion": "b"}, "this is a prompt and its completion; expected"),
])  # fmt: skip
def test_what_is_wrong_with_a_record(record: Any, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        forms.pair_of_record(record)
