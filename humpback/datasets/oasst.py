"""The rule that takes a seed pair from an Open Assistant message tree (paper, section 3.1)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Why a tree gives no pair, in the order in which the rule looks.
REASONS = (
    "prompt: other language", "prompt: synthetic", "prompt: deleted", "prompt: failed review",
    "no reply", "single reply, no rank", "no reply of rank 0",
    "best reply: other language", "best reply: synthetic", "best reply: deleted", "best reply: failed review",
)  # fmt: skip


class Pair(NamedTuple):
    """An instruction and the response to it."""

    instruction: str
    response: str


def pair_of_tree(tree: Mapping[str, Any], single_reply: str = "drop", language: str = "en") -> Pair | str:
    """The first turn's pair of an exported tree (`{"prompt": {…, "replies": […]}}`), or the reason why there is none.

    Prompt and reply are in `language` (ISO 639-1; the paper's is English), by a human, not deleted and not failed in review; the reply is
    the direct one with rank 0. An only reply has no rank: it is dropped (`single_reply="drop"`), or kept when its review went well
    (`"reviewed"`). Raises ValueError, naming the field, when the tree is not of the export's form or the pair has no text.
    """
    prompt = _message(tree, "prompt")
    if reason := _unusable(prompt, language):
        return f"prompt: {reason}"
    replies = prompt.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise ValueError("prompt.replies is not a list of messages")
    if not replies:
        return "no reply"
    best = next((reply for reply in replies if reply.get("rank") == 0 and reply.get("rank") is not False), None)
    if best is None:
        if len(replies) > 1 or replies[0].get("rank") is not None:
            return "no reply of rank 0"
        if single_reply != "reviewed" or replies[0].get("review_result") is not True:
            return "single reply, no rank"
        best = replies[0]
    if reason := _unusable(best, language):
        return f"best reply: {reason}"
    return Pair(_text(prompt, "prompt.text"), _text(best, "the best reply's text"))


def is_message(record: Any) -> bool:
    """Whether a record is of the export of messages, one a record, that name their parents."""
    return isinstance(record, Mapping) and {"message_id", "parent_id", "text", "role"} <= record.keys()


def tree_of(prompt: Mapping[str, Any], replies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A message without a parent and those that answer it, as the export of trees has them. ValueError for what a table of texts makes of
    true, false and numbers."""
    for message in (prompt, *replies):
        for field in ("synthetic", "deleted", "review_result", "rank"):
            if isinstance(message.get(field), str):
                raise ValueError(f"{field!r} is a text, {message[field]!r:.20}; take the export as JSON lines or Parquet")
    return {"prompt": {**prompt, "replies": list(replies)}}


def _message(tree: Mapping[str, Any], field: str) -> dict[str, Any]:
    message = tree.get(field)
    if not isinstance(message, dict):
        raise ValueError(f"{field!r} is missing or not a message")
    return message


def _unusable(message: Mapping[str, Any], language: str) -> str:
    if str(message.get("lang")).lower().partition("-")[0] != language:  # the export has pt-BR and uk-UA
        return "other language"
    if message.get("synthetic"):
        return "synthetic"
    if message.get("deleted"):
        return "deleted"
    return "failed review" if message.get("review_result") is False else ""


def _text(message: Mapping[str, Any], name: str) -> str:
    text = message.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name} is empty or missing")
    return text.strip()
