"""Rewriting: a model makes an answer of each curated text; what is not faithful to the text stays as it was (arXiv 2408.04614).

Off by default: the paper trains on the texts as people wrote them. The examples keep their tag, S_w.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from absl import flags

from humpback import distributed, prompts
from humpback.corpus import language
from humpback.decoding.engine import Result
from humpback.decoding.offline import Output, Task
from humpback.decoding.sampling import Sampler
from humpback.decoding.serving import PromptIds, fit_prompt, serve
from humpback.errors import UserError
from humpback.evaluation import rewriting, statistics
from humpback.models.folders import Model
from humpback.progress import warn_of_many
from humpback.records import Example, Judged, Probe, Rewrite, read_shards, record_id, shard_paths, write_shards
from humpback.stages import commandline, curate, judge
from humpback.stages.directory import Run, Stage, read_manifest
from humpback.stages.models import inputs_of, open_engine
from humpback.tokens.examples import PROMPTS_CUT

define_flags = curate.define_flags
DRAFT, ANSWER = "draft", "answer"  # kinds of probes
NO_ROOM = "no room"  # the draft does not fit whole beside what may be written


def rewrite(run: Run, iteration: int) -> None:
    """Makes rewritten-t/: the examples of curated-t/ with their responses rewritten, or not, and why; scores of both by M_{t-1}."""
    cfg = run.cfg
    if not cfg.rewrite.by:
        return
    scorer = curate.Judge(run, iteration)
    writer = "base" if cfg.rewrite.by == "base" else scorer.name
    inputs = dict.fromkeys((f"curated-{iteration}", writer, scorer.name))
    stage = run.stage(f"rewritten-{iteration}", ("rewrite.", *curate.rating_fields(cfg.curate)), tuple(inputs), module=__name__)
    if stage.complete:
        return
    model, engine, decoding = open_engine(run, stage, writer, {cfg.rewrite.by}, lambda text: prompts.rewriting_prompt(text, text))
    distributed.by_first(f"begin {stage.path}", stage.begin)
    stage.begin()  # in every process at this point: what is found later is of another engine
    task = _task(run, iteration, model, run.weights_digest(writer))
    examples = inputs_of(shard_paths(run.workdir / f"curated-{iteration}", "curated"), Example)
    done = serve(engine, task, examples, Output(stage.path, "rewrites", stage.name, stage.metrics, stage), decoding)
    del engine, task  # one model at a time has room
    written, reasons, probes = distributed.by_first("rewritten examples", lambda: _write(stage))
    files, tokens, rejected, cut = [*done.files, *written], done.tokens, Counter(done.rejected), 0
    if probes:
        scored = judge.score_probes(run, iteration, stage, scorer, scores_of(run))
        files += scored.files
        tokens += scored.tokens
        cut = scored.cut
        rejected.update({f"score: {why}": count for why, count in scored.rejected.items()})
    counts = {**done.counts, "rewritten": reasons.pop("", 0), "drafts kept": sum(reasons.values()), f"score {PROMPTS_CUT}": cut}
    stage.finish(counts=counts, dropped={**{f"draft kept: {why}": count for why, count in reasons.items()}, **rejected}, files=files,
                 tokens=tokens)  # fmt: skip
    warn_of_many(stage.name, counts["drafts kept"], done.counts["in"], f"drafts are kept; {stage.path}/manifest.json counts the reasons")


def scores_of(run: Run) -> list[str]:
    """The scores that chose the examples."""
    folders = curate.score_stages(run.cfg.curate, 1)
    return [score for score, folder in ((judge.RUBRIC, "ratings-1"), (judge.LIKELIHOOD, "likelihood-1")) if folder in folders]


def _task(run: Run, iteration: int, model: Model, digest: str) -> Task:
    """One sampled text for each example whose draft fits whole."""
    cfg = run.cfg.rewrite
    room = run.cfg.decoding.length - cfg.max_new_tokens

    def prompt(example: Example) -> PromptIds | None:
        return fit_prompt(model, prompts.rewriting_prompt(example.instruction, example.response), room)

    def fits(example: Example) -> bool:
        return (fitted := prompt(example)) is not None and not fitted.cut

    def make(example: Example, answers: Sequence[Result]) -> Rewrite:
        draft = example.response
        if not answers:
            return Rewrite(example.id, example, draft, "", NO_ROOM, digest, run.cfg.seed)
        output = model.tokenizer.decode(answers[0].ids)
        found = rewriting.rewritten(output, example.instruction, draft, lambda text: language.detect(text)[0])
        made = msgspec.structs.replace(example, response=found.text)
        return Rewrite(example.id, made, draft, output, found.reason, digest, run.cfg.seed)

    return Task(
        lambda example: (fitted := prompt(example)) and fitted.ids,
        make,
        fits,
        max_new=cfg.max_new_tokens,
        seed=run.cfg.seed,
        purpose=f"rewrite-{iteration}",
        sampler=Sampler(cfg.temperature, cfg.top_p),
        stop_ids=frozenset([model.tokenizer.eos_id]),
    )


def _write(stage: Stage) -> tuple[list[str], dict[str, int], int]:
    """Writes the examples that train, and the probes of those that are rewritten; the files, all by reason, how many probes."""
    rewrites = list(read_shards(stage.path, "rewrites", Rewrite))
    files = write_shards(stage.path, "rewritten", (made.example for made in rewrites), len(rewrites))
    probes = [
        Probe(record_id(f"{kind} {made.id}", 0, 0, text), "curated", kind, made.id, made.example.instruction, text)
        for made in rewrites if not made.reason
        for kind, text in ((DRAFT, made.draft), (ANSWER, made.example.response))
    ]  # fmt: skip
    if probes:
        files += write_shards(stage.path, "probes", probes, len(probes))
    counted = Counter(made.reason for made in rewrites)
    return files, {reason: counted[reason] for reason in ("", *rewriting.REASONS, NO_ROOM) if counted[reason]}, len(probes)


def read(run: Run, iteration: int) -> dict[str, Any]:
    """What rewritten-t/ shows: how many are rewritten, and by each score the answers against their drafts, paired."""
    name = f"rewritten-{iteration}"
    scores: dict[str, Any] = {}
    for score in scores_of(run):
        folder = run.workdir / name / score
        of_pair: dict[str, dict[str, float]] = {}
        for judged in read_shards(folder, "judged", Judged) if folder.exists() else ():
            if judged.score is not None:
                of_pair.setdefault(judged.probe.pair, {})[judged.probe.kind] = judged.score
        if both := [of for of in of_pair.values() if len(of) == 2]:
            scores[score] = _difference(both)
    counts = read_manifest(run.workdir, name)["counts"]
    return {"iteration": iteration, "by": run.cfg.rewrite.by, "examples": counts["in"], "rewritten": counts["rewritten"], "scores": scores}


def _difference(both: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    drafts, answers = ([(of[kind], 1) for of in both] for kind in (DRAFT, ANSWER))
    difference = statistics.paired_difference(answers, drafts)
    mean = statistics.mean_sd([score for score, _ in drafts])["mean"]
    return {"drafts": mean, "answers": difference["value"], **difference, "verdict": statistics.verdict(difference, lower_is_better=False)}


def main() -> None:
    """`humpback rewrite --iteration=T`."""
    run = commandline.open_run()
    if not run.cfg.rewrite.by:
        raise UserError("config field rewrite.by: '' names nobody who rewrites; set it to base or forward")
    rewrite(run, flags.FLAGS.iteration)
