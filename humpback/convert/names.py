"""One table from this project's weight names to the outside ones, and how one tensor is turned into ours and back.

Outside, a matrix is (outputs, inputs) with all heads in one dimension; here it is inputs first, one letter a dimension.
What counts as input is the weight table's `fan_in`, so a new weight needs one line there and one here.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np

from humpback.convert.tensor_ops import turn
from humpback.errors import UserError
from humpback.model.weights import WEIGHTS, LlamaConfig, Weight
from humpback.tokens.tokenizer import Tokenizer

_SPARE_ROWS = 1.25  # more rows than that for each id are not for the sake of even shapes
Path = tuple[str, ...]  # ("embedding",) or ("layers", "0", "q")


@dataclasses.dataclass(frozen=True)
class Outside:
    """A weight's names elsewhere, `{layer}` standing for the layer's number.

    rotary: the rows are rotated in pairs, which GGUF and Meta store side by side and Hugging Face half a head apart.
    """

    huggingface: str
    gguf: str
    meta: str
    rotary: bool = False


# Meta's own folders have no biases and no norms of heads; their names stand for completeness.
NAMES: dict[str, Outside] = {
    "embedding": Outside("model.embed_tokens.weight", "token_embd.weight", "tok_embeddings.weight"),
    "attention_norm": Outside(
        "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", "layers.{layer}.attention_norm.weight"
    ),
    "q": Outside(
        "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", "layers.{layer}.attention.wq.weight", rotary=True
    ),
    "k": Outside(
        "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", "layers.{layer}.attention.wk.weight", rotary=True
    ),
    "v": Outside("model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", "layers.{layer}.attention.wv.weight"),
    "q_bias": Outside(
        "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", "layers.{layer}.attention.wq.bias", rotary=True
    ),
    "k_bias": Outside(
        "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", "layers.{layer}.attention.wk.bias", rotary=True
    ),
    "v_bias": Outside("model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", "layers.{layer}.attention.wv.bias"),
    "q_norm": Outside(
        "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight",
        "layers.{layer}.attention.q_norm.weight", rotary=True,
    ),
    "k_norm": Outside(
        "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight",
        "layers.{layer}.attention.k_norm.weight", rotary=True,
    ),
    "o": Outside("model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", "layers.{layer}.attention.wo.weight"),
    "ffn_norm": Outside(
        "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", "layers.{layer}.ffn_norm.weight"
    ),
    "gate": Outside("model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", "layers.{layer}.feed_forward.w1.weight"),
    "up": Outside("model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", "layers.{layer}.feed_forward.w3.weight"),
    "down": Outside("model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", "layers.{layer}.feed_forward.w2.weight"),
    "final_norm": Outside("model.norm.weight", "output_norm.weight", "norm.weight"),
    "head": Outside("lm_head.weight", "output.weight", "output.weight"),
}


def outside_name(path: Path, family: str) -> str:
    """The tensor's name in `family` ("huggingface", "gguf" or "meta")."""
    name = getattr(NAMES[path[-1]], family)
    return name.format(layer=path[1]) if len(path) > 1 else name


def weight_of(name: str, family: str) -> Weight | None:
    """The table's row of a tensor called `name` in `family`; None for a tensor that no LLaMA has."""
    template = re.sub(r"(?<=\.)\d+(?=\.)", "{layer}", name)
    return next((WEIGHTS[ours] for ours, outside in NAMES.items() if getattr(outside, family) == template), None)


def outside_shape(path: Path, cfg: LlamaConfig) -> tuple[int, ...]:
    """The tensor's shape in all families: (outputs, inputs) for matrices, one axis for norms and biases."""
    weight = WEIGHTS[path[-1]]
    if not weight.matrix:
        return (math.prod(weight.sizes(cfg)),)
    sizes, inputs = weight.sizes(cfg), weight.leading_inputs
    return (math.prod(sizes[inputs:]), math.prod(sizes[:inputs])) if inputs else sizes


def from_huggingface(path: Path, array: np.ndarray, cfg: LlamaConfig) -> np.ndarray:
    """Our array of a Hugging Face tensor; same numbers, same dtype. Rows that only fill up the vocabulary are left away."""
    weight = WEIGHTS[path[-1]]
    if "V" in weight.shape:
        array = array[: cfg.vocab_size]
    return (turn(array) if weight.leading_inputs else np.ascontiguousarray(array)).reshape(weight.sizes(cfg))


def to_huggingface(path: Path, array: np.ndarray, cfg: LlamaConfig) -> np.ndarray:
    """The inverse of `from_huggingface`, exact."""
    if not WEIGHTS[path[-1]].leading_inputs:
        return np.ascontiguousarray(array).reshape(outside_shape(path, cfg))
    outputs, inputs = outside_shape(path, cfg)
    return turn(array.reshape(inputs, outputs))


def from_interleaved(path: Path, array: np.ndarray, cfg: LlamaConfig) -> np.ndarray:
    """Our array of a tensor (outputs, inputs) of GGUF or Meta, its rotary rows put half a head apart."""
    if NAMES[path[-1]].rotary:
        # The rows are cut into as many heads as there are: N for q, K for k, one for a norm that all heads share.
        pairs = array.reshape(-1, cfg.head_dim // 2, 2, *array.shape[1:])
        array = pairs.swapaxes(1, 2).reshape(array.shape)
    return from_huggingface(path, array, cfg)


def check_names(wanted: Iterable[str], names: Iterable[str], where: str, advice: str) -> None:
    """Raises UserError naming the first tensor that is missing or that nothing here reads."""
    wanted, names = set(wanted), set(names)
    for name in sorted(wanted - names):
        raise UserError(f"{where}: tensor {name} is missing ({len(wanted - names)} in all); {advice}")
    for name in sorted(names - wanted):
        raise UserError(
            f"{where}: unknown tensor {name} ({len(names - wanted)} in all); this is not a plain LLaMA model, "
            "and leaving a weight out would change what it computes"
        )


def check_shape(name: str, shape: tuple[int, ...], leaf: Path, cfg: LlamaConfig, where: str) -> int:
    """How many rows only fill up the vocabulary: embeddings and heads may have more than the config says.

    Raises UserError when an outside tensor's shape is not what the hyper-parameters ask for.
    """
    wanted = outside_shape(leaf, cfg)
    filling = shape[0] - wanted[0] if "V" in WEIGHTS[leaf[-1]].shape and shape[1:] == wanted[1:] else 0
    if filling < 0 or shape != (wanted[0] + filling, *wanted[1:]):
        raise UserError(
            f"{where}: tensor {name} has shape {shape}, the config asks for {wanted}; "
            "config and weights are not of the same model, or one of them is broken"
        )
    return filling


def padding_note(name: str, filling: int, cfg: LlamaConfig) -> str:
    """What is said of a vocabulary that was filled up."""
    return f"{filling} rows of {name} beyond the vocabulary of {cfg.vocab_size} are left away"


def fit_tokenizer(tokenizer: Tokenizer, cfg: LlamaConfig, where: str) -> tuple[Tokenizer, list[str]]:
    """A tokenizer whose ids all have a row in the embedding, and what to say of it.

    Tokens that were added to it, such as a <pad> that no training used, are left away where they have no row. UserError for others.
    """
    notes = []
    if tokenizer.vocab_size > cfg.vocab_size and (shorter := tokenizer.without(cfg.vocab_size)) is not None:
        gone = {text: i for text, i in (tokenizer.specials | tokenizer.added).items() if i >= cfg.vocab_size}
        shown = ", ".join(f"{text} = {i}" for text, i in sorted(gone.items(), key=lambda item: item[1])[:4])
        notes.append(f"the tokenizer's {shown} has no row among the model's {cfg.vocab_size} and is left away")
        tokenizer = shorter
    check_vocabulary(tokenizer.vocab_size, cfg, where)
    if cfg.vocab_size > _SPARE_ROWS * tokenizer.vocab_size:
        notes.append(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {cfg.vocab_size} rows; if that is not on purpose, the tokenizer is "
            "another model's"
        )
    return tokenizer, notes


def check_vocabulary(tokens: int, cfg: LlamaConfig, where: str) -> None:
    """Raises UserError when a tokenizer has ids that the embedding has no row for; spare rows are fine."""
    if tokens > cfg.vocab_size:
        raise UserError(
            f"{where}: the tokenizer has {tokens} ids, but the model's vocabulary only {cfg.vocab_size}; "
            "the tokenizer is not this model's"
        )
