"""How much the run has to do: the paper's counts and lengths as token counts, so that packing and steps can be those of the loop.

Lengths are the paper's table 2, in characters, taken as log-normal; a token is `characters_per_token` of them. Draws are quantiles at
multiples of an irrational number, not random: the same numbers everywhere, and two with other irrationals as good as independent.
"""

import dataclasses
import math
import statistics
from dataclasses import dataclass

import numpy as np

from humpback import prompts
from humpback.config import Config
from humpback.decoding.executables import shareable
from humpback.errors import UserError
from humpback.tokens.examples import TokenExample

# (mean, standard deviation) in characters, of instruction and output.
SEED = ((148, 322), (1072, 818))
CURATED = ((115, 175), (1663, 616))  # A_5^(2)
CANDIDATES = ((352, 134), (1722, 653))  # A
SEED_PAIRS, SEGMENTS, CURATED_PAIRS = 3_200, 502_133, 41_821
RATING_TOKENS = 100  # a brief reason and the score line; the paper has no figure
_SAMPLE = 2_048  # records that stand for a corpus
_IRRATIONALS = {"instruction": math.sqrt(2), "response": (math.sqrt(5) - 1) / 2}
_DEVIATIONS = 4  # draws go no further from the middle


@dataclass(frozen=True)
class Workload:
    """Counts of a run, and the scale of its texts."""

    segments: int
    seed_pairs: int
    curated: int
    characters_per_token: float = 4.0

    def tokens(self, characters: float) -> int:
        """Of a text of so many characters, at least one."""
        return max(1, math.ceil(characters / self.characters_per_token))


def workload(cfg: Config, segments: int = 0, characters_per_token: float = 4.0) -> Workload:
    """The config's counts; where it has none the paper's. segments: overrides the config's. Curated pairs keep the paper's share."""
    count = segments or cfg.segments.limit or SEGMENTS
    share = cfg.curate.fraction if cfg.curate.select == "top_fraction" else CURATED_PAIRS / SEGMENTS
    return Workload(count, cfg.seed_pairs.limit or SEED_PAIRS, round(count * share), characters_per_token)


def draw(lengths: tuple[float, float], count: int, what: str) -> np.ndarray:
    """`count` lengths of this mean and deviation, log-normal; what: "instruction" or "response", which are drawn apart."""
    mean, deviation = lengths
    spread = math.log1p((deviation / mean) ** 2)
    normal = statistics.NormalDist(math.log(mean) - spread / 2, math.sqrt(spread))
    places = (np.arange(1, count + 1) * _IRRATIONALS[what]) % 1
    low, high = (statistics.NormalDist().cdf(edge) for edge in (-_DEVIATIONS, _DEVIATIONS))
    return np.array([math.exp(normal.inv_cdf(low + (high - low) * float(place))) for place in places])


def training_examples(cfg: Config, work: Workload, task: str, iteration: int) -> list[TokenExample]:
    """Examples of these lengths, ids all 0, as stages/finetune.py would make them: the condition cut, never the target."""
    ft = getattr(cfg, field_of(task, iteration))
    groups = [(SEED, work.seed_pairs, prompts.SEED_TAG)] + ([(CURATED, work.curated, prompts.WEB_TAG)] if iteration else [])
    zeros, made = np.zeros(ft.length, np.int32), []
    for lengths, count, tag in groups:
        pairs = zip(draw(lengths[0], count, "instruction"), draw(lengths[1], count, "response"), strict=True)
        for instruction, response in pairs:
            around, asked, target = _pair(cfg, task, tag, instruction, response)
            targets, fixed = work.tokens(target) + 1, work.tokens(around)
            if targets + fixed > ft.length:
                continue  # such a pair is dropped and counted
            total = min(ft.length, targets + fixed + work.tokens(asked))
            made.append(TokenExample("", zeros[:total], total - targets))
    return made


def field_of(task: str, iteration: int) -> str:
    """The config's part for a training."""
    return "backward" if task == "backward" else "forward" if iteration else "forward_seed"


def _pair(cfg: Config, task: str, tag: str, instruction: float, response: float) -> tuple[int, float, float]:
    """Characters of (what stands around the body of the prompt, the body, the target)."""
    wrapper = "".join(prompts.WRAPPERS[cfg.wrapper])
    prompt = prompts.backward_prompt("") if task == "backward" else prompts.forward_training_prompt("", tag)
    body, target = (response, instruction) if task == "backward" else (instruction, response)
    return len(wrapper + prompt.head + prompt.tail), body, target


@dataclass(frozen=True)
class Requests:
    """What a decoding stage serves: records, tokens of the shared prefix, of each record of a sample its own prompt and its answer, and
    the most tokens that an answer may have."""

    records: int
    prefix: int
    prompts: tuple[int, ...]
    answers: tuple[int, ...]
    most_new: int = 0

    @property
    def tokens(self) -> float:
        """Prompt and answer tokens of a record, on average, the prefix among them."""
        return self.prefix + statistics.fmean(self.prompts) + statistics.fmean(self.answers)


def augment_requests(cfg: Config, work: Workload) -> Requests:
    """One instruction for every segment."""
    head = len(prompts.WRAPPERS[cfg.wrapper].prefix + prompts.backward_prompt("").head)
    around = len(prompts.WRAPPERS[cfg.wrapper].suffix + prompts.backward_prompt("").tail)
    bodies = np.clip(draw(CANDIDATES[1], _SAMPLE, "response"), cfg.segments.min_chars, cfg.segments.max_chars)
    answers = [min(cfg.augment.max_new_tokens, work.tokens(each) + 1) for each in draw(CANDIDATES[0], _SAMPLE, "instruction")]
    return _requests(cfg, work, head, bodies + around, answers, cfg.augment.max_new_tokens)


def rate_requests(cfg: Config, work: Workload, rubric: str = prompts.RUBRIC) -> Requests:
    """One rating of every candidate, or `samples` of them."""
    prompt, wrapper = prompts.rating_prompt("", "", cfg.curate.mode, rubric), prompts.WRAPPERS[cfg.wrapper]
    between = len(prompt.head) - prompt.head.rfind("Response: ")
    around = len(wrapper.suffix + prompt.tail) + between
    instructions = draw(CANDIDATES[0], _SAMPLE, "instruction")
    bodies = np.clip(draw(CANDIDATES[1], _SAMPLE, "response"), cfg.segments.min_chars, cfg.segments.max_chars)
    sampled = cfg.curate.mode == "sampled"
    answer = min(cfg.curate.max_new_tokens, RATING_TOKENS) if sampled else 0
    head = len(wrapper.prefix) + len(prompt.head) - between
    found = _requests(cfg, work, head, instructions + bodies + around, [answer] * _SAMPLE, cfg.curate.max_new_tokens if sampled else 0)
    return dataclasses.replace(found, records=found.records * (cfg.curate.samples if sampled else 1))


def _requests(cfg: Config, work: Workload, head: int, own: np.ndarray, answers: list[int], most_new: int) -> Requests:
    same = work.tokens(head)
    prefix = shareable(same, cfg.decoding.length)
    room = cfg.decoding.length - prefix - most_new
    if room < 1:
        raise UserError(f"config field decoding.length: {cfg.decoding.length} leaves no room for a prompt beside {most_new} new tokens and "
                        f"a shared beginning of about {prefix}")  # fmt: skip
    return Requests(work.segments, prefix, tuple(min(room, same - prefix + work.tokens(each)) for each in own), tuple(answers), most_new)
