"""Llama 3's tokenizer.model against merging by hand."""

import base64

import pytest

from humpback.convert import vocabulary
from humpback.errors import UserError

MERGES = [b"he", b"ll", b"hell", b"hello", b" w", b" wo", b"or", b"12", b"\xc3\xa9", b"lo", b" hello"]
RANKS = {bytes([i]): i for i in range(256)} | {token: 256 + i for i, token in enumerate(MERGES)}
PIECES = ["hello", " world", " hello", "12", "é", " é", "heo", "ellohell", "\n\n", "🙂"]


def lines(ranks=RANKS):
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def by_hand(piece: bytes) -> list[int]:
    """A piece that is a token, whole; else the pair of neighbours with the lowest rank is joined, until there is none."""
    parts = [piece] if piece in RANKS else [bytes([byte]) for byte in piece]
    while pairs := [(RANKS[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in RANKS]:
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [RANKS[part] for part in parts]


@pytest.mark.parametrize("newer", [False, True])
def test_ids(newer):
    assert vocabulary.is_tiktoken(lines()) and not vocabulary.is_tiktoken(b"\n\x0e\n\x05<unk>") and not vocabulary.is_tiktoken(b"{}")
    tokenizer = vocabulary.from_tiktoken(lines(), "tokenizer.model", newer)
    for piece in PIECES:
        assert tokenizer.encode(piece) == by_hand(piece.encode()), piece
    assert tokenizer.encode("hello world 12 12") == [i for p in ("hello", " world", " ", "12", " ", "12") for i in by_hand(p.encode())]
    assert tokenizer.decode(tokenizer.encode("hé 🙂\n world")) == "hé 🙂\n world"
    n = len(RANKS)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (n, n + 1, n + 256)
    named = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|start_header_id|>": 6, "<|end_header_id|>": 7, "<|eot_id|>": 9}
    named |= {"<|finetune_right_pad_id|>": 4, "<|reserved_special_token_2|>": 5, "<|eom_id|>": 8, "<|python_tag|>": 10,
              "<|reserved_special_token_3|>": 11} if newer else {"<|reserved_special_token_2|>": 4, "<|reserved_special_token_4|>": 8,
                                                                 "<|reserved_special_token_250|>": 255}  # fmt: skip
    for text, number in named.items():
        assert tokenizer.specials[text] == n + number, text
    assert len(tokenizer.specials) == 256


@pytest.mark.parametrize(("bad", "line"), [(b"aGU= 7\n", 3), (b"a!U= 2\n", 3), (b"aGU=\n", 3), (b"aGU= 2\naGU= 3\n", 4), (b"aGU 2\n", 3)])
def test_a_broken_line_is_named(bad, line):
    with pytest.raises(UserError, match=rf"tokenizer\.model:{line}: "):
        vocabulary.from_tiktoken(b"AA== 0\nAQ== 1\n" + bad, "tokenizer.model", True)
