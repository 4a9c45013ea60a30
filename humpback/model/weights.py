"""What a model is made of: its hyper-parameters and the one table of its weights.

Dimension letters, here and everywhere in the code:
  B batch   T query length   S key length   D model width   N query heads   K key/value heads   G = N / K
  H head size   F feed-forward width   V vocabulary   L layers
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of the slow rotary frequencies; `original_max_position` is in tokens."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The hyper-parameters of one model: LLaMA, or one of the families that differ from it in one of the last fields.

    `max_positions` is the longest sequence, in tokens, the model was made for; longer inputs raise. Attention that sees a window of so
    many tokens is full attention up to there. family: what others call the model (convert/families.py); it changes nothing here.
    Raises ValueError when the fields do not fit together.
    """

    vocab_size: int  # V
    d_model: int  # D
    num_layers: int  # L
    num_heads: int  # N
    num_kv_heads: int  # K
    head_dim: int  # H, which need not be D / N
    d_ff: int  # F
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rope_factor: float = 1.0  # what all positions are divided by ("linear" scaling)
    rms_eps: float = 1e-5
    tied: bool = False  # the head is the transposed embedding
    max_positions: int = 2048
    qkv_bias: bool = False  # queries, keys and values have a bias (Qwen2)
    qk_norm: bool = False  # each head's queries and keys are normed before they are rotated (Qwen3)
    no_rope_every: int = 0  # every so many-th layer rotates nothing (SmolLM3); 0: all rotate
    family: str = dataclasses.field(default="llama", compare=False)

    def __post_init__(self) -> None:
        for field in ("vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff"):
            if getattr(self, field) < 1:
                raise ValueError(f"LlamaConfig.{field} must be at least 1, not {getattr(self, field)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"LlamaConfig.num_heads ({self.num_heads}) is not a multiple of num_kv_heads ({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"LlamaConfig.head_dim must be even for rotary positions, not {self.head_dim}")
        if self.rope_factor < 1:
            raise ValueError(f"LlamaConfig.rope_factor must be at least 1, not {self.rope_factor}")
        if self.rope_factor != 1 and self.rope_scaling is not None:
            raise ValueError("LlamaConfig.rope_factor and rope_scaling are two ways to scale positions; only one can be set")
        if self.no_rope_every < 0:
            raise ValueError(f"LlamaConfig.no_rope_every must be at least 0, not {self.no_rope_every}")

    def rotates(self, layer: int) -> bool:
        """Whether a layer, counted from 0, rotates its queries and keys by their positions."""
        return self.no_rope_every == 0 or (layer + 1) % self.no_rope_every != 0

    def dims(self) -> dict[str, int]:
        """Returns the size of every dimension letter that occurs in a weight."""
        return {
            "V": self.vocab_size,
            "D": self.d_model,
            "N": self.num_heads,
            "K": self.num_kv_heads,
            "H": self.head_dim,
            "F": self.d_ff,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-able dict that `from_dict` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LlamaConfig":
        """Inverts `to_dict`; raises ValueError naming unknown or missing keys."""
        values = dict(values)
        scaling = values.get("rope_scaling")
        if isinstance(scaling, Mapping):
            _check_keys(RopeScaling, scaling)
            values["rope_scaling"] = RopeScaling(**scaling)
        _check_keys(cls, values)
        return cls(**values)


def _check_keys(cls: type, values: Mapping[str, Any]) -> None:
    fields = dataclasses.fields(cls)
    unknown = sorted(set(values) - {field.name for field in fields})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} for {cls.__name__}; known: {[field.name for field in fields]}")
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise ValueError(f"missing key {missing[0]!r} for {cls.__name__}")


@dataclasses.dataclass(frozen=True)
class Weight:
    """One row of the table: everything that depends on which weight it is.

    shape: dimension letters. axes: one logical axis per letter, what the sharding rules speak of. fan_in: the letters
    summed over when the weight is applied, a matrix' inputs (their product's inverse root is the initial standard
    deviation); empty for a norm or a bias, which start as `start`. per_layer: one in every layer. only: the field of the config with
    which the weight is there; empty: always.
    """

    shape: str
    axes: tuple[str, ...]
    fan_in: str
    per_layer: bool
    only: str = ""
    start: float = 1.0

    @property
    def matrix(self) -> bool:
        """Whether it is a matrix: those decay, are gathered, turned, cast and held as int8, and their products are counted."""
        return bool(self.fan_in)

    @property
    def leading_inputs(self) -> int:
        """How many leading dimensions are a matrix' inputs; 0 for the embedding, whose rows are outputs, and for norms."""
        return len(self.fan_in) if self.shape.startswith(self.fan_in) else 0

    def sizes(self, cfg: LlamaConfig) -> tuple[int, ...]:
        """Returns the array's shape in this model."""
        return tuple(cfg.dims()[letter] for letter in self.shape)

    def inputs(self, cfg: LlamaConfig) -> int:
        """Counts the numbers that go into one output."""
        return math.prod(cfg.dims()[letter] for letter in self.fan_in)

    def init(self, cfg: LlamaConfig, key: jax.Array, dtype: Any) -> jax.Array:
        """Draws a fresh value: ones for norms, zeros for biases, normal with standard deviation fan_in ** -0.5 otherwise."""
        if not self.matrix:
            return jnp.full(self.sizes(cfg), self.start, dtype)
        scale = self.inputs(cfg) ** -0.5
        return (jax.random.normal(key, self.sizes(cfg), jnp.float32) * scale).astype(dtype)


WEIGHTS: dict[str, Weight] = {
    "embedding": Weight("VD", ("vocab", "embed"), fan_in="D", per_layer=False),
    "attention_norm": Weight("D", ("norm",), fan_in="", per_layer=True),
    "q": Weight("DNH", ("embed", "heads", "head_dim"), fan_in="D", per_layer=True),
    "k": Weight("DKH", ("embed", "kv_heads", "head_dim"), fan_in="D", per_layer=True),
    "v": Weight("DKH", ("embed", "kv_heads", "head_dim"), fan_in="D", per_layer=True),
    "q_bias": Weight("NH", ("heads", "head_dim"), fan_in="", per_layer=True, only="qkv_bias", start=0.0),
    "k_bias": Weight("KH", ("kv_heads", "head_dim"), fan_in="", per_layer=True, only="qkv_bias", start=0.0),
    "v_bias": Weight("KH", ("kv_heads", "head_dim"), fan_in="", per_layer=True, only="qkv_bias", start=0.0),
    "q_norm": Weight("H", ("head_dim",), fan_in="", per_layer=True, only="qk_norm"),
    "k_norm": Weight("H", ("head_dim",), fan_in="", per_layer=True, only="qk_norm"),
    "o": Weight("NHD", ("heads", "head_dim", "embed"), fan_in="NH", per_layer=True),
    "ffn_norm": Weight("D", ("norm",), fan_in="", per_layer=True),
    "gate": Weight("DF", ("embed", "ffn"), fan_in="D", per_layer=True),
    "up": Weight("DF", ("embed", "ffn"), fan_in="D", per_layer=True),
    "down": Weight("FD", ("ffn", "embed"), fan_in="F", per_layer=True),
    "final_norm": Weight("D", ("norm",), fan_in="", per_layer=False),
    "head": Weight("DV", ("embed", "vocab"), fan_in="D", per_layer=False),
}


def layer_names(cfg: LlamaConfig) -> list[str]:
    """Lists the weights that every layer has, by name."""
    return [name for name, weight in WEIGHTS.items() if weight.per_layer and (not weight.only or getattr(cfg, weight.only))]


def outer_names(cfg: LlamaConfig) -> list[str]:
    """Lists the weights outside the layers, by name; a tied model has no head."""
    return [name for name, weight in WEIGHTS.items() if not weight.per_layer and not (cfg.tied and name == "head")]


def leaves(cfg: LlamaConfig) -> Iterator[tuple[tuple[str, ...], Weight]]:
    """Yields (path, table row) of every array of the unstacked tree, e.g. (("layers", "0", "q"), …)."""
    for name in outer_names(cfg):
        yield (name,), WEIGHTS[name]
    for layer in range(cfg.num_layers):
        for name in layer_names(cfg):
            yield ("layers", str(layer), name), WEIGHTS[name]


def make_tree(cfg: LlamaConfig, make: Callable[[tuple[str, ...], Weight], Any], *, stacked: bool = False) -> Params:
    """Builds the tree of one model with `make(path, weight)` at every leaf; stacked: path is ("layers", name)."""
    tree = {name: make((name,), WEIGHTS[name]) for name in outer_names(cfg)}
    if stacked:
        tree["layers"] = {name: make(("layers", name), WEIGHTS[name]) for name in layer_names(cfg)}
    else:
        tree["layers"] = {
            str(layer): {name: make(("layers", str(layer), name), WEIGHTS[name]) for name in layer_names(cfg)}
            for layer in range(cfg.num_layers)
        }
    return tree


def map_weights(change: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Params:
    """Copies a model's tree, or a part of one, with `change(name, leaf)` in place of every leaf; the name is the table's."""
    return {
        name: map_weights(change, leaf) if isinstance(leaf, Mapping) else change(name, leaf) for name, leaf in tree.items()
    }


@functools.cache
def parameter_count(cfg: LlamaConfig) -> int:
    """Counts the numbers that the model holds; a tied embedding counts once."""
    return sum(math.prod(weight.sizes(cfg)) for _, weight in leaves(cfg))


def check_params(cfg: LlamaConfig, params: Mapping[str, Any]) -> None:
    """Raises ValueError naming the first unknown, missing or mis-shaped leaf of an unstacked tree."""
    arrays = dict(_flatten(params))
    rows = dict(leaves(cfg))
    for path in arrays:
        if path not in rows:
            reason = "; the config says that the embedding is tied" if path == ("head",) else ""
            raise ValueError(f"unknown weight {'/'.join(path)}{reason}")
    for path, weight in rows.items():
        if path not in arrays:
            raise ValueError(f"missing weight {'/'.join(path)}")
        shape = getattr(arrays[path], "shape", None)
        if shape is None or tuple(shape) != weight.sizes(cfg):
            raise ValueError(f"weight {'/'.join(path)} has shape {shape}, must be {weight.shape} = {weight.sizes(cfg)}")


def _flatten(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    if path and not tree and path != ("layers",):
        yield path, None  # an empty branch is an unknown leaf, not nothing
    for name, value in tree.items():
        yield from _flatten(value, (*path, str(name)))


def stack_layers(params: Mapping[str, Any]) -> Params:
    """Puts each layer weight's L arrays into one of shape (L, …): what `forward` scans over. Exact."""
    layers = [params["layers"][str(layer)] for layer in range(len(params["layers"]))]
    stacked = {}
    for name in layers[0]:
        arrays = [layer[name] for layer in layers]
        numpy_only = all(isinstance(array, np.ndarray) for array in arrays)
        stacked[name] = np.stack(arrays) if numpy_only else jnp.stack(arrays)
    return {**params, "layers": stacked}


def unstack_layers(stacked: Mapping[str, Any], cfg: LlamaConfig) -> Params:
    """Inverts `stack_layers`, exactly; numpy arrays give views, jax arrays copies."""
    layers = {
        str(layer): {name: array[layer] for name, array in stacked["layers"].items()}
        for layer in range(cfg.num_layers)
    }
    return {**stacked, "layers": layers}
