"""What happened: summary.json and report.md of a run, from what its stages have left so far; nothing here needs a model.

Each file of records is read once, and of a record only some numbers are kept.
"""

import bisect
import sys
from array import array
from collections import Counter
from typing import Any

from absl import flags

from humpback import distributed, storage
from humpback.errors import UserError
from humpback.evaluation import paired, statistics
from humpback.records import Candidate, Example, Likely, Rated, read_shards
from humpback.report import probes
from humpback.stages import commandline, curate, identity, judge, report, rewrite
from humpback.stages.directory import Run, read_manifest

# What M_yx must show to have learned, in nats per target token on the held-out pairs.
LEARNED_BACKWARD = 0.05
_EXTREMES = 5
STAGE_OF = {"rubric": "ratings", "likelihood": "likelihood"}


def define_flags() -> None:
    """The stages' flags and --check."""
    commandline.define_flags()
    flags.DEFINE_bool("check", False, "exit with code 1 unless M_yx has learned (see the report)")


def summarize(run: Run) -> dict[str, Any] | None:
    """Writes summary.json, timing.json and report.md of the stages that are complete, and returns what M_yx has learned.

    They derive from the stages and are replaced. UserError when no stage is complete.
    """
    return distributed.by_first(f"summary {run.workdir}", lambda: _summarize(run))


def _summarize(run: Run) -> dict[str, Any] | None:
    stages = [name for name in stage_names(run.cfg.iterations) if (run.workdir / name / identity.MANIFEST).exists()]
    if not stages:
        raise UserError(f"{run.workdir}: no stage is complete; `humpback run` makes them all")
    manifests = {name: read_manifest(run.workdir, name) for name in stages}
    iterations = range(1, run.cfg.iterations + 1)
    curated = {t: _Pairs.of_curated(run, t) for t in iterations if f"curated-{t}" in stages}
    candidates = _Candidates(run) if "candidates" in stages else None
    ratings = {t: _Ratings(run, t) for t in iterations if f"ratings-{t}" in stages}
    likelihoods = {t: _Likelihoods(run, t) for t in iterations if f"likelihood-{t}" in stages}
    last = ratings[max(ratings)] if ratings else None
    summary: dict[str, Any] = {
        "stages": {name: {"counts": m["counts"], "dropped": m["dropped"]} for name, m in manifests.items()},
        "lengths": _lengths(_Pairs.of_seed(run) if "seed" in stages else None, curated, candidates),
        "candidates": candidates.rates() if candidates else None,
        "judges": [
            {"iteration": t, "score": score, "seen": seen}
            for t in iterations if f"judge-{t}" in stages for score, seen in judge.read(run, t).items()
        ],
        "ratings": [rated.describe(t, curated[t].ids if t in curated else None) for t, rated in ratings.items()],
        "likelihoods": [likely.describe(t) for t, likely in likelihoods.items()],
        "beside": [
            {"iteration": t, "score": score, **of_score[t].beside(set(pairs.ids))}
            for t, pairs in curated.items()
            for score, of_score in (("rubric", ratings), ("likelihood", likelihoods))
            if t in of_score and f"{STAGE_OF[score]}-{t}" not in curate.score_stages(run.cfg.curate, t)
        ],
        "rewritten": [rewrite.read(run, t) for t in iterations if f"rewritten-{t}" in stages],
        "overlap": _overlap({t: set(pairs.ids) for t, pairs in curated.items()}),
        "best": last.best if last else [],
        "worst": last.worst if last else [],
        "held_out": probes.read_paired(run.workdir, stages),
    }
    summary["learned"] = _learned(summary["held_out"]["backward"])
    timing = {name: storage.read_json(run.workdir / name / "timing.json") for name in stages}
    run.place.begin()
    storage.publish_json(run.workdir / "summary.json", summary, replace=True)
    storage.publish_json(run.workdir / "timing.json", timing, replace=True)
    storage.publish(run.workdir / "report.md", report.render(summary, timing), replace=True)
    print(report.table(summary, timing))
    print(f"\nReport: {run.workdir / 'report.md'}")
    print("\n".join(report.verdicts(summary)))
    return summary["learned"]


def stage_names(iterations: int) -> list[str]:
    """The folders of a run, in the order in which they are made."""
    kinds = ("ratings", "likelihood", "judge", "curated", "rewritten", "forward", "answers")
    rounds = [f"{kind}-{t}" for t in range(1, iterations + 1) for kind in kinds]
    return ["base", "seed", "segments", "backward", "candidates", "forward-0", "answers-base", "answers-0", *rounds]


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


class _Scores(_Pairs):
    """The scores of an iteration's candidates that have one."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = array("d")

    def beside(self, chosen: set[int]) -> dict[str, Any]:
        """A set that another score has chosen against as many others of the same lengths, by this score."""
        row = {record_id: row for row, record_id in enumerate(self.ids)}
        lengths = list(zip(self.ids, self.outputs, strict=True))
        taken = [pair for pair in lengths if pair[0] in chosen]
        pairs = statistics.length_matched(taken, [pair for pair in lengths if pair[0] not in chosen])
        if not pairs:
            return {"pairs": 0}
        scores = [[(self.scores[row[pair[side]]], 1) for pair in pairs] for side in (0, 1)]
        difference = statistics.paired_difference(*scores)
        return {**difference, "verdict": statistics.verdict(difference, lower_is_better=False)}


class _Likelihoods(_Scores):
    """How much likelier responses are under their instruction, in nats a token."""

    def __init__(self, run: Run, iteration: int) -> None:
        super().__init__()
        for likely in read_shards(run.workdir / f"likelihood-{iteration}", "likelihood", Likely):
            if likely.score is not None:
                self.ids.append(int(likely.id, 16))
                self.scores.append(likely.score)
                self.add(likely.candidate.instruction, likely.candidate.segment.text)

    def describe(self, iteration: int) -> dict[str, Any]:
        """Their mean, and how they go with length."""
        correlation = statistics.correlation(self.scores, self.outputs)
        return {"iteration": iteration, "candidates": len(self.ids), "score": statistics.mean_sd(self.scores),
                "score_length_correlation": correlation}  # fmt: skip


class _Ratings(_Scores):
    """The valid ratings of an iteration, how many were asked for, and the candidates rated best and worst."""

    def __init__(self, run: Run, iteration: int) -> None:
        super().__init__()
        self.asked = 0
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
        """Histogram, invalid rate, how ratings go with length, and the curated set where there is one."""
        ids = set(curated or ())
        chosen = None if curated is None else [row for row, record_id in enumerate(self.ids) if record_id in ids]
        return {
            "iteration": iteration,
            "histogram": statistics.histogram(self.scores),
            "invalid_rate": 1 - len(self.ids) / self.asked if self.asked else 0.0,
            "score": statistics.mean_sd(self.scores),
            "score_length_correlation": statistics.correlation(self.scores, self.outputs),
            "curated": self._of(chosen),
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


def _learned(compared: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Whether M_yx beats the base as the demo must; None where that was not measured."""
    for found in compared:
        if (found["set"], found["measure"]) == (paired.HELD_OUT, paired.NLL) and len(found["models"]) > 1:
            row = found["models"][1]["against"]["base"]
            passed = row["difference"] <= -LEARNED_BACKWARD and row["verdict"] == statistics.BETTER
            return {**row, "needed": -LEARNED_BACKWARD, "passed": passed}
    return None


def main() -> None:
    """`humpback summary`."""
    learned = summarize(commandline.open_run())
    if flags.FLAGS.check and not (learned and learned["passed"]):
        sys.exit(1)
