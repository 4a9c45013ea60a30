"""Weights and rows of tokens on the mesh, for training and evaluation."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from humpback.model import adapters, llama, sharding
from humpback.models import weight_files
from humpback.tokens import packing

Rows = dict[str, Any]

TOKEN_NUMBERS = 1 << 20  # more than an example has tokens: its tokens' numbers begin at a multiple of it


def place_params(cfg: llama.LlamaConfig, params: Mapping[str, Any], mesh: Mesh, base: str = "float32") -> llama.Params:
    """Unstacked weights, of numpy or jax arrays or left on disk (folders.load_model), as stacked ones on the mesh, one name after the
    other, in the type `base` (adapters.Lora's). Always a copy: they may be donated. The vocabulary is filled up to what the mesh can
    split, sharding.padded, with zeros, or with ones for int8, whose largest is not 0."""
    padded, before = sharding.padded(cfg, mesh), unstacked_shardings(cfg, mesh)
    after = sharding.param_shardings(padded, mesh, sharding.TRAINING_RULES, stacked=True)

    def place(name: str) -> Any:
        room = [(0, padded.vocab_size - cfg.vocab_size if letter == "V" else 0) for letter in llama.WEIGHTS[name].shape]
        return _jit_whole(name, base, tuple(room), after[name])(jax.device_put(params[name], before[name]))

    def stack(name: str) -> Any:
        paths: list[weight_files.Leaf] = [("layers", str(i), name) for i in range(cfg.num_layers)]
        # Of narrower ones no more than one layer is there as it came; else they are read at once, which is faster.
        groups = [paths] if base == "float32" else [[path] for path in paths]
        layers: list[Any] = []
        for group in groups:
            arrays = (jax.device_put(*each) for each in zip(weight_files.take(params, group), _of(before, group), strict=True))
            layers += arrays if base == "float32" else map(_jit_held(name, base, before["layers"]["0"][name]), arrays)
        return _jit_stack(name, base, after["layers"][name])(layers)

    return {**{name: place(name) for name in after if name != "layers"}, "layers": {name: stack(name) for name in after["layers"]}}


def _of(tree: Mapping[str, Any], paths: list[weight_files.Leaf]) -> list[Any]:
    return [weight_files.leaf(tree, path) for path in paths]


# Kept, so that whatever a process trains or evaluates next compiles none of them again.
@functools.lru_cache(maxsize=64)
def _jit_whole(name: str, base: str, room: tuple[tuple[int, int], ...], where: NamedSharding) -> Any:
    def whole(x: jax.Array) -> Any:
        # jnp.copy, because jit may hand an argument that it returns unchanged through without copying it.
        return adapters.held(name, jnp.copy(jnp.pad(x, room, constant_values=base == "int8")), base)

    return jax.jit(whole, out_shardings=adapters.held_sharding(name, where, base))


@functools.lru_cache(maxsize=64)
def _jit_held(name: str, base: str, where: NamedSharding) -> Any:
    return jax.jit(lambda x: adapters.held(name, x, base), out_shardings=adapters.held_sharding(name, where, base))


@functools.lru_cache(maxsize=64)
def _jit_stack(name: str, base: str, where: NamedSharding) -> Any:
    def stack(layers: list[Any]) -> Any:
        layers = [adapters.held(name, x, base) for x in layers] if base == "float32" else layers
        return jax.tree.map(lambda *xs: jnp.stack(xs), *layers)

    return jax.jit(stack, out_shardings=adapters.held_sharding(name, where, base, stacked=True))


def unstack_params(cfg: llama.LlamaConfig, stacked: llama.Params, mesh: Mesh) -> llama.Params:
    """Stacked weights on the mesh as the unstacked tree, still there, without the vocabulary's padding."""
    loose, shardings = _loose(cfg, mesh), unstacked_shardings(cfg, mesh)

    def unstack(tree: llama.Params) -> llama.Params:
        cut = {name: tree[name][tuple(slice(n) for n in llama.WEIGHTS[name].sizes(cfg))] for name in loose}
        return llama.unstack_layers({**tree, **cut}, cfg)

    return jax.jit(unstack, out_shardings=shardings)(stacked)


def unstacked_shardings(cfg: llama.LlamaConfig, mesh: Mesh) -> llama.Params:
    """Where the arrays of an unstacked tree lie that is trained, or was: what `place_params` takes from disk without any process'
    reading more than its own part."""
    return sharding.unpadded_shardings(cfg, mesh, sharding.TRAINING_RULES)


def _loose(cfg: llama.LlamaConfig, mesh: Mesh) -> list[str]:
    """Names the arrays whose vocabulary the mesh cannot split."""
    return [] if sharding.padded(cfg, mesh) == cfg else sharding.with_vocabulary(cfg)


def rows_shardings(mesh: Mesh) -> Rows:
    """The shardings of `make_rows`' arrays: all are split over the batch."""
    names = ("ids_ABT", "positions_ABT", "segments_ABT", "tokens_ABT", "places_AGM", "targets_AGM", "weights_AGM")
    return dict.fromkeys(names, sharding.batch_sharding(mesh, axis=1))


def make_rows(batch: packing.Batch, mesh: Mesh, targets: int, parts: int = 1) -> Rows:
    """A batch as the arrays that a program takes, on the mesh, in A = `parts` equal parts that go through the model one after the other.

    `targets` is M, how many places each group of a part's rows has; tokens_ABT numbers the tokens by example and position. Every
    process holds the whole batch, a pure function of the step, and puts only its own rows on its devices.
    """
    picked = packing.gather_targets(batch, parts * sharding.batch_shards(mesh), targets)
    arrays = {
        "ids_ABT": batch.ids_BT,
        "positions_ABT": batch.positions_BT,
        "segments_ABT": batch.segments_BT,
        "tokens_ABT": (batch.examples_BT + 1) * TOKEN_NUMBERS + batch.positions_BT,
        "places_AGM": picked.places_GM,
        "targets_AGM": picked.targets_GM,
        "weights_AGM": picked.weights_GM,
    }
    return {
        name: sharding.place(arrays[name].reshape(parts, len(arrays[name]) // parts, -1), where)
        for name, where in rows_shardings(mesh).items()
    }


def abstract_rows(mesh: Mesh, length: int, rows: int, targets: int, parts: int = 1) -> Rows:
    """The arrays of `make_rows`, of `rows` rows of `length` tokens, as ShapeDtypeStructs; allocates nothing."""

    def array(name: str, where: NamedSharding) -> jax.ShapeDtypeStruct:
        shape = (parts, sharding.batch_shards(mesh), targets) if name.endswith("_AGM") else (parts, rows // parts, length)
        return jax.ShapeDtypeStruct(shape, jnp.float32 if name.startswith("weights") else jnp.int32, sharding=where)

    return {name: array(name, where) for name, where in rows_shardings(mesh).items()}


def part_of(rows: Rows, part: int) -> Rows:
    """One of the A parts of `make_rows`' arrays, for `loss.target_nats`."""
    return {name: array[part] for name, array in rows.items()}
