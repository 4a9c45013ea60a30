"""What a study shows: its endpoints, as they were fixed, a table and a plot with intervals. Pure functions of likelihoods."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from humpback.evaluation import statistics, trainings
from humpback.evaluation.paired import GAIN, HELD_OUT, NLL, Measured

OTHERS = 7  # other questions of the set among which a pair's own is to be found
H2 = "h2"  # the set of evaluation.sets on whose gain the endpoints are
PRIMARY = (("SL", "S2"), ("SL", "SP"))  # both, corrected together
# What is looked at beside, on the gain on H2 or as it says.
BESIDE = (("SP", "S2", H2, GAIN), ("SC", "SR", H2, GAIN), ("SC", "SH", H2, GAIN), ("SL", "SH", H2, GAIN), ("SC", "S2", HELD_OUT, NLL))
_LEVEL = 0.05

Comparison = dict[str, Any]


def compare(measured: Mapping[str, Measured], sizes: Sequence[int], count: int, sets: Sequence[str]) -> dict[str, Any]:
    """Of the likelihoods by folder, `untrained` and ARM-k-number: {rows: each arm against the base, primary, beside, verdicts}."""
    arms = {
        (arm, k): [measured[f"{arm}-{k}-{number}"] for number in range(count)]
        for k in sizes for arm in dict.fromkeys(name.rpartition("-")[0].rpartition("-")[0] for name in measured if f"-{k}-" in name)
    }  # fmt: skip
    base = measured["untrained"]

    def against(first: tuple[str, int], other: tuple[str, int] | None, name: str, measure: str) -> Comparison:
        one = [m.scores(first[0], name, measure) for m in arms[first]]
        two = [base.scores("base", name, measure)] if other is None else [m.scores(other[0], name, measure) for m in arms[other]]
        found = trainings.difference(one, two)
        told = {"first": first[0], "other": other[0] if other else "base", "k": first[1], "set": name, "measure": measure}
        return told | found

    rows = []
    for arm in arms:
        for name in sets:
            own = [of for m in arms[arm] for of in m.first_of(arm[0], name, OTHERS).values()]
            swapped = [of for m in arms[arm] for of in m.first_of(arm[0], name, 1).values()]
            row = {measure: against(arm, None, name, measure) for measure in (NLL, GAIN)}
            found = {"retrieval": _share(own), "true above swapped": _share(swapped)}
            rows.append({"arm": arm[0], "k": arm[1], "set": name, **row, **found})
    primary, beside = [], []
    for k in sizes:
        pairs = [against((a, k), (b, k), H2, GAIN) for a, b in PRIMARY]
        corrected = trainings.holm({str(place): pair["p"] for place, pair in enumerate(pairs)})
        primary += [{**pair, "corrected_p": corrected[str(place)]} for place, pair in enumerate(pairs)]
        beside += [against((a, k), (b, k), name, measure) for a, b, name, measure in BESIDE if (a, k) in arms and (b, k) in arms]
    return {"trainings": count, "rows": rows, "primary": primary, "beside": beside, "verdicts": [_verdict(primary, k) for k in sizes]}


def _share(hits: Sequence[bool]) -> dict[str, Any] | None:
    return {"share": sum(hits) / len(hits), "interval": statistics.wilson(sum(hits), len(hits)), "of": len(hits)} if hits else None


def _seen(found: Comparison) -> bool:
    return abs(found["t"]) >= statistics.LEAST_T and found["corrected_p"] <= _LEVEL


def _verdict(primary: Sequence[Comparison], k: int) -> str:
    """To beat the placebo alone proves nothing: that is trained not to heed the question."""
    more, placebo = (found for found in primary if found["k"] == k)
    said = [f"{f['first']} − {f['other']}: {f['difference']:+.4f} ± {f['standard_error']:.4f}, t {f['t']:+.1f}" for f in (more, placebo)]
    if _seen(more) and more["difference"] < 0:
        outcome = "augmentation does harm"
    elif _seen(more):
        outcome = "augmentation helps" if _seen(placebo) and placebo["difference"] > 0 else "helps, but no more than other questions do"
    else:
        outcome = "no difference can be seen"
    return f"k = {k}, gain on H2, nats a token: {'; '.join(said)}: {outcome}"


def render(found: Mapping[str, Any]) -> str:
    """Two Markdown tables, and what the endpoints say."""
    lines = ["| arm | k | set | nll − base | gain − base | own question likeliest of 8 | above another |", "|---|---|---|---|---|---|---|"]
    for row in found["rows"]:
        cells = [row["arm"], str(row["k"]), row["set"].replace("_", " "), *(_told(row[measure]) for measure in (NLL, GAIN))]
        shares = [row[name] for name in ("retrieval", "true above swapped")]
        cells += ["–" if of is None else f"{of['share']:.0%} ({of['interval'][0]:.0%} … {of['interval'][1]:.0%})" for of in shares]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| difference | k | set | measure | value ± s.e. | t | by training |", "|---|---|---|---|---|---|---|"]
    for row in (*found["primary"], *found["beside"]):
        signs = " ".join("+" if sign > 0 else "−" for sign in row["signs"])
        cells = [f"{row['first']} − {row['other']}", str(row["k"]), row["set"].replace("_", " "), row["measure"], _told(row)]
        cells += [format(row["t"], "+.1f"), signs]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {verdict}" for verdict in found["verdicts"])]) + "\n"


def _told(row: Comparison) -> str:
    return f"{row['difference']:+.4f} ± {row['standard_error']:.4f}"


_WIDTH, _LEFT, _LINE = 640, 150, 22


def plot(found: Mapping[str, Any]) -> str:
    """An SVG: the gain on H2 less the base's, of each arm, with intervals of two standard errors."""
    rows = [row for row in found["rows"] if row["set"] == H2]
    ends = [end for row in rows for end in row[GAIN]["interval"]] + [0.0]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0
    height = _LINE * (len(rows) + 2)

    def x(value: float) -> str:
        return f"{_LEFT + (value - low) / span * (_WIDTH - _LEFT - 20):.1f}"

    marks = [f'<line x1="{x(0)}" x2="{x(0)}" y1="{_LINE}" y2="{height - _LINE}" stroke="#999" stroke-dasharray="3"/>']
    for place, row in enumerate(rows):
        y, of = _LINE * (place + 1.5), row[GAIN]
        title = html.escape(f"{row['arm']}, k = {row['k']}")
        marks.append(f'<text x="8" y="{y + 4}">{title}</text>')
        marks.append(f'<line x1="{x(of["interval"][0])}" x2="{x(of["interval"][1])}" y1="{y}" y2="{y}" stroke="#246" stroke-width="2"/>')
        marks.append(f'<circle cx="{x(of["difference"])}" cy="{y}" r="4" fill="#246"><title>{title}: {_told(of)}</title></circle>')
    title = "Gain on H2 less the base's, nats a token, and two standard errors"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13" role="img">'
        f'<title>{html.escape(title)}</title><text x="8" y="14">{html.escape(title)}</text>{"".join(marks)}</svg>\n'
    )
