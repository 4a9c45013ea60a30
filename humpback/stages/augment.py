"""Self-augmentation: the backward model writes one instruction for every segment (paper, section 2.1)."""

from collections.abc import Iterator

from humpback import keys, prompts
from humpback.decoding.engine import Request, Result
from humpback.decoding.offline import Parts, finish
from humpback.decoding.sampling import Sampler
from humpback.records import Candidate, Segment, read_shards
from humpback.stages import commandline
from humpback.stages.directory import Run, read_manifest, say
from humpback.stages.models import encode_prompt, open_engine

define_flags = commandline.define_flags
# Why a candidate is not usable; it stays in the file with the reason and is never rated or selected.
REASONS = ("prompt too long", "unfinished", "empty", "echo")


def augment(run: Run) -> None:
    """Makes candidates/: one Candidate per segment, sampled once (they are only rated again later)."""
    cfg = run.cfg
    stage = run.stage(
        "candidates", ("augment.", "decoding.", "wrapper", "seed", "mesh."), ("segments", "backward")
    )
    if stage.complete:
        return
    segments = list(read_shards(run.workdir / "segments", "segments", Segment))
    writer = read_manifest(run, "backward")["weights_sha256"]
    model, engine = open_engine(run, "backward", {"backward"}, prompts.backward_prompt)
    sampler = Sampler(cfg.augment.temperature, cfg.augment.top_p)
    say(f"{engine.warm_up(sampler)} programs ready")
    room = cfg.decoding.length - cfg.augment.max_new_tokens

    def serve(todo: list[Segment]) -> Iterator[tuple[Candidate, int]]:
        lengths, by_id, requests = {}, {s.id: s for s in todo}, []
        for segment, key in zip(todo, keys.record_keys(cfg.seed, "augment", list(by_id)), strict=True):
            ids = encode_prompt(model, prompts.backward_prompt(segment.text), room)
            if ids is None or not engine.fits(ids, cfg.augment.max_new_tokens):
                yield Candidate(segment.id, segment, "", "prompt too long", writer, cfg.seed), 0
                continue
            lengths[segment.id] = len(ids)
            requests.append(Request(segment.id, ids, key, cfg.augment.max_new_tokens))
        for result in engine.generate(requests, sampler, frozenset([model.tokenizer.eos_id])):
            segment = by_id[result.id]
            instruction = model.tokenizer.decode(result.ids).strip()
            reason = judge(instruction, result, segment)
            tokens = lengths[result.id] + len(result.log_probs)
            yield Candidate(segment.id, segment, instruction, reason, writer, cfg.seed), tokens

    parts = Parts(stage.path / "parts", Candidate)
    tokens = finish(parts, segments, serve, label="augment", metrics=stage.metrics)
    files = parts.merge(stage.path, "candidates")
    reasons = [candidate.reason for candidate in read_shards(stage.path, "candidates", Candidate)]
    dropped = {reason: reasons.count(reason) for reason in REASONS}
    usable = len(reasons) - sum(dropped.values())
    stage.finish(counts={"candidates": len(reasons), "usable": usable}, dropped=dropped, files=files, tokens=tokens)


def judge(instruction: str, result: Result, segment: Segment) -> str:
    """Why a candidate is not usable, one of REASONS; "" when it is."""
    if result.finish != "stop":
        return "unfinished"
    if not instruction:
        return "empty"
    return "echo" if prompts.echoes(instruction, segment.text) else ""


def main() -> None:
    """`humpback augment`."""
    augment(commandline.open_run())
