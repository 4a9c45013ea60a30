"""All numbers of a run's page, from what its stages have left so far. Files of records are read one record at a time."""

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np
from etils import epath

from humpback import keys, storage
from humpback.decoding.parts import number_of
from humpback.errors import UserError
from humpback.evaluation import statistics
from humpback.records import Candidate, Example, Rated, read_rows, read_shards
from humpback.report import figures, probes, texts

_BIN = 200  # characters, of lengths
_BINS = 17
_SITES = 15


class _Manifest(msgspec.Struct):
    counts: dict[str, int | float | dict[str, int]]
    dropped: dict[str, int]


class _Timing(msgspec.Struct):
    seconds: float
    tokens: int
    tokens_per_second: float
    devices: int
    attempts: int | msgspec.UnsetType = msgspec.UNSET


class _Seeded(msgspec.Struct):
    seed: int = 0


class Texts(NamedTuple):
    """Instruction and response lengths of a set, in characters, with ids as numbers."""

    ids: array
    instructions: array
    outputs: array

    @classmethod
    def empty(cls) -> "Texts":
        return cls(array("Q"), array("l"), array("l"))

    def add(self, record_id: str, instruction: str, output: str) -> None:
        """Adds a pair."""
        self.ids.append(number_of(record_id))
        self.instructions.append(len(instruction))
        self.outputs.append(len(output))


class Scored(NamedTuple):
    """The ratings of an iteration: those that are valid, and how many were asked for."""

    texts: Texts
    scores: array
    masses: array
    asked: int


class Found(NamedTuple):
    """Everything that the page is made of: `numbers`, which is the JSON in it, and the texts of examples."""

    numbers: dict[str, Any]
    examples: list[dict[str, Any]]
    dropped: dict[str, list[dict[str, Any]]]


def collect(run: epath.Path) -> Found:
    """Looks at a run's directory. UserError when no stage is complete."""
    done = {path.name: _told(path / "manifest.json", _Manifest) for path in _stages(run)}
    if not done:
        raise UserError(f"{run}: no stage is complete; `humpback run` makes them all")
    seed_file = run / "config.json"
    seed = _told(seed_file, _Seeded)["seed"] if seed_file.exists() else 0
    rounds = sorted(int(name.partition("-")[2]) for name in done if name.startswith("ratings-"))
    scored = {t: _scored(run, t) for t in rounds}
    sets, reasons, sites = _sets(run, done)
    numbers = {
        "run": run.name or "run",
        "stages": done,
        "funnel": _funnel(done, reasons, scored),
        "ratings": {str(t): _rating(one) for t, one in scored.items()},
        "threshold": {str(t): _threshold(one) for t, one in scored.items()},
        "agreement": [_agreement(a, scored[a], scored[a + 1]) for a in scored if a + 1 in scored],
        "churn": _churn(sets),
        "lengths": _lengths(sets, scored, rounds),
        "rates": _rates(done, reasons),
        "held_out": probes.read_paired(run, done),
        "judges": _judges(run, done),
        "labels": figures.labels(run),
        "figures": figures.read(run),
        "training": {name: _curve(run / name / "metrics") for name in done if name == "backward" or name.startswith("forward-")},
        "sites": sites,
        "time": {name: _told(run / name / "timing.json", _Timing) for name in done if (run / name / "timing.json").exists()},
        "answers": texts.answers(run, done),
        "trigrams": texts.trigrams(run, done, sets, lambda ids, purpose: keys.drawn(seed, purpose, ids)),
    }
    examples, dropped, about = texts.examples(run, done, sets, scored, lambda ids, purpose: keys.drawn(seed, purpose, ids))
    return Found({**numbers, "examples": about}, examples, dropped)


def _told(file: epath.Path, kind: Any) -> dict[str, Any]:
    """What a stage has written of itself."""
    return msgspec.to_builtins(figures.read_file(file, kind, "humpback run"))


def _stages(run: epath.Path) -> list[epath.Path]:
    """The complete stages in the order in which they are made."""
    first = ["base", "seed", "segments", "backward", "candidates", "forward-0", "answers-base", "answers-0"]
    kinds = ["ratings", "likelihood", "judge", "curated", "rewritten", "forward", "answers"]
    found = [path for path in (run.iterdir() if run.is_dir() else ()) if (path / "manifest.json").exists()]

    def place(name: str) -> tuple[int, int]:
        kind, _, t = name.partition("-")
        return (0, first.index(name)) if name in first else (int(t), kinds.index(kind))

    parts = {path: path.name.partition("-") for path in found}
    known = [path for path, (kind, _, t) in parts.items() if path.name in first or (kind in kinds and t.isdigit())]
    return sorted(known, key=lambda path: place(path.name))


def _scored(run: epath.Path, t: int) -> Scored:
    found, scores, masses, asked = Texts.empty(), array("d"), array("d"), 0
    for rated in read_shards(run / f"ratings-{t}", "ratings", Rated):
        asked += not rated.candidate.reason
        if rated.score is not None:
            found.add(rated.id, rated.candidate.instruction, rated.candidate.segment.text)
            scores.append(rated.score)
            if rated.mass is not None:
                masses.append(rated.mass)
    return Scored(found, scores, masses, asked)


def _sets(run: epath.Path, done: Mapping[str, Any]) -> tuple[dict[str, Texts], Counter[str], dict[str, Any] | None]:
    """The lengths of each set, why candidates cannot be used, and the sites of the last curated set."""
    sets: dict[str, Texts] = {}
    reasons: Counter[str] = Counter()
    sites = None
    if "seed" in done:
        sets["seed"] = Texts.empty()
        for pair in read_shards(run / "seed", "seed", Example):
            sets["seed"].add(pair.id, pair.instruction, pair.response)
    if "candidates" in done:
        sets["candidates"] = Texts.empty()
        for candidate in read_shards(run / "candidates", "candidates", Candidate):
            reasons[candidate.reason] += 1
            if not candidate.reason:
                sets["candidates"].add(candidate.id, candidate.instruction, candidate.segment.text)
    for name in (name for name in done if name.startswith("curated-")):
        sets[name] = Texts.empty()
        hosts: Counter[str] = Counter()
        for example in read_shards(run / name, "curated", Example):
            sets[name].add(example.id, example.instruction, example.response)
            hosts[_site(example.source)] += 1
        top = sorted(hosts.items(), key=lambda item: (-item[1], item[0]))[:_SITES]
        largest = top[0][1] / hosts.total() if top else None
        sites = {"set": name, "pairs": hosts.total(), "sites": len(hosts), "largest_share": largest, "top": [list(row) for row in top]}
    return sets, reasons, sites


def _site(url: str) -> str:
    """The host of an address; what is none is a site of its own."""
    try:
        return urlsplit(url).hostname or url
    except ValueError:
        return url


def _funnel(done: Mapping[str, Any], reasons: Counter[str], scored: Mapping[int, Scored]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    counts = done["segments"]["counts"] if "segments" in done else {}
    rows += [[name, counts[name]] for name in ("pages", "cut", "segments") if isinstance(counts.get(name), int)]
    if reasons:
        rows += [["candidates", reasons.total()], ["usable candidates", reasons[""]]]
    for t, one in scored.items():
        rows.append([f"rated by M_{t - 1}", len(one.scores)])
        if f"curated-{t}" in done:
            rows.append([f"curated-{t}", done[f"curated-{t}"]["counts"]["selected"]])
    return rows


def _rating(one: Scored) -> dict[str, Any]:
    return {
        "asked": one.asked, "valid": len(one.scores), "invalid_rate": 1 - len(one.scores) / one.asked if one.asked else 0.0,
        "histogram": statistics.histogram(one.scores), **statistics.mean_sd(one.scores),
        "score_length_correlation": statistics.correlation(one.scores, one.texts.outputs),
        "label_mass": {name: statistics.quantile(one.masses, share) for name, share in (("p5", 0.05), ("median", 0.5))},
    }  # fmt: skip


def _threshold(one: Scored) -> list[dict[str, Any]]:
    """For thresholds in steps of a quarter: how many are kept, which share of those asked about, and the mean length of the outputs."""
    scores, outputs = np.array(one.scores), np.array(one.texts.outputs)
    rows = []
    for quarter in range(4, 21):
        kept = scores >= quarter / 4
        count = int(kept.sum())
        length = float(outputs[kept].mean()) if count else None
        rows.append({"threshold": quarter / 4, "kept": count, "share": count / one.asked if one.asked else 0.0, "mean_output": length})
    return rows


def _agreement(t: int, before: Scored, after: Scored) -> dict[str, Any]:
    """The ratings of M_{t-1} against those of M_t: how many in each pair of half points, and their correlation."""
    _, here, there = np.intersect1d(np.array(before.texts.ids, np.uint64), np.array(after.texts.ids, np.uint64), return_indices=True)
    a, b = np.array(before.scores)[here], np.array(after.scores)[there]
    cells = np.zeros((9, 9), int)
    np.add.at(cells, (np.floor(b * 2 + 0.5).astype(int) - 2, np.floor(a * 2 + 0.5).astype(int) - 2), 1)
    r = statistics.correlation(a.tolist(), b.tolist())
    return {"iterations": [t, t + 1], "both": len(here), "correlation": r, "grid": cells.tolist()}


def _churn(sets: Mapping[str, Texts]) -> list[dict[str, Any]]:
    rows = []
    for t in range(1, len(sets) + 1):
        if f"curated-{t}" in sets and f"curated-{t + 1}" in sets:
            a, b = (set(sets[f"curated-{n}"].ids) for n in (t, t + 1))
            jaccard = len(a & b) / len(a | b) if a | b else None
            rows.append({"sets": [t, t + 1], "stay": len(a & b), "go": len(a - b), "come": len(b - a), "jaccard": jaccard})
    return rows


def _lengths(sets: Mapping[str, Texts], scored: Mapping[int, Scored], rounds: Sequence[int]) -> list[dict[str, Any]]:
    """Each set's lengths, and beside the last curated one a control of the same lengths that was not chosen."""
    shown = dict(sets)
    last = f"curated-{rounds[-1]}" if rounds else ""
    if last in sets:
        every = scored[rounds[-1]].texts
        ids, outputs = np.array(every.ids, np.uint64), np.array(every.outputs)
        chosen = np.isin(ids, np.array(sets[last].ids, np.uint64))
        taken, others = (list(zip(ids[part].tolist(), outputs[part].tolist(), strict=True)) for part in (chosen, ~chosen))
        control = np.array([other for _, other in statistics.length_matched(taken, others)], np.uint64)
        order = np.argsort(ids)
        places = order[np.searchsorted(ids, control, sorter=order)].tolist()
        columns = ([column[n] for n in places] for column in (every.ids, every.instructions, every.outputs))
        shown[f"control for {last}"] = Texts(*(array(code, column) for code, column in zip("Qll", columns, strict=True)))
    return [
        {
            "set": name, "examples": len(one.ids), "instruction": statistics.mean_sd(one.instructions),
            "output": statistics.mean_sd(one.outputs), "output_bins": _binned(one.outputs),
        }
        for name, one in shown.items()
    ]  # fmt: skip


def _binned(lengths: Sequence[int]) -> list[int]:
    """Counts in steps of 200 characters; the last is of all that are longer."""
    places = np.minimum(np.array(lengths, int) // _BIN, _BINS - 1)
    return np.bincount(places, minlength=_BINS).tolist()


def length_labels() -> list[str]:
    """What `output_bins` counts."""
    return [str(n * _BIN) for n in range(_BINS - 1)] + [f"{(_BINS - 1) * _BIN}+"]


def _rates(done: Mapping[str, Any], reasons: Counter[str]) -> dict[str, Any]:
    total = reasons.total()
    rates = {reason: [count, count / total] for reason, count in sorted(reasons.items()) if reason} if total else {}
    dropped = done["segments"]["dropped"] if "segments" in done else {}
    contaminated = sum(count for reason, count in dropped.items() if "contamina" in reason or "evaluation" in reason)
    return {"candidates": total, "unusable": rates, "contaminated_segments": contaminated if "segments" in done else None}


def _judges(run: epath.Path, done: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each judge sees of human pairs, by each of its scores."""
    rounds = [int(name.partition("-")[2]) for name in done if name.startswith("judge-")]
    return [{"iteration": t, "score": score, "seen": seen} for t in rounds for score, seen in probes.read_judge(run, t).items()]


def _curve(folder: epath.Path) -> list[list[float]]:
    """[step, loss], of a step that was done again the last."""
    found = {}
    for name in storage.list_files(folder):
        for row in read_rows(folder / name):
            step, loss = row.get("step"), row.get("loss")
            if isinstance(step, int) and isinstance(loss, float) and math.isfinite(loss):
                found[step] = loss
    return [[step, found[step]] for step in sorted(found)]


