"""How much likelier a response is under its instruction than without one: another score of a pair, by prefill alone.

docs/method.md defines it, and says why. The judge need not keep to a format, nor be calibrated, for it.
"""

import numpy as np

from humpback import distributed, prompts
from humpback.decoding.branches import Target
from humpback.decoding.engine import Engine
from humpback.decoding.offline import Output, Task
from humpback.decoding.serving import serve
from humpback.models.folders import Model
from humpback.progress import warn_of_many
from humpback.records import Candidate, Likely, read_shards
from humpback.stages import curate
from humpback.stages.directory import Run
from humpback.stages.models import stage_inputs
from humpback.tokens.examples import PROMPTS_CUT, fit_condition

FIELDS = ("decoding.", "wrapper", "mesh.")


def measure(run: Run, iteration: int, judge: "curate.Judge") -> None:
    """Makes likelihood-t/: one Likely per candidate that can be served; one with a reason is not asked about and keeps it."""
    stage = run.stage(f"likelihood-{iteration}", FIELDS, ("candidates", judge.name), module=__name__)
    if stage.complete:
        return
    model, engine, decoding = judge.open(stage)
    asked = Asked(model, run.cfg.decoding.length)
    digest = run.weights_digest(judge.name)

    def make(candidate: Candidate, answers: list[np.ndarray]) -> Likely:
        if not answers:
            return Likely(candidate.id, candidate, candidate.reason, digest)
        under, alone = (float(answer[0]) for answer in answers)
        tokens, cut = asked.tokens(candidate.segment.text), candidate.id in asked.cut
        return Likely(candidate.id, candidate, "", digest, under, alone, tokens, cut)

    def encode(candidate: Candidate) -> list[Target] | None:
        return asked.targets(candidate.id, candidate.instruction, candidate.segment.text)

    task = Task(encode, make, lambda candidate: not candidate.reason, score=True)
    output = Output(stage.path, "likelihood", stage.name, stage.metrics, stage)
    done = serve(engine_of(engine), task, stage_inputs(run, "candidates", Candidate), output, decoding)
    found = distributed.by_first("likelihoods counted", lambda: _count(run, iteration))
    counts = {**done.counts, "asked": found["asked"], PROMPTS_CUT: found[PROMPTS_CUT]}
    stage.finish(counts=counts, dropped={"not usable": found["not usable"]} | done.rejected, files=done.files, tokens=done.tokens)
    what = f"candidates have no likelihood, as their text leaves no room in decoding.length = {run.cfg.decoding.length}"
    warn_of_many(stage.name, done.counts["rejects"], done.counts["in"], what)


def engine_of(engine: Engine) -> Engine:
    """A judge's engine for prompts that do not begin with its rubric."""
    return engine.with_prefix(())


class Asked:
    """Pairs as what a judge is asked about: the response behind its instruction, and behind none."""

    def __init__(self, model: Model, length: int):
        self._model, self._length, self._wrapper = model, length, prompts.WRAPPERS[model.info.wrapper]
        self.cut: set[str] = set()  # ids of pairs whose instruction lost its end

    def _response(self, text: str) -> list[int]:
        return [*self._model.tokenizer.encode(text.strip()), self._model.tokenizer.eos_id]

    def tokens(self, text: str) -> int:
        """Of a response, its end among them."""
        return len(self._response(text))

    def targets(self, pair: str, instruction: str, text: str) -> list[Target] | None:
        """Both prompts as at inference, with both tags; None for a response that leaves no room for them."""
        response, found = self._response(text), []
        for prompt in (prompts.forward_prompt(instruction), prompts.UNASKED):
            condition = fit_condition(self._model.tokenizer, prompt, self._wrapper, self._length - len(response))
            if condition is None:
                return None
            if condition.cut:
                self.cut.add(pair)
            found.append(Target(np.array([*condition.ids, *response], np.int32), len(condition.ids)))
        return found


def _count(run: Run, iteration: int) -> dict[str, int]:
    found = dict.fromkeys(("asked", "not usable", PROMPTS_CUT), 0)
    for likely in read_shards(run.workdir / f"likelihood-{iteration}", "likelihood", Likely):
        found["not usable" if likely.reason else "asked"] += 1
        found[PROMPTS_CUT] += likely.prompt_cut
    return found
