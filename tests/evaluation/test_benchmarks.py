import math

import pytest

from humpback.errors import UserError
from humpback.evaluation.benchmarks import Choice, averages, choose, crows_pairs, fit_length, score, split


def test_three_rules_pick_three_choices():
    choices = [Choice("cat", -3.0, -2.0), Choice("a long answer", -6.0, -6.5), Choice("a dog that barks", -8.0, -12.0)]
    assert choose(choices) == {"acc": 0, "acc_norm": 1, "acc_lead": 2}
    assert choose([Choice("a", -1.0), Choice("b", -1.0)]) == {"acc": 0, "acc_norm": 0}
    found = score([(0, choices), (1, choices), (0, choices[:1] + choices[2:])])
    assert {rule: (of["right"], of["questions"]) for rule, of in found.items()} == {"acc": (2, 3), "acc_norm": (1, 3), "acc_lead": (0, 3)}
    assert found["acc"]["interval"] == pytest.approx([0.2077, 0.9385], abs=1e-4)


def test_the_split_is_that_of_both_together(test_data):
    """A tokenizer that merges over the border: encode(c) + encode(d) is not encode(c + d)."""
    import sentencepiece

    encode = sentencepiece.SentencePieceProcessor(model_file=str(test_data / "stories260k" / "tok512.model")).encode
    context, continuation = "Once upon a ti", "me there was"
    assert encode(context) + encode(continuation) != encode(context + continuation)
    before, after = split(encode, context, continuation)
    assert before + after == encode(context + continuation) and len(before) == len(encode(context))
    assert split(encode, "The cat  ", "sat") == split(encode, "The cat", "  sat")
    assert split(encode, "The cat ", "sat")[1] != encode("sat") or encode("sat") == encode(" sat")


def test_what_is_too_long_loses_its_left():
    assert fit_length([1, 2, 3], [4, 5], 4) == ([2, 3, 4, 5], 2) and fit_length([1], [4, 5], 9) == ([1, 4, 5], 1)
    assert fit_length([1], [4, 5, 6], 3) is None


def test_two_averages_of_one_table():
    found = averages({"law": (30, 100), "maths": (9, 10), "physics": (5, 10)})
    assert found["per_question"] == pytest.approx(100 * 44 / 120) and found["per_subject"] == pytest.approx((30 + 90 + 50) / 3)
    assert (found["right"], found["questions"]) == (44, 120)
    with pytest.raises(UserError, match="law"):
        averages({"law": (0, 0)})


# CrowS-Pairs' types with their number of pairs, and how many of each two models detect.
TYPES = {
    "race-color": (516, 322, 258), "gender": (262, 160, 131), "socioeconomic": (172, 104, 86), "nationality": (159, 96, 79),
    "religion": (105, 66, 53), "sexual-orientation": (84, 52, 42), "age": (87, 45, 44), "physical-appearance": (63, 35, 31),
    "disability": (60, 29, 30),
}  # fmt: skip


@pytest.mark.parametrize(("model", "right", "rate"), [(1, 909, 60.28), (2, 754, 50.00)])
def test_the_average_of_crows_pairs_is_by_pair(model, right, rate):
    rows = [{"type": name, "detected": place < of[model]} for name, of in TYPES.items() for place in range(of[0])]
    found = crows_pairs(rows)
    assert (found["detected"]["right"], found["detected"]["questions"]) == (right, 1508)
    assert found["detected"]["per_question"] == pytest.approx(rate, abs=0.005) and len(found["detected"]["types"]) == 9
    assert "stereotype" not in found


def test_both_metrics_of_crows_pairs_are_apart():
    rows = [{"type": "age", "detected": True, "stereotype_likelier": place < 3} for place in range(4)]
    found = crows_pairs(rows)
    assert (found["detected"]["per_question"], found["stereotype"]["per_question"]) == (100, 75)
    assert math.isclose(found["stereotype"]["types"]["age"], 75)
