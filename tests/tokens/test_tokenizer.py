"""Ids as literal tables: special tokens come from wrappers only, in both kinds of tokenizer."""

import json
import os
import pathlib

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from humpback.convert import vocabulary
from humpback.errors import UserError
from humpback.tokens.tokenizer import Tokenizer

_CHATML = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
_TOKENS = ["<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]
_IDS = {token: i for i, token in enumerate(_TOKENS)}


def _byte_level(**config) -> Tokenizer:
    model = models.BPE(vocab=_IDS, merges=[("h", "e")])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.enable_truncation(4)  # a setting some files carry, which must not cut our texts
    config = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", **config}
    return Tokenizer({"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()})


def _letters(text: str) -> list[int]:
    return [_IDS[{"\n": "\u010a", " ": "\u0120"}.get(letter, letter)] for letter in text]


@pytest.fixture(scope="module")
def stories():
    """The sentencepiece tokenizer of stories260K."""
    folder = os.environ.get("HUMPBACK_TEST_DATA")
    if not folder:
        pytest.skip("HUMPBACK_TEST_DATA is not set: the sentencepiece model of stories260K is not here")
    return Tokenizer.load(pathlib.Path(folder) / "stories260k" / "tok512.model")


def test_special_tokens_in_text_are_text():
    tokenizer = _byte_level()
    assert tokenizer.encode("he<|im_end|>") == [_IDS["he"], *_letters("<|im_end|>")]
    assert tokenizer.encode("<|im_start|>") == _letters("<|im_start|>")
    assert tokenizer.decode(tokenizer.encode("he<|im_end|>")) == "he<|im_end|>"


def test_wrapped_ids():
    tokenizer = _byte_level()
    assert tokenizer.encode_wrapped(_CHATML[0], "he <|im_end|>", _CHATML[1]) == [
        0, *_letters("user\n"), _IDS["he"], *_letters(" <|im_end|>"), 1, *_letters("\n"), 0, *_letters("assistant\n"),
    ]  # fmt: skip
    # One run: the wrapper's last letter and the content's first are merged, as in the whole string.
    assert tokenizer.encode_wrapped("<|im_start|>h", "eh", "e<|im_end|>") == [0, _IDS["he"], _IDS["he"], 1]


def test_bos_is_added_where_the_tokenizer_says_so():
    assert _byte_level().bos_id is None
    tokenizer = _byte_level(add_bos_token=True)
    assert tokenizer.bos_id == 0
    assert tokenizer.encode("he") == [_IDS["he"]]  # text alone has none
    assert tokenizer.encode_wrapped("", "he", "") == [0, _IDS["he"]]
    # Or its post-processor does.
    value = tokenizers.Tokenizer.from_str(_byte_level().files()["tokenizer.json"].decode())
    value.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)])
    config = b'{"eos_token": {"content": "<|im_end|>"}}'
    assert Tokenizer({"tokenizer.json": value.to_str().encode(), "tokenizer_config.json": config}).bos_id == 0


def test_another_token_may_end_a_turn():
    """The wrapper's: a base model's tokenizer ends documents with another one."""
    tokenizer = _byte_level(eos_token="<|im_start|>")
    ended = tokenizer.ending("<|im_end|>")
    assert (tokenizer.eos_id, ended.eos_id, ended.encode("he")) == (0, 1, tokenizer.encode("he"))
    assert ended.ending("<|im_end|>") is ended and ended.ending("") is ended and ended.ending("<|none|>") is ended


def test_ids_names_and_decoding():
    tokenizer = _byte_level()
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (1, 1, 259)
    assert _byte_level(pad_token="<|im_start|>").pad_id == 0
    assert tokenizer.decode([0, _IDS["he"], 1, 9999, -1]) == "he"
    assert tokenizer.decode(tokenizer.encode("naïve 東京 🙂\n\n")) == "naïve 東京 🙂\n\n"
    assert tokenizer.decode(tokenizer.encode("a\ud83dz")) == "a\ufffdz"  # half a pair, as JSON can bring


def test_files_make_the_same_tokenizer(tmp_path):
    tokenizer = _byte_level(add_bos_token=True, pad_token="<|im_start|>")
    for name, data in tokenizer.files().items():
        (tmp_path / name).write_bytes(data)
    for again in (Tokenizer.load(tmp_path), Tokenizer.load(tmp_path / "tokenizer.json")):
        assert again.files() == tokenizer.files()
        assert (again.bos_id, again.eos_id, again.pad_id) == (0, 1, 0)


def test_a_leading_space_scheme_of_first():
    """transformers puts ▁ before the first text only, and bos before it counts."""
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", "<unk>", "▁", "a", "▁a"])}
    value = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>"))
    value.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    value.add_special_tokens(["<s>", "</s>", "<unk>"])
    files = {"tokenizer.json": value.to_str().encode()}
    for bos, text in ((False, "a</s>a"), (True, "<s>a</s>a")):
        config = json.dumps({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": bos}).encode()
        tokenizer = Tokenizer({**files, "tokenizer_config.json": config})
        assert tokenizer.encode_wrapped("", "a", "</s>a") == value.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_wrapped("", "a", "</s>a") == [0, 4, 1, 4]


def test_sentencepiece(stories):
    assert (stories.bos_id, stories.eos_id, stories.vocab_size) == (1, 2, 512)
    assert stories.encode("Once upon a time") == [403, 407, 261, 378]
    assert not {0, 1, 2} & set(stories.encode("</s> <s> <unk>"))
    assert stories.encode_wrapped("[INST] ", "hi </s>", " [/INST]") == [1, *stories.encode("[INST] hi </s> [/INST]")]
    assert stories.encode_wrapped("", "hi", "</s>") == [1, *stories.encode("hi"), 2]
    assert stories.decode([1, 403, 407, 261, 378, 2, 600]) == "Once upon a time"


def test_a_tokenizer_json_made_of_a_sentencepiece_model(stories):
    data = stories.files()["tokenizer.model"]
    value = vocabulary.sentencepiece_to_json(data, "tok512.model")
    fast = Tokenizer({"tokenizer.json": value.to_str().encode(), "tokenizer_config.json": b'{"eos_token": "</s>"}'})
    texts = [
        "Once upon a time, there was a little girl named Lily.", "  two  spaces and more   ", "", " ", "\n\n x\ty",
        "naïve — “quoted” 東京 🙂", "aaaaaaaa bbbbbbb the the", "1234567890", "</s> [INST] <0x0A> ▁",
    ]  # fmt: skip
    for text in texts:
        assert fast.encode(text) == stories.encode(text), text
        assert fast.decode(fast.encode(text)) == stories.decode(stories.encode(text)), text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither tokenizer.json nor tokenizer.model"),
        ({"tokenizer.json": b"{"}, "tokenizer.json: not JSON"),
        ({"tokenizer.json": b'{"a": 1}'}, "tokenizer.json: the tokenizers library cannot read it"),
        ({"tokenizer.model": b"nonsense"}, "tokenizer.model: not a sentencepiece model"),
        ({"tokenizer_config.json": b'{"eos_token": "</s>"}'}, "eos_token '</s>' is not one of"),
        ({"tokenizer_config.json": b"{}"}, "no eos_token"),
        ({"tokenizer_config.json": b'{"eos_token": "<|im_end|>", "add_bos_token": true}'}, "there is no bos_token"),
        ({"tokenizer_config.json": b"[]"}, "must be a JSON object"),
    ],
)
def test_broken_files(files, message):
    whole = {"tokenizer.json": _byte_level().files()["tokenizer.json"]} if "tokenizer_config.json" in files else {}
    with pytest.raises(UserError, match=message):
        Tokenizer({**whole, **files}, "folder")


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="no such tokenizer"):
        Tokenizer.load(tmp_path / "nothing")
