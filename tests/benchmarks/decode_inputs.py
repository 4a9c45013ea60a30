"""What tests/benchmarks/decode.py decodes: SmolLM2-135M's real weights, real segments, and 16 prompts of 128 tokens."""

import dataclasses
import pathlib
import subprocess

import common
import numpy as np

from humpback import config, prompts
from humpback.convert import export, sources
from humpback.decoding.serving import encode_prompt, shared_prefix
from humpback.errors import UserError
from humpback.models import folders
from humpback.records import Segment
from humpback.stages.curate import score_token_ids
from tests import tiny
from tests.pages import segment_pages

NEW_TOKENS = 64
GGUF = "model.gguf"  # the weights as they came, for llama.cpp
DECODE_PROMPTS, DECODE_PROMPT_TOKENS = 16, 128


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is asked about every segment: `template` makes a prompt of it, `lead` begins the answer, `new_tokens` end it at most."""

    template: object  # segment -> Prompt
    filled: object  # any text -> Prompt, in which the prompts' common head is looked for
    lead: str = ""
    new_tokens: int = NEW_TOKENS


# A segment's own header stands for its instruction: always the same, and about as long.
WORKLOADS = {
    "augment": Workload(lambda segment: prompts.backward_prompt(segment.text), prompts.backward_prompt),
    "rate": Workload(
        lambda segment: prompts.rating_prompt(segment.header, segment.text, "expected"),
        lambda text: prompts.rating_prompt(text, text, "expected"),
        lead=prompts.SCORE_LEAD,
        new_tokens=0,
    ),
    "sampled_rate": Workload(
        lambda segment: prompts.rating_prompt(segment.header, segment.text, "sampled"),
        lambda text: prompts.rating_prompt(text, text, "sampled"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The model (weights on the host), the Hugging Face folder that the peers read it from, the segments, the decode prompts."""

    model: folders.Model
    folder: pathlib.Path
    segments: list[Segment]
    decode_ids_BT: np.ndarray

    def encode(self, workload: str, segment: Segment) -> np.ndarray:
        """The ids of a segment's prompt, never cut."""
        asked = WORKLOADS[workload]
        room = self.model.info.config.max_positions - asked.new_tokens
        return encode_prompt(self.model, asked.template(segment), room, asked.lead)

    def head(self, workload: str) -> list[int]:
        """The ids that all prompts of a workload begin with."""
        return shared_prefix(self.model, WORKLOADS[workload].filled, self.model.info.config.max_positions)

    def score_ids(self) -> list[int]:
        """The ids of the five digits after "Score: "."""
        return score_token_ids(self.model.tokenizer)


def prepare(folder: pathlib.Path, count: int, smoke: bool) -> Inputs:
    """Brings and converts everything into `folder`. UserError when weights or pages are not to be had."""
    if smoke:
        tiny.make_base(folder / "tiny")
        source, sha256 = str(folder / "tiny"), ""
        segments = [Segment(f"{i:016x}", f"{i}: {'text ' * (8 + i % 9)}", f"header {i}", (), "", "", 0, 0) for i in range(count)]
    else:
        from configs.demo import get_config  # the quickstart's own weights

        base = get_config().base
        source, sha256 = base.source, base.sha256
        segments, counts, _ = segment_pages(config.Segments(input=debian_pages(), limit=count))
        if len(segments) < count:
            raise UserError(f"{len(segments)} segments in Debian's {counts['pages']} pages are fewer than --segments={count}")
    opened = sources.open_source(source, sha256)
    target = folder / "huggingface"
    export.write_folder(str(target), opened, export.Beside("chatml", "base"))
    if not smoke:
        (target / GGUF).symlink_to(sources.resolve(source))
    model = folders.Model(folders.ModelInfo(opened.config, "base", "chatml"), opened.params(), opened.tokenizer)
    shape = (DECODE_PROMPTS, 16 if smoke else DECODE_PROMPT_TOKENS)
    ids_BT = np.random.default_rng(0).integers(3, opened.config.vocab_size, shape, np.int32)
    return Inputs(model, target, segments, ids_BT)


def debian_pages() -> str:
    """The folder of launch/debian_pages.sh."""
    done = subprocess.run([common.ROOT / "launch" / "debian_pages.sh"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError("launch/debian_pages.sh failed; its own message stands above")
    return done.stdout.strip()
