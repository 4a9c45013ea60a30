"""A training of adapters: what of a config's fields it is, and where frozen weights and adapters lie. Without them all weights train."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from humpback.config import Finetune
from humpback.keys import key_for
from humpback.model import adapters, llama, sharding
from humpback.model.adapters import Lora

Params = llama.Params


def of(ft: Finetune) -> Lora | None:
    """The adapters that a config asks for; None for none."""
    if not ft.lora_rank:
        return None
    return Lora(ft.lora_rank, ft.lora_alpha or 2 * ft.lora_rank, tuple(ft.lora_names.split(",")), ft.lora_base)


def first(cfg: llama.LlamaConfig, mesh: Mesh, lora: Lora, seed: int, purpose: str) -> Params:
    """Fresh adapters on the mesh, a function of (seed, purpose) alone."""
    key = key_for(seed, f"adapters {purpose}")
    return jax.jit(lambda key: adapters.init(cfg, lora, key), out_shardings=adapters.shardings(cfg, mesh, lora))(key)


def trained_shapes(cfg: llama.LlamaConfig, mesh: Mesh, lora: Lora | None) -> Params:
    """What is trained, as ShapeDtypeStructs with their shardings: adapters, or all weights, float32."""
    padded = sharding.padded(cfg, mesh)
    if lora is None:
        shapes = jax.eval_shape(llama.stack_layers, llama.abstract_params(padded))
        where = sharding.param_shardings(padded, mesh, sharding.TRAINING_RULES, stacked=True)
    else:
        shapes = jax.eval_shape(lambda: adapters.init(padded, lora, jax.random.key(0)))
        where = adapters.shardings(padded, mesh, lora)
    return jax.tree.map(_placed, shapes, where)


def frozen_shapes(cfg: llama.LlamaConfig, mesh: Mesh, lora: Lora | None) -> list[Params]:
    """The frozen weights likewise, as placement.place_params puts them there; [] where all weights train."""
    if lora is None:
        return []
    padded, base = sharding.padded(cfg, mesh), lora.base
    where = sharding.param_shardings(padded, mesh, sharding.TRAINING_RULES, stacked=True)
    outer = llama.abstract_params(padded)
    inner = outer.pop("layers")["0"]

    def shapes(name: str, shape: jax.ShapeDtypeStruct, place: jax.sharding.NamedSharding, layers: tuple[int, ...]) -> Any:
        held = jax.eval_shape(lambda x: adapters.held(name, x, base), shape)
        stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*layers, *x.shape), x.dtype), held)
        return jax.tree.map(_placed, stacked, adapters.held_sharding(name, place, base, stacked=bool(layers)))

    layers = {name: shapes(name, shape, where["layers"][name], (cfg.num_layers,)) for name, shape in inner.items()}
    return [{**{name: shapes(name, shape, where[name], ()) for name, shape in outer.items()}, "layers": layers}]


def _placed(shape: jax.ShapeDtypeStruct, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, jnp.dtype(shape.dtype), sharding=where)


def whole(trained: Params, frozen: list[Params], lora: Lora | None) -> Params:
    """The tree that the model takes: what is trained with what is not."""
    return trained if lora is None else adapters.joined(frozen[0], trained, lora.scale)
