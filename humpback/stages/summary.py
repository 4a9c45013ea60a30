"""What happened: summary.json and report.md of a run, from what its stages have left so far; nothing here needs a model.

Each file of records is read once, and of a record only some numbers are kept.
"""

import bisect
import json
import sys
from array import array
from collections import Counter
from typing import Any

from absl import flags

from humpback import distributed, storage
from humpback.errors import UserError
from humpback.evaluation import statistics
from humpback.records import Candidate, Example, Rated, numbered_lines, read_shards
from humpback.stages import commandline, identity, report
from humpback.stages.directory import Run, read_manifest
from humpback.stages.finetune import HELD_OUT_FILE

# What the demo must show to have learned, in nats per target token on the held-out pairs.
LEARNED_BACKWARD = 0.05
_EXTREMES = 5


def define_flags() -> None:
    """The stages' flags and --check."""
    commandline.define_flags()
    flags.DEFINE_bool("check", False, "exit with code 1 unless M_yx and M_0 have learned (see the report)")


def summarize(run: Run) -> dict[str, Any]:
    """Writes summary.json, timing.json and report.md of the stages that are complete, and returns what the models have learned.

    They derive from the stages and are replaced. UserError when no stage is complete.
    """
    return distributed.by_first(f"summary {run.workdir}", lambda: _summarize(run))


def _summarize(run: Run) -> dict[str, Any]:
    stages = [name for name in stage_names(run.cfg.iterations) if (run.workdir / name / identity.MANIFEST).exists()]
    if not stages:
        raise UserError(f"{run.workdir}: no stage is complete; `humpback run` makes them all")
    manifests = {name: read_manifest(run.workdir, name) for name in stages}
    iterations = range(1, run.cfg.iterations + 1)
    curated = {t: _Pairs.of_curated(run, t) for t in iterations if f"curated-{t}" in stages}
    candidates = _Candidates(run) if "candidates" in stages else None
    ratings = {t: _Ratings(run, t) for t in iterations if f"ratings-{t}" in stages}
    last = ratings[max(ratings)] if ratings else None
    summary: dict[str, Any] = {
        "stages": {name: {"counts": m["counts"], "dropped": m["dropped"]} for name, m in manifests.items()},
        "lengths": _lengths(_Pairs.of_seed(run) if "seed" in stages else None, curated, candidates),
        "candidates": candidates.rates() if candidates else None,
        "ratings": [rated.describe(t, curated[t].ids if t in curated else None) for t, rated in ratings.items()],
        "overlap": _overlap({t: set(pairs.ids) for t, pairs in curated.items()}),
        "best": last.best if last else [],
        "worst": last.worst if last else [],
        "held_out": _held_out(run, stages),
    }
    summary["learned"] = _learned(summary["held_out"])
    timing = {name: storage.read_json(run.workdir / name / "timing.json") for name in stages}
    run.place.begin()
    storage.publish_json(run.workdir / "summary.json", summary, replace=True)
    storage.publish_json(run.workdir / "timing.json", timing, replace=True)
    storage.publish(run.workdir / "report.md", report.render(summary, timing), replace=True)
    print(report.table(summary, timing))
    print(f"\nReport: {run.workdir / 'report.md'}")
    print("\n".join(report.verdict(summary["learned"])))
    return summary["learned"]


def stage_names(iterations: int) -> list[str]:
    """The folders of a run, in the order in which they are made."""
    rounds = [f"{kind}-{t}" for t in range(1, iterations + 1) for kind in ("ratings", "curated", "forward")]
    return ["base", "seed", "segments", "backward", "candidates", "forward-0", *rounds]


class _Pairs:
    """The characters of instructions and outputs of some examples, and their ids as numbers where those are 16 hex digits."""

    def __init__(self) -> None:
        self.ids, self.instructions, self.outputs = array("Q"), array("l"), array("l")

    def add(self, instruction: str, output: str) -> None:
        self.instructions.append(len(instruction))
        self.outputs.append(len(output))

    @classmethod
    def of_seed(cls, run: Run) -> "_Pairs":
        """seed/'s training pairs."""
        found = cls()
        for pair in read_shards(run.workdir / "seed", "seed", Example):
            found.add(pair.instruction, pair.response)
        return found

    @classmethod
    def of_curated(cls, run: Run, iteration: int) -> "_Pairs":
        """A^(t), with ids."""
        found = cls()
        for pair in read_shards(run.workdir / f"curated-{iteration}", "curated", Example):
            found.ids.append(int(pair.id, 16))
            found.add(pair.instruction, pair.response)
        return found


class _Candidates(_Pairs):
    """The usable candidates, and how many are not, by reason."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.reasons: Counter[str] = Counter()
        for candidate in read_shards(run.workdir / "candidates", "candidates", Candidate):
            self.reasons[candidate.reason] += 1
            if not candidate.reason:
                self.add(candidate.instruction, candidate.segment.text)

    def rates(self) -> dict[str, Any]:
        """How many there are, and which share cannot be used."""
        total = self.reasons.total()
        share = {f"{reason}_rate": self.reasons[reason] / total if total else 0.0 for reason in ("echo", "unfinished", "empty")}
        return {"candidates": total, **share}


class _Ratings(_Pairs):
    """The valid ratings of an iteration, how many were asked for, and the candidates rated best and worst."""

    def __init__(self, run: Run, iteration: int) -> None:
        super().__init__()
        self.asked, self.scores = 0, array("d")
        best, worst = _First(_EXTREMES), _First(_EXTREMES)
        for rated in read_shards(run.workdir / f"ratings-{iteration}", "ratings", Rated):
            candidate = rated.candidate
            self.asked += not candidate.reason
            if rated.score is None:
                continue
            self.ids.append(int(rated.id, 16))
            self.scores.append(rated.score)
            self.add(candidate.instruction, candidate.segment.text)
            best.add((-rated.score, rated.id), rated)
            worst.add((rated.score, rated.id), rated)
        self.best, self.worst = [_shown(rated) for rated in best.items], [_shown(rated) for rated in worst.items]

    def describe(self, iteration: int, curated: array | None) -> dict[str, Any]:
        """Histogram, invalid rate, how ratings go with length, and the curated set, where there is one, beside a control of the same
        lengths."""
        chosen, control = None, None
        if curated is not None:
            row, ids = {record_id: row for row, record_id in enumerate(self.ids)}, set(curated)
            chosen = [row[record_id] for record_id in self.ids if record_id in ids]
            lengths = list(zip(self.ids, self.outputs, strict=True))
            taken = [pair for pair in lengths if pair[0] in ids]
            control = [row[i] for _, i in statistics.length_matched(taken, [pair for pair in lengths if pair[0] not in ids])]
        return {
            "iteration": iteration,
            "histogram": statistics.histogram(self.scores),
            "invalid_rate": 1 - len(self.ids) / self.asked if self.asked else 0.0,
            "score": statistics.mean_sd(self.scores),
            "score_length_correlation": statistics.correlation(self.scores, self.outputs),
            "curated": self._of(chosen),
            "length_matched_control": self._of(control),
        }

    def _of(self, rows: list[int] | None) -> dict[str, Any] | None:
        if rows is None:
            return None
        columns: dict[str, array] = {"score": self.scores, "instruction": self.instructions, "output": self.outputs}
        return {"examples": len(rows), **{name: statistics.mean_sd([column[row] for row in rows]) for name, column in columns.items()}}


class _First:
    """The few items with the lowest keys, in their order."""

    def __init__(self, count: int):
        self._count = count
        self._keys: list[tuple] = []
        self.items: list[Rated] = []

    def add(self, key: tuple, item: Rated) -> None:
        if len(self._keys) == self._count and key > self._keys[-1]:
            return
        place = bisect.bisect(self._keys, key)
        self._keys.insert(place, key)
        self.items.insert(place, item)
        del self._keys[self._count :], self.items[self._count :]


def _shown(rated: Rated) -> dict[str, Any]:
    segment = rated.candidate.segment
    return {"id": rated.id, "score": rated.score, "instruction": rated.candidate.instruction, "header": segment.header,
            "url": segment.url, "output": segment.text}  # fmt: skip


def _lengths(seed: _Pairs | None, curated: dict[int, _Pairs], candidates: _Pairs | None) -> list[dict[str, Any]]:
    """Rows in the form of the paper's table 2: characters of instruction and output, mean and sd."""
    sets = {"seed": seed, **{f"A^({t}) curated": pairs for t, pairs in curated.items()}, "A, all usable": candidates}
    return [
        {
            "set": name,
            "examples": len(pairs.outputs),
            "instruction": statistics.mean_sd(pairs.instructions),
            "output": statistics.mean_sd(pairs.outputs),
        }
        for name, pairs in sets.items()
        if pairs is not None
    ]


def _overlap(sets: dict[int, set[int]]) -> list[dict[str, Any]]:
    """How much of A^(t) is in A^(t+1)."""
    return [
        {"sets": [t, t + 1], "both": len(a & b), "either": len(a | b), "jaccard": len(a & b) / len(a | b)}
        for t, a in sets.items()
        if (b := sets.get(t + 1)) is not None
    ]


def _held_out(run: Run, stages: list[str]) -> dict[str, list[dict[str, Any]]]:
    """For each task: nats per target token of each model, and its paired difference from the base with the standard error.

    [] for a task without a model yet, or without a held-out pair that fits.
    """
    result = {}
    for task in ("backward", "forward"):
        scores: dict[str, dict[str, tuple[float, int]]] = {}
        for stage in (name for name in stages if name.partition("-")[0] == task):
            for _, line in numbered_lines(run.workdir / stage / HELD_OUT_FILE):
                row = json.loads(line)
                scores.setdefault(row["model"], {})[row["id"]] = (row["nats"], row["tokens"])
        base = scores.get("base", {})
        result[task] = [
            {"model": name, **statistics.paired_difference(list(by_id.values()), [base[i] for i in by_id])}
            for name, by_id in scores.items()
            if base
        ]
    return result


def _learned(held_out: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Whether M_yx and M_0 beat the base where the demo must; None where that was not measured."""
    rows = {row["model"]: row for task in held_out.values() for row in task}
    needed = {"backward": -LEARNED_BACKWARD, "forward-0": 0.0}
    return {name: _judged(rows[name], most) if name in rows else None for name, most in needed.items()}


def _judged(row: dict[str, Any], most: float) -> dict[str, Any]:
    return {**row, "needed": most, "passed": row["difference"] <= most if most else row["difference"] < 0}


def main() -> None:
    """`humpback summary`."""
    learned = summarize(commandline.open_run())
    if flags.FLAGS.check and not all(row and row["passed"] for row in learned.values()):
        sys.exit(1)
