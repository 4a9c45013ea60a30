"""What labels say: of those who gave them, and of the judges, beside whom they are (the paper's table 7), of two models' answers, or of
what a rewriter made."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from humpback import storage
from humpback.errors import UserError
from humpback.evaluation import curation, statistics, winrate
from humpback.records import Rated, read_shards
from humpback.review.labels import SKIP, Labels, reviewers, self_agreement
from humpback.review.sample import ANSWERS, CANDIDATES, FOLDER, Sample, read

THRESHOLDS = tuple(quarter / 4 for quarter in range(4, 21))
_PREFERENCES = {"model": 2.0, "baseline": 1.0, "tie": winrate.DRAW}


def agreement(run: epath.Path, name: str) -> dict[str, Any]:
    """Writes review/agreement-NAME.json, which is replaced when more labels are there, and returns what is in it.

    UserError for a review that has not begun, and when nothing is labelled.
    """
    sample = read(run, name)
    if sample is None:
        raise UserError(f"{run}: no review {name!r} has begun; `humpback review --reviewer=NAME` begins one")
    given = {reviewer: Labels(run, name, reviewer, sample).read() for reviewer in reviewers(run, name)}
    agreed = majority(given)
    decided = {i: label for i, label in agreed.items() if label is not None}
    if not decided:
        raise UserError(f"{run}: nothing of the review {name!r} is labelled yet, all was skipped, or no item has a majority")
    found: dict[str, Any] = {
        "review": name, "kind": sample.kind, "items": len(sample.items), "of": sample.of,
        "labelled": len(agreed), "undecided": len(agreed) - len(decided),
        "reviewers": {reviewer: _reviewer(labels) for reviewer, labels in given.items()},
        "between": [_between(a, b, given) for a, b in itertools.combinations(given, 2)],
    }  # fmt: skip
    if sample.kind == CANDIDATES:
        found |= _of_candidates(run, sample, decided)
    else:
        found |= _of_answers(decided) if sample.kind == ANSWERS else _of_rewrites(decided)
    storage.publish_json(path_of(run, name), found, replace=True)
    return found


def path_of(run: epath.Path, name: str) -> epath.Path:
    """Where the figures of a review are."""
    return run / FOLDER / f"agreement-{name}.json"


def majority(given: Mapping[str, Mapping[str, str]]) -> dict[str, str | None]:
    """Item → what most people say of it, None where that is nothing; without items that all have skipped. What came again is a check."""
    votes: dict[str, Counter[str]] = {}
    for labels in given.values():
        for name, label in labels.items():
            if not name.endswith("-again") and label != SKIP:
                votes.setdefault(name, Counter())[label] += 1
    found: dict[str, str | None] = {}
    for name, counts in sorted(votes.items()):
        first, *others = counts.most_common(2)
        found[name] = None if others and others[0][1] == first[1] else first[0]
    return found


def _reviewer(labels: Mapping[str, str]) -> dict[str, Any]:
    same, twice = self_agreement(dict(labels))
    own = [label for name, label in labels.items() if not name.endswith("-again")]
    return {
        "labels": dict(sorted(Counter(own).items())), "again": twice, "the_same_again": same,
        "interval": statistics.wilson(same, twice) if twice else None,
    }  # fmt: skip


def _between(a: str, b: str, given: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """How often two people agree, and Cohen's kappa: how much more often than by chance, of what is left to agree on."""
    names = [name for name in given[a] if name in given[b] and not name.endswith("-again")]
    both = [(given[a][name], given[b][name]) for name in names if SKIP not in (given[a][name], given[b][name])]
    found: dict[str, Any] = {"reviewers": [a, b], "both": len(both), "same": sum(x == y for x, y in both), "kappa": None}
    if both:
        first, second = Counter(x for x, _ in both), Counter(y for _, y in both)
        chance = sum(first[label] * second[label] for label in first) / len(both) ** 2
        found["kappa"] = (found["same"] / len(both) - chance) / (1 - chance) if chance < 1 else None
    return found


def _of_candidates(run: epath.Path, sample: Sample, decided: Mapping[str, str]) -> dict[str, Any]:
    """Each judge at each threshold. The labelled of a stratum stand for all of it; of a stratum without a label nothing is said."""
    sizes: dict[str, float] = {}
    labelled: Counter[str] = Counter()
    for item in sample.items:
        sizes[item.stratum] = sizes.get(item.stratum, 0.0) + item.weight
        labelled[item.stratum] += item.id in decided
    judges = {}
    for t, scores in _scores(run, set(decided)).items():
        labels = [
            curation.Scored(decided[item.id] == "yes", scores.get(item.id), sizes[item.stratum] / labelled[item.stratum], item.stratum)
            for item in sample.items
            if item.id in decided
        ]
        judges[str(t)] = {"curve": curation.curve(labels, THRESHOLDS), "suggested": curation.suggest(labels, THRESHOLDS)}
    silent = {stratum: round(size) for stratum, size in sorted(sizes.items()) if not labelled[stratum]}
    return {"good": sum(label == "yes" for label in decided.values()), "strata_without_label": silent, "judges": judges}


def _scores(run: epath.Path, wanted: set[str]) -> dict[int, dict[str, float]]:
    """t → id → the score by M_{t-1}, of each complete ratings-t."""
    found = {}
    names = [path.name for path in run.iterdir() if path.name.startswith("ratings-") and (path / "manifest.json").exists()]
    for t in sorted(int(name.partition("-")[2]) for name in names if name.partition("-")[2].isdigit()):
        rows = read_shards(run / f"ratings-{t}", "ratings", Rated)
        found[t] = {rated.id: rated.score for rated in rows if rated.id in wanted and rated.score is not None}
    return found


def _of_answers(decided: Mapping[str, str]) -> dict[str, Any]:
    rate = winrate.win_rate([_PREFERENCES[label] for label in decided.values()])
    interval = statistics.wilson(rate["wins"] + rate["draws"] / 2, rate["n"])
    return {"win_rate": {**rate, "interval": [100 * end for end in interval]}}


def _of_rewrites(decided: Mapping[str, str]) -> dict[str, Any]:
    kept = sum(label == "yes" for label in decided.values())
    return {"faithful": {"kept": kept, "of": len(decided), "interval": statistics.wilson(kept, len(decided))}}


def told(found: Mapping[str, Any]) -> list[str]:
    """The figures as lines."""
    lines = [f"{found['labelled']} of {found['items']} items are labelled, {found['undecided']} of them without a majority"]
    for reviewer, row in found["reviewers"].items():
        again = f"; {row['the_same_again']} of {row['again']} the same again" if row["again"] else "; none came again"
        counts = ", ".join(f"{count} {label}" for label, count in row["labels"].items())
        lines.append(f"{reviewer}: {counts}{again}{_within(row['interval'])}")
    for row in found["between"]:
        kappa = "" if row["kappa"] is None else f", kappa {row['kappa']:.2f}"
        lines.append(f"{' and '.join(row['reviewers'])}: {row['same']} of {row['both']} alike{kappa}")
    if "win_rate" in found:
        rate = found["win_rate"]
        counts = f"{rate['wins']} wins, {rate['draws']} ties, {rate['losses']} losses"
        return [*lines, f"people prefer the model in {rate['win_rate']:.1f} % ({counts}){_within(rate['interval'], 1)}"]
    if "faithful" in found:
        kept, of, interval = (found["faithful"][key] for key in ("kept", "of", "interval"))
        return [*lines, f"{kept} of {of} rewritten responses keep to their text, {kept / of:.3f}{_within(interval, 3)}"]
    if found["strata_without_label"]:
        strata = ", ".join(f"{stratum} ({size} candidates)" for stratum, size in found["strata_without_label"].items())
        lines.append(f"no label yet among the ratings {strata}: nothing below speaks of these")
    for t, judge in found["judges"].items():
        lines += _judge(f"M_{int(t) - 1}", judge)
    return lines


def _judge(name: str, judge: Mapping[str, Any]) -> Sequence[str]:
    lines = [f"{name} against the labels:", "  threshold  precision (95 %)            recall (95 %)"]
    for row in judge["curve"]:
        parts = [f"{part['value']:.3f}{_within(part['interval'], 3)}" if part else "none" for part in (row["precision"], row["recall"])]
        lines.append(f"  {row['threshold']:9.2f}  {parts[0]:<26} {parts[1]}")
    if best := judge["suggested"]:
        low, high = best["interval"]
        lines.append(f"  suggested threshold: {best['threshold']:.2f}, F1 {best['f1']:.3f}; {low:.2f} to {high:.2f} cannot be told from it")
    else:
        lines.append("  no threshold is suggested: no label is good")
    return lines


def _within(interval: Sequence[float] | None, digits: int = 2) -> str:
    return f" ({interval[0]:.{digits}f} … {interval[1]:.{digits}f})" if interval else ""
