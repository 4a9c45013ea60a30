"""A training of adapters: what of a config's fields it is, and where frozen weights and adapters lie. Without them all weights train."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from humpback.config import Finetune
from humpback.keys import key_for
from humpback.model import adapters, llama, sharding
from humpback.model.adapters import Lora
from humpback.progress import warn

Params = llama.Params
_FULL_RATE = 5e-5  # a learning rate up to here is one for all weights: the paper's is 1e-5, the demo's this


def of(ft: Finetune) -> Lora | None:
    """The adapters that a config asks for; None for none."""
    if not ft.lora_rank:
        return None
    return Lora(ft.lora_rank, ft.lora_alpha or 2 * ft.lora_rank, tuple(ft.lora_names.split(",")), ft.lora_base, ft.lora_dropout)


def warn_of_rate(purpose: str, ft: Finetune, steps: int) -> None:
    """Warns of adapters with a learning rate that is right for all weights."""
    if ft.lora_rank and ft.lr <= _FULL_RATE:
        times = 15 if steps < 100 else 10
        warn(
            f"{purpose}: lora_rank = {ft.lora_rank} with lr = {ft.lr:g}, which is for training all weights: adapters learn at about "
            f"{times} times that, whatever their rank ({times} × the paper's is {times * 1e-5:g})"
        )


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
    one = {"layers": {"0": {}}} | llama.abstract_params(padded)

    def held(name: str, shape: jax.ShapeDtypeStruct, layers: tuple[int, ...] = ()) -> Params:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*layers, *x.shape), x.dtype), jax.eval_shape(lambda x: adapters.held(name, x, base), shape)
        )

    outer = {name: held(name, shape) for name, shape in one.items() if name != "layers"}
    inner = {name: held(name, shape, (cfg.num_layers,)) for name, shape in one["layers"]["0"].items()}
    shapes = {**outer, "layers": inner}
    places = {
        **{name: adapters.held_sharding(name, where[name], base) for name in outer},
        "layers": {name: adapters.held_sharding(name, where["layers"][name], base, stacked=True) for name in inner},
    }
    return [jax.tree.map(_placed, shapes, places)]


def _placed(shape: jax.ShapeDtypeStruct, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, jnp.dtype(shape.dtype), sharding=where)


def whole(trained: Params, frozen: list[Params], lora: Lora | None) -> Params:
    """The tree that the model takes: what is trained with what is not."""
    return trained if lora is None else adapters.joined(frozen[0], trained, lora.scale)
