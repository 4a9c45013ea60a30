"""AlpacaEval's arithmetic: preferences to win rates, with and without the answers' length. Pure functions of its files' rows.

A preference is 1 where the baseline's answer (`output_1`) is preferred, 2 where the model's (`output_2`) is, anything between by its
probability, and None where it is missing. Source: tatsu-lab/alpaca_eval at cd543a1; arXiv 2404.04475 for the length-controlled rate.
"""

import ast
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from humpback.errors import UserError
from humpback.evaluation import statistics

DRAW = 1.5
Row = Mapping[str, Any]


def win_rate(preferences: Sequence[float | None]) -> dict[str, Any]:
    """{win_rate, standard_error (both in per cent), discrete, wins, losses, draws, n, missing} of the model.

    Of preferences that are 0 AlpacaEval takes a draw; missing ones count in nothing. discrete: each preference rounded to the nearer
    side. UserError without any.
    """
    found = [DRAW if preference == 0 else float(preference or 0) for preference in preferences if _is_there(preference)]
    if not found:
        raise UserError(f"none of {len(preferences)} preferences is there, so there is no win rate")
    wins = [preference - 1 for preference in found]
    won, lost = sum(win > 0.5 for win in wins), sum(win < 0.5 for win in wins)
    draws = len(wins) - won - lost
    mean, sd = statistics.mean_sd(wins).values()
    return {
        "win_rate": 100 * (mean or 0.0),
        "standard_error": None if sd is None else 100 * sd / math.sqrt(len(wins)),
        "discrete": 100 * (won + draws / 2) / len(wins),
        "wins": won,
        "losses": lost,
        "draws": draws,
        "n": len(wins),
        "missing": len(preferences) - len(wins),
    }


def _is_there(preference: float | None) -> bool:
    return preference is not None and not math.isnan(preference)


def by_dataset(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """`win_rate` of each of AlpacaEval's parts."""
    names = sorted({row["dataset"] for row in rows})
    return {name: win_rate([row["preference"] for row in rows if row["dataset"] == name]) for name in names}


def is_swapped(instruction: str) -> bool:
    """Whether AlpacaEval shows a judge the model's answer first: drawn by the instruction."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


def preference_of_logprobs(logprobs: Mapping[str, float], swapped: bool) -> float | None:
    """AlpacaEval 2's preference from the log-probabilities of the labels `m`, the first answer shown, and `M`; one that is not among the
    likeliest has probability 0. None where neither is."""
    first, second = (math.exp(logprobs[name]) if name in logprobs else 0.0 for name in ("m", "M"))
    if not first + second:
        return None
    preference = 2 - first / (first + second)
    return 3 - preference if swapped else preference


def preference_of_ranks(ranking: Sequence[Mapping[str, Any]], swapped: bool) -> float | None:
    """AlpacaEval 1's preference from the judge's list of {model, rank}: the rank of model_1, which must be 1 or 2, else None."""
    ranks = [entry.get("rank") for entry in ranking if entry.get("model") == "model_1"]
    if len(ranks) != 1 or ranks[0] not in (1, 2):
        return None
    preference = float(ranks[0])
    return 3 - preference if swapped else preference


def preference_of_completion(completion: Any, swapped: bool) -> float | None:
    """What a judge's `raw_completion` in annotations.json says: an object with log-probabilities (AlpacaEval 2), or the text of a list of
    ranks (AlpacaEval 1), either also as Python writes it. None for anything else."""
    if isinstance(completion, str):
        try:
            completion = ast.literal_eval(completion.strip())
        except (ValueError, SyntaxError):
            return None
    try:
        if isinstance(completion, list):
            return preference_of_ranks(completion, swapped)
        likeliest = completion["logprobs"]["content"][0]["top_logprobs"]
        return preference_of_logprobs({entry["token"]: entry["logprob"] for entry in likeliest}, swapped)
    except (AttributeError, IndexError, KeyError, TypeError):
        return None


def length_controlled(difficulty: Sequence[float], weights: Mapping[str, float]) -> float:
    """The length-controlled win rate in per cent, from the weights of AlpacaEval's model: 100 · mean σ(w_d · d_i + w_m)."""
    return 100 * float(np.mean(_sigmoid(weights["difficulty"] * np.asarray(difficulty) + weights["model"])))


def fit_length_control(rows: Sequence[Row], difficulty: Sequence[float] | None = None) -> dict[str, Any]:
    """An unregularised fit of logit P(model wins) = w_l · tanh(Δ / sd(Δ)) + w_d · d_i + w_m, Δ the baseline's characters less the model's.

    {weights, win_rate}: without AlpacaEval's rows of gamed baselines and its penalty, so not its official figure, and to be printed under
    another name: over 56 models it lies 1.5 points off on average, without difficulties farther than no correction (6.7 and 4.9).
    UserError when rows and difficulties are not as many.
    """
    if difficulty is not None and len(difficulty) != len(rows):
        raise UserError(f"{len(rows)} rows, but {len(difficulty)} difficulties; they must be those of the same prompts in the same order")
    there = [number for number, row in enumerate(rows) if _is_there(row["preference"])]
    delta = np.array([len(row["output_1"]) - len(row["output_2"]) for row in rows], np.float64)
    features = {"length": np.tanh(delta / delta.std(ddof=1))}
    if difficulty is not None:
        features["difficulty"] = np.asarray(difficulty, np.float64)
    features["model"] = np.ones(len(rows))
    preferences = np.array([rows[number]["preference"] or DRAW for number in there], np.float64) - 1
    weights = dict(zip(features, _logistic(np.stack(list(features.values()), 1)[there], preferences).tolist(), strict=True))
    rate = length_controlled(difficulty if difficulty is not None else [0.0], {"difficulty": 0.0, **weights})
    return {"weights": weights, "win_rate": rate}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _logistic(features_NF: np.ndarray, soft_N: np.ndarray, rounds: int = 100) -> np.ndarray:
    """The weights of a logistic regression on soft labels, by Newton's method. UserError where they grow without end."""
    weights_F = np.zeros(features_NF.shape[1])
    for _ in range(rounds):
        p_N = _sigmoid(features_NF @ weights_F)
        hessian_FF = (features_NF * (p_N * (1 - p_N))[:, None]).T @ features_NF
        try:
            step_F = np.linalg.solve(hessian_FF, features_NF.T @ (soft_N - p_N))
        except np.linalg.LinAlgError:
            break
        weights_F = weights_F + step_F
        if np.abs(step_F).max() < 1e-12:
            return weights_F
    raise UserError(f"the length-controlled fit of {len(soft_N)} rows does not come to an end: a feature tells all wins from all losses")
