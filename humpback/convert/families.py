"""The families of models, by what others call them and where they differ from LLaMA: one row each, for config.json and for GGUF.

Sources: the configuration classes of transformers (defaults of absent fields) and llama.cpp's converter (rows that are permuted).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from humpback.errors import UserError
from humpback.model.weights import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """One family. classes: of transformers, the first is written. interleaved: in GGUF rotary rows are pairs side by side, as LLaMA's.

    traits: the fields of LlamaConfig that all its models have. absent: what fields of config.json are when they are not there.
    fixed: fields of config.json -> the values that are computed here, the first being the one that counts when it is not there.
    """

    name: str
    classes: tuple[str, ...]
    gguf: str
    interleaved: bool
    traits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)

    @property
    def written(self) -> dict[str, Any]:
        """What config.json says of the family and nothing else does."""
        return {"architectures": [self.classes[0]], "model_type": self.name}


_PLAIN = {"attention_bias": (False, None), "mlp_bias": (False, None)}

FAMILIES = {
    family.name: family
    for family in (
        Family("llama", ("LlamaForCausalLM", "LLaMAForCausalLM"), "llama", True, fixed={**_PLAIN, "sliding_window": (None,)}),
        Family(
            "mistral", ("MistralForCausalLM",), "llama", True, fixed=_PLAIN,
            absent={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        ),
        Family(
            "qwen2", ("Qwen2ForCausalLM",), "qwen2", False, {"qkv_bias": True},
            absent={"num_key_value_heads": 32, "max_position_embeddings": 32768, "use_sliding_window": False},
            fixed={"mlp_bias": (False, None)},
        ),
        Family(
            "qwen3", ("Qwen3ForCausalLM",), "qwen3", False, {"qk_norm": True}, fixed=_PLAIN,
            absent={"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128, "use_sliding_window": False},
        ),
        Family(
            "smollm3", ("SmolLM3ForCausalLM",), "smollm3", True, fixed=_PLAIN,
            absent={
                "num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2000000.0, "no_rope_layer_interval": 4,
                "use_sliding_window": False, "tie_word_embeddings": True,
            },
        ),
    )
}  # fmt: skip
READABLE = "LLaMA 1 to 3, TinyLlama, SmolLM2, Mistral, Qwen2 and 2.5, Qwen3, SmolLM3"
# How the name of a family that is not computed here begins -> why.
_REFUSED = (
    ("gemma", "Gemma scales embeddings and caps logits"),
    ("olmo", "OLMo norms after the branches"),
    ("phi", "Phi-3 has positions of its own (longrope) and matrices in one"),
    ("mixtral", "it is a mixture of experts"),
    ("qwen2_moe", "it is a mixture of experts"),
    ("qwen2moe", "it is a mixture of experts"),
    ("qwen3_moe", "it is a mixture of experts"),
    ("qwen3moe", "it is a mixture of experts"),
    ("deepseek", "it is a mixture of experts, with attention of its own"),
    ("qwen3_next", "its attention is linear"),
    ("qwen3next", "its attention is linear"),
    ("mamba", "it has no attention"),
    ("falcon_h1", "its attention is linear"),
)


def of_config(values: Mapping[str, Any], where: str) -> Family:
    """The family of a config.json. UserError with the reason for one that is not computed here."""
    classes = values.get("architectures") or []
    kind = values.get("model_type") or next((f.name for f in FAMILIES.values() if set(classes) & set(f.classes)), "llama")
    family = FAMILIES.get(kind)
    if family is None or (classes and (len(classes) > 1 or classes[0] not in family.classes)):
        raise UserError(f"{where}: architectures {classes}, model_type {kind!r}: {_why(kind)}; readable are {READABLE}")
    for key, allowed in {**family.fixed, **_FIXED}.items():
        if values.get(key) not in allowed:
            raise UserError(f"{where}: {key} is {values[key]!r}; only {allowed[0]!r} is supported")
    return family


# config.json's field -> the only values that any family computes with.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish", None),
    "rope_interleaved": (False, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}


def of_gguf(architecture: str, where: str) -> Family:
    """The family of a GGUF file. UserError with the reason for one that is not computed here."""
    for family in FAMILIES.values():
        if family.gguf == architecture:
            return family
    raise UserError(f"{where}: general.architecture is {architecture!r}: {_why(architecture)}; readable are {READABLE}")


def _why(kind: str) -> str:
    return next((why for begin, why in sorted(_REFUSED, key=lambda row: -len(row[0])) if str(kind).startswith(begin)), "not known here")


def window(values: Mapping[str, Any], family: Family) -> int | None:
    """How many tokens a layer's attention sees, of those that see least; None for all. A window is exact up to its own length."""
    if family.absent.get("use_sliding_window") is False and not values.get("use_sliding_window", False):
        return None
    size = values.get("sliding_window", family.absent.get("sliding_window", 4096 if family.name != "llama" else None))
    kinds = values.get("layer_types")
    return None if size is None or (kinds and "sliding_attention" not in kinds) else int(size)


def no_rope_every(values: Mapping[str, Any], family: Family, layers: int, where: str) -> int:
    """LlamaConfig's field, of SmolLM3's list of layers that rotate (1) or do not (0). UserError for a list without a rule."""
    if "no_rope_layer_interval" not in family.absent:
        return 0
    listed = values.get("no_rope_layers")
    every = values.get("no_rope_layer_interval") or family.absent["no_rope_layer_interval"]
    if not listed:
        return int(every)
    for number in (0, *range(1, layers + 1)):
        if [int(number == 0 or (layer + 1) % number != 0) for layer in range(layers)] == [int(x) for x in listed]:
            return number
    raise UserError(f"{where}: no_rope_layers is {listed}; only one layer in every so many may be without rotation")


def extra_fields(cfg: LlamaConfig) -> dict[str, Any]:
    """What config.json says besides LLaMA's fields."""
    rotating = [int(cfg.rotates(layer)) for layer in range(cfg.num_layers)]
    every = cfg.no_rope_every or cfg.num_layers + 1
    windows = {"use_sliding_window": False, "sliding_window": None, "max_window_layers": cfg.num_layers}
    fields: dict[str, dict[str, Any]] = {
        "llama": {},
        "mistral": {"sliding_window": None},
        "qwen2": windows,
        "qwen3": windows,
        "smollm3": {**windows, "no_rope_layers": rotating, "no_rope_layer_interval": every, "pretraining_tp": 1},
    }
    return fields[name_of(cfg)]


def name_of(cfg: LlamaConfig) -> str:
    """The family that a model is exported as: the one it came from, or the only one that has its traits."""
    if cfg.qkv_bias:
        return "qwen2"
    if cfg.qk_norm:
        return "qwen3"
    if cfg.no_rope_every:
        return "smollm3"
    return cfg.family if cfg.family in ("mistral", "smollm3") else "llama"
