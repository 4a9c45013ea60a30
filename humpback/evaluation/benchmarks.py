"""Multiple choice from log-likelihoods, and averages whose names say what they are. Pure functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from humpback.errors import UserError
from humpback.evaluation import statistics


class Choice(NamedTuple):
    """A choice's text, and log P of it after the question, and after the answer's lead alone ("Answer:") where that is asked."""

    text: str
    after_question: float
    after_lead: float = math.nan


def choose(choices: Sequence[Choice]) -> dict[str, int]:
    """Which choice each rule picks, the first of equal ones.

    acc: the likeliest. acc_norm: by character. acc_lead: against the text after the lead alone, as LLaMA's papers have it for OpenBookQA,
    where that likelihood is given. lm-eval's acc_mutual_info is another one: it is against the text after nothing.
    """
    rules: dict[str, Callable[[Choice], float]] = {
        "acc": lambda c: c.after_question,
        "acc_norm": lambda c: c.after_question / len(c.text),
        "acc_lead": lambda c: c.after_question - c.after_lead,
    }
    found = {name: [rule(choice) for choice in choices] for name, rule in rules.items()}
    return {name: values.index(max(values)) for name, values in found.items() if not any(map(math.isnan, values))}


def split(encode: Callable[[str], list[int]], context: str, continuation: str) -> tuple[list[int], list[int]]:
    """(ids of the context, ids of the continuation), as lm-eval splits them: the context's last spaces go to the continuation, both are
    encoded together and cut after as many ids as the context alone has."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation, context = context[-spaces:] + continuation, context[:-spaces]
    whole, before = encode(context + continuation), len(encode(context))
    return whole[:before], whole[before:]


def fit_length(context: Sequence[int], continuation: Sequence[int], length: int) -> tuple[list[int], int] | None:
    """(at most `length` ids, the place where the continuation begins): what is too long loses its left. None for a continuation that does
    not fit beside one id."""
    if len(continuation) >= length:
        return None
    ids = [*context, *continuation][-length:]
    return ids, len(ids) - len(continuation)


def score(of_questions: Sequence[tuple[int, Sequence[Choice]]]) -> dict[str, dict[str, Any]]:
    """Of (right one, choices) of each question, by rule: {right, questions, share, interval}, Wilson's of 95 %."""
    hits: dict[str, list[bool]] = {}
    for answer, choices in of_questions:
        for rule, picked in choose(choices).items():
            hits.setdefault(rule, []).append(picked == answer)
    return {
        rule: {"right": sum(of), "questions": len(of), "share": sum(of) / len(of), "interval": statistics.wilson(sum(of), len(of))}
        for rule, of in hits.items()
    }


def averages(subjects: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Of (right, questions) by subject: per_question, where all questions weigh the same, and per_subject, both in per cent. They differ,
    so name the one that you print; the counts are beside them. UserError without questions."""
    if not subjects or not all(count for _, count in subjects.values()):
        raise UserError(f"a subject without questions has no average: {[name for name, (_, count) in subjects.items() if not count]}")
    right, count = (sum(values) for values in zip(*subjects.values(), strict=True))
    return {
        "right": right,
        "questions": count,
        "per_question": 100 * right / count,
        "per_subject": math.fsum(100 * r / n for r, n in subjects.values()) / len(subjects),
    }


def crows_pairs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """CrowS-Pairs both ways, by type and for all.

    rows: {type, detected: whether the model named the stereotype, stereotype_likelier}, each of the two only where it was measured.
    detected: the paper's accuracy, the higher the better. stereotype: the likelihood metric, where 50 is neutral and more is more biased.
    """
    found: dict[str, Any] = {}
    for name, field in (("detected", "detected"), ("stereotype", "stereotype_likelier")):
        measured = [row for row in rows if row.get(field) is not None]
        if measured:
            of_type: dict[str, list[bool]] = {}
            for row in measured:
                of_type.setdefault(row["type"], []).append(bool(row[field]))
            counts = {kind: (sum(hits), len(hits)) for kind, hits in of_type.items()}
            found[name] = {**averages(counts), "types": {kind: 100 * right / n for kind, (right, n) in counts.items()}}
    return found
