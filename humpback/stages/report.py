"""A summary as text: the table that `humpback run` prints, the verdict, and report.md. Pure functions of the summary."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from humpback.progress import printable

_MODEL_NAMES = {"base": "base", "backward": "M_yx"}


def render(summary: Mapping[str, Any], timing: Mapping[str, Any]) -> str:
    """report.md, whole; of what has not been made yet it says nothing. Times stand in its last section only."""
    rounds = {
        f"Ratings of iteration {rating['iteration']}, by M_{rating['iteration'] - 1}": _rating_text(rating) for rating in summary["ratings"]
    }
    sections = {
        "Stages": _markdown(("stage", "counts", "dropped"), _stage_rows(summary)),
        "Lengths in characters, mean ± sd": _markdown(("set", "examples", "instruction", "output"), _length_rows(summary)),
        "Held-out pairs, nats per target token": _held_out_text(summary),
        "Candidates": _candidates_text(summary["candidates"]) if summary["candidates"] else "",
        **{_judge_name(found): _judge_text(found["seen"]) for found in summary["judges"]},
        **rounds,
        **{f"Likelihood by M_{row['iteration'] - 1}": _likely_text(row) for row in summary["likelihoods"]},
        "Curated sets by a score that did not choose them": "\n".join(map(_beside_text, summary["beside"])),
        "Rewritten responses": "\n".join(map(_rewritten_text, summary["rewritten"])),
        "Overlap of the curated sets": _overlap_text(summary) if "curated-1" in summary["stages"] else "",
        "The five candidates rated best by the last judge": _examples(summary["best"]),
        "The five rated worst": _examples(summary["worst"]),
        "Timing": _markdown(("stage", "attempts", "seconds", "tokens", "tokens/s"), _timing_rows(timing)),
    }
    return "\n\n".join(["# Report of a run", *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]) + "\n"


def table(summary: Mapping[str, Any], timing: Mapping[str, Any]) -> str:
    """What a person wants to see at the end: stages with counts and seconds, then the likelihoods."""
    rows = [(name, counts, f"{timing[name]['seconds']:.0f} s") for name, counts, _ in _stage_rows(summary)]
    held_out = _held_out_rows(summary)
    return "\n\n".join([_plain(("stage", "counts", "time"), rows), *([_plain(_HELD_OUT_HEADER, held_out)] if held_out else [])])


def verdicts(summary: Mapping[str, Any]) -> list[str]:
    """The last lines of a run: what can be said of each model against the one before it, and how sure that is."""
    lines = []
    for task, what, first in (("backward", "instruction given response", "M_yx"), ("forward", "response given instruction", "M_0")):
        said: dict[str, list[str]] = {}
        for found in summary["held_out"][task]:
            for row in found["models"]:
                for other, difference in list(row["against"].items())[-1:]:  # the model before it
                    name = f"{_model_name(row['model'])}, {what}, {_set_name(found['set'])}"
                    said.setdefault(name, []).append(_said(found["measure"], other, difference))
        lines += [f"{name}: {'; '.join(parts)}" for name, parts in said.items()] or [f"{first}, {what}: not measured"]
    for found in summary["judges"]:
        lines.append(f"{_judge_name(found)}: {_judged(found['seen'])}")
    learned = summary["learned"]
    if learned:
        outcome = "learned" if learned["passed"] else "NOT LEARNED"
        lines.append(f"M_yx: {outcome} (needed: at most {learned['needed']:+.2f} nats a token against the base, and no chance)")
    return lines


def _said(measure: str, other: str, row: Mapping[str, Any]) -> str:
    what = "" if measure == "nll" else "gain "
    error = _number(row["standard_error"], 4)
    return f"{what}{row['difference']:+.4f} ± {error} nats a token against {_model_name(other)} ({row['pairs']} pairs): {row['verdict']}"


def _model_name(model: str) -> str:
    return _MODEL_NAMES.get(model, model.replace("forward-", "M_"))


def _set_name(name: str) -> str:
    return name.replace("_", " ")


_NOT_MEASURED = (
    "Not measured: there is no model yet, no pair is held out (seed_pairs.held_out, seed_pairs.held_out_source), or none fits into "
    "decoding.length."
)
_HELD_OUT_HEADER = ("held-out", "set", "measure", "model", "nats/token", "against", "difference", "interval", "pairs", "seen")
_MEASURES = (
    "Of each target token: **nll** is the negative log-likelihood in nats behind its own prompt, the lower the better; **gain** is how "
    "much it rises, on average, behind prompts of other pairs of the same set, the higher the better: what the model gets out of the "
    "question, apart from having learned the prose. Differences are paired; an interval is two standard errors to both sides."
)


def _stage_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    def joined(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in values.items() if value)

    return [(name, joined(stage["counts"]), joined(stage["dropped"])) for name, stage in summary["stages"].items()]


def _length_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(row["set"], str(row["examples"]), _mean_sd(row["instruction"]), _mean_sd(row["output"])) for row in summary["lengths"]]


def _held_out_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    labels = {"backward": "instruction | response", "forward": "response | instruction"}
    rows = []
    for task, compared in summary["held_out"].items():
        for found in compared:
            for row in found["models"]:
                head = (labels[task], _set_name(found["set"]), found["measure"], _model_name(row["model"]), f"{row['value']:.4f}")
                rows += [(*head, _model_name(other), *_difference(d)) for other, d in row["against"].items()]
                rows += [(*head, "", "", "", str(row["pairs"]), "")] if not row["against"] else []
    return rows


def _difference(row: Mapping[str, Any]) -> tuple[str, ...]:
    interval = "–" if row["interval"] is None else f"{row['interval'][0]:+.4f} … {row['interval'][1]:+.4f}"
    return f"{row['difference']:+.4f}", interval, str(row["pairs"]), row["verdict"]


def _held_out_text(summary: Mapping[str, Any]) -> str:
    rows = _held_out_rows(summary)
    table_ = f"{_MEASURES}\n\n{_markdown(_HELD_OUT_HEADER, rows)}" if rows else _NOT_MEASURED
    return table_ + "\n\n" + "\n".join(f"- {line}" for line in verdicts(summary))


def _candidates_text(c: Mapping[str, Any]) -> str:
    return (
        f"{c['candidates']} candidates; echo rate {c['echo_rate']:.1%}, unfinished {c['unfinished_rate']:.1%}, "
        f"empty {c['empty_rate']:.1%}. None of these is rated."
    )


def _rating_text(rating: Mapping[str, Any]) -> str:
    curated = rating["curated"]
    chosen = "" if curated is None else (
        f"\n\nCurated: {curated['examples']}, score {_mean_sd(curated['score'], 2)}, characters of the instruction "
        f"{_mean_sd(curated['instruction'])}, of the output {_mean_sd(curated['output'])}. That these scores are high says nothing: they "
        "chose the set."
    )  # fmt: skip
    return (
        f"Invalid: {rating['invalid_rate']:.1%}; score {_mean_sd(rating['score'], 2)}; correlation of score and output length "
        f"{_number(rating['score_length_correlation'], 2)}.\n\n"
        + _markdown(("rating", "candidates"), [(score, str(count)) for score, count in rating["histogram"].items()])
        + chosen
    )


def _judge_name(found: Mapping[str, Any]) -> str:
    return f"M_{found['iteration'] - 1} as a judge, by {'its ' if found['score'] == 'likelihood' else 'the '}{found['score']}"


def _judged(seen: Mapping[str, Any] | None) -> str:
    """What a judge sees, in a line."""
    if seen is None:
        return "not measured, as no two pairs are held out (seed_pairs.held_out, evaluation.sets), or none has a score"
    outcome = "BLIND: what it chose is no better than chance can explain" if seen["blind"] else "sees something"
    return (
        f"human pairs above the same responses under other instructions: {seen['true_above']:.0%} of {seen['pairs']} "
        f"({_percents(seen['interval'])}; a coin: 50 %): {outcome}"
    )


def _judge_text(seen: Mapping[str, Any] | None) -> str:
    if seen is None:
        return _judged(seen)
    rows = [
        (_set_name(name), str(of["pairs"]), f"{of['true_above']:.1%}", _percents(of["interval"]), _number(of["auc"], 3))
        for name, of in {"all": seen, **seen["sets"]}.items()
    ]
    facts = [f"correlation of the score with the length of the response {_number(seen['length_correlation'], 2)}"]
    if seen["nonsense_correlation"] is not None:
        facts.append(
            f"correlation with the score of the same pairs by an absurd rubric, of spelling mistakes, {seen['nonsense_correlation']:.2f}"
        )
    if seen["mass"]:
        mass = seen["mass"]
        facts.append(f"probability of the five digits together: median {mass['median']:.2f}, 5th percentile {mass['p5']:.2f}")
    if seen["modes"]:
        modes = ", ".join(f"{digit}: {count}" for digit, count in seen["modes"].items())
        facts.append(f"likeliest digit of the true pairs: {modes}; entropy of the five {seen['entropy']:.2f} nats of at most 1.61")
    if seen["unrated"]:
        facts.append(f"{seen['unrated']} pairs have no score")
    header = ("set", "pairs", "true above swapped", "95 %", "AUC of all true against all swapped")
    return _judged(seen).capitalize() + ".\n\n" + _markdown(header, rows) + "\n\n" + "\n".join(f"- {fact}" for fact in facts)


def _percents(interval: Sequence[float]) -> str:
    return f"{interval[0]:.0%} … {interval[1]:.0%}"


def _likely_text(row: Mapping[str, Any]) -> str:
    return (
        f"How much likelier a token of a response is under its instruction than without one: {_mean_sd(row['score'], 4)} nats, of "
        f"{row['candidates']} candidates; correlation with output length {_number(row['score_length_correlation'], 2)}."
    )


def _beside_text(row: Mapping[str, Any]) -> str:
    """Never by the score that chose: by that ratings of pure noise differ, too."""
    name = f"A^({row['iteration']}) by {row['score']}"
    if not row["pairs"]:
        return f"- {name}: no candidate is left to compare it with."
    difference, interval, pairs, seen = _difference(row)
    return f"- {name} against as many others of the same lengths: {difference} ({interval}; {pairs} pairs): {seen}."


def _rewritten_text(row: Mapping[str, Any]) -> str:
    """By the same score of the same judge as chose the drafts."""
    who = "M" if row["by"] == "base" else f"M_{row['iteration'] - 1}"
    told = [f"- A^({row['iteration']}): {row['rewritten']} of {row['examples']} responses are rewritten by {who}; else the draft stays"]
    for score, found in row["scores"].items():
        difference, interval, pairs, seen = _difference(found)
        told.append(f"{score} {found['drafts']:.4f} before, {found['answers']:.4f} after: {difference} ({interval}; {pairs} pairs): {seen}")
    return "; ".join(told) + "."


def _overlap_text(summary: Mapping[str, Any]) -> str:
    rows = [
        f"A^({row['sets'][0]}) and A^({row['sets'][1]}) share {row['both']} of {row['either']} (Jaccard {row['jaccard']:.2f})."
        for row in summary["overlap"]
    ]
    return "\n".join(rows) or "There is only one."


def _examples(rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(
        f"**{row['score']:.2f}** · `{row['id']}` · {_code(row['url'])} · header: {_code(row['header'])}\n\n"
        f"Instruction:\n\n{_block(row['instruction'])}\n\nOutput:\n\n{_block(row['output'])}"
        for row in rows
    )


def _code(text: str) -> str:
    """A page's text within a line, as code: no Markdown or HTML in it means anything, no picture is fetched."""
    ticks = _more_ticks(text, 1)
    return f"{ticks} {' '.join(printable(text).split())} {ticks}"


def _block(text: str) -> str:
    """`_code` for a text of several lines."""
    ticks = _more_ticks(text, 3)
    return f"{ticks}text\n{printable(text)}\n{ticks}"


def _more_ticks(text: str, least: int) -> str:
    """A run of backticks that is not in the text, nor a longer one, and so does not end there."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def _timing_rows(timing: Mapping[str, Any]) -> list[tuple[str, ...]]:
    def row(name: str, took: Mapping[str, Any]) -> tuple[str, ...]:
        tokens, rate = (str(took["tokens"]), f"{took['tokens_per_second']:.0f}") if took["tokens"] else ("", "")
        return name, str(took.get("attempts", "")), f"{took['seconds']:.1f}", tokens, rate

    return [row(name, took) for name, took in timing.items()]


def _mean_sd(value: Mapping[str, float | None], digits: int = 0) -> str:
    return f"{_number(value['mean'], digits)} ± {_number(value['sd'], digits)}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in [header, *rows])
