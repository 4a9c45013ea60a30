"""A judge that sees passes the gate whatever place it likes; one that sees the place alone does not."""

import random

import pytest

from humpback.evaluation import pairwise
from humpback.evaluation.pairwise import Asked, Judgement

PAIRS = [(str(n), f"What is {n}?", f"{n} is a number.\n\nIt comes after {n - 1}.") for n in range(40)]
CONTROLS = pairwise.controls(PAIRS, [(n + 7) % 40 for n in range(40)])


def judge(sees: float, bias: float, seed: int = 0):
    """Asks about every control in both orders; `sees` is by how much the better answer's probability lies above a half."""
    chance = random.Random(seed)

    def ask(sign: int) -> Asked:
        return Asked(min(1.0, max(0.0, 0.5 + bias + sign * sees + chance.uniform(-0.02, 0.02))), mass=chance.uniform(0.3, 0.4))

    return [(control, Judgement(ask(1), ask(-1))) for control in CONTROLS]


def test_the_four_controls_of_a_pair():
    other, half, empty, more = CONTROLS[:4]
    assert [control.kind for control in CONTROLS[:4]] == list(pairwise.KINDS) and len(CONTROLS) == 160
    assert other.worse == PAIRS[7][2] and half.worse == PAIRS[0][2][: len(PAIRS[0][2]) // 2].rstrip() and empty.worse == ""
    assert more.worse == f"{PAIRS[0][2]}\n\n7 is a number." and all(c.better == PAIRS[0][2] for c in CONTROLS[:4])


def test_a_planted_judge_passes_and_its_love_of_the_first_place_is_told():
    found = pairwise.describe(judge(0.15, 0.3))
    assert pairwise.gate(found) == ""
    for of_kind in found.values():
        assert of_kind["position_bias"] == pytest.approx(0.3, abs=0.02) and of_kind["averaged"]["accuracy"] == 1
        assert (of_kind["better_first"]["accuracy"], of_kind["better_second"]["accuracy"], of_kind["flips"]) == (1, 0, 1)
        assert 0.3 <= of_kind["mass"]["p5"] < of_kind["mass"]["median"] < 0.4


def test_a_judge_of_places_gives_no_win_rate():
    told = pairwise.gate(pairwise.describe(judge(0.0, 0.17)))
    assert told.startswith("no win rate: the judge prefers") and "of 40 pairs" in told and "flips with the order in 100%" in told
    assert pairwise.gate({}).startswith("no win rate: the judge was asked about no control")


def test_few_pairs_do_not_pass():
    assert pairwise.gate(pairwise.describe(judge(0.3, 0.0)[:8])) != ""


def test_swapping_two_models_turns_the_preference_round_and_equal_texts_are_draws():
    one = Judgement(Asked(0.8), Asked(0.7))
    other = Judgement(one.backward, one.forward)
    assert pairwise.preference("a", "b", one) == pytest.approx(3 - pairwise.preference("b", "a", other), abs=1e-6)
    assert pairwise.preference("a", "a", None) == 1.5
    with pytest.raises(ValueError, match="no judgement"):
        pairwise.preference("a", "b", None)
