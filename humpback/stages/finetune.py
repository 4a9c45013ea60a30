"""Finetuning, always from the base: backward gives M_yx, forward on the seed M_0, on seed and curated M_t (paper, section 2)."""

import contextlib
import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from jax.sharding import Mesh

from humpback import config as configs
from humpback import distributed, prompts, storage
from humpback.corpus.tally import SAMPLES_FILE
from humpback.errors import UserError
from humpback.evaluation import paired
from humpback.model import adapters
from humpback.model.weights import LlamaConfig
from humpback.models import folders
from humpback.models.folders import digest_of
from humpback.progress import say, warn_of_many
from humpback.records import Example, read_shards
from humpback.stages import commandline, held_out, meshes, saves
from humpback.stages.directory import Run, Stage
from humpback.stages.samples import Samples
from humpback.tokens.examples import PROMPTS_CUT, Drop, TokenExample, build_example
from humpback.tokens.tokenizer import Tokenizer
from humpback.training import checkpoint, evaluate, events, loop, lora, optimizer, placement
from humpback.training.profile import Profile

TAGS = {"seed": prompts.SEED_TAG, "augmented": prompts.WEB_TAG}

PairOf = Callable[[Example, str], tuple[prompts.Prompt, str]]  # pair, task → prompt, target
OnDrop = Callable[[str, Example], None]  # hears of each pair that is left out, and why


def define_flags() -> None:
    """The stages' flags, --task, --iteration and --profile."""
    commandline.define_flags()
    flags.DEFINE_string("profile", None, "FROM:TO, steps counted from 1: writes a JAX profile of them to WORKDIR/profile")
    flags.DEFINE_enum("task", "forward", ["backward", "forward"], "M_yx, or M_t of --iteration")
    flags.DEFINE_integer("iteration", 0, "t of M_t; 0 is the model of the seed alone", lower_bound=0)


def finetune(run: Run, task: str, iteration: int = 0, profile: Profile | None = None) -> None:
    """Makes backward/ or forward-t/: a model folder, and the held-out pairs' likelihoods under it."""
    name, field, inputs = "backward", "backward", ["base", "seed"]
    if task == "forward":
        name, field = f"forward-{iteration}", "forward" if iteration else "forward_seed"
        inputs += [f"{_augmented(run)}-{iteration}"] if iteration else []
    stage = run.stage(name, (f"{field}.", "wrapper", "seed", "decoding.length", "mesh."), inputs, module=__name__)
    if stage.complete:
        return
    ft: configs.Finetune = getattr(run.cfg, field)
    # Left on disk: each process reads its part of each weight when that is placed, and what is trained is not kept twice.
    base = folders.load_model(run.workdir / "base", directions={"base"}, whole=False)
    base = dataclasses.replace(base, tokenizer=base.tokenizer.ending(prompts.ENDS.get(run.cfg.wrapper, "")))
    for label, length in ((f"{field}.length", ft.length), ("decoding.length", run.cfg.decoding.length)):
        base.info.check_length(label, length)
    adapted, base_digest = lora.of(ft), run.weights_digest("base")
    adapter = folders.adapter_beside(stage.path, run.workdir / "base", adapted, base_digest) if adapted else None
    info = folders.ModelInfo(base.info.config, task, run.cfg.wrapper, adapter)
    # Its checkpoints are of adapters beside certain weights, in whatever files these are by now.
    of_steps = dataclasses.replace(info, adapter=adapter and dataclasses.replace(adapter, files=""))
    data = _stage_data(run, stage, field, task, iteration, base.tokenizer)
    mesh, ft = meshes.fitted(run, stage, field, base.info.config, data.examples)
    ft = saves.fitted(run, stage, field, ft, base.info.config, mesh, data.examples)
    base = folders.read_to(base, placement.unstacked_shardings(base.info.config, mesh))
    distributed.by_first(f"begin {stage.path}", stage.begin)
    steps = checkpoint.TrainingCheckpoints(stage.path / "steps", ft.checkpoint_keep, ft.checkpoint_keep_every, stage, saves_last=False)
    with contextlib.closing(events.Events(stage.path / "events")) as scalars:

        def metrics(row: dict) -> None:
            stage.metrics(row)
            stage.background.submit(functools.partial(scalars.write, row))
            if row.get("saved"):  # the run may continue from there
                stage.publish_metrics()
                stage.background.submit(scalars.flush)

        try:
            trained = loop.train(
                base, data.examples, loop.Training(ft, run.cfg.seed, name, of_steps),
                mesh=mesh, dev=data.dev, checkpoints=steps, metrics=metrics, profile=profile,
            )  # fmt: skip
        finally:
            stage.publish_metrics()
            stage.background.join()
    folders.save_model(stage.path, info, trained.params, base.tokenizer)
    # The first stage of each task measures the base, too. Adapters are measured as they were trained, beside weights that are not merged.
    models = {} if iteration else {"base": base.params if trained.stacked is None else adapters.bare(trained.stacked)}
    models[name] = trained.params if trained.stacked is None else trained.stacked
    measured = measure(run, task, base.info.config, models, data.questions, mesh, ft.compute_dtype, stacked=trained.stacked is not None)
    if not measured:
        length = run.cfg.decoding.length
        say(f"{name}: not measured, as no pair is held out (seed_pairs.held_out) or none fits into decoding.length = {length}")
    if distributed.is_first():
        storage.publish(stage.path / paired.FILE, "".join(json.dumps(row) + "\n" for row in measured), replace=True)
        data.samples.publish(stage)
    digests = folders.weights_digest(trained.params) | ({"base": base_digest} if adapted else {})
    folders.verify(stage.path)  # with the stage's end the training's checkpoints go
    stage.finish(
        counts=data.counts,
        dropped=data.dropped,
        files=[paired.FILE, SAMPLES_FILE],
        tokens=trained.tokens,
        step=trained.step,
        weights=digests,
        weights_sha256=digest_of(digests),
    )


def _augmented(run: Run) -> str:
    """The stage whose examples train beside the seed."""
    return "rewritten" if run.cfg.rewrite.by else "curated"


class StageData(NamedTuple):
    """What trains, and what measures: the questions of held_out.py and the dev set's pairs; how many there are, of which kind and with a
    cut prompt; how many are left out, by reason; and a few of these."""

    examples: list[TokenExample]
    questions: list[tuple[held_out.Question, TokenExample]]
    dev: list[TokenExample]
    counts: dict[str, int]
    dropped: dict[str, int]
    samples: Samples


def _stage_data(run: Run, stage: Stage, field: str, task: str, iteration: int, tokenizer: Tokenizer) -> StageData:
    """Warns of what is left out or cut before the hours that the training takes. UserError when nothing fits."""
    ft: configs.Finetune = getattr(run.cfg, field)
    pairs = {"seed": list(read_shards(run.workdir / "seed", "seed", Example))}
    if iteration:
        pairs["augmented"] = list(read_shards(run.workdir / f"{_augmented(run)}-{iteration}", _augmented(run), Example))
    samples = Samples()
    data = training_data(pairs, tokenizer, task, run.cfg.wrapper, ft.length, samples.drop_pair)
    if not data.examples:
        number = sum(map(len, pairs.values()))
        raise UserError(f"{stage.path}: none of {number} examples fits into {field}.length = {ft.length} ({data.dropped})")
    _warn_of_length(stage.name, pairs, data, f"{field}.length = {ft.length}")
    count, taken = len(data.examples), math.prod(optimizer.schedule(len(data.examples), ft))
    unseen = max(0, count - taken)
    warn_of_many(stage.name, unseen, count, f"examples are not trained on: {field}.steps and batch take {taken}")
    counts, dropped = Counter(data.counts), Counter(data.dropped | {"not trained on": unseen})

    def measured(kind: str, pairs: list[Example], field: str, pair_of: PairOf) -> list[TokenExample]:
        found = _measured_data(stage, run, kind, pairs, task, tokenizer, field, pair_of, samples)
        counts.update({f"{kind} {what}": number for what, number in found.counts.items()})
        dropped.update({f"{kind}: {why}": number for why, number in found.dropped.items()})
        return found.examples

    questions: list[tuple[held_out.Question, TokenExample]] = []
    for name, of_set in held_out.read_sets(run.workdir, run.cfg.evaluation.sets).items():
        own = measured(held_out.shards_of(name), of_set, "decoding.length", inference_pair)
        questions += [(held_out.question(name, example.id), example) for example in own]
        for rotation, swapped in held_out.rotated(of_set) if task == "forward" else ():
            others, lost = tokenize(swapped, tokenizer, task, run.cfg.wrapper, run.cfg.decoding.length, inference_pair)
            questions += [(held_out.question(name, example.id, rotation), example) for example in others]
            dropped.update({f"{held_out.shards_of(name)} behind other prompts: {why}": number for why, number in lost.items()})
    dev: list[TokenExample] = []
    if ft.dev_every:
        dev = measured("dev", list(read_shards(run.workdir / "seed", "dev", Example)), f"{field}.length", training_pair)
        if not dev:
            raise UserError(f"{stage.path}: no pair of the dev set fits into {field}.length = {ft.length} ({dict(dropped)})")
    return StageData(data.examples, questions, dev, dict(counts), dict(dropped), samples)


class TrainingData(NamedTuple):
    """What trains; how many examples, of which kind and with a cut prompt; and how many are dropped, by reason."""

    examples: list[TokenExample]
    counts: dict[str, int]
    dropped: dict[str, int]


def training_data(
    pairs: Mapping[str, Sequence[Example]], tokenizer: Tokenizer, task: str, wrapper: str, length: int, on_drop: OnDrop = lambda *_: None
) -> TrainingData:
    """The pairs of each kind, one kind after the other, as token examples of a task."""
    tokens: list[TokenExample] = []
    counts: dict[str, int] = {}
    dropped: Counter[str] = Counter()
    for kind, of_kind in pairs.items():
        fitting, unfit = tokenize(of_kind, tokenizer, task, wrapper, length, on_drop=on_drop)
        tokens += fitting
        counts[f"{kind} pairs"] = len(fitting)
        dropped.update(unfit)
    return TrainingData(tokens, {"examples": len(tokens), **counts, PROMPTS_CUT: _count_cut(tokens)}, dict(dropped))


def _measured_data(
    stage: Stage, run: Run, kind: str, pairs: Sequence[Example], task: str, tokenizer: Tokenizer, field: str, pair_of: PairOf,
    samples: Samples,
) -> TrainingData:  # fmt: skip
    """Pairs that measure, in the length that a config field says. Warns of many that are left out or cut."""
    length = run.place.now.values[field]
    on_drop = functools.partial(samples.drop_pair, of=f"{kind}: ")
    tokens, dropped = tokenize(pairs, tokenizer, task, run.cfg.wrapper, length, pair_of, on_drop)
    cut, room = _count_cut(tokens), f"{field} = {length}"
    what = f"{kind} pairs do not measure, as they do not fit into {room} or have no target"
    warn_of_many(stage.name, len(pairs) - len(tokens), len(pairs), what)
    warn_of_many(stage.name, cut, len(tokens), f"{kind} prompts are cut to fit into {room}")
    return TrainingData(tokens, {"pairs": len(tokens), PROMPTS_CUT: cut}, dropped)


def _count_cut(examples: Iterable[TokenExample]) -> int:
    return sum(example.cut for example in examples)


def _warn_of_length(stage: str, pairs: Mapping[str, Sequence[Example]], data: TrainingData, length: str) -> None:
    for kind, of_kind in pairs.items():
        unfit = len(of_kind) - data.counts[f"{kind} pairs"]
        warn_of_many(stage, unfit, len(of_kind), f"{kind} pairs do not train, as they do not fit into {length} or have no target")
    warn_of_many(stage, data.counts[PROMPTS_CUT], len(data.examples), f"prompts are cut to fit into {length}")


def measure(
    run: Run,
    task: str,
    cfg: LlamaConfig,
    models: Mapping[str, Any],
    questions: Sequence[tuple[held_out.Question, TokenExample]],
    mesh: Mesh,
    compute_dtype: str,
    stacked: bool = False,
) -> list[dict[str, Any]]:
    """The rows of held_out.py, {model, task, id, nats, tokens, …}, of every question under each model: nats of the target and its end,
    prompts as at inference. stacked: the models are on the mesh as training lays them out."""
    score = evaluate.nll_of_stacked if stacked else evaluate.nll
    rows, examples = [], [example for _, example in questions]
    for name, params in models.items() if questions else ():
        scores = score(cfg, params, examples, length=run.cfg.decoding.length, mesh=mesh, compute_dtype=compute_dtype)
        rows += [
            {"model": name, "task": task, **question, "nats": float(nats), "tokens": int(count)}
            for (question, _), nats, count in zip(questions, scores.nats, scores.tokens, strict=True)
        ]
    return rows


def tokenize(
    pairs: Iterable[Example], tokenizer: Tokenizer, task: str, wrapper: str, length: int, pair_of: PairOf | None = None,
    on_drop: OnDrop = lambda *_: None,
) -> tuple[list[TokenExample], dict[str, int]]:  # fmt: skip
    """Pairs as token examples of a task, with the tag of each pair's kind, or as `pair_of` says; how many were dropped, by reason."""
    examples, dropped = [], {reason.value: 0 for reason in Drop}
    for pair in pairs:
        prompt, target = (pair_of or training_pair)(pair, task)
        example = build_example(tokenizer, pair.id, prompt, target, prompts.WRAPPERS[wrapper], length)
        if isinstance(example, Drop):
            dropped[example.value] += 1
            on_drop(example.value, pair)
        else:
            examples.append(example)
    return examples, dropped


def training_pair(pair: Example, task: str) -> tuple[prompts.Prompt, str]:
    """(prompt, target) of a training example: backward writes the bare instruction, forward the response to the tagged one."""
    if task == "backward":
        return prompts.backward_prompt(pair.response), prompts.bare(pair.instruction)
    return prompts.forward_training_prompt(pair.instruction, TAGS[pair.kind]), pair.response.strip()


def inference_pair(pair: Example, task: str) -> tuple[prompts.Prompt, str]:
    """(prompt, target) as at inference: the same backward, both tags forward."""
    if task == "backward":
        return training_pair(pair, task)
    return prompts.forward_prompt(pair.instruction), pair.response.strip()


def main() -> None:
    """`humpback finetune --task=… --iteration=T`."""
    run, profile = commandline.open_run(), flags.FLAGS.profile
    finetune(run, flags.FLAGS.task, flags.FLAGS.iteration, read_profile(profile, run.workdir / "profile") if profile else None)


def read_profile(text: str, folder: storage.PathLike) -> Profile:
    """--profile=FROM:TO. UserError for anything else."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"--profile={text}: must be FROM:TO, two steps counted from 1, as in --profile=3:5")
    return Profile(int(first), int(last), folder)
