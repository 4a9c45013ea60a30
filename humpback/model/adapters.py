"""LoRA: low-rank adapters beside frozen matrices. A matrix W becomes W + (alpha / rank) · a b, of which only a and b are trained.

The table of adapters follows from that of the weights. Their tree is {"layers": {name: {"a", "b"}}}, float32, stacked for training,
{"layers": {layer: {name: {"a", "b"}}}} elsewhere. Source: Hu et al. 2021 (arXiv 2106.09685), with the draws of its authors' code.
Dimension letters: see weights.py; I inputs, O outputs of a matrix, P the rank.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from humpback.model import products, quantization, sharding
from humpback.model.weights import WEIGHTS, LlamaConfig, Params, leaves, map_weights

NAMES = tuple(name for name, weight in WEIGHTS.items() if weight.matrix and weight.per_layer)
PARTS = ("a", "b")
TYPES = ("float32", "bfloat16", "int8")  # in which frozen weights may lie
BRANCHES = 2  # of a layer, whose dropout has the numbers before the adapters'


@dataclasses.dataclass(frozen=True)
class Lora:
    """What a training with adapters is. base: the type in which the frozen weights lie, float32, bfloat16 or int8."""

    rank: int
    alpha: float
    names: tuple[str, ...]
    base: str

    @property
    def scale(self) -> float:
        """What the adapters' product is multiplied with."""
        return self.alpha / self.rank

    def count(self, cfg: LlamaConfig) -> int:
        """Counts the numbers of all adapters."""
        pairs = (shapes(cfg, name, self.rank) for name in self.names)
        return cfg.num_layers * sum(math.prod(shape) for pair in pairs for shape in pair.values())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """A leaf of the tree that is not trained: a matrix, as an array or quantized, and, where there is one, its adapter.

    number: which matrix of a layer it is, for dropout.
    """

    weight: Any
    a: Any = None
    b: Any = None
    scale: float = dataclasses.field(default=0.0, metadata={"static": True})
    number: int = dataclasses.field(default=0, metadata={"static": True})

    def __getitem__(self, index: Any) -> "Frozen":
        """Returns itself: NNX asks a parameter for its value by `[...]`."""
        return self


def shapes(cfg: LlamaConfig, name: str, rank: int) -> dict[str, tuple[int, ...]]:
    """Gives the shapes of a matrix' adapter: a has its inputs, b its outputs."""
    sizes, inputs = WEIGHTS[name].sizes(cfg), WEIGHTS[name].leading_inputs
    return {"a": (*sizes[:inputs], rank), "b": (rank, *sizes[inputs:])}


def init(cfg: LlamaConfig, lora: Lora, key: jax.Array) -> Params:
    """Draws a fresh stacked tree: a uniform within ± fan_in ** -0.5, b zero, so that nothing changes before the first update."""

    def draw(name: str) -> dict[str, jax.Array]:
        shape, bound = shapes(cfg, name, lora.rank), WEIGHTS[name].inputs(cfg) ** -0.5
        of_name = jax.random.fold_in(key, NAMES.index(name))

        def of_layer(layer: jax.Array) -> jax.Array:
            return jax.random.uniform(jax.random.fold_in(of_name, layer), shape["a"], jnp.float32, -bound, bound)

        return {"a": jax.vmap(of_layer)(jnp.arange(cfg.num_layers)), "b": jnp.zeros((cfg.num_layers, *shape["b"]))}

    return {"layers": {name: draw(name) for name in lora.names}}


def shardings(cfg: LlamaConfig, mesh: Mesh | AbstractMesh, lora: Lora) -> Params:
    """Derives where the stacked tree's arrays lie, by TRAINING_RULES: as the inputs and the outputs of their matrix."""
    placed = sharding.param_shardings(cfg, mesh, sharding.TRAINING_RULES, stacked=True)["layers"]

    def of(name: str) -> dict[str, NamedSharding]:
        layers, *spec = placed[name].spec
        inputs = WEIGHTS[name].leading_inputs
        specs = {"a": (layers, *spec[:inputs], None), "b": (layers, None, *spec[inputs:])}
        return {part: NamedSharding(mesh, PartitionSpec(*axes)) for part, axes in specs.items()}

    return {"layers": {name: of(name) for name in lora.names}}


def joined(frozen: Mapping[str, Any], trained: Mapping[str, Any], scale: float) -> Params:
    """Puts a stacked tree of frozen weights and one of adapters together: the tree that llama.hidden takes."""

    def leaf(name: str, weight: Any) -> Any:
        if not WEIGHTS[name].matrix:
            return weight
        pair = trained["layers"].get(name) if WEIGHTS[name].per_layer else None
        return Frozen(weight, **pair, scale=scale, number=NAMES.index(name)) if pair else Frozen(weight)

    return map_weights(leaf, frozen)


def bare(params: Mapping[str, Any]) -> Params:
    """The tree of `joined` without its adapters: the base."""
    return map_weights(lambda _, leaf: Frozen(leaf.weight) if isinstance(leaf, Frozen) else leaf, params)


def product(dtype: Any, x_RI: jax.Array, weights: tuple[Frozen, ...], drop: Callable[[jax.Array, int], jax.Array] | None) -> Any:
    """Multiplies rows with each of some frozen matrices and adds what their adapters say; operands in `dtype`, results in the rows'.

    drop: dropout on what goes into the adapters, by a number.
    """
    parts = [quantization.parts(leaf.weight, x_RI.shape[-1]) for leaf in weights]
    outs = list(products.frozen_matmul(dtype, x_RI, tuple(matrix for matrix, _ in parts), tuple(scale_O for _, scale_O in parts)))
    adapted = [place for place, leaf in enumerate(weights) if leaf.a is not None]
    if adapted:
        first = weights[adapted[0]].number
        rows = x_RI if drop is None else drop(x_RI, BRANCHES + first)
        lows = products.matmul(dtype, rows, tuple(weights[place].a.reshape(x_RI.shape[-1], -1) for place in adapted))
        for place, low_RP in zip(adapted, lows, strict=True):
            leaf = weights[place]
            (added_RO,) = products.matmul(dtype, low_RP, (leaf.b.reshape(low_RP.shape[-1], -1),))
            outs[place] += leaf.scale * added_RO
    return tuple(outs)


def held(name: str, weight: jax.Array, base: str) -> Any:
    """A weight, as the table has it, in the type of a frozen base; with int8 what is no matrix is bfloat16."""
    if base == "int8" and WEIGHTS[name].matrix:
        return quantization.quantize_array(weight, _outputs(name))
    return weight.astype(result_type(base))


def held_sharding(name: str, where: NamedSharding, base: str, stacked: bool = False) -> Any:
    """Derives where a weight of `held` lies from where the weight itself would; stacked: with all layers in one array."""
    if base != "int8" or not WEIGHTS[name].matrix:
        return where
    layers = int(stacked and WEIGHTS[name].per_layer)
    return quantization.array_sharding(where, (*range(layers), *(layers + axis for axis in _outputs(name))))


def _outputs(name: str) -> tuple[int, ...]:
    """The axes of a matrix that its outputs have."""
    weight = WEIGHTS[name]
    return tuple(range(weight.leading_inputs, len(weight.shape))) if weight.leading_inputs else (0,)


def result_type(base: str) -> Any:
    """The type of merged weights over a base that lies in the type `base`, and of what is no matrix in it."""
    return jnp.dtype(jnp.float32 if base == "float32" else jnp.bfloat16)


def merged(name: str, weight: jax.Array, pair: Mapping[str, jax.Array] | None, scale: float, base: str, exact: bool = False) -> jax.Array:
    """A base's weight with its adapter added in float32, and then rounded once, to `result_type`; exact: not rounded."""
    whole = quantization.plain(held(name, weight, base), jnp.float32)
    if pair is not None:
        rank = pair["b"].shape[0]
        added_IO = jnp.matmul(pair["a"].reshape(-1, rank), pair["b"].reshape(rank, -1), precision=jax.lax.Precision.HIGHEST)
        whole = whole + scale * added_IO.reshape(whole.shape)
    return whole if exact else whole.astype(result_type(base))


def unstack(cfg: LlamaConfig, stacked: Mapping[str, Any]) -> Params:
    """Takes a stacked tree apart by layers."""
    layers = jax.tree.map(lambda x: [x[layer] for layer in range(cfg.num_layers)], stacked["layers"])
    taken = jax.tree.transpose(jax.tree.structure(stacked["layers"]), jax.tree.structure([0] * cfg.num_layers), layers)
    return {"layers": {str(layer): tree for layer, tree in enumerate(taken)}}


def check(cfg: LlamaConfig, names: tuple[str, ...], rank: int, tree: Mapping[str, Any]) -> None:
    """Raises ValueError naming the first unknown, missing or mis-shaped leaf of an unstacked tree of adapters."""
    wanted = {
        (*path, part): shape
        for path, _ in leaves(cfg) if path[-1] in names
        for part, shape in shapes(cfg, path[-1], rank).items()
    }  # fmt: skip
    there = {tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    for path in sorted(wanted.keys() ^ there.keys()):
        raise ValueError(f"{'missing' if path in wanted else 'unknown'} adapter {'/'.join(path)}")
    for path, shape in wanted.items():
        if tuple(there[path].shape) != shape:
            raise ValueError(f"adapter {'/'.join(path)} has shape {tuple(there[path].shape)}, must be {shape}")
