"""The pairs that measure every model, set by set: how likely the target is, and how much of that is owed to what was asked.

seed/ holds each set: `held_out`, and `set-NAME` for each of evaluation.sets. A row of a training's file is {model, task, id, nats,
tokens}, of other sets than `held_out` with their name as `set`, and with `rotation` r where the prompt is that of the r-th pair further on.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from humpback import prompts
from humpback.evaluation import statistics
from humpback.records import Example, numbered_lines, read_shards
from humpback.tokens.examples import TokenExample, build_example
from humpback.tokens.tokenizer import Tokenizer

FILE = "held_out.jsonl"
HELD_OUT = "held_out"  # the name of the set that seed_pairs.held_out takes
ROTATIONS = 3  # other prompts of the same set that each target is seen behind
NLL, GAIN = "nll", "gain"

Scores = dict[str, tuple[float, int]]  # pair's id → (nats, target tokens)
Question = dict[str, Any]  # set, rotation, id


def shards_of(name: str) -> str:
    """The name of a set's shards in seed/."""
    return name if name == HELD_OUT else f"set-{name}"


def set_names(given: str) -> list[str]:
    """All sets of a run, of its evaluation.sets."""
    return [HELD_OUT, *(entry.partition("=")[0].strip() for entry in given.split(",") if entry.strip())]


def read_sets(workdir: epath.Path, given: str) -> dict[str, list[Example]]:
    """The pairs of each set, in the order of their ids."""
    return {name: list(read_shards(workdir / "seed", shards_of(name), Example)) for name in set_names(given)}


def rotated(pairs: Sequence[Example]) -> Iterable[tuple[int, Example, Example]]:
    """Yields (r, pair, the pair r places further on) for r = 1 … ROTATIONS, fewer for a small set, none with the same instruction."""
    for rotation in range(1, min(ROTATIONS, len(pairs) - 1) + 1):
        for place, pair in enumerate(pairs):
            other = pairs[(place + rotation) % len(pairs)]
            if prompts.bare(other.instruction) != prompts.bare(pair.instruction):
                yield rotation, pair, other


def questions(
    sets: Mapping[str, Sequence[Example]], task: str, tokenizer: Tokenizer, wrapper: str, length: int
) -> list[tuple[Question, TokenExample]]:
    """What is measured beside the held-out pairs' own prompts: those of the other sets; and, forward, every target behind other prompts
    of its set. A pair that does not fit is left out."""
    asked: list[tuple[Question, prompts.Prompt, str]] = []
    for name, pairs in sets.items():
        for pair in pairs if name != HELD_OUT else ():
            prompt = prompts.backward_prompt(pair.response) if task == "backward" else prompts.forward_prompt(pair.instruction)
            target = prompts.bare(pair.instruction) if task == "backward" else pair.response.strip()
            asked.append(({"set": name, "id": pair.id}, prompt, target))
        for rotation, pair, other in rotated(pairs) if task == "forward" else ():
            question = {"set": name, "rotation": rotation, "id": pair.id}
            asked.append((question, prompts.forward_prompt(other.instruction), pair.response.strip()))
    built = [(q, build_example(tokenizer, q["id"], prompt, target, prompts.WRAPPERS[wrapper], length)) for q, prompt, target in asked]
    return [(question, example) for question, example in built if isinstance(example, TokenExample)]


class Measured:
    """The rows of a run's trainings of one task."""

    def __init__(self, files: Iterable[epath.Path]):
        self._rows: dict[tuple[str, str, int], Scores] = {}
        self.models: list[str] = []
        for path in files:
            for _, line in numbered_lines(path):
                row = json.loads(line)
                key = (row["model"], row.get("set", HELD_OUT), row.get("rotation", 0))
                self._rows.setdefault(key, {})[row["id"]] = (row["nats"], row["tokens"])
                if row["model"] not in self.models:
                    self.models.append(row["model"])

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


def compare(measured: Measured, names: Collection[str]) -> list[dict[str, Any]]:
    """For each set and measure the value of each model, and its paired differences from the base and from the model before it, with
    what they allow to say. A set, or measure, that was not measured is not there."""
    found = []
    for name in names:
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
