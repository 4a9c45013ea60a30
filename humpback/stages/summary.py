"""What happened: summary.json and report.md of a run, from what its stages left; nothing here needs a model."""

import json
import sys
from typing import Any

from absl import flags

from humpback import distributed, storage
from humpback.evaluation import statistics
from humpback.records import Candidate, Example, Rated, numbered_lines, read_shards
from humpback.stages import commandline, report
from humpback.stages.directory import Run, read_manifest
from humpback.stages.finetune import HELD_OUT_FILE

# What the demo must show to have learned, in nats per target token on the held-out pairs.
LEARNED_BACKWARD = 0.05


def define_flags() -> None:
    """The stages' flags and --check."""
    commandline.define_flags()
    flags.DEFINE_bool("check", False, "exit with code 1 when M_yx or M_0 did not learn (see the report)")


def summarize(run: Run) -> dict[str, Any]:
    """Writes summary.json, timing.json and report.md, and returns the summary. They derive from the stages and are replaced."""
    stages = stage_names(run.cfg.iterations)
    manifests = {name: read_manifest(run.workdir, name) for name in stages}
    summary = {
        "stages": {name: {"counts": m["counts"], "dropped": m["dropped"]} for name, m in manifests.items()},
        "lengths": _lengths(run),
        "candidates": _candidates(run),
        "ratings": [_ratings(run, t) for t in range(1, run.cfg.iterations + 1)],
        "overlap": _overlap(run),
        "best": _extremes(run, best=True),
        "worst": _extremes(run, best=False),
        "held_out": (held_out := _held_out(run)),
        "learned": (learned := _learned(held_out)),
    }
    timing = {name: storage.read_json(run.workdir / name / "timing.json") for name in stages}
    if distributed.is_first():
        run.place.begin()
        storage.publish_json(run.workdir / "summary.json", summary, replace=True)
        storage.publish_json(run.workdir / "timing.json", timing, replace=True)
        storage.publish(run.workdir / "report.md", report.render(summary, timing), replace=True)
        print(report.table(summary, timing))
        print(f"\nReport: {run.workdir / 'report.md'}")
        print("\n".join(report.verdict(learned)))
    return summary


def stage_names(iterations: int) -> list[str]:
    """The folders of a run, in the order in which they are made."""
    rounds = [f"{kind}-{t}" for t in range(1, iterations + 1) for kind in ("ratings", "curated", "forward")]
    return ["base", "seed", "segments", "backward", "candidates", "forward-0", *rounds]


def _curated(run: Run, iteration: int) -> list[Example]:
    return list(read_shards(run.workdir / f"curated-{iteration}", "curated", Example))


def _rated(run: Run, iteration: int) -> list[Rated]:
    return list(read_shards(run.workdir / f"ratings-{iteration}", "ratings", Rated))


def _lengths(run: Run) -> list[dict[str, Any]]:
    """Rows in the form of the paper's table 2: characters of instruction and output, mean and sd."""
    seed = read_shards(run.workdir / "seed", "seed", Example)
    sets = {"seed": [(e.instruction, e.response) for e in seed]}
    for t in range(1, run.cfg.iterations + 1):
        sets[f"A^({t}) curated"] = [(e.instruction, e.response) for e in _curated(run, t)]
    candidates = read_shards(run.workdir / "candidates", "candidates", Candidate)
    sets["A, all usable"] = [(c.instruction, c.segment.text) for c in candidates if not c.reason]
    return [
        {
            "set": name,
            "examples": len(pairs),
            "instruction": statistics.mean_sd([len(i) for i, _ in pairs]),
            "output": statistics.mean_sd([len(o) for _, o in pairs]),
        }
        for name, pairs in sets.items()
    ]


def _candidates(run: Run) -> dict[str, Any]:
    reasons = [c.reason for c in read_shards(run.workdir / "candidates", "candidates", Candidate)]
    share = lambda reason: reasons.count(reason) / len(reasons)  # noqa: E731
    return {"candidates": len(reasons), "echo_rate": share("echo"), "unfinished_rate": share("unfinished"), "empty_rate": share("empty")}


def _ratings(run: Run, iteration: int) -> dict[str, Any]:
    """Histogram, invalid rate, how ratings go with length, and the curated set beside a control of the same lengths."""
    rated = _rated(run, iteration)
    asked = [r for r in rated if not r.candidate.reason]
    valid = [r for r in asked if r.score is not None]
    scores = _scores(valid)
    curated = {e.id for e in _curated(run, iteration)}
    chosen = [r for r in valid if r.id in curated]
    control = statistics.length_matched(
        [(r.id, len(r.candidate.segment.text)) for r in chosen],
        [(r.id, len(r.candidate.segment.text)) for r in valid if r.id not in curated],
    )
    by_id = {r.id: r for r in valid}
    return {
        "iteration": iteration,
        "histogram": statistics.histogram(scores),
        "invalid_rate": 1 - len(valid) / len(asked) if asked else 0.0,
        "score": statistics.mean_sd(scores),
        "score_length_correlation": statistics.correlation(scores, [len(r.candidate.segment.text) for r in valid]),
        "curated": _describe(chosen),
        "length_matched_control": _describe([by_id[i] for i in control]),
    }


def _scores(rated: list[Rated]) -> list[float]:
    return [r.score for r in rated if r.score is not None]


def _describe(rated: list[Rated]) -> dict[str, Any]:
    return {
        "examples": len(rated),
        "score": statistics.mean_sd(_scores(rated)),
        "instruction": statistics.mean_sd([len(r.candidate.instruction) for r in rated]),
        "output": statistics.mean_sd([len(r.candidate.segment.text) for r in rated]),
    }


def _overlap(run: Run) -> list[dict[str, Any]]:
    """How much of A^(t) is in A^(t+1)."""
    sets = [{e.id for e in _curated(run, t)} for t in range(1, run.cfg.iterations + 1)]
    return [
        {"sets": [t, t + 1], "both": len(a & b), "either": len(a | b), "jaccard": len(a & b) / len(a | b)}
        for t, (a, b) in enumerate(zip(sets, sets[1:], strict=False), 1)
    ]


def _extremes(run: Run, best: bool, count: int = 5) -> list[dict[str, Any]]:
    """The candidates that the last iteration rated best, or worst."""
    valid = [(r.score, r) for r in _rated(run, run.cfg.iterations) if r.score is not None]
    valid.sort(key=lambda pair: (-pair[0] if best else pair[0], pair[1].id))
    return [
        {"id": r.id, "score": score, "instruction": r.candidate.instruction, "header": r.candidate.segment.header,
         "url": r.candidate.segment.url, "output": r.candidate.segment.text}
        for score, r in valid[:count]
    ]  # fmt: skip


def _held_out(run: Run) -> dict[str, list[dict[str, Any]]]:
    """For each task: nats per target token of each model, and its paired difference from the base with the standard error."""
    tasks = {"backward": ["backward"], "forward": [f"forward-{t}" for t in range(run.cfg.iterations + 1)]}
    result = {}
    for task, stages in tasks.items():
        scores: dict[str, dict[str, tuple[float, int]]] = {}
        for stage in stages:
            for _, line in numbered_lines(run.workdir / stage / HELD_OUT_FILE):
                row = json.loads(line)
                scores.setdefault(row["model"], {})[row["id"]] = (row["nats"], row["tokens"])
        base = scores["base"]
        result[task] = [
            {"model": name, **statistics.paired_difference(list(by_id.values()), [base[i] for i in by_id])}
            for name, by_id in scores.items()
        ]
    return result


def _learned(held_out: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Whether M_yx and M_0 beat the base where the demo must."""
    backward = next(row for row in held_out["backward"] if row["model"] == "backward")
    forward = next(row for row in held_out["forward"] if row["model"] == "forward-0")
    return {
        "backward": {**backward, "needed": -LEARNED_BACKWARD, "passed": backward["difference"] <= -LEARNED_BACKWARD},
        "forward-0": {**forward, "needed": 0.0, "passed": forward["difference"] < 0},
    }


def main() -> None:
    """`humpback summary`."""
    summary = summarize(commandline.open_run())
    if flags.FLAGS.check and not all(part["passed"] for part in summary["learned"].values()):
        sys.exit(1)
