"""Tokenizers between formats: GGUF metadata to a tokenizer, and a sentencepiece model to a tokenizer.json."""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from humpback.errors import UserError
from humpback.tokens import added
from humpback.tokens.tokenizer import CONFIG_FILE, JSON_FILE, MODEL_FILE, Tokenizer

# Token types of GGUF, the same numbers as sentencepiece's.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _llama3() -> pre_tokenizers.PreTokenizer:
    return _split(_LLAMA3_SPLIT)


def _qwen2() -> pre_tokenizers.PreTokenizer:
    return _split(_QWEN2_SPLIT)


def _tekken() -> pre_tokenizers.PreTokenizer:
    return _split(_TEKKEN_SPLIT)


# `tokenizer.ggml.pre` -> (how text is cut before merging, whole pieces in the vocabulary skip merging, bos by default)
_PRE: dict[str, tuple[Callable[[], pre_tokenizers.PreTokenizer], bool, bool]] = {
    "gpt-2": (_gpt2, False, False),
    "smollm": (_smollm, False, False),
    "llama-bpe": (_llama3, True, True),
    "llama3": (_llama3, True, True),
    "llama-v3": (_llama3, True, True),
    "falcon3": (_llama3, True, True),
    "pixtral": (_llama3, True, True),
    "qwen2": (_qwen2, False, False),
    "tekken": (_tekken, True, True),
}


def from_gguf(field: Callable[..., Any], name: str) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describe.

    `field(key, default)` gives a metadata value and raises UserError without a default when it is missing; `name` is
    the file's, for messages. Raises UserError for a kind of tokenizer that is not known here.
    """
    model = field("tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise UserError(
            f'{name}: tokenizer.ggml.model is {model!r}; only "gpt2" and "llama" can be read. '
            "Convert the model's Hugging Face folder instead."
        )
    tokens = field("tokenizer.ggml.tokens")
    types = field("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise UserError(f"{name}: tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens")
    if len(set(tokens)) != len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise UserError(f"{name}: tokenizer.ggml.tokens holds {twice!r} twice; the file is broken, download it again")
    while types and types[-1] == UNUSED and re.fullmatch(r"\[PAD\d+\]", tokens[-1]):
        tokens, types = tokens[:-1], types[:-1]  # rows that fill up the vocabulary; no text has them
    settings: dict[str, Any] = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        key = f"tokenizer.ggml.{theirs}_token_id"
        token_id = field(key, None)
        if token_id is None:
            continue
        if not 0 <= token_id < len(tokens):
            raise UserError(f"{name}: {key} is {token_id}, beyond the {len(tokens)} tokens")
        settings[f"{ours}_token"] = tokens[token_id]
    build = _byte_level if model == "gpt2" else _sentencepiece
    files, default_bos = build(field, name, tokens, types, settings)
    settings["add_bos_token"] = bool(field("tokenizer.ggml.add_bos_token", default_bos and "bos_token" in settings))
    return Tokenizer({**files, CONFIG_FILE: json.dumps(settings).encode()}, name)


def _byte_level(
    field: Callable[..., Any], name: str, tokens: Sequence[str], types: Sequence[int], settings: dict[str, Any]
) -> tuple[dict[str, bytes], bool]:
    """A byte-level BPE tokenizer.json from tokens, types and merges."""
    pre = field("tokenizer.ggml.pre", "absent")
    if pre not in _PRE:
        raise UserError(
            f"{name}: tokenizer.ggml.pre is {pre!r}, which is not known here (known: {', '.join(sorted(_PRE))}); "
            "convert the model's Hugging Face folder instead, its tokenizer.json says how to split"
        )
    make_pre, ignore_merges, default_bos = _PRE[pre]
    merges = []
    for i, merge in enumerate(field("tokenizer.ggml.merges")):
        parts = merge.split(" ")
        if len(parts) != 2:
            raise UserError(f"{name}: entry {i} of tokenizer.ggml.merges is {merge!r}, must be two tokens")
        merges.append((parts[0], parts[1]))
    vocab = {token: i for i, token in enumerate(tokens)}
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{name}: tokenizer.ggml.merges do not fit tokenizer.ggml.tokens ({error})") from error
    tokenizer.pre_tokenizer = make_pre()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=True):
        if kind in (CONTROL, UNKNOWN) or token in settings.values() or (kind == USER_DEFINED and added.looks_special(token)):
            tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([tokenizers.AddedToken(token, special=False, normalized=False)])
    if field("tokenizer.ggml.add_bos_token", default_bos) and "bos_token" in settings:
        tokenizer.post_processor = bos_first(settings["bos_token"], vocab[settings["bos_token"]])
    return {JSON_FILE: tokenizer.to_str().encode()}, default_bos


def _sentencepiece(
    field: Callable[..., Any], name: str, tokens: Sequence[str], types: Sequence[int], settings: dict[str, Any]
) -> tuple[dict[str, bytes], bool]:
    """A sentencepiece BPE model from tokens, scores and types."""
    scores = field("tokenizer.ggml.scores")
    if len(scores) > len(tokens) and len(scores) == len(field("tokenizer.ggml.tokens")):
        scores = scores[: len(tokens)]
    if len(scores) != len(tokens):
        raise UserError(f"{name}: tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens")
    proto = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(tokens, scores, types, strict=True):
        if kind == USER_DEFINED and added.looks_special(token):
            kind = CONTROL
        proto.pieces.add(piece=token, score=float(score), type=int(kind))
    trainer = proto.trainer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    trainer.vocab_size = len(tokens)
    trainer.byte_fallback = BYTE in types
    for key in ("bos", "eos", "unk", "pad"):
        text = settings.get(f"{key}_token")
        if text is not None:
            setattr(trainer, f"{key}_piece", text)
            setattr(trainer, f"{key}_id", tokens.index(text))
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = bool(field("tokenizer.ggml.add_space_prefix", True))
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return {MODEL_FILE: proto.SerializeToString(deterministic=True)}, True


def bos_first(token: str, token_id: int) -> processors.PostProcessor:
    """The post-processor that puts one token before a text."""
    return processors.TemplateProcessing(
        single=f"{token}:0 $A:0", pair=f"{token}:0 $A:0 {token}:1 $B:1", special_tokens=[(token, token_id)]
    )


def sentencepiece_to_json(data: bytes, name: str) -> tokenizers.Tokenizer:
    """The fast tokenizer with the same ids as a sentencepiece BPE model, special tokens recognised, without bos.

    Raises UserError for a unigram model, which the LLaMA family does not have.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(data)
    spec, trainer = proto.normalizer_spec, proto.trainer_spec
    if trainer.model_type != trainer.BPE or not spec.escape_whitespaces:
        raise UserError(f"{name}: only sentencepiece BPE models that write spaces as ▁ have a tokenizer.json")
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    vocab = {text: i for i, (text, _, _) in enumerate(pieces)}
    unknown = next((text for text, _, kind in pieces if kind == UNKNOWN), None)
    bpe = models.BPE(
        vocab=vocab, merges=_merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(tokenizers.Regex(r"\A +|[ ▁]+\z"), ""))
        steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    parts: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        parts.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(parts)
    for text, _, kind in pieces:
        if kind in (CONTROL, UNKNOWN):
            tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([tokenizers.AddedToken(text, special=False, normalized=False)])
    return tokenizer


def is_sentencepiece(value: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json is a sentencepiece model in another form: BPE that falls back on bytes, spaces written as ▁."""
    model = value.get("model") or {}
    return model.get("type") == "BPE" and bool(model.get("byte_fallback")) and "▁" in model.get("vocab", {})


def pieces(data: bytes) -> dict[str, int]:
    """A sentencepiece model's pieces and their ids; {} for a file of another kind."""
    try:
        return {piece.piece: i for i, piece in enumerate(sentencepiece_model_pb2.ModelProto.FromString(data).pieces)}
    except Exception:  # of protobuf, by version
        return {}


def other_pieces(data: bytes, value: Mapping[str, Any]) -> bool:
    """Whether a sentencepiece model has pieces that a tokenizer.json has not or elsewhere; of other kinds of files nothing is known."""
    ids = dict((value.get("model") or {}).get("vocab", {})) | {entry["content"]: entry["id"] for entry in value.get("added_tokens", [])}
    return any(ids.get(text) != i for text, i in pieces(data).items())


def json_to_sentencepiece(value: Mapping[str, Any]) -> bytes:
    """A sentencepiece model with the pieces of `is_sentencepiece`, whose scores put the merges in their order."""
    model, beyond = value["model"], {entry["id"]: entry for entry in value.get("added_tokens", [])}
    texts = {number: text for text, number in model["vocab"].items()} | {number: entry["content"] for number, entry in beyond.items()}
    score: dict[str, float] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        score.setdefault(left + right, -float(rank))
    proto = sentencepiece_model_pb2.ModelProto()
    for number in range(max(texts) + 1):
        text = texts.get(number, f"[PAD{number}]")
        proto.pieces.add(piece=text, score=score.get(text, -float(len(model["merges"]) + number)), type=_type(number, texts, beyond, model))
    trainer = proto.trainer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = trainer.BPE, len(proto.pieces), True
    trainer.bos_id = trainer.eos_id = trainer.pad_id = -1
    trainer.unk_id = next((i for i, piece in enumerate(proto.pieces) if piece.type == UNKNOWN), -1)
    spec = proto.normalizer_spec
    spec.name, spec.remove_extra_whitespaces, spec.escape_whitespaces = "identity", False, True
    spec.add_dummy_prefix = any(_prepends(value.get(part)) for part in ("normalizer", "pre_tokenizer"))
    return proto.SerializeToString(deterministic=True)


def _type(number: int, texts: Mapping[int, str], beyond: Mapping[int, Mapping[str, Any]], model: Mapping[str, Any]) -> int:
    if number not in texts:
        return UNUSED
    if texts[number] == (model.get("unk_token") or "<unk>"):
        return UNKNOWN
    if number in beyond:
        return CONTROL if beyond[number]["special"] else USER_DEFINED
    return BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", texts[number]) else NORMAL


def _prepends(step: Any) -> bool:
    """Whether a normalizer or pre-tokenizer puts ▁ before a text."""
    if not isinstance(step, Mapping):
        return False
    parts = [*step.get("normalizers", ()), *step.get("pretokenizers", ())]
    return step.get("type") == "Prepend" or step.get("prepend_scheme") in ("first", "always") or any(map(_prepends, parts))


def _merges(pieces: Sequence[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, best score first: sentencepiece merges by the score of the result."""
    rank = {text: i for i, (text, _, kind) in enumerate(pieces) if kind == NORMAL}
    found = []
    for text, score, kind in pieces:
        if kind != NORMAL:
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in rank and right in rank:
                found.append((-score, rank[text], rank[left], rank[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


_RESERVED = 256  # special tokens of Llama 3
_LLAMA3_SPECIALS = {
    False: {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"},
    True: {
        0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id", 8: "eom_id",
        9: "eot_id", 10: "python_tag",
    },
}  # fmt: skip
_TIKTOKEN_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d+)")


def is_tiktoken(data: bytes) -> bool:
    """Whether a tokenizer.model is a tiktoken file: lines of a token in base64 and its rank."""
    return _TIKTOKEN_LINE.fullmatch(data[:4096].partition(b"\n")[0].rstrip(b"\r")) is not None


def from_tiktoken(data: bytes, name: str, newer: bool) -> Tokenizer:
    """Llama 3's tokenizer as a tokenizer.json. newer: the names that 3.1 gave to some special tokens. UserError for a broken line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        match = _TIKTOKEN_LINE.fullmatch(line)
        try:
            token = base64.b64decode(match[1], validate=True) if match else b""
        except binascii.Error:
            token = b""
        if not match or not token or token in ranks or int(match[2]) != len(ranks):
            raise UserError(f"{name}:{number}: {line[:60]!r} is not the next token in base64 and its rank; copy the file again")
        ranks[token] = len(ranks)
    letters = _byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    named = _LLAMA3_SPECIALS[newer]
    reserved = (f"reserved_special_token_{i}" for i in range(_RESERVED))
    specials = [f"<|{named[i] if i in named else next(reserved)}|>" for i in range(_RESERVED)]
    merges = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], spelled[left], spelled[right]))
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    bpe = models.BPE(vocab=vocab, merges=[(left, right) for *_, left, right in sorted(merges)], ignore_merges=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.pre_tokenizer = _llama3()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.post_processor = bos_first(specials[0], len(ranks))
    settings = {"bos_token": specials[0], "eos_token": specials[1], "add_bos_token": True}
    return Tokenizer({JSON_FILE: tokenizer.to_str().encode(), CONFIG_FILE: json.dumps(settings).encode()}, name)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: printable ones for themselves, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(0x100 + i) for i in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]
