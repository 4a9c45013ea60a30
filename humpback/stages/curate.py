"""Self-curation: M_{t-1} rates every candidate, the best become training examples (paper, section 2.2)."""

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from absl import flags
from etils import epath

from humpback import keys, prompts
from humpback.decoding.engine import Request
from humpback.decoding.offline import Parts, finish
from humpback.decoding.sampling import Sampler
from humpback.errors import UserError
from humpback.records import Candidate, Example, Rated, read_shards, write_shards
from humpback.stages import commandline
from humpback.stages.directory import Run, read_manifest, say
from humpback.stages.models import encode_prompt, open_engine
from humpback.tokens.tokenizer import Tokenizer

_ITERATION = "iteration"
DIGITS = (1, 2, 3, 4, 5)


def define_flags() -> None:
    """The stages' flags and --iteration."""
    commandline.define_flags()
    flags.DEFINE_integer(_ITERATION, 1, "t of A^(t), which M_{t-1} rates", lower_bound=1)


def curate(run: Run, iteration: int) -> None:
    """Makes ratings-t/ and curated-t/."""
    rate(run, iteration)
    select(run, iteration)


def rate(run: Run, iteration: int) -> None:
    """Makes ratings-t/: one Rated per candidate; one without a valid rating keeps the score None and the reason."""
    cfg, judge = run.cfg, f"forward-{iteration - 1}"
    mode_fields = ["mode", "rubric_file"] + (
        ["samples", "temperature", "top_p", "max_new_tokens"] if cfg.curate.mode == "sampled" else []
    )
    fields = [*(f"curate.{name}" for name in mode_fields), "decoding.", "wrapper", "seed", "mesh."]
    stage = run.stage(f"ratings-{iteration}", fields, ("candidates", judge))
    if stage.complete:
        return
    rubric = _read_rubric(cfg.curate.rubric_file)
    candidates = list(read_shards(run.workdir / "candidates", "candidates", Candidate))
    template = lambda text: prompts.rating_prompt(text, text, cfg.curate.mode, rubric)  # noqa: E731
    model, engine = open_engine(run, judge, {"forward"}, template)
    rater = _Rater(run, iteration, rubric, read_manifest(run, judge)["weights_sha256"], model, engine)
    parts = Parts(stage.path / "parts", Rated)
    serve = rater.expected if cfg.curate.mode == "expected" else rater.sampled
    tokens = finish(parts, candidates, serve, label=f"rate {iteration}", metrics=stage.metrics)
    files = parts.merge(stage.path, "ratings")
    rated = list(read_shards(stage.path, "ratings", Rated))
    asked = [r for r in rated if not r.candidate.reason]
    counts = {"ratings": len(rated), "asked": len(asked), "valid": sum(r.score is not None for r in asked)}
    dropped = {"not usable": len(rated) - len(asked), "no valid rating": counts["asked"] - counts["valid"]}
    digest = hashlib.sha256(rubric.encode()).hexdigest()
    stage.finish(counts=counts, dropped=dropped, files=files, tokens=tokens, rubric_sha256=digest)


class _Rater:
    """Both ways to rate, as what `offline.finish` serves candidates with."""

    def __init__(self, run: Run, iteration: int, rubric: str, digest: str, model, engine):
        self.cfg, self.rubric, self.digest, self.model, self.engine = run.cfg, rubric, digest, model, engine
        self.purpose = f"rate-{iteration}"

    def expected(self, todo: list[Candidate]) -> Iterator[tuple[Rated, int]]:
        """The mean of 1 … 5 under the probabilities of the five digits after "Score: "; prefill only."""
        digit_ids = score_token_ids(self.model.tokenizer)
        say(f"{self.engine.warm_up(read=len(digit_ids))} programs ready")
        yield from self._skipped(todo)
        prompts_by_id, unfit = self._prompts(todo, self.cfg.decoding.length, prompts.SCORE_LEAD)
        yield from unfit
        requests = [Request(c.id, ids, np.zeros(2, np.uint32), 0) for c, ids in prompts_by_id.values()]
        for record_id, logits in self.engine.read(requests, digit_ids):
            candidate, ids = prompts_by_id[record_id]
            probabilities = softmax(logits)
            score = math.fsum(d * p for d, p in zip(DIGITS, probabilities, strict=True))
            yield self._rated(candidate, score, (score,), (), probabilities), len(ids)

    def sampled(self, todo: list[Candidate]) -> Iterator[tuple[Rated, int]]:
        """The mean of `samples` generated ratings; those without a valid score line count in nothing but the report."""
        c = self.cfg.curate
        yield from self._skipped(todo)
        prompts_by_id, unfit = self._prompts(todo, self.cfg.decoding.length - c.max_new_tokens, "")
        yield from unfit
        texts: dict[str, dict[int, str]] = {record_id: {} for record_id in prompts_by_id}
        tokens = dict.fromkeys(prompts_by_id, 0)
        every = [keys.record_keys(self.cfg.seed, self.purpose, list(prompts_by_id), k) for k in range(c.samples)]
        requests = [
            Request(f"{record_id}/{k}", ids, every[k][row], c.max_new_tokens)
            for row, (record_id, (_, ids)) in enumerate(prompts_by_id.items())
            for k in range(c.samples)
        ]
        sampler = Sampler(c.temperature, c.top_p)
        say(f"{self.engine.warm_up(sampler)} programs ready")
        for result in self.engine.generate(requests, sampler, frozenset([self.model.tokenizer.eos_id])):
            record_id, k = result.id.split("/")
            candidate, ids = prompts_by_id[record_id]
            texts[record_id][int(k)] = self.model.tokenizer.decode(result.ids)
            tokens[record_id] += len(ids) + len(result.log_probs)
            if len(texts[record_id]) == c.samples:
                answers = tuple(text for _, text in sorted(texts.pop(record_id).items()))
                scores = tuple(prompts.parse_rating(answer) for answer in answers)
                valid = [score for score in scores if score is not None]
                mean = math.fsum(valid) / len(valid) if valid else None
                yield self._rated(candidate, mean, scores, answers, ()), tokens[record_id]

    def _skipped(self, todo: list[Candidate]) -> Iterator[tuple[Rated, int]]:
        for candidate in todo:
            if candidate.reason:
                yield self._rated(candidate, None, (), (), (), candidate.reason), 0

    def _prompts(self, todo: list[Candidate], room: int, lead: str):
        """{id: (candidate, prompt ids)} of the usable candidates, and the records of those that cannot fit."""
        fit, unfit = {}, []
        for candidate in (c for c in todo if not c.reason):
            prompt = prompts.rating_prompt(
                candidate.instruction, candidate.segment.text, self.cfg.curate.mode, self.rubric
            )
            ids = encode_prompt(self.model, prompt, room, lead)
            if ids is None or not self.engine.fits(ids, self.cfg.decoding.length - room):
                unfit.append((self._rated(candidate, None, (), (), (), "prompt too long"), 0))
            else:
                fit[candidate.id] = (candidate, ids)
        return fit, unfit

    def _rated(self, candidate: Candidate, score, scores, texts, probabilities, reason: str = "") -> Rated:
        if not reason and score is None:
            reason = "no valid rating"
        return Rated(
            candidate.id, candidate, score, tuple(scores), tuple(texts), tuple(probabilities), reason, self.digest, self.cfg.seed
        )


def score_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of the digits after "Score: ". UserError when this tokenizer does not write them as one token each."""
    lead = tokenizer.encode(prompts.SCORE_LEAD)
    ids = []
    for digit in DIGITS:
        whole = tokenizer.encode(f"{prompts.SCORE_LEAD}{digit}")
        if whole[:-1] != lead or len(whole) != len(lead) + 1:
            raise UserError(
                f"config field curate.mode: 'expected' needs {prompts.SCORE_LEAD!r} and a digit to be that text's tokens and one more, "
                f"but {tokenizer.name} encodes {prompts.SCORE_LEAD + str(digit)!r} as {whole} and {prompts.SCORE_LEAD!r} as {lead}; "
                "use curate.mode='sampled'"
            )
        ids.append(whole[-1])
    return ids


def softmax(logits: np.ndarray) -> tuple[float, ...]:
    """Probabilities of a few logits, in float64."""
    values = np.exp(logits.astype(np.float64) - logits.max())
    return tuple(float(value) for value in values / values.sum())


def select(run: Run, iteration: int) -> None:
    """Makes curated-t/: the candidates rated best, as augmented Examples. UserError when none is good enough."""
    stage = run.stage(
        f"curated-{iteration}", ("curate.select", "curate.threshold", "curate.fraction"), (f"ratings-{iteration}",)
    )
    if stage.complete:
        return
    rated = list(read_shards(run.workdir / f"ratings-{iteration}", "ratings", Rated))
    chosen = choose(rated, run.cfg.curate)
    if not chosen:
        scores = sorted((r.score for r in rated if r.score is not None), reverse=True)
        if not scores:
            raise UserError(
                f"curated-{iteration}: none of {len(rated)} candidates has a valid rating; ratings-{iteration}/manifest.json counts the "
                "reasons; look at the texts there, or use curate.mode='expected', which needs no parsing"
            )
        raise UserError(
            f"curated-{iteration}: no candidate is rated {run.cfg.curate.threshold:g} or more (the best of {len(scores)} valid ratings is "
            f"{scores[0]:.2f}); lower curate.threshold, or use curate.select='top_fraction' for a judge that is not calibrated"
        )
    made = [Example(r.id, r.candidate.instruction, r.candidate.segment.text, "augmented", r.candidate.segment.url, r) for r in chosen]
    files = write_shards(stage.path, "curated", made, len(made))
    counts = {
        "selected": len(made),
        "rated at least 4.0 (A_4)": sum(r.score is not None and r.score >= 4.0 for r in rated),
        "rated at least 4.5 (A_5)": sum(r.score is not None and r.score >= 4.5 for r in rated),
        "in the top fraction": top_count(len(rated), run.cfg.curate.fraction),
    }
    stage.finish(counts=counts, dropped={"not selected": len(rated) - len(made)}, files=files)


def choose(rated: list[Rated], curate_config) -> list[Rated]:
    """The selected records sorted by id: those at or above the threshold, or the top fraction of all (ties by id)."""
    valid = sorted((r for r in rated if r.score is not None), key=lambda r: (-r.score, r.id))
    if curate_config.select == "threshold":
        kept = [r for r in valid if r.score >= curate_config.threshold]
    else:
        kept = valid[: top_count(len(rated), curate_config.fraction)]
    return sorted(kept, key=lambda r: r.id)


def top_count(candidates: int, fraction: float) -> int:
    """How many the top fraction of all candidates is: rounded, and at least one."""
    return max(1, round(candidates * fraction)) if candidates else 0


def _read_rubric(path: str) -> str:
    if not path:
        return prompts.RUBRIC
    try:
        return epath.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config field curate.rubric_file: {path!r} cannot be read ({error})") from error


def main() -> None:
    """`humpback curate --iteration=T`."""
    curate(commandline.open_run(), flags.FLAGS[_ITERATION].value)
