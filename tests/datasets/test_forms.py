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
    ({"prompt": "Who?", "completion": "She."}, Pair("Who?", "She.")),
    ({"prompt": [{"role": "user", "content": "Who?"}], "completion": [{"role": "assistant", "content": "She."}]}, Pair("Who?", "She.")),
    ({"prompt": "Who?", "response": "She.", "prompt_id": 1}, Pair("Who?", "She.")),
    ({"question": "Who?", "context": "It was she.", "answer": "She."}, Pair("Who?\n\nIt was she.", "She.")),
    ({"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "She."}], "prompt": "Who?"}, Pair("Who?", "She.")),
    ({"conversations": [{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "Who?"}, {"from": "gpt", "value": "She."}]},
     Pair("Who?", "She.")),
    ({"prompt": "Who?", "response": "She.", "conversations": ["Who?", "She."]}, Pair("Who?", "She.")),
    ({"instruction": "Who?", "response": "She.", "Content": "x", "content": "y", "Role": 1, "role": 2}, Pair("Who?", "She.")),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}, {"type": "text", "text": "Say."}]},
                   {"role": "assistant", "content": "She."}]}, Pair("Who?\n\nSay.", "She.")),
    ({"conversations": {"from": ["human", "gpt"], "value": ["Who?", "She."]}}, Pair("Who?", "She.")),
    ({"Instruction": "Who?", " Response": "She.", "response": "She."}, Pair("Who?", "She.")),
    ({"PROMPT": "Who?", "Completion": "She."}, Pair("Who?", "She.")),
    ({"Messages": [{"Role": "User", "Content": "Who?"}, {"Role": "Assistant", "Content": "She."}]}, Pair("Who?", "She.")),
    ({"conversation": [{"role": "user", "text": "Who?"}, {"role": "gpt-4", "text": "She."}]}, Pair("Who?", "She.")),
    *[({"conversations": [{"from": "system", "value": "Hi"}, {"from": user, "value": "Who?"}, {"from": other, "value": "She."}]},
       Pair("Who?", "She."))
      for user in ("human", "user", "Human", "prompter")
      for other in ("gpt", "GPT", "assistant", "chatgpt", "bard", "bing", "claude", "AI", "model")],
    ({"messages": [{"role": "user", "content": "Who?", "value": None}, {"role": "assistant", "from": "gpt", "content": "She."}]},
     Pair("Who?", "She.")),
])  # fmt: skip
def test_pairs_of_plain_records(record: dict[str, Any], pair: Pair) -> None:
    found = forms.read_record(record)
    assert isinstance(found, forms.Found) and found.pair == pair


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
    ({"prompt": "a", "completion": ["b"]}, "'completion' is not a text"),
    ({"text": "### Human: a"}, "this is one text with both turns in it; expected"),
    ({"messages": "a"}, "'messages' is no list of turns"),
    ({"messages": {"role": ["user", "assistant"], "content": ["a"]}}, "'messages' is no list of turns"),
    ({"messages": {}}, "'messages' is no list of turns"),
    ({"messages": [{"content": "a"}]}, "has no role"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
                   {"role": "assistant", "content": "b"}]}, "a turn of 'messages' is not a text"),
    ({"messages": [{"role": "user", "content": "a"}]}, "no assistant's turn follows the user's first; the roles are user"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}, "the roles are user, tool"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]}, "a turn of 'messages' is not a text"),
    ({"conversations": ["a", " "]}, "a turn is empty"),
    ({"conversation": []}, "in 'conversation' no assistant's turn follows the user's first; the roles are none"),
    ({"Instruction": "a"}, "'response' is empty or missing"),
    ({"message_id": "a", "parent_id": None, "text": "b", "role": "prompter"}, "of which only a file with all of a tree"),
])  # fmt: skip
def test_what_is_wrong_with_a_record(record: Any, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        forms.read_record(record)


@pytest.mark.parametrize("record", [
    {"instruction": "a", "response": "b", "prompt": "a", "completion": "c"},
    {"prompt": "a", "completion": "b", "response": "c"},
    {"instruction": "a", "response": "b", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "b"}]},
    {"instruction": "a", "response": "b", "output": "c"},
    {"instruction": "a", "Response": "b", "response": "c"},
    {"messages": [{"role": "user", "content": "a", "value": "b"}, {"role": "assistant", "content": "b"}]},
])  # fmt: skip
def test_two_forms_with_different_texts_are_refused(record: dict[str, Any]) -> None:
    with pytest.raises(forms.Ambiguous, match="differ"):
        forms.read_record(record)


def test_fields_are_told_as_they_are_named_and_turns_of_every_form_are_counted() -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "Content": "a"}, {"role": "assistant", "content": "b"}]
    record = {"Instruction": "a", "OUTPUT": "b", "Id": 1, "messages": [*chat, {"role": "user", "content": "c"}]}
    found = forms.read_record(record)
    assert isinstance(found, forms.Found) and found.read == {"Instruction", "OUTPUT", "messages"}
    assert found.turns == {"system turns": 1, "later turns": 1} and not found.unread
