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
        **rounds,
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


def verdict(learned: Mapping[str, Any]) -> list[str]:
    """The last lines of a run: whether M_yx and M_0 learned."""
    what = {"backward": "M_yx, instruction given response", "forward-0": "M_0, response given instruction"}
    lines = []
    for name, row in learned.items():
        if row is None:
            lines.append(f"{what[name]}: not measured")
            continue
        needed = f"at most {row['needed']:+.2f}" if row["needed"] else "below 0"
        outcome = "learned" if row["passed"] else "NOT LEARNED"
        error = _number(row["standard_error"], 3)
        lines.append(f"{what[name]}: {row['difference']:+.3f} ± {error} nats per token against the base (needed: {needed}): {outcome}")
    return lines


_NOT_MEASURED = (
    "Not measured: there is no model yet, no pair is held out (seed_pairs.held_out, seed_pairs.held_out_source), or none fits into "
    "decoding.length."
)
_HELD_OUT_HEADER = ("held-out", "model", "nats/token", "minus base", "± s.e.", "pairs")


def _stage_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    def joined(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in values.items() if value)

    return [(name, joined(stage["counts"]), joined(stage["dropped"])) for name, stage in summary["stages"].items()]


def _length_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(row["set"], str(row["examples"]), _mean_sd(row["instruction"]), _mean_sd(row["output"])) for row in summary["lengths"]]


def _held_out_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    labels = {"backward": "instruction | response", "forward": "response | instruction"}
    return [
        (
            labels[task],
            _MODEL_NAMES.get(row["model"], row["model"].replace("forward-", "M_")),
            f"{row['nll']:.4f}",
            f"{row['difference']:+.4f}" if row["model"] != "base" else "",
            _number(row["standard_error"], 4) if row["model"] != "base" else "",
            str(row["pairs"]),
        )
        for task, rows in summary["held_out"].items()
        for row in rows
    ]


def _held_out_text(summary: Mapping[str, Any]) -> str:
    rows = _held_out_rows(summary)
    table_ = _markdown(_HELD_OUT_HEADER, rows) if rows else _NOT_MEASURED
    return table_ + "\n\n" + "\n".join(f"- {line}" for line in verdict(summary["learned"]))


def _candidates_text(c: Mapping[str, Any]) -> str:
    return (
        f"{c['candidates']} candidates; echo rate {c['echo_rate']:.1%}, unfinished {c['unfinished_rate']:.1%}, "
        f"empty {c['empty_rate']:.1%}. None of these is rated."
    )


def _rating_text(rating: Mapping[str, Any]) -> str:
    control = _markdown(
        ("set", "examples", "score", "instruction", "output"),
        [
            (name, str(part["examples"]), _mean_sd(part["score"], 2), _mean_sd(part["instruction"]), _mean_sd(part["output"]))
            for name, part in (("curated", rating["curated"]), ("control of the same lengths", rating["length_matched_control"]))
            if part is not None
        ],
    )
    return (
        f"Invalid: {rating['invalid_rate']:.1%}; score {_mean_sd(rating['score'], 2)}; correlation of score and output length "
        f"{_number(rating['score_length_correlation'], 2)}.\n\n"
        + _markdown(("rating", "candidates"), [(score, str(count)) for score, count in rating["histogram"].items()])
        + "\n\n"
        + control
    )


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
