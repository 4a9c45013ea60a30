"""Questions of every form that their publishers, the Hub and collections have, and what is said of others."""

import json

import pytest

from humpback.datasets import multiple_choice
from humpback.datasets.multiple_choice import Choices
from humpback.errors import UserError

WANTED = Choices("Why?", ("a", "b", "c"), 1)
OF_TWO = Choices("Why?", ("a", "b"), 1)
HUB = {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}
AI2 = [{"text": text, "label": str(number)} for number, text in enumerate("abc", 1)]
ASKED = "Please choose the correct answer to the question: Why?\n\nAnswer1: a Answer2: b Answer3: c\n\nAnswer format: answer1/answer2"


@pytest.mark.parametrize(
    ("file", "row", "labels", "wanted"),
    [
        ("piqa.valid.jsonl", {"goal": "Why?", "sol1": "a", "sol2": "b"}, "1", OF_TWO),
        ("PIQA-validation.json", {"goal": "Why?", "sol1": "a", "sol2": "b", "label": 1}, None, OF_TWO),
        ("ARC-Easy.jsonl", {"question": "Why?", "choices": HUB, "answerKey": "B"}, None, WANTED),
        ("arc_challenge_test.jsonl", {"question": {"stem": "Why?", "choices": AI2}, "answerKey": "2"}, None, WANTED),
        ("openbookqa.test.jsonl", {"question_stem": "Why?", "choices": HUB, "answerKey": "B "}, None, WANTED),
        ("social_i_qa.jsonl", {"instruction": ASKED, "answer": "answer2"}, None, WANTED),
        ("socialiqa.dev.jsonl", {"context": "So.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c"}, "2",
         Choices("So. Why?", ("a", "b", "c"), 1)),
        ("Social-IQa.jsonl", {"context": "So.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "B"}, None,
         Choices("So. Why?", ("a", "b", "c"), 1)),
        ("crows_pairs.jsonl", {"sent_more": "a", "sent_less": "b", "bias_type": "age"}, None, Choices("", ("a", "b"), 0, "age")),
    ],
)  # fmt: skip
def test_forms(tmp_path, file, row, labels, wanted):
    name = next(name for name, begin in multiple_choice.NAMES.items() if file.lower().replace("_", "").replace("-", "").startswith(begin))
    (tmp_path / file).write_text(json.dumps(row) + "\n")
    if labels:
        (tmp_path / (file.partition(".")[0] + "-labels.lst")).write_text(labels + "\n")
    assert multiple_choice.read(str(tmp_path), name) == [wanted]


@pytest.mark.parametrize(
    ("rows", "labels", "told"),
    [
        ([{"goal": "Why?", "sol1": "a", "sol2": "b"}], "", r"piqa\.jsonl:1: no question of piqa .*where is the file of labels"),
        ([{"goal": "Why?", "sol1": "a", "sol2": "b"}], "1\n0", "1 questions, and 2 answers"),
        ([{"goal": "Why?", "sol1": "a", "sol2": "b"}] * 2, "1", r"piqa\.jsonl:2: has no answer, as the file of labels .* has 1 lines"),
        ([{"goal": "Why?", "sol1": "a", "sol2": "b"}], "2", "2 choices, of which number 3 is the right one"),
        ([{"goal": "Why?"}], "1", "has the fields goal"),
        ([{"goal": "Why?", "sol1": "a", "sol2": ""}], "1", "no question of piqa"),
    ],
)
def test_what_is_no_question_is_named(tmp_path, rows, labels, told):
    (tmp_path / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if labels:
        (tmp_path / "piqa-labels.lst").write_text(labels)
    with pytest.raises(UserError, match=told):
        multiple_choice.read(str(tmp_path), "piqa")


def test_a_file_that_is_not_there_or_twice(tmp_path):
    with pytest.raises(UserError, match="has no file of piqa"):
        multiple_choice.read(str(tmp_path), "piqa")
    for name in ("piqa.train.jsonl", "piqa.valid.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"several files of piqa: piqa\.train\.jsonl, piqa\.valid\.jsonl"):
        multiple_choice.find(str(tmp_path), "piqa")
    with pytest.raises(UserError, match="no such folder"):
        multiple_choice.find(str(tmp_path / "none"), "piqa")


def test_an_answer_that_is_hidden_is_none(tmp_path):
    row = {"context": "So.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": ""}
    (tmp_path / "socialiqa.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"socialiqa\.jsonl:1: no question of social_iqa"):
        multiple_choice.read(str(tmp_path), "social_iqa")
