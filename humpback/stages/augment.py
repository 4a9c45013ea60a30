"""Self-augmentation: the backward model writes one instruction for every segment, or several (paper, section 2.1)."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from humpback import distributed, prompts, storage
from humpback.decoding.engine import Result
from humpback.decoding.offline import Inputs, Output, Task, Unservable
from humpback.decoding.sampling import Sampler
from humpback.decoding.serving import fit_prompt, serve
from humpback.progress import warn_of_many
from humpback.records import Candidate, Segment, from_json, id_of, read_shards, record_id, shard_paths
from humpback.stages import commandline
from humpback.stages.directory import Run
from humpback.stages.models import open_engine, placed_lines
from humpback.tokens.examples import PROMPTS_CUT

define_flags = commandline.define_flags
# Why a candidate is not usable; it stays in the file with the reason and is never rated or selected.
REASONS = ("unfinished", "empty", "echo")
_NEXT = "#"  # behind a line's place: the number of the instruction, from the second on


class Asked(NamedTuple):
    """A segment for which an instruction is wanted, under the id of that candidate."""

    id: str
    segment: Segment


def augment(run: Run) -> None:
    """Makes candidates/: augment.candidates Candidates per segment that can be served, each sampled once (they are only rated again
    later)."""
    cfg = run.cfg
    stage = run.stage(
        "candidates", ("augment.", "decoding.", "wrapper", "seed", "mesh."), ("segments", "backward"), module=__name__
    )
    if stage.complete:
        return
    writer = run.weights_digest("backward")
    model, engine, decoding = open_engine(run, stage, "backward", {"backward"}, prompts.backward_prompt)
    room = cfg.decoding.length - cfg.augment.max_new_tokens
    cut_prompts: set[str] = set()

    def encode(asked: Asked) -> np.ndarray | None:
        if not asked.segment.text.strip():
            raise Unservable("empty")
        prompt = fit_prompt(model, prompts.backward_prompt(asked.segment.text), room)
        if prompt and prompt.cut:
            cut_prompts.add(asked.id)
        return prompt and prompt.ids

    def make(asked: Asked, answers: list[Result]) -> Candidate:
        segment = asked.segment
        instruction = model.tokenizer.decode(answers[0].ids).strip()
        reason = judge(instruction, answers[0], segment, cfg.augment.echo_words)
        log_probs = answers[0].log_probs
        log_prob = math.fsum(log_probs) / len(log_probs) if log_probs else None
        return Candidate(asked.id, segment, instruction, reason, writer, cfg.seed, asked.id in cut_prompts, log_prob)

    task = Task(
        encode,
        make,
        max_new=cfg.augment.max_new_tokens,
        seed=cfg.seed,
        purpose="augment",
        sampler=Sampler(cfg.augment.temperature, cfg.augment.top_p),
        stop_ids=frozenset([model.tokenizer.eos_id]),
    )
    output = Output(stage.path, "candidates", stage.name, stage.metrics, stage)
    done = serve(engine, task, _inputs(run, cfg.augment.candidates), output, decoding)
    reasons, cut = distributed.by_first("candidates by reason", lambda: _count_candidates(stage.path))
    counts = {**done.counts, "usable": reasons.get("", 0), PROMPTS_CUT: cut}
    dropped = {reason: reasons.get(reason, 0) for reason in REASONS} | done.rejected
    stage.finish(counts=counts, dropped=dropped, files=done.files, tokens=done.tokens)
    room_for = f"decoding.length = {cfg.decoding.length} less augment.max_new_tokens = {cfg.augment.max_new_tokens} holds no more"
    warn_of_many(stage.name, cut, sum(reasons.values()), f"instructions are written from the beginning of their segment; {room_for}")


def _inputs(run: Run, count: int) -> Inputs:
    """The segments, each as often as instructions are wanted for it. The first candidate has the segment's id, others one of their own."""

    def read(path: storage.PathLike) -> Iterator[tuple[str, str]]:
        for where, line in placed_lines(path):
            yield where, line
            yield from ((f"{where}{_NEXT}{number}", line) for number in range(1, count))

    def candidate_id(line: str, where: str) -> str:
        number = int(where.partition(_NEXT)[2] or 0)
        return record_id(id_of(line, where), number, number + 1, "") if number else id_of(line, where)

    def parse(line: str, where: str) -> Asked:
        return Asked(candidate_id(line, where), from_json(Segment, line, where))

    return Inputs(shard_paths(run.workdir / "segments", "segments"), parse, id_of=candidate_id, read=read)


def _count_candidates(folder: storage.PathLike) -> tuple[dict[str, int], int]:
    """How many candidates have which reason, and how many are written from a cut prompt."""
    reasons: Counter[str] = Counter()
    cut = 0
    for candidate in read_shards(folder, "candidates", Candidate):
        reasons[candidate.reason] += 1
        cut += candidate.prompt_cut
    return dict(reasons), cut


def judge(instruction: str, result: Result, segment: Segment, echo_words: int = 8) -> str:
    """Why a candidate is not usable, one of REASONS; "" when it is. echo_words: 0 takes no instruction for an echo."""
    if result.finish != "stop":
        return "unfinished"
    if not instruction:
        return "empty"
    return "echo" if echo_words and prompts.echoes(instruction, segment.text, echo_words) else ""


def main() -> None:
    """`humpback augment`."""
    augment(commandline.open_run())
