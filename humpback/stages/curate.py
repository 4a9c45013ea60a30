"""Self-curation: M_{t-1} rates every candidate, the best become training examples (paper, section 2.2)."""

import functools
import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from absl import flags

from humpback import config as configs
from humpback import distributed, prompts, storage
from humpback.config import BACKWARD, LIKELIHOOD, Curate, rubric_of
from humpback.decoding.engine import Engine, Result
from humpback.decoding.offline import Done, Inputs, Output, Task
from humpback.decoding.sampling import Sampler
from humpback.decoding.serving import fit_prompt, serve
from humpback.errors import UserError
from humpback.evaluation import statistics
from humpback.models import folders
from humpback.models.folders import Model
from humpback.progress import warn_of_many
from humpback.records import Candidate, Example, Likely, Rated, read_shards, write_shards
from humpback.stages import commandline, endpoint, fitting
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
    """UserError for a rubric that is missing, or that the base's tokenizer or decoding.length does not allow, and for an endpoint that
    several processes would ask, before hours of training."""
    manifests = [run.workdir / f"ratings-{t}" / MANIFEST for t in range(1, run.cfg.iterations + 1)]
    mode = rubric_mode(run.cfg.curate)
    if not mode or distributed.by_first("rated before", lambda: all(path.exists() for path in manifests)):
        return
    rubric = distributed.by_first("rubric", run.place.now.contents.rubric)
    if run.cfg.curate.judge:
        endpoint.check()
        return
    folder = run.workdir / "base"
    model = Model(folders.read_info(folder), {}, Tokenizer.load(folder))
    if mode == "expected":
        score_token_ids(model.tokenizer)
    room, lead = _room(run.cfg, mode)
    if fit_prompt(model, prompts.rating_prompt("", "", mode, rubric), room, lead) is None:
        raise UserError(
            f"config field decoding.length: {run.cfg.decoding.length} tokens do not even hold the rubric (curate.rubric_file), so nothing "
            "could be rated; raise it, or take a shorter rubric"
        )


def _room(cfg: configs.Config, mode: str, length: int = 0) -> tuple[int, str]:
    """How many tokens a rating's prompt may have, of `length` or decoding.length, and what stands behind it."""
    length = length or cfg.decoding.length
    return (length, prompts.SCORE_LEAD) if mode == "expected" else (length - cfg.curate.max_new_tokens, "")


def rubric_mode(cfg: Curate) -> str:
    """How candidates are rated by the rubric, whether that chooses or not; "" when they are not."""
    return rubric_of(cfg.mode) or rubric_of(cfg.beside)


def with_likelihood(cfg: Curate) -> bool:
    """Whether the likelihood is measured, whether it chooses or not."""
    return LIKELIHOOD in (*cfg.mode.split("+"), cfg.beside)


def rating_fields(cfg: Curate) -> list[str]:
    """The config fields that decide what a judge says by the rubric."""
    names = ["mode", "beside", "rubric_file", *(["judge", "judge_model"] if cfg.judge else [])] + (
        ["samples", "temperature", "top_p", "max_new_tokens"] if rubric_mode(cfg) == "sampled" else []
    )
    return [*(f"curate.{name}" for name in names), "decoding.", "wrapper", "seed", "mesh."]


class Judge:
    """M_{t-1} and its rubric, opened when somebody asks."""

    def __init__(self, run: Run, iteration: int):
        self._run, self.name = run, f"forward-{iteration - 1}"
        self._opened: tuple[Model, Engine, configs.Decoding] | None = None

    @functools.cached_property
    def rubric(self) -> str:
        """The text of the rubric."""
        return distributed.by_first("rubric", self._run.place.now.contents.rubric)

    def open(self, stage: Stage) -> tuple[Model, Engine, configs.Decoding]:
        """The model without its weights, the engine, which has read the rubric, and what the stage takes of the machine."""
        mode = rubric_mode(self._run.cfg.curate)
        template = lambda text: prompts.rating_prompt(text, text, mode, self.rubric) if mode else prompts.forward_prompt(text)  # noqa: E731
        if self._opened is None or self._opened[2] != fitting.fitted(self._run, stage, self._opened[0].info.config):
            self._opened = None  # one engine at a time has room
            self._opened = open_engine(self._run, stage, self.name, {"forward"}, template)
        return self._opened


def rate(run: Run, iteration: int, judge: Judge | None = None) -> None:
    """Makes ratings-t/: one Rated per candidate that can be served; one without a valid rating keeps the score None and the reason."""
    cfg, judge = run.cfg, judge or Judge(run, iteration)
    stage = run.stage(f"ratings-{iteration}", rating_fields(cfg.curate), ("candidates", judge.name), module=__name__)
    if stage.complete:
        return
    rubric, inputs = judge.rubric, stage_inputs(run, "candidates", Candidate)
    if cfg.curate.judge:
        done = _rate_by_endpoint(run, stage, Rater(run, iteration, rubric, "", None), inputs)
    else:
        model, engine, decoding = judge.open(stage)
        rater = Rater(run, iteration, rubric, run.weights_digest(judge.name), model)
        output = Output(stage.path, "ratings", stage.name, stage.metrics, stage)
        done = serve(engine, rater.task(), inputs, output, decoding)
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


def _rate_by_endpoint(run: Run, stage: Stage, rater: "Rater", inputs: Inputs) -> Done:
    def prompt_of(candidate: Candidate) -> prompts.Prompt | None:
        return None if candidate.reason else rater.prompt(candidate)

    return endpoint.serve(run, stage, stage.path, "ratings", inputs, prompt_of, rater.of_answers)


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


class Rater:
    """Both ways to rate, as what `offline.run` serves candidates with. One with a reason is not asked about, and keeps its reason."""

    def __init__(self, run: Run, iteration: int, rubric: str, digest: str, model, room: int = 0):
        """room: tokens of prompt and answer; 0 is decoding.length."""
        self.cfg, self.rubric, self.digest, self.model, self.room = run.cfg, rubric, digest, model, room
        self.mode, self.purpose = rubric_mode(run.cfg.curate), f"rate-{iteration}"
        self.cut_prompts: set[str] = set()

    def task(self) -> Task:
        """expected: the five digits' logits after "Score: ", prefill only. sampled: `samples` texts. UserError for a wrong tokenizer."""
        c, asks = self.cfg.curate, lambda candidate: not candidate.reason
        if self.mode == "expected":
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
        room, lead = _room(self.cfg, self.mode, self.room)
        fitted = fit_prompt(self.model, self.prompt(candidate), room, lead)
        if fitted and fitted.cut:
            self.cut_prompts.add(candidate.id)
        return fitted and fitted.ids

    def _expected(self, candidate: Candidate, answers: list[np.ndarray]) -> Rated:
        """The mean of 1 … 5 under the probabilities of the five digits."""
        if not answers:
            return self._rated(candidate, None, (), (), (), candidate.reason)
        score = expected_score(answers[0])
        return msgspec.structs.replace(self._rated(candidate, score, (score,), (), softmax(answers[0])), mass=label_mass(answers[0]))

    def _sampled(self, candidate: Candidate, answers: list[Result]) -> Rated:
        """The mean of the generated ratings; those without a valid score line count in nothing but the report."""
        return self.of_texts(candidate, tuple(self.model.tokenizer.decode(a.ids) for a in answers), [a.finish == "length" for a in answers])

    def prompt(self, candidate: Candidate) -> prompts.Prompt:
        """What is asked about a candidate."""
        return prompts.rating_prompt(candidate.instruction, candidate.segment.text, self.mode, self.rubric)

    def of_texts(self, candidate: Candidate, texts: tuple[str, ...], cut: Sequence[bool]) -> Rated:
        """The rating that generated texts settle on; cut: which of them ended with their length."""
        scores = tuple(map(prompts.parse_rating, texts, cut))
        valid = [score for score in scores if score is not None]
        lost = tuple(CUT if at_length else UNREAD for score, at_length in zip(scores, cut, strict=True) if score is None)
        mean = math.fsum(valid) / len(valid) if valid else None
        reason = candidate.reason or ("" if valid else CUT if CUT in lost else UNREAD)
        return self._rated(candidate, mean, scores, texts, (), reason, lost)

    def of_answers(self, candidate: Candidate, answers: Sequence[endpoint.Answer]) -> Rated:
        """`of_texts` of an endpoint's answers, with the name that it gives its model."""
        rated = self.of_texts(candidate, tuple(a.text for a in answers), [a.cut for a in answers])
        return msgspec.structs.replace(rated, model=answers[0].model) if answers else rated

    def _rated(self, candidate: Candidate, score, scores, texts, probabilities, reason: str = "", lost: tuple[str, ...] = ()) -> Rated:
        return Rated(
            candidate.id, candidate, score, tuple(scores), tuple(texts), tuple(probabilities), reason, self.digest, self.cfg.seed,
            prompt_cut=candidate.id in self.cut_prompts, lost=lost,
        )  # fmt: skip


def score_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of the digits after "Score: ". UserError when this tokenizer does not write them as one token each."""
    return label_ids(tokenizer, prompts.SCORE_LEAD, DIGITS, "config field curate.mode: 'expected'", "; use curate.mode='sampled'")


def label_ids(tokenizer: Tokenizer, lead: str, labels: Sequence[int | str], who: str, way_out: str = "") -> list[int]:
    """The ids of labels after a lead. UserError, for who needs them, when this tokenizer does not write them as one token each."""
    before, ids = tokenizer.encode(lead), []
    for label in labels:
        whole = tokenizer.encode(f"{lead}{label}")
        if whole[:-1] != before or len(whole) != len(before) + 1:
            raise UserError(
                f"{who} needs {lead!r} and {str(label)!r} to be that text's tokens and one more, but {tokenizer.name} encodes "
                f"{lead + str(label)!r} as {whole} and {lead!r} as {before}{way_out}"
            )
        ids.append(whole[-1])
    return ids


def expected_score(logits: np.ndarray) -> float:
    """The mean of 1 … 5 under the digits' logits, or log-probabilities, f32 [5]."""
    return math.fsum(d * p for d, p in zip(DIGITS, softmax(logits), strict=True))


def label_mass(log_probs: np.ndarray) -> float:
    """What labels have together of the whole vocabulary's probability."""
    return float(np.exp(log_probs.astype(np.float64)).sum())


def softmax(logits: np.ndarray) -> tuple[float, ...]:
    """Probabilities of a few logits, in float64."""
    values = np.exp(logits.astype(np.float64) - logits.max())
    return tuple(float(value) for value in values / values.sum())


def select(run: Run, iteration: int) -> None:
    """Makes curated-t/: the candidates rated best, as augmented Examples. UserError when none is good enough."""
    fields = ("curate.mode", "curate.select", "curate.threshold", "curate.fraction")
    stage = run.stage(f"curated-{iteration}", fields, score_stages(run.cfg.curate, iteration), module=__name__)
    if not stage.complete:
        stage.finish(**distributed.by_first(f"curated-{iteration}", lambda: _select(run, iteration, stage)))


def score_stages(cfg: Curate, iteration: int) -> tuple[str, ...]:
    """The folders of the scores that choose."""
    found = (f"ratings-{iteration}", bool(rubric_of(cfg.mode))), (f"likelihood-{iteration}", LIKELIHOOD in cfg.mode)
    return tuple(name for name, chooses in found if chooses)


def combined(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One score of each id that has all: its only one, or the mean of its ranks among these ids, from 0 to 1."""
    ids = [record_id for record_id in scores[0] if all(record_id in other for other in scores)]
    if len(scores) == 1:
        return dict(scores[0])
    columns = [statistics.ranks([of_kind[record_id] for record_id in ids]) for of_kind in scores]
    return {record_id: math.fsum(ranks) / len(columns) for record_id, *ranks in zip(ids, *columns, strict=True)}


def best_of_each(scores: Mapping[str, float], more: Mapping[str, str]) -> dict[str, float]:
    """Of the candidates of each segment the one that scores best, of equal ones the one with the lowest id; more: {id: segment} of those
    whose id is not the segment's."""
    best: dict[str, str] = {}
    for record_id in sorted(scores):
        segment = more.get(record_id, record_id)
        if segment not in best or scores[record_id] > scores[best[segment]]:
            best[segment] = record_id
    return {record_id: score for record_id, score in scores.items() if best[more.get(record_id, record_id)] == record_id}


def _select(run: Run, iteration: int, stage: Stage) -> dict[str, Any]:
    """Writes the shards; returns what the manifest says of them."""
    cfg, stages = run.cfg.curate, score_stages(run.cfg.curate, iteration)
    kinds: dict[str, type[Rated] | type[Likely]] = {name: Rated if name.startswith("ratings") else Likely for name in stages}
    records = lambda name: read_shards(run.workdir / name, name.partition("-")[0], kinds[name])  # noqa: E731
    total = 0
    more: dict[str, str] = {}  # the segments of candidates that are not its first
    scores: list[dict[str, float]] = []
    for name in stages:
        scores.append({})
        for count, record in enumerate(records(name), 1):
            total = max(total, count)
            if record.id != (segment := record.candidate.segment.id):
                more[record.id] = segment
            scores[-1] |= {record.id: record.score} if record.score is not None else {}
    if BACKWARD in cfg.mode:
        written = {record.id: record.candidate.log_prob for record in records(stages[-1])}
        scores.append({record_id: value for record_id, value in written.items() if value is not None})
    total -= len(more)
    final = best_of_each(combined(scores), more)
    scored = [(score, record_id) for record_id, score in final.items()]
    chosen = choose(scored, total, cfg)
    if not chosen:
        if not scored:
            raise UserError(
                f"curated-{iteration}: none of {total} candidates has a valid rating; {stages[0]}/manifest.json counts the "
                "reasons; look at the texts there, or use curate.mode='expected', which needs no parsing"
            )
        raise UserError(
            f"curated-{iteration}: no candidate is rated {cfg.threshold:g} or more (the best of {len(scored)} valid ratings is "
            f"{max(scored)[0]:.2f}); lower curate.threshold, or use curate.select='top_fraction' for a judge that is not calibrated"
        )
    stage.begin()
    files = write_shards(stage.path, "curated", _examples([records(name) for name in stages], chosen), len(chosen))
    counts: dict[str, Any] = {"selected": len(chosen)}
    if rubric_of(cfg.mode):
        counts["rated at least 4.0 (A_4)"] = sum(score >= 4.0 for score in scores[0].values())
        counts["rated at least 4.5 (A_5)"] = sum(score >= 4.5 for score in scores[0].values())
    counts["in the top fraction"] = top_count(total, cfg.fraction)
    return {"counts": counts, "dropped": {"not selected": total - len(chosen)}, "files": files}


def _examples(streams: Sequence[Iterator[Rated | Likely]], chosen: Collection[str]) -> Iterator[Example]:
    """The chosen ones of streams that are in the same order, some of which may lack some records."""
    for records in zip(*((record for record in stream if record.id in chosen) for stream in streams), strict=True):
        candidate = records[0].candidate
        history = {"rated" if isinstance(record, Rated) else "likely": record for record in records}
        yield Example(candidate.id, candidate.instruction, candidate.segment.text, "augmented", candidate.segment.url, **history)


def choose(scored: list[tuple[float, str]], total: int, curate_config) -> set[str]:
    """The ids selected from (score, id): those at or above the threshold, or the top fraction of all `total` (ties by id)."""
    if curate_config.select == "threshold":
        return {record_id for score, record_id in scored if score >= curate_config.threshold}
    best = sorted(scored, key=lambda pair: (-pair[0], pair[1]))
    return {record_id for _, record_id in best[: top_count(total, curate_config.fraction)]}


def top_count(candidates: int, fraction: float) -> int:
    """How many the top fraction of all candidates is: rounded, and at least one."""
    return max(1, round(candidates * fraction)) if candidates else 0
