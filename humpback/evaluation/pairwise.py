"""A judge of two answers: controls whose right answer is known by construction, and the gate before any win rate. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from humpback.evaluation import statistics
from humpback.evaluation.winrate import DRAW

OTHER, HALF, EMPTY, MORE = "another instruction's response", "its own first half", "the empty string", "itself and a paragraph of another"
KINDS = (OTHER, HALF, EMPTY, MORE)


class Control(NamedTuple):
    """A human response and a text that is worse as an answer to the instruction."""

    id: str
    kind: str
    instruction: str
    better: str
    worse: str


class Asked(NamedTuple):
    """What a judge said of two answers in one order: the probability that the first is better, of the two labels together how much of the
    whole probability there was."""

    first: float
    mass: float | None = None


class Judgement(NamedTuple):
    """Both orders: `forward` shows the better answer, or the model's, first, `backward` the other one."""

    forward: Asked
    backward: Asked

    @property
    def preferred(self) -> float:
        """The probability that the one which `forward` shows first is better, both orders averaged."""
        return (self.forward.first + 1 - self.backward.first) / 2


def controls(pairs: Sequence[tuple[str, str, str]], others: Sequence[int | None]) -> list[Control]:
    """Of human (id, instruction, response) four controls each; others: for each pair the place of another one of another instruction,
    None for a pair that has no controls."""
    made = []
    for (pair, instruction, response), place in zip(pairs, others, strict=True):
        if place is None:
            continue
        other = pairs[place][2]
        worse = {
            OTHER: other,
            HALF: response[: len(response) // 2].rstrip(),
            EMPTY: "",
            MORE: f"{response}\n\n{other.strip().split(chr(10) * 2)[0]}",
        }
        made += [Control(pair, kind, instruction, response, worse[kind]) for kind in KINDS]
    return made


def describe(asked: Sequence[tuple[Control, Judgement]]) -> dict[str, dict[str, Any]]:
    """For each kind of control: accuracy with its standard error in each order and averaged, position bias (mean P(first) - 1/2), flip
    rate (pairs of which the order decides), label mass, correlation of what is preferred with the difference in length."""
    found = {}
    for kind in KINDS:
        of_kind = [(control, judgement) for control, judgement in asked if control.kind == kind]
        if not of_kind:
            continue
        firsts = [j.forward.first for _, j in of_kind], [1 - j.backward.first for _, j in of_kind]
        averaged = [j.preferred for _, j in of_kind]
        masses = [side.mass for _, j in of_kind for side in j if side.mass is not None]
        lengths = [len(control.better) - len(control.worse) for control, _ in of_kind]
        found[kind] = {
            "pairs": len(of_kind),
            "better_first": _accuracy(firsts[0]),
            "better_second": _accuracy(firsts[1]),
            "averaged": _accuracy(averaged),
            "position_bias": math.fsum(j.forward.first + j.backward.first - 1 for _, j in of_kind) / (2 * len(of_kind)),
            "flips": sum((a > 0.5) != (b > 0.5) for a, b in zip(*firsts, strict=True)) / len(of_kind),
            "mass": {"p5": statistics.quantile(masses, 0.05), "median": statistics.quantile(masses, 0.5)} if masses else None,
            "length_correlation": statistics.correlation(averaged, lengths),
        }
    return found


def gate(described: Mapping[str, Mapping[str, Any]]) -> str:
    """Why there is no win rate by this judge; "" when it may give one: when it tells a human response from another instruction's."""
    if OTHER not in described:
        return "no win rate: the judge was asked about no control, as no two human pairs are held out"
    seen = described[OTHER]["averaged"]
    least = seen["accuracy"] - statistics.Z95 * seen["standard_error"]
    if least > 0.5:
        return ""
    return (
        f"no win rate: the judge prefers a human response to that of another instruction in {seen['accuracy']:.0%} of "
        f"{described[OTHER]['pairs']} pairs, ± {seen['standard_error']:.0%}, which is not above a coin's 50 % by 1.96 standard errors; its "
        f"answer flips with the order in {described[OTHER]['flips']:.0%}"
    )


def preference(model: str, baseline: str, judgement: Judgement | None) -> float:
    """AlpacaEval's preference, 2 for the model (`forward` shows it first), both orders averaged; DRAW for equal texts, unasked."""
    if model == baseline:
        return DRAW
    if judgement is None:
        raise ValueError("two different answers and no judgement")
    return 1 + judgement.preferred


def _accuracy(better: Sequence[float]) -> dict[str, float]:
    """The share of probabilities above a half, ties as halves, and its standard error, at least that of one miss in as many and one."""
    hits = [1.0 if p > 0.5 else 0.5 if p == 0.5 else 0.0 for p in better]
    share, n = math.fsum(hits) / len(hits), len(hits)
    spread = max(share * (1 - share), n / (n + 1) ** 2)
    return {"accuracy": share, "standard_error": math.sqrt(spread / n)}
