"""Which mesh axis each weight is split over: logical axes (weights.py) through a rule table, strictly.

Three mesh axes: `data` (copies of the model), `fsdp` (weights split, gathered when used), `tensor` (heads and
feed-forward split). A rule table names a mesh axis, several, or None (not split) for every logical axis; a name
that is not there, or that nothing uses, raises, because a silent fallback replicates the largest matrix.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from humpback.model.weights import WEIGHTS, LlamaConfig, Params, Weight, make_tree, map_weights, outer_names
from humpback.rounding import round_up

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # share the rows of a batch between them
Rules = Mapping[str, str | tuple[str, ...] | None]

TRAINING_RULES: Rules = {
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "ffn": "tensor",
    "norm": None,  # a few kilobytes: gathering them would cost more than keeping them
    "layers": None,
}
# Decoding reads every weight for every token, so none is gathered: `data` and `fsdp` both hold copies and share rows.
DECODING_RULES: Rules = {**TRAINING_RULES, "embed": None}


def mesh_sizes(devices: int, data: int, fsdp: int, tensor: int) -> tuple[int, int, int]:
    """Completes the sizes of a mesh over so many devices: one of them may be -1, what is left.

    Raises ValueError when the product is not the number of devices.
    """
    sizes = [data, fsdp, tensor]
    shown = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"mesh {shown}: sizes must be positive, and at most one of them -1")
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        if devices % known:
            raise ValueError(f"mesh {shown}: {devices} devices are not a multiple of {known}")
        sizes[sizes.index(-1)] = devices // known
    if math.prod(sizes) != devices:
        raise ValueError(f"mesh {shown} takes {math.prod(sizes)} devices, there are {devices}")
    return sizes[0], sizes[1], sizes[2]


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh over `devices` (default: all), of `mesh_sizes`.

    Devices of several slices (TPU pods that the data centre's network joins): `data` goes across them.
    Raises ValueError when the product is not the number of devices, or `data` not a multiple of the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(len(devices), data, fsdp, tensor)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    # Of a slice of 4 × 4 × 4, an axis of 8 takes one side and a half of another; without leave it would be refused.
    split = {"allow_split_physical_axes": True}
    if slices == 1:
        placed = mesh_utils.create_device_mesh(sizes, devices, **split)
    # Between slices there is only the data centre's network: over it go copies' gradients, once a step, and nothing else.
    elif sizes[0] % slices:
        raise ValueError(f"mesh data={sizes[0]} is not a multiple of the {slices} slices: only copies of the model lie in several")
    else:
        placed = mesh_utils.create_hybrid_device_mesh((sizes[0] // slices, *sizes[1:]), (slices, 1, 1), devices, **split)
    return Mesh(placed, MESH_AXES, axis_types=(AxisType.Auto,) * 3)  # the compiler places the collectives


def padded(cfg: LlamaConfig, mesh: Mesh | AbstractMesh) -> LlamaConfig:
    """Fills the vocabulary up to what the mesh can split: the smallest multiple of `tensor` that holds it."""
    return dataclasses.replace(cfg, vocab_size=round_up(cfg.vocab_size, mesh.shape["tensor"]))


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Counts the parts of the mesh that have rows of their own: into so many equal groups a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Splits arrays whose axis number `axis` is rows over BATCH_AXES there; all else is whole."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Gives every device the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def place(array: np.ndarray, where: NamedSharding) -> jax.Array:
    """Puts an array that every process has on the mesh; each process copies what its own devices hold."""
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def start_reading(shape: tuple[int, ...], where: Sharding, start: Callable[[Any], Any]) -> Callable[[], jax.Array]:
    """Begins to read an array's parts that this process's devices hold, each once; what it returns waits for them and places them.

    start(index): begins to read the part at an index, a tuple of slices, and returns what has a .result().
    """
    indices = {str(index): index for index in where.addressable_devices_indices_map(shape).values()}
    parts = {name: start(index) for name, index in indices.items()}
    return lambda: jax.make_array_from_callback(shape, where, lambda index: parts[str(index)].result())


def param_shardings(cfg: LlamaConfig, mesh: Mesh | AbstractMesh, rules: Rules, stacked: bool = False) -> Params:
    """Derives a NamedSharding for every weight of the model, in the shape of its (stacked or unstacked) tree.

    Raises ValueError naming leaf, dimension and axis: a logical axis without a rule, a rule nothing uses, a mesh axis
    that the mesh does not have or that one weight uses twice, a dimension the mesh axis does not divide. The one
    exception: when there are fewer key/value heads than shards of their axis and the heads divide the shards, k and v
    are replicated over that axis (every shard then computes the few heads its queries need).
    """
    check_rules(mesh, rules)
    return make_tree(cfg, lambda path, weight: NamedSharding(mesh, _spec(cfg, mesh, rules, path, weight, stacked)),
                     stacked=stacked)  # fmt: skip


def unpadded_shardings(cfg: LlamaConfig, mesh: Mesh, rules: Rules) -> Params:
    """Derives where the arrays of an unstacked tree lie before `padded` fills up their vocabulary.

    An array whose vocabulary the mesh cannot split is split over its other axes alone.
    """
    filled = padded(cfg, mesh)
    placed = param_shardings(filled, mesh, rules)
    if filled == cfg:
        return placed

    def without_vocabulary(name: str, where: NamedSharding) -> NamedSharding:
        axes = WEIGHTS[name].axes
        return NamedSharding(mesh, PartitionSpec(*(None if axis == "vocab" else at for axis, at in zip(axes, where.spec, strict=True))))

    return placed | {name: without_vocabulary(name, placed[name]) for name in with_vocabulary(cfg)}


def with_vocabulary(cfg: LlamaConfig) -> list[str]:
    """Names the weights that have the vocabulary as an axis; they stand outside the layers."""
    return [name for name in outer_names(cfg) if "vocab" in WEIGHTS[name].axes]


def matrix_spec(cfg: LlamaConfig, mesh: Any, name: str) -> PartitionSpec:
    """Derives one layer matrix' spec by TRAINING_RULES, as (inputs, outputs); heads and their size are one axis there."""
    weight = WEIGHTS[name]
    spec = _spec(cfg, mesh, TRAINING_RULES, (name,), weight, stacked=False)
    return PartitionSpec(spec[0], spec[weight.leading_inputs])


def decoding_shardings(cfg: LlamaConfig, mesh: Mesh) -> Params:
    """Derives the shardings of llama.decoding_params' tree, (outputs, inputs), by DECODING_RULES; heads and their size are one axis."""

    def turn(name: str, where: NamedSharding) -> NamedSharding:
        outputs = WEIGHTS[name].leading_inputs  # where they begin
        return NamedSharding(mesh, PartitionSpec(where.spec[outputs], where.spec[0])) if outputs else where

    return map_weights(turn, param_shardings(cfg, mesh, DECODING_RULES))


def check_rules(mesh: Mesh | AbstractMesh, rules: Rules) -> None:
    """Raises ValueError when the table and the weights' logical axes are not the same set, or name no mesh axis."""
    used = {axis for weight in WEIGHTS.values() for axis in weight.axes} | {"layers"}
    if missing := sorted(used - set(rules)):
        raise ValueError(f"no sharding rule for logical axis {missing[0]!r}; rules: {sorted(rules)}")
    if unused := sorted(set(rules) - used):
        raise ValueError(f"sharding rule {unused[0]!r} is used by no weight; logical axes: {sorted(used)}")
    for logical, rule in rules.items():
        for axis in _axes(rule):
            if axis not in mesh.axis_names:
                raise ValueError(f"sharding rule {logical!r} names {axis!r}; the mesh has {mesh.axis_names}")


def _axes(rule: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if rule is None else (rule,) if isinstance(rule, str) else tuple(rule)


def _spec(
    cfg: LlamaConfig, mesh: Mesh | AbstractMesh, rules: Rules, path: tuple[str, ...], weight: Weight, stacked: bool
) -> PartitionSpec:
    name = "/".join(path)
    dims = list(zip(weight.shape, weight.axes, weight.sizes(cfg), strict=True))
    if stacked and weight.per_layer:
        dims.insert(0, ("L", "layers", cfg.num_layers))
    entries: list[Any] = []
    seen: dict[str, str] = {}
    for letter, logical, size in dims:
        axes = _axes(rules[logical])
        shards = math.prod(mesh.shape[axis] for axis in axes)
        if logical == "kv_heads" and size < shards and shards % size == 0:
            axes, shards = (), 1
        for axis in axes:
            if axis in seen:
                raise ValueError(f"weight {name}: mesh axis {axis!r} is used by both {seen[axis]!r} and {logical!r}")
            seen[axis] = logical
        if size % shards:
            raise ValueError(
                f"weight {name}: dimension {letter} ({logical!r}) = {size} is not divisible by mesh axis "
                f"{'×'.join(axes)} = {shards}"
            )
        entries.append(axes[0] if len(axes) == 1 else axes or None)
    return PartitionSpec(*entries)
