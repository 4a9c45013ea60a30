"""The seed rule on hand-written Open Assistant trees."""

from typing import Any

import pytest

from humpback.datasets.oasst import REASONS, Pair, pair_of_tree

GOOD = {"lang": "en", "synthetic": False, "deleted": False, "review_result": True}


def reply(text: str = "Answer.", rank: int | None = 0, **changes: Any) -> dict[str, Any]:
    return {"text": text, "role": "assistant", "rank": rank, **GOOD, "replies": [{"text": "second turn", "rank": 0, **GOOD}], **changes}


def tree(*replies: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"message_tree_id": "1", "prompt": {"text": " Question? ", "role": "prompter", "replies": list(replies), **GOOD, **changes}}


PAIR = Pair("Question?", "Answer.")
TABLE = [
    (tree(reply()), PAIR, PAIR),
    (tree(reply("worse", 1), reply(), reply("worst", 2)), PAIR, PAIR),
    (tree(reply(), reply("again", 0)), PAIR, PAIR),
    (tree(reply(), reply("robot", 1, synthetic=True)), PAIR, PAIR),
    (tree(reply(review_result=None)), PAIR, PAIR),  # not reviewed is not failed
    (tree(reply(), lang="de"), "prompt: other language", "prompt: other language"),
    (tree(reply(), lang=None), "prompt: other language", "prompt: other language"),
    (tree(reply(), synthetic=True), "prompt: synthetic", "prompt: synthetic"),
    (tree(reply(), deleted=True), "prompt: deleted", "prompt: deleted"),
    (tree(reply(), review_result=False), "prompt: failed review", "prompt: failed review"),
    (tree(), "no reply", "no reply"),
    (tree(replies=None), "no reply", "no reply"),
    (tree(reply(rank=None)), "single reply, no rank", PAIR),
    (tree(reply(rank=None, review_result=None)), "single reply, no rank", "single reply, no rank"),
    (tree(reply(rank=None, review_result=False)), "single reply, no rank", "single reply, no rank"),
    (tree(reply(rank=None, synthetic=True)), "single reply, no rank", "best reply: synthetic"),
    (tree(reply(rank=None), reply("b", None)), "no reply of rank 0", "no reply of rank 0"),
    (tree(reply(rank=1)), "no reply of rank 0", "no reply of rank 0"),
    (tree(reply(lang="es"), reply("b", 1)), "best reply: other language", "best reply: other language"),
    (tree(reply(synthetic=True), reply("b", 1)), "best reply: synthetic", "best reply: synthetic"),
    (tree(reply(deleted=True), reply("b", 1)), "best reply: deleted", "best reply: deleted"),
    (tree(reply(review_result=False), reply("b", 1)), "best reply: failed review", "best reply: failed review"),
]


@pytest.mark.parametrize("message_tree, dropped, reviewed", TABLE)
def test_the_rule_for_a_message_tree(message_tree: dict[str, Any], dropped: Pair | str, reviewed: Pair | str) -> None:
    assert pair_of_tree(message_tree) == pair_of_tree(message_tree, "drop") == dropped
    assert pair_of_tree(message_tree, "reviewed") == reviewed


def test_every_reason_is_shown_above() -> None:
    assert {found for row in TABLE for found in row[1:] if isinstance(found, str)} == set(REASONS)


@pytest.mark.parametrize("message_tree, part", [
    ({}, "prompt"),
    ({"prompt": "text"}, "prompt"),
    (tree(replies={"a": 1}), "replies"),
    (tree(replies=["a"]), "replies"),
    (tree(reply(), text="  "), "prompt.text is empty"),
    (tree(reply(text="")), "reply's text is empty"),
    (tree(reply(text=None)), "reply's text is empty"),  # type: ignore[arg-type]
])  # fmt: skip
def test_trees_of_another_form(message_tree: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        pair_of_tree(message_tree)
