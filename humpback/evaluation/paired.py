"""Every model's likelihoods of the same pairs: how likely a target is, how much of that is owed to what was asked, and what that shows.

A row is {model, task, id, nats, tokens}, of other sets than `held_out` with their name as `set`, and with `rotation` r where the prompt is
that of the r-th pair further on. A training's rows are in its FILE.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from humpback.evaluation import statistics

FILE = "held_out.jsonl"
HELD_OUT = "held_out"  # the name of the set that seed_pairs.held_out takes
ROTATIONS = 3  # other prompts of the same set that each target is seen behind
NLL, GAIN = "nll", "gain"

Scores = dict[str, tuple[float, int]]  # pair's id → (nats, target tokens)


class Measured:
    """The rows of a run's trainings of one task."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        self._rows: dict[tuple[str, str, int], Scores] = {}
        for row in rows:
            key = (row["model"], row.get("set", HELD_OUT), row.get("rotation", 0))
            self._rows.setdefault(key, {})[row["id"]] = (row["nats"], row["tokens"])
        self.models, self.sets = (list(dict.fromkeys(names)) for names in ([m for m, _, _ in self._rows], [s for _, s, _ in self._rows]))

    def scores(self, model: str, name: str, measure: str) -> Scores:
        """Of each pair of a set. NLL: nats of its target. GAIN: how many more they are, on average, behind other prompts of its set."""
        own = self._rows.get((model, name, 0), {})
        if measure == NLL:
            return own
        others = [self._rows.get((model, name, rotation), {}) for rotation in range(1, ROTATIONS + 1)]
        found: Scores = {}
        for pair, (nats, tokens) in own.items():
            swapped = [scores[pair][0] for scores in others if pair in scores]
            if swapped:
                found[pair] = (math.fsum(swapped) / len(swapped) - nats, tokens)
        return found


    def first_of(self, model: str, name: str, rotations: int) -> dict[str, bool]:
        """Of each pair of a set that was seen behind as many other prompts: whether its target is likeliest behind its own."""
        own = self._rows.get((model, name, 0), {})
        others = [self._rows.get((model, name, rotation), {}) for rotation in range(1, rotations + 1)]
        return {
            pair: all(nats < scores[pair][0] for scores in others)
            for pair, (nats, _) in own.items() if all(pair in scores for scores in others)
        }  # fmt: skip


def compare(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of the rows of a run's trainings of one task: for each set and measure the value of each model, and its paired differences from the
    base and from the model before it, with what they allow to say. A set, or measure, that was not measured is not there."""
    measured, found = Measured(rows), []
    for name in measured.sets:
        for measure in (NLL, GAIN):
            scores = {model: s for model in measured.models if (s := measured.scores(model, name, measure))}
            if "base" not in scores:
                continue
            models = []
            for place, (model, of_model) in enumerate(scores.items()):
                before = list(scores)[:place]
                against = {other: _difference(of_model, scores[other], measure) for other in dict.fromkeys([*before[:1], *before[-1:]])}
                value = math.fsum(nats for nats, _ in of_model.values()) / sum(tokens for _, tokens in of_model.values())
                models.append({"model": model, "value": value, "pairs": len(of_model), "against": against})
            found.append({"set": name, "measure": measure, "models": models})
    return found


def _difference(scores: Scores, others: Scores, measure: str) -> dict[str, Any]:
    both = [pair for pair in scores if pair in others]
    difference = statistics.paired_difference([scores[pair] for pair in both], [others[pair] for pair in both])
    return {**difference, "verdict": statistics.verdict(difference, lower_is_better=measure == NLL)}
