"""AlpacaEval's arithmetic against its published annotations; nothing of them is in the repository."""

import csv
import gzip
import json
import pathlib

import pytest

from humpback.errors import UserError
from humpback.evaluation import winrate


@pytest.fixture(scope="module")
def alpaca_eval(test_data) -> pathlib.Path:
    return test_data / "alpaca_eval"


def read(path: pathlib.Path) -> list[dict]:
    return json.loads(gzip.decompress(path.read_bytes()))


@pytest.fixture(scope="module")
def guanaco(alpaca_eval) -> list[dict]:
    return read(alpaca_eval / "guanaco-65b.alpaca_eval_gpt4.annotations.json.gz")


@pytest.fixture(scope="module")
def humpback_rows(alpaca_eval) -> list[dict]:
    return read(alpaca_eval / "humpback-llama2-70b.weighted_alpaca_eval_gpt4_turbo.annotations.json.gz")


@pytest.fixture(scope="module")
def difficulty(alpaca_eval) -> list[float]:
    return json.loads((alpaca_eval / "difficulty.json").read_text())


def test_alpaca_eval_1(guanaco):
    found = winrate.win_rate([row["preference"] for row in guanaco])
    assert found["win_rate"] == pytest.approx(71.80124223602485, abs=1e-9)
    assert found["standard_error"] == pytest.approx(1.5869123611585, abs=1e-9)
    assert (found["wins"], found["losses"], found["draws"], found["n"]) == (578, 227, 0, 805)
    parts = {name: (part["wins"], part["n"]) for name, part in winrate.by_dataset(guanaco).items()}
    assert parts == {
        "helpful_base": (104, 129), "koala": (112, 156), "oasst": (145, 188), "selfinstruct": (155, 252), "vicuna": (62, 80),
    }  # fmt: skip


def test_alpaca_eval_2(humpback_rows):
    found = winrate.win_rate([row["preference"] for row in humpback_rows])
    assert found["win_rate"] == pytest.approx(10.121771502645965, abs=1e-9)
    assert found["standard_error"] == pytest.approx(0.9401806122130112, abs=1e-9)
    assert (found["wins"], found["losses"], found["draws"]) == (77, 727, 1)
    assert found["discrete"] == pytest.approx(9.627329192546584, abs=1e-9)


def test_orders_and_labels_give_the_published_preferences(humpback_rows):
    swapped = 0
    for row in humpback_rows:
        is_swapped = winrate.is_swapped(row["instruction"])
        swapped += is_swapped
        found = winrate.preference_of_completion(row["raw_completion"], is_swapped)
        assert found == pytest.approx(row["preference"], abs=1e-6)
    assert (len(humpback_rows), swapped) == (805, 406)


@pytest.mark.parametrize(
    ("logprobs", "swapped", "preference"),
    [
        ({"m": -0.5, "M": -0.5}, False, 1.5),
        ({"m": 0.0}, False, 1.0),
        ({"m": 0.0}, True, 2.0),
        ({"M": -3.0, "The": -0.1}, False, 2.0),
        ({"The": -0.1}, False, None),
    ],
)
def test_a_label_that_is_not_there_has_no_probability(logprobs, swapped, preference):
    assert winrate.preference_of_logprobs(logprobs, swapped) == preference


@pytest.mark.parametrize(
    ("ranking", "swapped", "preference"),
    [
        ([{"model": "model_1", "rank": 1}, {"model": "model_2", "rank": 2}], False, 1),
        ([{"model": "model_2", "rank": 1}, {"model": "model_1", "rank": 2}], False, 2),
        ([{"model": "model_1", "rank": 2}], True, 1),
        ([{"model": "model_1", "rank": 3}], False, None),
        ([{"model": "model_2", "rank": 1}], False, None),
    ],
)
def test_ranks(ranking, swapped, preference):
    assert winrate.preference_of_ranks(ranking, swapped) == preference


def test_the_length_controlled_rate_of_published_weights(alpaca_eval, difficulty):
    with (alpaca_eval / "length_controlled_v1.baseline_gpt4_1106_preview.csv").open() as file:
        published = {row[""]: row for row in csv.DictReader(file)}
    wanted = {"humpback-llama2-70b": 16.249164231, "humpback-llama-65b": 12.799859996, "guanaco-65b": 8.252916992}
    for name, rate in wanted.items():
        of_model = published[name]
        weights = {"difficulty": float(of_model["instruction_difficulty"]), "model": float(of_model["not_gamed_baseline.astype(float)"])}
        assert winrate.length_controlled(difficulty, weights) == pytest.approx(rate, abs=1e-6)


def test_our_own_fit_has_its_own_figures(humpback_rows, difficulty):
    found = winrate.fit_length_control(humpback_rows, difficulty)
    assert found["win_rate"] == pytest.approx(15.675120656, abs=1e-5)
    assert list(found["weights"].values()) == pytest.approx([-1.960485, 1.107713, -2.361273], abs=1e-6)
    assert winrate.fit_length_control(humpback_rows)["win_rate"] == pytest.approx(22.302457512, abs=1e-5)
    with pytest.raises(UserError, match="805 rows, but 2 difficulties"):
        winrate.fit_length_control(humpback_rows, [1.0, 2.0])


def test_missing_preferences_and_zeros():
    found = winrate.win_rate([2, None, 0, 1, float("nan")])
    assert (found["win_rate"], found["n"], found["missing"], found["draws"]) == (50.0, 3, 2, 1)
    with pytest.raises(UserError, match="none of 1 preferences is there"):
        winrate.win_rate([None])


@pytest.mark.parametrize(
    ("completion", "preference"),
    [
        ("[{'model': 'model_1', 'rank': 2}, {'model': 'model_2', 'rank': 1}]", 2),
        (" [{'model': 'model_1', 'rank': 1}]\n", 1),
        ("{'logprobs': {'content': [{'top_logprobs': [{'token': 'M', 'logprob': -0.1}]}]}}", 2),
        ("The first one.", None),
        ("['model_1']", None),
        ({"logprobs": None}, None),
        (None, None),
    ],
)
def test_completions_in_all_their_forms(completion, preference):
    assert winrate.preference_of_completion(completion, False) == preference
