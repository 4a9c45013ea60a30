"""Tokens beyond a tokenizer's own vocabulary: what the files beside it add, which of them are special, and how they get into one file.

transformers keeps them in three places: added_tokens.json, `added_tokens_decoder` of tokenizer_config.json, and the names bos, eos, unk,
pad, which make a token special whatever the vocabulary says of it.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sentencepiece.sentencepiece_model_pb2 import ModelProto

from humpback.errors import UserError

FILE = "added_tokens.json"
_LOOKS_SPECIAL = re.compile(r"<[|｜].*[|｜]>")
# Names of tokens that nothing else uses, the best first.
_SPARE = (
    r"<pad>|\[PAD\]|<\|pad\|>|<\|vocab_pad\|>", r"<\|finetune_right_pad_id\|>", r"<unk>", r"<\|(reserved|extra|unused)[\w ]*\|>",
    r"<\|endoftext\|>",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Added:
    """A token that a file adds, or makes special. id: None where only the vocabulary knows it."""

    text: str
    id: int | None
    special: bool


def looks_special(text: str) -> bool:
    """Whether a token's text says that it is no text, such as <|im_start|>: added_tokens.json does not tell."""
    return _LOOKS_SPECIAL.fullmatch(text) is not None


def added_tokens(listed: Mapping[str, Any], config: Mapping[str, Any], extra: Mapping[str, Any], named: Iterable[str]) -> list[Added]:
    """What is added, by id. listed: added_tokens.json; config, extra: tokenizer_config.json, special_tokens_map.json; named: bos, eos, …"""
    special = {*named, *map(_text, _several(config)), *map(_text, _several(extra))}
    found: dict[str, Added] = {}
    for text, number in listed.items():
        found[text] = Added(text, _id(number), text in special or looks_special(text))
    for number, entry in (config.get("added_tokens_decoder") or {}).items():
        text = _text(entry)
        marked = isinstance(entry, Mapping) and bool(entry.get("special"))
        found[text] = Added(text, _id(number), marked or text in special or looks_special(text))
    for text in special - found.keys():
        found[text] = Added(text, None, True)
    return sorted(found.values(), key=lambda token: (token.id is None, token.id or 0, token.text))


def _several(values: Mapping[str, Any]) -> list[Any]:
    several = values.get("additional_special_tokens") or values.get("extra_special_tokens") or []
    return list(several.values()) if isinstance(several, Mapping) else list(several)


def _text(entry: Any) -> str:
    return str(entry.get("content")) if isinstance(entry, Mapping) else str(entry)


def _id(number: Any) -> int | None:
    return int(number) if str(number).isdigit() else None


def into_json(data: bytes, added: Iterable[Added], name: str) -> bytes:
    """A tokenizer.json with them; the same bytes when it has them all. UserError where two tokens would have one id."""
    value = json.loads(data)
    entries: list[dict[str, Any]] = value.setdefault("added_tokens", [])
    by_text = {entry["content"]: entry for entry in entries}
    vocabulary = _vocabulary(value)
    by_id = {number: text for text, number in vocabulary.items()} | {entry["id"]: entry["content"] for entry in entries}
    changed = False
    for token in added:
        entry = by_text.get(token.text)
        number = entry["id"] if entry else vocabulary.get(token.text, token.id)
        if number is None:
            continue  # named, and nowhere to be found: who needs it says so
        _check_id(token, number, by_id.get(number), name)
        if entry is None:
            entry = {"id": number, "content": token.text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            entries.append({**entry, "special": token.special})
            by_id[number] = token.text
            changed = True
        elif token.special and not entry["special"]:
            entry |= {"special": True, "normalized": False}
            changed = True
    if not changed:
        return data
    entries.sort(key=lambda entry: entry["id"])
    return json.dumps(value, ensure_ascii=False).encode()


def _vocabulary(value: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = (value.get("model") or {}).get("vocab") or {}
    return vocabulary if isinstance(vocabulary, dict) else {entry[0]: i for i, entry in enumerate(vocabulary)}


def _check_id(token: Added, number: int, there: str | None, name: str) -> None:
    if token.id is not None and token.id != number:
        raise UserError(f"{name}: token {token.text!r} has the id {number}, but the files beside it say {token.id}; {_OTHER}")
    if there is not None and there != token.text:
        raise UserError(f"{name}: the id {number} is {there!r}, but the files beside it say {token.text!r}; {_OTHER}")


_OTHER = "they are of another model, copy the tokenizer's files again"


def into_model(data: bytes, added: Iterable[Added], name: str) -> bytes:
    """A sentencepiece model with them, as pieces behind its own; the same bytes when it has them all. UserError as in `into_json`."""
    proto, kinds = ModelProto.FromString(data), ModelProto.SentencePiece
    by_text = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    changed = False
    for token in added:
        number = by_text.get(token.text, token.id)
        if number is None:
            continue
        _check_id(token, number, proto.pieces[number].piece if number < len(proto.pieces) else None, name)
        if number < len(proto.pieces):
            piece = proto.pieces[number]
            if token.special and piece.type not in (kinds.CONTROL, kinds.UNKNOWN):
                piece.type = kinds.CONTROL
                changed = True
            continue
        while len(proto.pieces) < number:
            proto.pieces.add(piece=f"[PAD{len(proto.pieces)}]", score=-1000.0, type=kinds.UNUSED)
        proto.pieces.add(piece=token.text, score=-1000.0, type=kinds.CONTROL if token.special else kinds.USER_DEFINED)
        changed = True
    proto.trainer_spec.vocab_size = len(proto.pieces) if changed else proto.trainer_spec.vocab_size
    return proto.SerializeToString(deterministic=True) if changed else data


def user_defined(data: bytes) -> dict[str, int]:
    """Text and id of a sentencepiece model's pieces that a text may hold whole."""
    pieces = ModelProto.FromString(data).pieces
    return {piece.piece: i for i, piece in enumerate(pieces) if piece.type == ModelProto.SentencePiece.USER_DEFINED}


def spare(specials: Mapping[str, int], taken: Iterable[int]) -> str | None:
    """A special token that can fill up rows, because no text and no end is it; None when there is none. taken: ids of bos and eos."""
    free = sorted((number, text) for text, number in specials.items() if number not in set(taken))
    for pattern in _SPARE:
        for _, text in free:
            if re.fullmatch(pattern, text):
                return text
    return None


def without(data: bytes, kind_json: bool, rows: int) -> bytes | None:
    """The tokenizer without ids from `rows` on; None when they are not all tokens that were added."""
    if kind_json:
        value = json.loads(data)
        if max(_vocabulary(value).values(), default=-1) >= rows:
            return None
        value["added_tokens"] = [entry for entry in value.get("added_tokens", []) if entry["id"] < rows]
        return json.dumps(value, ensure_ascii=False).encode()
    proto, kinds = ModelProto.FromString(data), ModelProto.SentencePiece
    if any(piece.type not in (kinds.CONTROL, kinds.USER_DEFINED, kinds.UNUSED) for piece in proto.pieces[rows:]):
        return None
    del proto.pieces[rows:]
    proto.trainer_spec.vocab_size = rows
    return proto.SerializeToString(deterministic=True)
