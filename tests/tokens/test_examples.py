"""Ids and loss masks as literal tables in both directions, and where a condition is cut."""

import json

import numpy as np
import pytest

from humpback import prompts
from humpback.tokens.examples import Drop, TokenExample, build_example, fit_condition
from humpback.tokens.tokenizer import Tokenizer

SPECIALS = ["<unk>", "<|im_start|>", "<|im_end|>"]
TEXT = f"""user assistant What is tea? An old drink from leaves. one two three four five six seven head tail target end
{prompts.SEED_TAG} {prompts.WEB_TAG} {prompts.backward_prompt("").head}"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One id per word, so that ids can be read back as words."""
    words = [*SPECIALS, *dict.fromkeys(TEXT.split())]
    value = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": word, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            for i, word in enumerate(SPECIALS)
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }
    config = {"eos_token": "<|im_end|>", "unk_token": "<unk>"}
    return Tokenizer({"tokenizer.json": json.dumps(value).encode(), "tokenizer_config.json": json.dumps(config).encode()})


def shown(tokenizer: Tokenizer, example: TokenExample) -> tuple[list[str], list[str]]:
    """(condition, target) as words."""
    words = [*SPECIALS, *dict.fromkeys(TEXT.split())]
    told = [words[i] for i in example.ids]
    return told[: example.target_start], told[example.target_start :]


CHATML = prompts.WRAPPERS["chatml"]


@pytest.mark.parametrize("tag", [prompts.SEED_TAG, prompts.WEB_TAG])
def test_forward_example_ends_its_condition_with_the_tag_and_its_target_with_eos(tokenizer, tag):
    prompt = prompts.forward_training_prompt("What is tea? ", tag)
    example = build_example(tokenizer, "a", prompt, "An old drink", CHATML, 64)
    condition, target = shown(tokenizer, example)
    assert condition == [
        "<|im_start|>", "user", "What", "is", "tea?", *tag.split(), "<|im_end|>", "<|im_start|>", "assistant",
    ]  # fmt: skip
    assert target == ["An", "old", "drink", "<|im_end|>"]


def test_backward_example_asks_with_the_response_and_answers_with_the_bare_instruction(tokenizer):
    prompt = prompts.backward_prompt("An old drink")
    example = build_example(tokenizer, "a", prompt, "What is tea?", CHATML, 128)
    condition, target = shown(tokenizer, example)
    assert condition == [
        "<|im_start|>", "user", *prompt.head.split(), "An", "old", "drink", *prompts.SEED_TAG.split(),
        "<|im_end|>", "<|im_start|>", "assistant",
    ]  # fmt: skip
    assert target == ["What", "is", "tea?", "<|im_end|>"]


def test_example_is_the_concatenation_of_what_decoding_encodes_and_the_target(tokenizer):
    prompt = prompts.forward_training_prompt("What is tea?", prompts.SEED_TAG)
    example = build_example(tokenizer, "a", prompt, "An old drink", CHATML, 64)
    condition = tokenizer.encode_wrapped(CHATML.prefix, prompt.content, CHATML.suffix)
    assert example.ids.tolist() == condition + tokenizer.encode("An old drink") + [tokenizer.eos_id]
    assert example.target_start == len(condition)
    assert example.ids.dtype == np.int32


PROMPT = prompts.Prompt("head ", "one two three four five", " tail")
FIVE = prompts.Wrapper("<|im_start|>", "<|im_end|>")  # 2 + head + tail = 4 ids without a body, 9 with all of it


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (12, ["one", "two", "three", "four", "five"]),
        (11, ["one", "two", "three", "four"]),
        (9, ["one", "two"]),
        (8, ["one"]),
        (7, []),
        (6, None),
    ],
)
def test_only_the_body_is_cut_and_never_the_target(tokenizer, length, body):
    example = build_example(tokenizer, "a", PROMPT, "target end", FIVE, length)  # the target has 3 ids with eos
    if body is None:
        assert example is Drop.TOO_LONG
        return
    condition, target = shown(tokenizer, example)
    assert condition == ["<|im_start|>", "head", *body, "tail", "<|im_end|>"]
    assert target == ["target", "end", "<|im_end|>"]
    assert len(example.ids) <= length and example.cut == (len(body) < 5)


def test_cut_takes_as_few_characters_as_will_do():
    class Characters:
        """An id per character, so that any cut can be met exactly."""

        eos_id = 0

        def encode(self, text: str) -> list[int]:
            return [ord(c) for c in text]

        def encode_wrapped(self, prefix: str, content: str, suffix: str) -> list[int]:
            return self.encode(prefix + content + suffix)

    prompt = prompts.Prompt("<", "abcdefghij", ">")
    for room in range(4, 15):
        ids, cut = fit_condition(Characters(), prompt, prompts.Wrapper("[", "]"), room)
        assert ("".join(map(chr, ids)), cut) == (f"[<{'abcdefghij'[: room - 4]}>]", room < 14)
    assert fit_condition(Characters(), prompt, prompts.Wrapper("[", "]"), 3) is None
    assert fit_condition(Characters(), prompt, prompts.Wrapper("[", "]"), -2) is None


@pytest.mark.parametrize("target", ["", "  \n"])
def test_empty_target_is_dropped_with_its_reason(tokenizer, target):
    assert build_example(tokenizer, "a", PROMPT, target, FIVE, 64) is Drop.EMPTY_TARGET


@pytest.mark.parametrize("start", [0, 3, 4])
def test_example_without_condition_or_target_raises(start):
    with pytest.raises(ValueError, match="example x"):
        TokenExample("x", np.arange(3, dtype=np.int32), start)
