"""The views of what is measured beside a run's stages: by people's labels, by a judge's probes, by other commands' figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from humpback.report import charts
from humpback.report.markup import Html, folded, join, number, percent, table, tag

Numbers = Mapping[str, Any]
_LABELS = "humpback review --workdir=RUN --reviewer=NAME, then humpback review --workdir=RUN --agreement"
_FAITHFUL = "humpback review --workdir=RUN --iteration=T --rewrites=faithful --reviewer=NAME, then the same with --agreement"
_REWRITES = "rewrites-"  # reviews of what a rewriter made
DIVERSITY = "humpback evaluate --task=diversity --input=PAIRS --out=RUN/figures/diversity-SET.json"
BENCHMARKS = (
    "humpback evaluate --task=benchmarks --model=MODEL --input=FOLDER --out=OUT; cp OUT/report.json RUN/figures/benchmarks-MODEL.json"
)
WINRATE = "humpback evaluate --task=winrate --input=ANNOTATIONS --out=RUN/figures/winrate.json"
SCALING = "humpback evaluate --task=scaling --input=POINTS --out=RUN/figures/scaling.json"


def labels(n: Numbers) -> Html:
    """Each judge against people's labels; without any, the command that takes them."""
    parts: list[Html] = []
    for t, found in n["labels"].items():  # of other reviews than a round's there is no judge
        for judge, one in found["judges"].items():
            name = f"M_{int(judge) - 1} against {found['labelled'] - found['undecided']:,} labels of iteration {t}"
            there = {part: [row for row in one["curve"] if row[part]] for part in ("precision", "recall")}
            series = {part: [(row["threshold"], row[part]["value"]) for row in rows] for part, rows in there.items()}
            bands = {part: [(row["threshold"], *row[part]["interval"]) for row in rows] for part, rows in there.items()}
            parts.append(charts.lines(name, series, "threshold", bands))
            if best := one["suggested"]:
                low, high = best["interval"]
                told = f"Highest F1 at {best['threshold']:.2f}; thresholds of {low:.2f} to {high:.2f} cannot be told from it."
                parts.append(tag("p", told))
            rows = [
                (f"{row['threshold']:.2f}", *_shares(row["precision"]), *_shares(row["recall"]), number(row["f1"])) for row in one["curve"]
            ]
            header = ("threshold", "precision", "from", "to", "recall", "from", "to", "F1")
            parts.append(folded(table(header, rows, f"{name}; from and to: 95 %")))
    return join(parts or tag("p", "Not there yet, labels by people: ", tag("code", _LABELS), class_="missing"))


def _shares(part: Mapping[str, Any] | None) -> tuple[str, ...]:
    return ("–",) * 3 if part is None else tuple(number(value) for value in (part["value"], *part["interval"]))


def judges(n: Numbers) -> Html | None:
    """What each judge sees of human pairs under their own and under another instruction."""
    rows, sets = [], []
    for found in n["judges"]:
        name, seen = f"M_{found['iteration'] - 1}, {found['score']}", found["seen"]
        if seen is None:
            rows.append((name, "nothing could be measured", *[""] * 11))
            continue
        mass, modes = seen["mass"] or {"p5": None, "median": None}, seen["modes"] or {}
        rows.append((
            name, "BLIND" if seen["blind"] else "sees", seen["pairs"], seen["unrated"], percent(seen["true_above"]),
            *map(percent, seen["interval"]), number(seen["auc"]), number(seen["length_correlation"]), number(seen["nonsense_correlation"]),
            " / ".join(number(mass[key]) for key in ("p5", "median")), number(seen["entropy"]), " ".join(str(c) for c in modes.values()),
        ))  # fmt: skip
        sets += [(name, part, one["pairs"], percent(one["true_above"]), *map(percent, one["interval"]), number(one["auc"]))
                 for part, one in seen["sets"].items()]  # fmt: skip
    if not rows:
        return None
    header = ("judge", "seen", "pairs", "unrated", "true above swapped", "from", "to", "AUC", "r with length", "r with nonsense",
              "label mass: 5th percentile / median", "entropy, nats", "likeliest digit 1 … 5")  # fmt: skip
    return join([table(header, rows, "Human pairs under their own instruction against another's; from and to: 95 %"),
                 folded(table(("judge", "set", "pairs", "true above swapped", "from", "to", "AUC"), sets, "By set"))])  # fmt: skip


def verbs(n: Numbers) -> Html | None:
    """What instructions begin with, and, where a file says so, their verbs and nouns."""
    parts: list[Html] = []
    for name, one in n["figures"]["diversity"].items():
        if found := one["verb_nouns"]:
            rings: dict[str, list[tuple[str, int]]] = {}
            for pair in found["pairs"]:
                rings.setdefault(pair["verb"], []).append((pair["noun"], pair["count"]))
            title = f"Verbs and nouns of {name or 'instructions'}"
            told = f"{title}: of {found['texts']:,} instructions {found['parsed']:,} have both ({percent(found['share'])})."
            told += f" They are drawn by chance from {found['of']:,}." if found["of"] > found["texts"] else ""
            rows = [(pair["verb"], pair["noun"], pair["count"]) for pair in found["pairs"]]
            drawn = charts.sunburst(title, rings) if rings else None
            parts.append(join([drawn, tag("p", told), folded(table(("verb", "noun", "instructions"), rows, title))]))
    if not parts and not n["trigrams"]:
        return None
    if not parts:
        parts.append(tag("p", "Not there yet, verbs and nouns: ", tag("code", DIVERSITY), class_="missing"))
    sets = n["trigrams"]["sets"] if n["trigrams"] else {}
    first = [(name, ", ".join(f"{word} {count:,}" for word, count in one["first_words"])) for name, one in sets.items()]
    return join([*parts, table(("set", "first words of its instructions"), first) if first else None])


def win_rates(n: Numbers) -> Html | None:
    """Win rates with their errors, by a judge and by people."""
    rates = _rates_table([(name or "answers", one["all"]) for name, one in n["figures"]["winrate"].items()], "answers")
    people = _preferred({name: one for name, one in n["labels"].items() if not name.startswith(_REWRITES)})
    return join([rates, people]) if rates or people else None


def _preferred(labels_: Numbers) -> Html | None:
    """Two models' answers, or a rewriter's and the texts, side by side to people."""
    rows = [
        (name, number(rate["win_rate"]), *map(number, rate["interval"]), rate["wins"], rate["losses"], rate["draws"], one["undecided"])
        for name, one in labels_.items() if (rate := one["win_rate"])
    ]  # fmt: skip
    header = ("review", "the model is preferred, %", "from", "to", "wins", "losses", "both alike", "no majority")
    return table(header, rows, "By people; from and to: 95 %") if rows else None


def rewrites(n: Numbers) -> Html | None:
    """How many responses are rewritten, and what people say of them: whether they keep to their texts, and which is better."""
    stages = {name: stage for name, stage in n["stages"].items() if name.startswith("rewritten-")}
    if not stages:
        return None
    rows = [
        (name, *(stage["counts"].get(count, 0) for count in ("in", "rewritten", "drafts kept")),
         ", ".join(f"{reason} {count:,}" for reason, count in stage["dropped"].items() if count))
        for name, stage in stages.items()
    ]  # fmt: skip
    labels_ = {name: one for name, one in n["labels"].items() if one["faithful"] or name.startswith(_REWRITES)}
    kept = [
        (name, f"{found['kept']:,} of {found['of']:,}", percent(found["kept"] / found["of"]), *map(percent, found["interval"]),
         one["undecided"])
        for name, one in labels_.items() if (found := one["faithful"])
    ]  # fmt: skip
    header = ("review", "keep to their text", "share", "from", "to", "no majority")
    told = tag("p", "Not there yet, labels by people: ", tag("code", _FAITHFUL), class_="missing")
    return join([
        table(("stage", "pairs", "rewritten", "texts that stay", "why"), rows),
        table(header, kept, "Rewritten responses by people's labels; from and to: 95 %") if kept else told,
        _preferred({name: one for name, one in labels_.items() if name.startswith(_REWRITES)}),
    ])  # fmt: skip


def by_source(n: Numbers) -> Html | None:
    """Win rates by source of the prompts."""
    rows = [(f"{name} {part}".strip(), rate) for name, one in n["figures"]["winrate"].items() for part, rate in one["datasets"].items()]
    return _rates_table(rows, "source")


def _rates_table(rates_: Sequence[tuple[str, Mapping[str, Any]]], what: str) -> Html | None:
    header = (what, "win rate, %", "standard error", "wins", "losses", "draws", "missing")
    rows = [(name, number(rate["win_rate"]), number(rate["standard_error"]), *(rate[key] for key in ("wins", "losses", "draws", "missing")))
            for name, rate in rates_]  # fmt: skip
    return table(header, rows) if rows else None


def benchmarks(n: Numbers) -> Html | None:
    """How often the right answer is the likeliest, by benchmark and by what choices are weighed with."""
    rows = [
        (f"{model} {name}".strip(), rule, percent(one["share"]), *map(percent, one["interval"]), f"{one['questions']:,}")
        for model, found in n["figures"]["benchmarks"].items()
        for name, rules in found["benchmarks"].items()
        for rule, one in rules.items()
    ]
    return table(("benchmark", "rule", "right", "from", "to", "questions"), rows, "From and to: 95 %") if rows else None


def scaling(n: Numbers) -> Html | None:
    """How a measure grows with the number of examples."""
    rows = [
        (name or "points", one["points"], number(one["alpha"], 3), number(one["standard_error"], 3), number(one["per_doubling"], 3),
         number(one["constant"], 3))
        for name, one in n["figures"]["scaling"].items()
    ]  # fmt: skip
    return table(("measure", "points", "α, natural logarithm", "standard error", "a doubling", "constant"), rows) if rows else None
