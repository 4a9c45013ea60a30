"""The same held-out prompts, answered by the base and by every M_t, for people to read side by side.

Off unless answers.prompts says how many: it is not the paper's, and loads each model once more. No model was trained on a prompt. All are
asked as at inference, the base too, and draw by the same keys, so that what differs between two answers is the model.
"""

import functools

from humpback import distributed, keys, prompts
from humpback.decoding.answers import NAME, Generated, PromptLine, Writer, count_answers
from humpback.decoding.engine import Result
from humpback.decoding.offline import TOO_LONG, Output, Task
from humpback.decoding.parts import REJECTED, number_of
from humpback.decoding.sampling import Sampler
from humpback.decoding.serving import serve
from humpback.errors import UserError
from humpback.models.folders import Model
from humpback.progress import warn_of_many
from humpback.records import Example, shard_paths
from humpback.report.texts import PROMPTS
from humpback.stages import commandline, held_out
from humpback.stages.directory import Run
from humpback.stages.identity import MANIFEST
from humpback.stages.models import inputs_of, open_engine

define_flags = commandline.define_flags


def answer(run: Run, iteration: int) -> None:
    """Makes answers-t/, what M_t says, and with M_0's answers-base/; nothing where answers.prompts is 0."""
    if run.cfg.answers.prompts:
        for name in (*(["base"] if iteration == 0 else []), f"forward-{iteration}"):
            _answer(run, name)


def _answer(run: Run, name: str) -> None:
    """One model's: the pairs whose instructions are asked, and lines as `humpback generate` writes them."""
    cfg = run.cfg.answers
    fields = ("answers.", "decoding.", "wrapper", "seed", "mesh.")
    stage = run.stage(f"answers-{name.removeprefix('forward-')}", fields, ("seed", name), module=__name__)
    if stage.complete:
        return
    pairs = choose(run)
    if not pairs:
        stage.finish(counts={"in": 0}, files=stage.hand_out(PROMPTS, pairs))
        return
    direction = name.partition("-")[0]
    model, engine, decoding = open_engine(run, stage, name, {direction}, prompts.forward_prompt)
    files = stage.hand_out(PROMPTS, pairs)
    inputs = inputs_of(shard_paths(stage.path, PROMPTS), Example, any_id=True)
    output = Output(stage.path, NAME, stage.name, stage.metrics, stage)
    done = serve(engine, _task(run, model), inputs, output, decoding)
    _, cut = distributed.by_first(f"answers of {stage.path}", functools.partial(count_answers, stage.path))
    counts = {**done.counts, "answers cut": cut}
    model_digest = f"sha256 {run.weights_digest(name)}"
    stage.finish(counts=counts, dropped=done.rejected, files=[*files, *done.files], tokens=done.tokens, model=model_digest)
    what = f"prompts are not asked, as decoding.length = {run.cfg.decoding.length} has no room for them and {cfg.max_new_tokens} tokens"
    warn_of_many(stage.name, done.rejected.get(f"{REJECTED}{TOO_LONG}", 0), done.counts["in"], what)


def choose(run: Run) -> list[Example]:
    """The pairs whose instructions are asked: of all held-out ones as many as answers.prompts, drawn by chance, each instruction once."""
    sets = held_out.read_sets(run.workdir, run.cfg.evaluation.sets)
    asked = {prompts.bare(pair.instruction): pair for pairs in sets.values() for pair in pairs}
    by_number = {number_of(pair.id): pair for pair in asked.values()}
    order = keys.drawn(run.cfg.seed, "answers prompts", list(by_number)).tolist()
    return [by_number[number] for number in order[: run.cfg.answers.prompts]]


def _task(run: Run, model: Model) -> Task:
    cfg, writer = run.cfg.answers, Writer(model, prompts.forward_prompt, ())

    def line(pair: Example) -> PromptLine:
        return PromptLine(pair.id, None, None, pair.instruction)

    def make(pair: Example, answers: list[Result]) -> Generated:
        return writer.make(line(pair), answers)

    return Task(
        lambda pair: writer.encode(line(pair)),
        make,
        max_new=cfg.max_new_tokens,
        seed=run.cfg.seed,
        purpose="answers",
        sampler=Sampler(cfg.temperature, cfg.top_p),
        stop_ids=frozenset([model.tokenizer.eos_id]),
    )


def main() -> None:
    """`humpback answer`: of all models that the run has by now."""
    run = commandline.open_run()
    if not run.cfg.answers.prompts:
        raise UserError("config field answers.prompts: 0 asks nothing; set it to 5, for example")
    names = [f"forward-{iteration}" for iteration in range(run.cfg.iterations + 1)]
    there = distributed.by_first("models", lambda: [(run.workdir / name / MANIFEST).exists() for name in names])
    if not there[0]:
        raise UserError(f"{run.workdir}: no forward model is complete; `humpback finetune --task=forward` makes M_0")
    for iteration, complete in enumerate(there):
        if complete:
            answer(run, iteration)
