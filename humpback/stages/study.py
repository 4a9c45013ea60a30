"""Does augmentation help? Arms of one experiment, each trained several times from the base, measured on the same held-out pairs.

Measures and endpoints were fixed before anything was trained; docs/evaluation.md has them. Everything is kept in the run's directory, a
folder for each training, and continues after a kill.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from absl import flags
from etils import epath
from jax.sharding import Mesh

from humpback import distributed, keys, prompts, storage
from humpback.errors import UserError
from humpback.evaluation import paired
from humpback.models import folders
from humpback.progress import say
from humpback.records import Example, Likely, Rated, Segment, read_rows, read_shards
from humpback.stages import commandline, curate, finetune, held_out, judge, likelihood, meshes, saves, study_report
from humpback.stages.augment import augment
from humpback.stages.base import convert_base
from humpback.stages.directory import Run, Stage
from humpback.stages.seed import seed
from humpback.stages.segment import segment
from humpback.stages.study_report import H2, OTHERS
from humpback.training import checkpoint, loop, optimizer, placement

SEED_ONLY = ("S", "S2")
ARMS = {
    "S": "the seed alone",
    "S2": "the seed alone, for as many steps as with k more examples",
    "SR": "seed and k candidates by chance",
    "SC": "seed and the k best by the rubric",
    "SL": "seed and the k best by likelihood",
    "SB": "seed and the k worst by the rubric",
    "SP": "SL's texts, each under the next one's instruction: a placebo",
    "SH": "SL's texts under their page's header",
    "C": "the k best by likelihood, without the seed",
}
LARGER = ("S2", "SL", "SP", "SH")  # the arms of larger k
_FIELDS = ("forward.", "wrapper", "seed", "decoding.length", "evaluation.", "mesh.")
_LENGTHS = (250, 1_100)  # characters of an answer of H2


class Pool(NamedTuple):
    """Usable candidates that both scores know, in the order of their ids, with their headers, ratings and likelihoods."""

    examples: list[Example]
    headers: list[str]
    ratings: list[float]
    likelihoods: list[float]


def define_flags() -> None:
    """The stages' flags, and how much is trained."""
    commandline.define_flags()
    flags.DEFINE_list("k", ["54", "400", "1600"], "augmented examples beside the seed; all arms with the first, some with the others")
    flags.DEFINE_integer("trainings", 3, "of each arm", lower_bound=1)
    flags.DEFINE_string("questions", None, "instead: a folder of segments, of which those whose header is a question are written to --out")
    flags.DEFINE_string("out", None, "the file that --questions makes, a source of pairs for evaluation.sets=h2=FILE")


def study(run: Run, sizes: Sequence[int], count: int) -> None:
    """Makes the candidates and their scores, then a folder for each training, then study.json, study.md and study.svg. UserError when
    there are fewer candidates than the largest k, or no set `h2`."""
    if H2 not in held_out.set_names(run.cfg.evaluation.sets):
        raise UserError(f"config field evaluation.sets: {run.cfg.evaluation.sets!r} names no {H2}=FILE, on which the endpoints are")
    cfg = run.cfg
    if not curate.rubric_mode(cfg.curate) or not curate.with_likelihood(cfg.curate):
        raise UserError(f"config fields curate.mode, curate.beside: {cfg.curate.mode!r}, {cfg.curate.beside!r}; the arms need both scores")
    if cfg.augment.candidates > 1:
        raise UserError(f"config field augment.candidates: {cfg.augment.candidates}; the study's arms take one of each segment: 1")
    if run.cfg.forward.lora_rank:
        raise UserError(f"config field forward.lora_rank: {run.cfg.forward.lora_rank}; the study's arms train all weights: 0")
    convert_base(run)
    curate.check(run)
    seed(run)
    for name, pairs in held_out.read_sets(run.workdir, cfg.evaluation.sets).items():
        if len(pairs) < 2:
            raise UserError(f"the set {name} has {len(pairs)} pairs; the study needs two of each (seed_pairs.held_out, evaluation.sets)")
    segment(run)
    finetune.finetune(run, "backward")
    augment(run)
    finetune.finetune(run, "forward", 0)
    asked = curate.Judge(run, 1)
    curate.rate(run, 1, asked)
    likelihood.measure(run, 1, asked)
    judge.diagnose(run, 1, asked)
    del asked  # its weights
    train_arms(run, sizes, count)


def train_arms(run: Run, sizes: Sequence[int], count: int) -> None:
    """The second half: from candidates with both scores to the trainings and what they show."""
    pool = pool_of(run)
    if len(pool.examples) < max(sizes):
        raise UserError(f"{len(pool.examples)} candidates have both scores; --k={max(sizes)} asks for more: raise segments.limit")
    done = [_measure_base(run)]
    for place, k in enumerate(sizes):
        for arm in ARMS if not place else LARGER:
            done += [_train(run, pool, arm, k, number) for number in range(count)]
    distributed.by_first("study", lambda: _write(run, done, sizes, count))


def pool_of(run: Run) -> Pool:
    """What the arms choose from."""
    likely = {l.id: l.score for l in read_shards(run.workdir / "likelihood-1", "likelihood", Likely) if l.score is not None}
    rated = [r for r in read_shards(run.workdir / "ratings-1", "ratings", Rated) if r.score is not None and r.id in likely]
    rated.sort(key=lambda r: r.id)
    examples = [Example(r.id, r.candidate.instruction, r.candidate.segment.text, "augmented", r.candidate.segment.url) for r in rated]
    headers = [r.candidate.segment.header for r in rated]
    return Pool(examples, headers, [float(r.score or 0) for r in rated], [float(likely[r.id] or 0) for r in rated])


def chosen(pool: Pool, arm: str, k: int, seed_: int) -> list[Example]:
    """An arm's augmented examples, none for the seed's; seed_ is the drawing's, of the arm by chance."""
    if arm in SEED_ONLY:
        return []
    words = keys.record_words(seed_, "study", [example.id for example in pool.examples]).tolist() if arm == "SR" else []
    key = {"SR": words, "SC": [-r for r in pool.ratings], "SB": pool.ratings}.get(arm, [-score for score in pool.likelihoods])
    places = sorted(range(len(key)), key=lambda place: (key[place], pool.examples[place].id))[:k]
    made = [pool.examples[place] for place in sorted(places)]
    if arm == "SP":  # fewer, where the next instruction is the own one, too
        return next(iter(held_out.rotated(made, 1)))[1]
    if arm == "SH":
        return [msgspec.structs.replace(pool.examples[place], instruction=pool.headers[place]) for place in sorted(places)]
    return made


def _train(run: Run, pool: Pool, arm: str, k: int, number: int) -> str:
    """Makes ARM-k-number/: one training and the held-out pairs' likelihoods under it."""
    name = f"{arm}-{k}-{number}"
    stage = run.stage(name, _FIELDS, ("base", "seed", "ratings-1", "likelihood-1"), module=__name__)
    if stage.complete:
        return name
    own_seed, base = run.cfg.seed + number, _base(run, whole=False)
    pairs = {"seed": list(read_shards(run.workdir / "seed", "seed", Example)) if arm != "C" else []}
    augmented = chosen(pool, arm, k, own_seed)
    data = finetune.training_data({**pairs, "augmented": augmented}, base.tokenizer, "forward", run.cfg.wrapper, run.cfg.forward.length)
    mesh, ft = meshes.fitted(run, stage, "forward", base.info.config, data.examples)
    ft = saves.fitted(run, stage, "forward", ft, base.info.config, mesh, data.examples)
    base = folders.read_to(base, placement.unstacked_shardings(base.info.config, mesh))
    if arm == "S2":
        steps, _ = optimizer.schedule(len(data.examples) + k, ft)
        ft = dataclasses.replace(ft, steps=steps, epochs=0.0)
    distributed.by_first(f"begin {stage.path}", stage.begin)
    saved = checkpoint.TrainingCheckpoints(stage.path / "steps", 1, 0, stage, saves_last=False)
    if lost := (0 if arm in SEED_ONLY else k) - len(augmented):
        data.dropped["the next instruction is the own one"] = lost
    info = folders.ModelInfo(base.info.config, "forward", run.cfg.wrapper)
    try:
        training = loop.Training(ft, own_seed, "study", info)
        trained = loop.train(base, data.examples, training, mesh=mesh, checkpoints=saved, metrics=stage.metrics)
    finally:
        stage.publish_metrics()
        stage.background.join()
    told = {"counts": data.counts, "dropped": data.dropped, "tokens": trained.tokens, "step": trained.step}
    _finish(run, stage, base, {arm: trained.params}, mesh, **told)
    return name


def _measure_base(run: Run) -> str:
    """Makes untrained/: the likelihoods under the base."""
    stage = run.stage("untrained", _FIELDS, ("base", "seed"), module=__name__)
    if not stage.complete:
        distributed.by_first(f"begin {stage.path}", stage.begin)
        base = _base(run, whole=True)
        _finish(run, stage, base, {"base": base.params}, run.mesh(), counts={})
    return stage.name


def _base(run: Run, whole: bool) -> folders.Model:
    """The base with the end token of the wrapper; left on disk, or whole."""
    base = folders.load_model(run.workdir / "base", directions={"base"}, whole=whole)
    return dataclasses.replace(base, tokenizer=base.tokenizer.ending(prompts.ENDS.get(run.cfg.wrapper, "")))


def _finish(run: Run, stage: Stage, base: folders.Model, models: Mapping[str, Any], mesh: Mesh, **told: Any) -> None:
    questions: list[tuple[held_out.Question, Any]] = []
    dropped = Counter(told.pop("dropped", {}))
    for name, pairs in held_out.read_sets(run.workdir, run.cfg.evaluation.sets).items():
        for rotation, asked in ((0, pairs), *held_out.rotated(pairs, OTHERS)):
            length, wrapper = run.cfg.decoding.length, run.cfg.wrapper
            examples, lost = finetune.tokenize(asked, base.tokenizer, "forward", wrapper, length, finetune.inference_pair)
            behind = " behind other prompts" if rotation else ""
            dropped.update({f"{held_out.shards_of(name)}{behind}: {why}": count for why, count in lost.items()})
            questions += [(held_out.question(name, example.id, rotation), example) for example in examples]
    rows = finetune.measure(run, "forward", base.info.config, models, questions, mesh, run.cfg.forward.compute_dtype)
    if distributed.is_first():
        storage.publish(stage.path / paired.FILE, "".join(json.dumps(row) + "\n" for row in rows), replace=True)
    stage.finish(files=[paired.FILE], dropped=dict(dropped), **told)


def _write(run: Run, done: Sequence[str], sizes: Sequence[int], count: int) -> None:
    """study.json, study.md and study.svg, which derive from the folders and are replaced."""
    measured = {name: paired.Measured(read_rows(run.workdir / name / paired.FILE)) for name in done}
    found = study_report.compare(measured, sizes, count, held_out.set_names(run.cfg.evaluation.sets))
    run.place.begin()
    storage.publish_json(run.workdir / "study.json", found, replace=True)
    storage.publish(run.workdir / "study.md", study_report.render(found), replace=True)
    storage.publish(run.workdir / "study.svg", study_report.plot(found), replace=True)
    say("\n".join(found["verdicts"]))


def questions_of(segments: Sequence[Segment]) -> Iterator[dict[str, str]]:
    """The segments whose header is a question that somebody asked, as pairs; a number before it goes."""
    for found in segments:
        asked = re.sub(r"^[\d.\s]*\s", "", found.header.strip())
        if asked.endswith("?") and _LENGTHS[0] <= len(found.text) <= _LENGTHS[1]:
            yield {"instruction": asked, "response": found.text}


def main() -> None:
    """`humpback study`."""
    values = flags.FLAGS
    if values.questions:
        if not values.out:
            raise UserError("--out is missing: the file of pairs that --questions makes")
        rows = list(questions_of(list(read_shards(values.questions, "segments", Segment))))
        if len(rows) < 2:
            raise UserError(f"--questions={values.questions}: {len(rows)} segments have a question for their header; two are needed")
        storage.publish(epath.Path(values.out), "".join(json.dumps(row) + "\n" for row in rows), replace=True)
        say(f"{values.out}: {len(rows)} questions with their answers")
        return
    if not values.k or not all(k.isdecimal() and int(k) > 1 for k in values.k) or len(set(map(int, values.k))) < len(values.k):
        raise UserError(f"--k={','.join(values.k)}: different numbers of examples, at least 2, are meant")
    study(commandline.open_run(), [int(k) for k in values.k], values.trainings)
