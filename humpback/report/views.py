"""The views of a run, each a function of its numbers that gives None where the run has nothing for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from humpback.report import charts, measured
from humpback.report.markup import Html, folded, join, number, percent, table, tag
from humpback.report.numbers import Found, length_labels

Numbers = Mapping[str, Any]
_RUN = "humpback run --config=CONFIG --workdir=RUN"


def funnel(n: Numbers) -> Html | None:
    """How many of what came how far, and what each stage dropped."""
    if not n["funnel"]:
        return None
    stages = [(name, *map(_counts, (stage["counts"], stage["dropped"]))) for name, stage in n["stages"].items()]
    chart = charts.stripes("From pages to pairs", [(name, count) for name, count in n["funnel"]], "how many")
    samples = tag("p", tag("a", "Samples of what was dropped", href="#dropped"))
    return join([chart, table(("stage", "counts", "dropped"), stages), samples])


def ratings(n: Numbers) -> Html | None:
    """The histograms of all judges, invalid ratings, label mass."""
    if not n["ratings"]:
        return None
    rows = list(n["ratings"].items())
    labels = list(rows[0][1]["histogram"])
    chart = charts.bars("Ratings", labels, {f"M_{int(t) - 1}": list(one["histogram"].values()) for t, one in rows}, "candidates")
    header = ("judge", "asked", "valid", "invalid", "mean", "sd", "r with length", "label mass: 5th percentile", "median", *labels)
    body = [
        (f"M_{int(t) - 1}", one["asked"], one["valid"], percent(one["invalid_rate"]), number(one["mean"]), number(one["sd"]),
         number(one["score_length_correlation"]), *(number(one["label_mass"][key]) for key in ("p5", "median")),
         *one["histogram"].values())
        for t, one in rows
    ]  # fmt: skip
    return join([chart, table(header, body)])


def threshold(n: Numbers) -> Html | None:
    """How many pairs, and how long, each threshold would keep."""
    if not n["threshold"]:
        return None
    series = {f"M_{int(t) - 1}": [(row["threshold"], row["share"]) for row in rows] for t, rows in n["threshold"].items()}
    tables = [
        table(("threshold", "kept", "share", "mean output, characters"),
              [(f"{row['threshold']:.2f}", row["kept"], percent(row["share"]), number(row["mean_output"], 0)) for row in rows],
              f"Rated by M_{int(t) - 1}")
        for t, rows in n["threshold"].items()
    ]  # fmt: skip
    return join([charts.lines("Share that a threshold keeps", series, "threshold"), *map(folded, tables), measured.labels(n)])


def agreement(n: Numbers) -> Html | None:
    """What two judges in a row say of the same candidates, and how the curated sets differ."""
    if not n["agreement"]:
        return None
    labels = [f"{half / 2:g}" for half in range(2, 11)]
    parts = []
    for row in n["agreement"]:
        a, b = (f"M_{t - 1}" for t in row["iterations"])
        parts.append(charts.grid(f"Ratings of {a} against {b}", labels, row["grid"], a, b))
        parts.append(tag("p", f"{row['both']:,} candidates with both ratings; correlation {number(row['correlation'])}."))
        cells = [(label, *counts) for label, counts in zip(labels, row["grid"], strict=True)]
        parts.append(folded(table((f"{b} \\ {a}", *labels), cells, "Candidates by both ratings")))
    churn = [
        (f"A^({row['sets'][0]}) → A^({row['sets'][1]})", row["stay"], row["go"], row["come"], number(row["jaccard"])) for row in n["churn"]
    ]
    return join([*parts, table(("curated sets", "stay", "go", "come", "Jaccard"), churn) if churn else None])


def lengths(n: Numbers) -> Html | None:
    """Characters of each set, beside a control of the same lengths."""
    if not n["lengths"]:
        return None
    shares = {row["set"]: [round(count / max(row["examples"], 1), 4) for count in row["output_bins"]] for row in n["lengths"]}
    rows = [(row["set"], row["examples"], *(_mean_sd(row[part]) for part in ("instruction", "output"))) for row in n["lengths"]]
    bins = [(row["set"], *row["output_bins"]) for row in n["lengths"]]
    return join([
        charts.bars("Characters of the outputs, share of each set", length_labels(), shares, "of the set"),
        table(("set", "pairs", "instruction, mean ± sd", "output, mean ± sd"), rows, "Characters"),
        folded(table(("output from", *length_labels()), bins, "Pairs by characters of the output")),
    ])  # fmt: skip


def trigrams(n: Numbers) -> Html | None:
    """How much of the sets' wording is unique."""
    if not n["trigrams"]:
        return None
    rows = [
        (name, *_unique(one["instruction"]), *_unique(one["response"]), one["repeated_instructions"])
        for name, one in n["trigrams"]["sets"].items()
    ]
    header = ("set", "instructions' trigrams", "unique", "share", "responses' trigrams", "unique", "share", "repeated instructions")
    size = n["trigrams"]["pairs_of_each_set"]
    about = f"Of {size:,} pairs of each set, drawn by chance; repeated: the same words as another one's."
    return join([tag("p", about), table(header, rows)])


def rates(n: Numbers) -> Html | None:
    """Echoes, unfinished and empty instructions, and what evaluations ask for."""
    one = n["rates"]
    if not one["candidates"]:
        return None
    rows = [(reason, count, percent(share)) for reason, (count, share) in one["unusable"].items()]
    return join([
        table(("why a candidate is not usable", "candidates", f"share of {one['candidates']:,}"), rows),
        tag("p", f"Segments dropped because an evaluation asks for them: {number(one['contaminated_segments'])}."),
    ])  # fmt: skip


def held_out(n: Numbers) -> Html | None:
    """Likelihoods of the held-out pairs under each model, paired with those of the base and of the model before, and what that shows."""
    rows: list[tuple[Any, ...]] = []
    for task, compared in n["held_out"].items():
        for found in compared:
            for row in found["models"]:
                head = (task, found["set"], found["measure"], row["model"], number(row["value"], 4))
                rows += [
                    (*head, other, number(of["difference"], 4), *(number(end, 4) for end in of["interval"] or (None, None)), of["pairs"],
                     of["verdict"])
                    for other, of in row["against"].items()
                ]  # fmt: skip
                rows += [] if row["against"] else [(*head, "", "", "", "", row["pairs"], "")]
    if not rows:
        return None
    header = ("task", "set", "measure", "model", "nats a token", "against", "difference", "from", "to", "pairs", "what can be seen")
    about = "nll: behind a target's own prompt, lower is better; gain: how much it rises behind those of other pairs, higher is better."
    return join([tag("p", about), table(header, rows, "Paired by example; from and to: two standard errors to both sides")])


def training(n: Numbers) -> Html | None:
    """The losses of all trainings."""
    curves = {name: [(step, loss) for step, loss in rows] for name, rows in n["training"].items() if rows}
    if not curves:
        return None
    rows = [
        (name, len(curve), *(number(loss, 4) for loss in (curve[0][1], curve[-1][1], min(loss for _, loss in curve))))
        for name, curve in curves.items()
    ]
    chart = charts.lines("Loss, nats per target token", curves, "step")
    return join([chart, table(("training", "steps", "first", "last", "lowest"), rows)])


def sites(n: Numbers) -> Html | None:
    """Where the curated pairs come from."""
    one = n["sites"]
    if not one:
        return None
    text = f"{one['set']}: {one['pairs']:,} pairs of {one['sites']:,} sites; the largest has {percent(one['largest_share'])}."
    return join([tag("p", text), charts.stripes("The largest sites", [(host, count) for host, count in one["top"]], "pairs"),
                 folded(table(("site", "pairs"), one["top"]))])  # fmt: skip


def time(n: Numbers) -> Html | None:
    """Seconds and tokens of the stages."""
    if not n["time"]:
        return None
    rows = [
        (name, number(float(one["seconds"]), 1), *((one["tokens"], number(one["tokens_per_second"], 0)) if one["tokens"] else ("", "")),
         one["devices"])
        for name, one in n["time"].items()
    ]  # fmt: skip
    return table(("stage", "seconds", "tokens", "tokens/s", "devices"), rows, "Of all attempts of a stage")


def answers(n: Numbers) -> Html | None:
    """What each model says to the same held-out prompts, below what a person says."""
    if not n["answers"]:
        return None
    shown = []
    for one in n["answers"]:
        parts = [_text(one["instruction"]), tag("p", "A person", class_="about"), _text(one["people"])]
        for model, said in one["models"].items():
            name = "M" if model == "base" else f"M_{model}"
            told = "not asked, no room" if said is None else f"{said['tokens']:,} tokens{', cut' if said['finish'] == 'length' else ''}"
            parts += [tag("p", f"{name}: {told}", class_="about"), _text(said and said["text"])]
        shown.append(tag("article", parts))
    about = "Instructions of held-out pairs, drawn by chance. All models are asked alike and draw by the same keys; one sample each."
    return join([tag("p", about), *shown])


# Name, view, and the command that makes what a view without numbers needs.
VIEWS = (
    ("From pages to pairs", funnel, "humpback segment --config=CONFIG --workdir=RUN"),
    ("Ratings", ratings, "humpback curate --config=CONFIG --workdir=RUN --iteration=1"),
    ("What a threshold keeps", threshold, "humpback curate --config=CONFIG --workdir=RUN --iteration=1"),
    ("One judge against the next", agreement, "humpback curate --config=CONFIG --workdir=RUN --iteration=2"),
    ("Lengths", lengths, "humpback seed --config=CONFIG --workdir=RUN"),
    ("Verbs and nouns", measured.verbs, measured.DIVERSITY),
    ("Trigrams and repeated instructions", trigrams, "humpback seed --config=CONFIG --workdir=RUN"),
    ("What cannot be used", rates, "humpback augment --config=CONFIG --workdir=RUN"),
    ("Held-out likelihoods", held_out, f"{_RUN} --config.seed_pairs.held_out=100"),
    ("Training", training, "humpback finetune --config=CONFIG --workdir=RUN --task=backward"),
    ("Win rates", measured.win_rates, measured.WINRATE),
    ("By source of prompts", measured.by_source, measured.WINRATE),
    ("Benchmarks", measured.benchmarks, measured.BENCHMARKS),
    ("Scaling", measured.scaling, measured.SCALING),
    ("Sites", sites, "humpback curate --config=CONFIG --workdir=RUN --iteration=1"),
    ("Time", time, _RUN),
)
# Behind the examples, which are the seventeenth.
FURTHER = (
    ("What each judge sees", measured.judges, "humpback curate --config=CONFIG --workdir=RUN --iteration=1"),
    ("Rewritten responses", measured.rewrites, f"{_RUN} --config.rewrite.by=forward"),
    ("The same prompts, model by model", answers, "humpback answer --config=CONFIG --workdir=RUN --config.answers.prompts=5"),
)


def dropped(found: Found) -> Html:
    """Samples by stage and reason."""
    groups = []
    for reason, rows in found.dropped.items():
        # Of a page, a record or a file there is no header, and perhaps no text.
        shown = [
            [_about(row.get("header", ""), row.get("url", "")), *(_text(row.get(name)) for name in ("instruction", "text"))] for row in rows
        ]
        groups.append(tag("details", tag("summary", reason), shown, class_="group"))
    return join(groups or tag("p", "No samples: nothing was dropped yet, or the stages are not there."))


def examples(found: Found) -> Html:
    """Best, worst, by chance; and all that find room, to be sorted, filtered and searched."""
    about = found.numbers["examples"]
    if not about:
        return tag("p", "Not there yet: ", tag("code", "humpback augment --config=CONFIG --workdir=RUN"), class_="missing")
    rows = {row["id"]: row for row in found.examples}
    kinds = {name: {i for i in about[name] if i in rows} for name in ("best", "worst", "random")}
    options = {"all": "all", "random": "ten by chance", "best": "five best", "worst": "five worst", "curated": "curated"}
    options["dropped"] = "not usable"
    tools = tag(
        "div", tag("label", "Search ", tag("input", type="search", id="search")), tag("label", "Order ", _select("sort", {
            "chance": "by chance", "best": "best first", "worst": "worst first"})), tag("label", "Show ", _select("filter", options)),
        tag("span", "", id="count", role="status"), class_="tools", id="tools",
    )  # fmt: skip
    drawn = "all of them" if about["shown"] == about["of"] else "the best and worst rated, the others drawn by chance"
    listed = tag("div", [_example(row, kinds) for row in found.examples], id="list")
    return join([tag("p", f"{about['shown']:,} of {about['of']:,} candidates: {drawn}."), tools, listed])


def few_examples(found: Found) -> Html:
    """The best, the worst and those by chance, in this order, without tools."""
    about = found.numbers["examples"] or {}
    kinds = {name: set(about.get(name, ())) for name in ("best", "worst", "random")}
    rows = {row["id"]: row for row in found.examples}
    chosen = dict.fromkeys(i for name in kinds for i in about.get(name, ()) if i in rows)
    return join([_example(rows[i], kinds) for i in chosen])


def _example(row: Mapping[str, Any], kinds: Mapping[str, set[str]]) -> Html:
    marks = [name for name, ids in kinds.items() if row["id"] in ids]
    marks += ["curated"] if row["curated"] else []
    marks += ["dropped"] if row["reason"] else []
    scores = list(row["scores"].values())
    last = next((f"{score:.4f}" for score in reversed(scores) if score is not None), "")
    told = [f"M_{int(t) - 1}: {number(score)}" + (f" ({row['why'][t]})" if row["why"][t] else "") for t, score in row["scores"].items()]
    told += [f"in A^({t})" for t in row["curated"]] + ([f"not usable: {row['reason']}"] if row["reason"] else [])
    raw = [tag("details", tag("summary", f"What M_{int(t) - 1} wrote"), _text(text)) for t, text in row["texts"].items() if text]
    return tag(
        "article", tag("p", tag("strong", ", ".join(told) or "not rated"), f" · {row['id']}", f" · {', '.join(marks)}" if marks else ""),
        _text(row["instruction"]), tag("details", tag("summary", "Output, and where it is from"), _about(row["header"], row["url"]),
        tag("p", row["place"], class_="about"), _text(row["text"]), raw), data_kind=" ".join(marks), data_score=last,
    )  # fmt: skip


def _select(name: str, options: Mapping[str, str]) -> Html:
    return tag("select", [tag("option", text, value=value) for value, text in options.items()], id=name)


def _text(text: str | None) -> Html | None:
    """A page's or a model's text, with its lines, in its own direction."""
    return tag("div", text, class_="text", dir="auto") if text else None


def _about(header: str, url: str) -> Html:
    """Where something is from; an address is text, no link: a page may be named javascript:…"""
    parts = [tag("bdi", part) for part in (header, url) if part]
    return tag("p", parts[:1], [(" · ", part) for part in parts[1:]], class_="about")


def _mean_sd(value: Mapping[str, float | None]) -> str:
    return f"{number(value['mean'], 0)} ± {number(value['sd'], 0)}"


def _unique(one: Mapping[str, Any]) -> tuple[int, int, str]:
    return one["trigrams"], one["unique"], percent(one["share"])


def _counts(counts: Mapping[str, Any]) -> str:
    flat: Sequence[tuple[str, Any]] = [
        pair for name, value in counts.items()
        for pair in (((f"{name} {kind}", n) for kind, n in value.items()) if isinstance(value, Mapping) else ((name, value),))
    ]  # fmt: skip
    return ", ".join(f"{number(value, 2)} {name.replace('_', ' ')}" for name, value in flat if value)
