"""Self-curation: M_{t-1} rates every candidate, the best become training examples (paper, section 2.2)."""

import hashlib
import math
from typing import Any

import numpy as np
from absl import flags

from humpback import config as configs
from humpback import distributed, prompts, storage
from humpback.decoding.engine import Result
from humpback.decoding.offline import Output, Task
from humpback.decoding.sampling import Sampler
from humpback.decoding.serving import fit_prompt, serve
from humpback.errors import UserError
from humpback.models import folders
from humpback.progress import warn_of_many
from humpback.records import Candidate, Example, Rated, read_shards, write_shards
from humpback.stages import commandline
from humpback.stages.directory import Run, Stage
from humpback.stages.identity import MANIFEST
from humpback.stages.models import open_engine, stage_inputs
from humpback.tokens.examples import PROMPTS_CUT
from humpback.tokens.tokenizer import Tokenizer

# Why a text has no rating: it ended with its length before one was safe, or it settles on none. Of a candidate without any the first.
CUT, UNREAD = "rating cut off", "no valid rating"
DIGITS = (1, 2, 3, 4, 5)


def define_flags() -> None:
    """The stages' flags and --iteration."""
    commandline.define_flags()
    flags.DEFINE_integer("iteration", 1, "t of A^(t), which M_{t-1} rates", lower_bound=1)


def check(run: Run) -> None:
    """UserError for a rubric that is missing, or that the base's tokenizer or decoding.length does not allow, before hours of training."""
    manifests = [run.workdir / f"ratings-{t}" / MANIFEST for t in range(1, run.cfg.iterations + 1)]
    if distributed.by_first("rated before", lambda: all(path.exists() for path in manifests)):
        return
    rubric = distributed.by_first("rubric", run.place.now.contents.rubric)
    folder = run.workdir / "base"
    model = folders.Model(folders.read_info(folder), {}, Tokenizer.load(folder))
    if run.cfg.curate.mode == "expected":
        score_token_ids(model.tokenizer)
    room, lead = _room(run.cfg)
    prompt = prompts.rating_prompt("", "", run.cfg.curate.mode, rubric)
    if fit_prompt(model, prompt, room, lead) is None:
        raise UserError(
            f"config field decoding.length: {run.cfg.decoding.length} tokens do not even hold the rubric (curate.rubric_file), so nothing "
            "could be rated; raise it, or take a shorter rubric"
        )


def _room(cfg: configs.Config) -> tuple[int, str]:
    """How many tokens a rating's prompt may have, and what stands behind it."""
    c, length = cfg.curate, cfg.decoding.length
    return (length, prompts.SCORE_LEAD) if c.mode == "expected" else (length - c.max_new_tokens, "")


def curate(run: Run, iteration: int) -> None:
    """Makes ratings-t/ and curated-t/."""
    rate(run, iteration)
    select(run, iteration)


def rate(run: Run, iteration: int) -> None:
    """Makes ratings-t/: one Rated per candidate that can be served; one without a valid rating keeps the score None and the reason."""
    cfg, judge = run.cfg, f"forward-{iteration - 1}"
    mode_fields = ["mode", "rubric_file"] + (
        ["samples", "temperature", "top_p", "max_new_tokens"] if cfg.curate.mode == "sampled" else []
    )
    fields = [*(f"curate.{name}" for name in mode_fields), "decoding.", "wrapper", "seed", "mesh."]
    stage = run.stage(f"ratings-{iteration}", fields, ("candidates", judge), module=__name__)
    if stage.complete:
        return
    rubric = distributed.by_first("rubric", run.place.now.contents.rubric)
    template = lambda text: prompts.rating_prompt(text, text, cfg.curate.mode, rubric)  # noqa: E731
    model, engine = open_engine(run, judge, {"forward"}, template)
    rater = _Rater(run, iteration, rubric, run.weights_digest(judge), model)
    output = Output(stage.path, "ratings", stage.name, stage.metrics, stage)
    done = serve(engine, rater.task(), stage_inputs(run, "candidates", Candidate), output, cfg.decoding)
    found = distributed.by_first("ratings counted", lambda: _count_ratings(stage.path))
    counts = {**done.counts, **{name: found[name] for name in ("asked", "valid", "ratings", PROMPTS_CUT)}}
    dropped = {"not usable": done.counts["out"] - found["asked"], CUT: found[CUT], UNREAD: found[UNREAD]} | done.rejected
    digest = hashlib.sha256(rubric.encode()).hexdigest()
    stage.finish(counts=counts, dropped=dropped, files=done.files, tokens=done.tokens, rubric_sha256=digest)
    warn_of_many(
        stage.name, found[CUT] + found[UNREAD], found["ratings"],
        f"texts have no valid rating; curate.max_new_tokens = {cfg.curate.max_new_tokens} cut {found[CUT]} of them off, {found[UNREAD]} "
        f"have none for other reasons, and {found['asked'] - found['valid']} candidates are without any; look at `texts` in "
        f"{stage.path}/ratings-*.jsonl, raise curate.max_new_tokens, or use curate.mode='expected', which needs no parsing",
    )  # fmt: skip
    what = f"ratings are of the beginning of a segment; decoding.length = {cfg.decoding.length} holds no more"
    warn_of_many(stage.name, found[PROMPTS_CUT], found["asked"], what)


def _count_ratings(folder: storage.PathLike) -> dict[str, int]:
    """Of the candidates how many could be asked about, have a valid rating and had their prompt cut; of the ratings how many were asked
    for, and lost by reason."""
    found = dict.fromkeys(("asked", "valid", "ratings", PROMPTS_CUT, CUT, UNREAD), 0)
    for rated in read_shards(folder, "ratings", Rated):
        found["asked"] += not rated.candidate.reason
        found["valid"] += rated.score is not None
        found["ratings"] += len(rated.scores)
        found[PROMPTS_CUT] += rated.prompt_cut
        for reason in rated.lost or (rated.reason or UNREAD,) * rated.scores.count(None):  # older records have one reason for all samples
            found[reason] += 1
    return found


class _Rater:
    """Both ways to rate, as what `offline.run` serves candidates with. One with a reason is not asked about, and keeps its reason."""

    def __init__(self, run: Run, iteration: int, rubric: str, digest: str, model):
        self.cfg, self.rubric, self.digest, self.model = run.cfg, rubric, digest, model
        self.purpose = f"rate-{iteration}"
        self.cut_prompts: set[str] = set()

    def task(self) -> Task:
        """expected: the five digits' logits after "Score: ", prefill only. sampled: `samples` texts. UserError for a wrong tokenizer."""
        c, asks = self.cfg.curate, lambda candidate: not candidate.reason
        if c.mode == "expected":
            return Task(self._encode, self._expected, asks, read=tuple(score_token_ids(self.model.tokenizer)))
        return Task(
            self._encode,
            self._sampled,
            asks,
            max_new=c.max_new_tokens,
            samples=c.samples,
            seed=self.cfg.seed,
            purpose=self.purpose,
            sampler=Sampler(c.temperature, c.top_p),
            stop_ids=frozenset([self.model.tokenizer.eos_id]),
        )

    def _encode(self, candidate: Candidate) -> np.ndarray | None:
        room, lead = _room(self.cfg)
        prompt = prompts.rating_prompt(candidate.instruction, candidate.segment.text, self.cfg.curate.mode, self.rubric)
        fitted = fit_prompt(self.model, prompt, room, lead)
        if fitted and fitted.cut:
            self.cut_prompts.add(candidate.id)
        return fitted and fitted.ids

    def _expected(self, candidate: Candidate, answers: list[np.ndarray]) -> Rated:
        """The mean of 1 … 5 under the probabilities of the five digits."""
        if not answers:
            return self._rated(candidate, None, (), (), (), candidate.reason)
        score = expected_score(answers[0])
        return self._rated(candidate, score, (score,), (), softmax(answers[0]))

    def _sampled(self, candidate: Candidate, answers: list[Result]) -> Rated:
        """The mean of the generated ratings; those without a valid score line count in nothing but the report."""
        texts = tuple(self.model.tokenizer.decode(answer.ids) for answer in answers)
        cut = [answer.finish == "length" for answer in answers]
        scores = tuple(map(prompts.parse_rating, texts, cut))
        valid = [score for score in scores if score is not None]
        lost = tuple(CUT if at_length else UNREAD for score, at_length in zip(scores, cut, strict=True) if score is None)
        mean = math.fsum(valid) / len(valid) if valid else None
        reason = candidate.reason or ("" if valid else CUT if CUT in lost else UNREAD)
        return self._rated(candidate, mean, scores, texts, (), reason, lost)

    def _rated(self, candidate: Candidate, score, scores, texts, probabilities, reason: str = "", lost: tuple[str, ...] = ()) -> Rated:
        return Rated(
            candidate.id, candidate, score, tuple(scores), tuple(texts), tuple(probabilities), reason, self.digest, self.cfg.seed,
            prompt_cut=candidate.id in self.cut_prompts, lost=lost,
        )  # fmt: skip


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


def expected_score(logits: np.ndarray) -> float:
    """The mean of 1 … 5 under the digits' logits f32 [5]."""
    return math.fsum(d * p for d, p in zip(DIGITS, softmax(logits), strict=True))


def softmax(logits: np.ndarray) -> tuple[float, ...]:
    """Probabilities of a few logits, in float64."""
    values = np.exp(logits.astype(np.float64) - logits.max())
    return tuple(float(value) for value in values / values.sum())


def select(run: Run, iteration: int) -> None:
    """Makes curated-t/: the candidates rated best, as augmented Examples. UserError when none is good enough."""
    stage = run.stage(
        f"curated-{iteration}", ("curate.select", "curate.threshold", "curate.fraction"), (f"ratings-{iteration}",), module=__name__
    )
    if not stage.complete:
        stage.finish(**distributed.by_first(f"curated-{iteration}", lambda: _select(run, iteration, stage)))


def _select(run: Run, iteration: int, stage: Stage) -> dict[str, Any]:
    """Writes the shards; returns what the manifest says of them."""
    ratings = lambda: read_shards(run.workdir / f"ratings-{iteration}", "ratings", Rated)  # noqa: E731
    total, scored = 0, []
    for rated in ratings():
        total += 1
        scored += [(rated.score, rated.id)] if rated.score is not None else []
    chosen = choose(scored, total, run.cfg.curate)
    if not chosen:
        if not scored:
            raise UserError(
                f"curated-{iteration}: none of {total} candidates has a valid rating; ratings-{iteration}/manifest.json counts the "
                "reasons; look at the texts there, or use curate.mode='expected', which needs no parsing"
            )
        raise UserError(
            f"curated-{iteration}: no candidate is rated {run.cfg.curate.threshold:g} or more (the best of {len(scored)} valid ratings is "
            f"{max(scored)[0]:.2f}); lower curate.threshold, or use curate.select='top_fraction' for a judge that is not calibrated"
        )
    stage.begin()
    examples = (
        Example(r.id, r.candidate.instruction, r.candidate.segment.text, "augmented", r.candidate.segment.url, r)
        for r in ratings()
        if r.id in chosen
    )
    files = write_shards(stage.path, "curated", examples, len(chosen))
    counts = {
        "selected": len(chosen),
        "rated at least 4.0 (A_4)": sum(score >= 4.0 for score, _ in scored),
        "rated at least 4.5 (A_5)": sum(score >= 4.5 for score, _ in scored),
        "in the top fraction": top_count(total, run.cfg.curate.fraction),
    }
    return {"counts": counts, "dropped": {"not selected": total - len(chosen)}, "files": files}


def choose(scored: list[tuple[float, str]], total: int, curate_config) -> set[str]:
    """The ids selected from (score, id): those at or above the threshold, or the top fraction of all `total` (ties by id)."""
    if curate_config.select == "threshold":
        return {record_id for score, record_id in scored if score >= curate_config.threshold}
    best = sorted(scored, key=lambda pair: (-pair[0], pair[1]))
    return {record_id for _, record_id in best[: top_count(total, curate_config.fraction)]}


def top_count(candidates: int, fraction: float) -> int:
    """How many the top fraction of all candidates is: rounded, and at least one."""
    return max(1, round(candidates * fraction)) if candidates else 0


def main() -> None:
    """`humpback curate --iteration=T`."""
    curate(commandline.open_run(), flags.FLAGS.iteration)
