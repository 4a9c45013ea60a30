"""Self-curation with a look at the judge: does it tell a human pair from the same response under another pair's instruction?"""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from humpback import distributed, prompts
from humpback.decoding.branches import Target
from humpback.decoding.engine import Engine
from humpback.decoding.offline import Done, Output, Task
from humpback.decoding.parts import number_of
from humpback.decoding.serving import serve
from humpback.models.folders import Model
from humpback.progress import warn_of_many
from humpback.records import Candidate, Example, Judged, Probe, Segment, read_shards, record_id, shard_paths
from humpback.report.probes import LIKELIHOOD, NONSENSE, RUBRIC, SWAPPED, TRUE, read_judge
from humpback.stages import commandline, curate, endpoint, held_out, likelihood
from humpback.stages.directory import Run, Stage
from humpback.stages.models import inputs_of
from humpback.tokens.examples import PROMPTS_CUT

define_flags = curate.define_flags
NO_OTHER = "no pair with another instruction"


def curate_by(run: Run, iteration: int) -> None:
    """Makes ratings-t/ or likelihood-t/, or both, judge-t/ and curated-t/."""
    judge = curate.Judge(run, iteration)
    if curate.rubric_mode(run.cfg.curate):
        curate.rate(run, iteration, judge)
    if curate.with_likelihood(run.cfg.curate):
        likelihood.measure(run, iteration, judge)
    diagnose(run, iteration, judge)
    del judge  # its weights
    curate.select(run, iteration)


def diagnose(run: Run, iteration: int, judge: "curate.Judge | None" = None) -> None:
    """Makes judge-t/: what M_{t-1} says of probes, which are made of the held-out pairs of every set; see evaluation/judging.py."""
    cfg, by = run.cfg, f"forward-{iteration - 1}"
    fields = (*curate.rating_fields(cfg.curate), *likelihood.FIELDS)
    stage = run.stage(f"judge-{iteration}", fields, ("seed", by), module=__name__)
    if stage.complete:
        return
    sets = held_out.read_sets(run.workdir, cfg.evaluation.sets)
    probes = [probe for name, pairs in sets.items() for probe in probes_of(name, pairs, cfg.seed)]
    files: list[str] = []
    counts: dict[str, Any] = {"pairs": sum(probe.kind == TRUE for probe in probes)}
    dropped = Counter({NO_OTHER: sum(map(len, sets.values())) - counts["pairs"]})
    tokens = 0
    if probes:
        judge = judge or curate.Judge(run, iteration)
        if not cfg.curate.judge:
            judge.open(stage)
        files += stage.hand_out("probes", probes)
        asked = {RUBRIC: curate.rubric_mode(cfg.curate), LIKELIHOOD: curate.with_likelihood(cfg.curate)}
        scored = score_probes(run, iteration, stage, judge, [score for score, wanted in asked.items() if wanted])
        counts |= {"probes": len(probes), PROMPTS_CUT: scored.cut}
        files += scored.files
        dropped.update(scored.rejected)
        tokens = scored.tokens
        lost, what = dropped.total() - dropped[NO_OTHER], f"probes do not fit into decoding.length = {cfg.decoding.length}"
        warn_of_many(stage.name, lost, len(probes) * sum(map(bool, asked.values())), what)
    stage.finish(counts=counts, dropped=dict(dropped), files=files, tokens=tokens)


class Scored(NamedTuple):
    """What `score_probes` has made: files, probes whose prompt was cut, rejects by reason, tokens."""

    files: list[str]
    cut: int
    rejected: Counter[str]
    tokens: int


def score_probes(run: Run, iteration: int, stage: Stage, judge: "curate.Judge", scores: Sequence[str]) -> Scored:
    """Makes SCORE/judged-….jsonl of a stage's probes-….jsonl, for each of the scores: the judge rates them as it rates candidates."""
    files, cut, rejected, tokens = [], 0, Counter[str](), 0
    if run.cfg.curate.judge:
        done = _by_endpoint(run, iteration, stage, judge.rubric)
        return Scored([f"{RUBRIC}/{name}" for name in done.files], 0, Counter(done.rejected), done.tokens)
    model, opened, decoding = judge.open(stage)
    for score in scores:
        if score == RUBRIC:
            engine, task = opened, _rubric_task(run, iteration, judge.rubric, model, opened)
        else:
            engine, task = likelihood.engine_of(opened), _likelihood_task(model, run.cfg.decoding.length)
        output = Output(stage.path / score, "judged", stage.name, stage.metrics, stage)
        done = serve(engine, task, inputs_of(shard_paths(stage.path, "probes"), Probe), output, decoding)
        files += [f"{score}/{name}" for name in done.files]
        cut += distributed.by_first(f"{score} cut", functools.partial(_count_cut, stage, score))
        rejected.update(done.rejected)
        tokens += done.tokens
    return Scored(files, cut, rejected, tokens)


def _by_endpoint(run: Run, iteration: int, stage: Stage, rubric: str) -> Done:
    raters = {kind: curate.Rater(run, iteration, rubric, "", None) for kind in (TRUE, SWAPPED)}
    raters[NONSENSE] = curate.Rater(run, iteration, prompts.NONSENSE_RUBRIC, "", None)

    def rater(probe: Probe) -> curate.Rater:
        return raters.get(probe.kind, raters[TRUE])

    def make(probe: Probe, answers: list[endpoint.Answer]) -> Judged:
        return Judged(probe.id, probe, rater(probe).of_answers(_as_candidate(probe), answers).score)

    inputs = inputs_of(shard_paths(stage.path, "probes"), Probe)
    return endpoint.serve(run, stage, stage.path / RUBRIC, "judged", inputs, lambda p: rater(p).prompt(_as_candidate(p)), make)


def probes_of(name: str, pairs: Sequence[Example], seed: int) -> Iterable[Probe]:
    """Three of each pair that is not alone: under its own instruction, under one of the set that its key draws, and the first again, for
    the absurd rubric."""
    named = [(f"{number_of(pair.id):016x}", pair.instruction) for pair in pairs]
    for pair, other in zip(pairs, held_out.partners(named, seed, f"swap {name}"), strict=True):
        if other is None:
            continue
        for kind, asked in ((TRUE, pair), (SWAPPED, pairs[other]), (NONSENSE, pair)):
            text = pair.response.strip()
            yield Probe(record_id(f"{name} {kind} {pair.id}", 0, 0, text), name, kind, pair.id, prompts.bare(asked.instruction), text)


def read(run: Run, iteration: int) -> dict[str, dict[str, Any] | None]:
    """What judge-t/ says of the judge, by score, None where nothing could be measured."""
    return read_judge(run.workdir, iteration) or {RUBRIC if curate.rubric_mode(run.cfg.curate) else LIKELIHOOD: None}


def _count_cut(stage: Stage, score: str) -> int:
    return sum(judged.prompt_cut for judged in read_shards(stage.path / score, "judged", Judged))


def _likelihood_task(model: Model, length: int) -> Task:
    asked = likelihood.Asked(model, length)

    def encode(probe: Probe) -> list[Target] | None:
        return asked.targets(probe.id, probe.instruction, probe.response)

    def make(probe: Probe, answers: list[np.ndarray]) -> Judged:
        given, alone = (float(answer[0]) for answer in answers) if answers else (0.0, 0.0)
        score = (given - alone) / asked.tokens(probe.response) if answers else None
        return Judged(probe.id, probe, score, prompt_cut=probe.id in asked.cut)

    return Task(encode, make, lambda probe: probe.kind != NONSENSE, score=True)


def _rubric_task(run: Run, iteration: int, rubric: str, model: Model, engine: Engine) -> Task:
    """Probes are rated as candidates are, by the same code; the absurd rubric stands in the own part of its prompts."""
    rater = curate.Rater(run, iteration, rubric, "", model)
    room = min(run.cfg.decoding.length, engine.layout.own)
    absurd = curate.Rater(run, iteration, prompts.NONSENSE_RUBRIC, "", model, room)
    task, tasks = rater.task(), {NONSENSE: absurd.task()}

    def encode(probe: Probe) -> np.ndarray | None:
        return tasks.get(probe.kind, task).encode(_as_candidate(probe))

    def make(probe: Probe, answers: list) -> Judged:
        rated = tasks.get(probe.kind, task).make(_as_candidate(probe), answers)
        return Judged(probe.id, probe, rated.score, rated.probabilities, rated.mass, rated.prompt_cut)

    return Task(
        encode, make, max_new=task.max_new, samples=task.samples, seed=task.seed, purpose=task.purpose, sampler=task.sampler,
        stop_ids=task.stop_ids, read=task.read,
    )  # fmt: skip


def _as_candidate(probe: Probe) -> Candidate:
    return Candidate(probe.id, Segment(probe.id, probe.response, "", (), "", "", 0, 0), probe.instruction, "", "", 0)


def main() -> None:
    """`humpback curate --iteration=T`."""
    curate_by(commandline.open_run(), flags.FLAGS.iteration)
