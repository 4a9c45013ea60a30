"""The dealing of seed pairs into training and held-out ones."""

import random

import pytest

from humpback.config import Seed
from humpback.errors import UserError
from humpback.records import Example
from humpback.stages.seed import split_seed


def example(key: str, instruction: str = "") -> Example:
    return Example(key, instruction or f"question {key}", f"answer {key}", "seed", "s")


def ids(examples: list[Example]) -> str:
    return "".join(e.id for e in examples)


TEN = [example(key) for key in "0123456789"]
TABLE = [
    (Seed(), "0123456789", ""),
    (Seed(held_out=3), "3456789", "012"),
    (Seed(held_out=3, limit=4), "3456", "012"),
    (Seed(limit=2), "01", ""),
    (Seed(limit=99), "0123456789", ""),
    (Seed(held_out=2, held_out_source="x"), "0123456789", "ab"),
    (Seed(held_out_source="x", limit=1), "0", "abc"),
]


@pytest.mark.parametrize("cfg, train, held_out", TABLE)
def test_dealt_by_id_whatever_the_order(cfg: Seed, train: str, held_out: str) -> None:
    others = [example(key) for key in "cab"]
    for seed in range(3):
        shuffled = random.Random(seed).sample(TEN, 10)
        found = split_seed(shuffled, others if cfg.held_out_source else [], cfg)
        assert (ids(found[0]), ids(found[1])) == (train, held_out)
        assert found[2]["train"] == len(train) and found[2]["held_out"] == len(held_out)


def test_no_held_out_instruction_is_trained_on() -> None:
    pairs = [example("0", "Why is  the sky blue?"), example("1", "why is the sky BLUE"), example("2"), example("3"), example("4")]
    train, held_out, counts = split_seed(pairs, [], Seed(held_out=1, limit=2))
    assert (ids(train), ids(held_out)) == ("23", "0")
    assert counts == {"held_out": 1, "instruction_held_out": 1, "over_limit": 1, "train": 2}
    train, held_out, _ = split_seed(pairs, [example("x", "Question 3!")], Seed(held_out_source="f"))
    assert (ids(train), ids(held_out)) == ("0124", "x")


@pytest.mark.parametrize("count, cfg, part", [
    (0, Seed(source="s.jsonl"), "none is left to train on"),
    (3, Seed(source="s.jsonl", held_out=3), "none is left to train on"),
    (3, Seed(source="s.jsonl", held_out=4), "seed_pairs.held_out: 4 pairs cannot be held out of the 3 of s.jsonl"),
    (3, Seed(source="s.jsonl", held_out_source="h.jsonl"), "of the 0 of h.jsonl"),
])  # fmt: skip
def test_too_few_pairs(count: int, cfg: Seed, part: str) -> None:
    with pytest.raises(UserError, match=part):
        split_seed(TEN[:count], [], cfg)


def test_what_is_in_the_dev_set_does_not_train() -> None:
    dev = [example("z", "Question, 4!")]
    found = split_seed(TEN, [], Seed(held_out=3), dev)
    assert (ids(found[0]), ids(found[1])) == ("356789", "012") and found[2]["instruction_held_out"] == 1
