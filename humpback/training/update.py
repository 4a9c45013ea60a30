"""One update of the weights: state and rows in, state and measurements out; and how it is laid out and compiled on a mesh."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from humpback import config as configs
from humpback.config import Finetune
from humpback.keys import key_for
from humpback.model import llama, sharding
from humpback.model.adapters import Lora
from humpback.training import lora, placement
from humpback.training import optimizer as optimizers
from humpback.training.loss import target_nats

# {"params": stacked f32 weights, or adapters, "opt": optax state, "step": int32, steps done,
#  "norms": f32 [_NORMS], gradient norms of the last steps}
State = dict[str, Any]
# What belongs to a training and to no step of it: {"words_2": data of the key for dropout, uint32, "steps": int32, how many there are}.
# Arguments of the program, so that trainings of the same shapes share it.
Fixed = dict[str, jax.Array]
Step = Callable[..., tuple[State, dict[str, jax.Array]]]

_NORMS = 64  # steps whose gradient norms say what is usual
_FEW = 8  # before so many steps nothing is


def loss_and_grads(
    cfg: llama.LlamaConfig, ft: Finetune, params: llama.Params, rows: placement.Rows, key: jax.Array | None, *frozen: llama.Params
) -> tuple[jax.Array, llama.Params]:
    """(mean nats per target token over the whole step, its gradient), float32. Without a key there is no dropout.

    frozen: with adapters, which `params` are then, the weights that are not trained.

    The parts of the rows go through the model one after the other; what they add up to does not depend on how many there are.
    """
    remat = cast(llama.Remat, configs.settled_remat(ft.remat))  # config.finish has looked at it
    weights_AGM = rows["weights_AGM"] / jnp.sum(rows["weights_AGM"])
    adapted = lora.of(ft)
    dropout = None if key is None else llama.Dropout(ft.dropout, key, adapters=ft.lora_dropout)

    @jax.value_and_grad
    def share(params: llama.Params, part: placement.Rows, weights_GM: jax.Array) -> jax.Array:
        return target_nats(
            cfg, lora.whole(params, list(frozen), adapted), part, weights_GM=weights_GM,
            compute_dtype=jnp.dtype(ft.compute_dtype), dropout=dropout, remat=remat,
        )  # fmt: skip

    if len(weights_AGM) == 1:
        return share(params, placement.part_of(rows, 0), weights_AGM[0])

    def add(sums: tuple[jax.Array, llama.Params], part: tuple[placement.Rows, jax.Array]) -> tuple[Any, None]:
        # Without the barrier a TPU's compiler tries to reduce the gradients over the chips after the last part only, and fails over it.
        return jax.tree.map(jnp.add, sums, jax.lax.optimization_barrier(share(params, *part))), None

    zeros = jnp.float32(0), jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, (rows, weights_AGM))[0]


def train_step(
    cfg: llama.LlamaConfig,
    ft: Finetune,
    optimizer: optax.GradientTransformation,
    state: State,
    rows: placement.Rows,
    fixed: Fixed,
    *frozen: llama.Params,
) -> tuple[State, dict[str, jax.Array]]:
    """One update. Pure; frozen: as in `loss_and_grads`. Returns the next state and {loss, grad_norm, lr, spike}."""
    step = state["step"]
    key = jax.random.fold_in(jax.random.wrap_key_data(fixed["words_2"], impl="threefry2x32"), step)
    loss, grads = loss_and_grads(cfg, ft, state["params"], rows, key, *frozen)
    rate = optimizers.learning_rate(step, ft, fixed["steps"])
    params, opt = optimizers.apply(optimizer, grads, state["opt"], state["params"], rate)
    norm = optax.tree.norm(grads)
    known = jnp.where(jnp.arange(_NORMS) < step, state["norms"], jnp.nan)
    spike = (step >= _FEW) & (norm > ft.spike * jnp.nanmedian(known)) if ft.spike else jnp.bool(False)
    if ft.skip_spikes:
        params, opt = jax.tree.map(functools.partial(jnp.where, spike), (state["params"], state["opt"]), (params, opt))
    measured = {"loss": loss, "grad_norm": norm, "lr": rate, "spike": spike}
    return {"params": params, "opt": opt, "step": step + 1, "norms": state["norms"].at[step % _NORMS].set(norm)}, measured


def state_shapes(cfg: llama.LlamaConfig, optimizer: optax.GradientTransformation, mesh: Mesh, adapted: Lora | None = None) -> State:
    """The training state as ShapeDtypeStructs with their shardings; allocates nothing. adapted: only such adapters train."""
    whole, params = sharding.replicated(mesh), lora.trained_shapes(cfg, mesh, adapted)
    where = jax.tree.map(lambda x: x.sharding, params)
    state = {
        "params": params,
        "opt": jax.eval_shape(optimizer.init, params),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        "norms": jax.ShapeDtypeStruct((_NORMS,), jnp.float32),
    }
    shardings = {
        "params": where,
        "opt": optimizers.state_shardings(optimizer, params, where, whole),
        "step": whole,
        "norms": whole,
    }
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def first_state(params: llama.Params, optimizer: optax.GradientTransformation, shapes: State) -> State:
    """The state before the first step, laid out like `shapes`; `params` are taken as they are."""
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    rest = {name: shardings[name] for name in ("opt", "step", "norms")}

    def begin(params: llama.Params) -> State:
        return {"opt": optimizer.init(params), "step": jnp.int32(0), "norms": jnp.zeros(_NORMS)}

    return {"params": params, **jax.jit(begin, out_shardings=rest)(params)}


def fixed(seed: int, purpose: str, steps: int, mesh: Mesh) -> Fixed:
    """What all steps of a training share, on the mesh."""
    arrays = {"words_2": np.asarray(jax.random.key_data(key_for(seed, f"dropout {purpose}"))), "steps": np.array(steps, np.int32)}
    return {name: sharding.place(array, sharding.replicated(mesh)) for name, array in arrays.items()}


def abstract_fixed(mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of `fixed`; allocates nothing."""
    whole = sharding.replicated(mesh)
    return {
        "words_2": jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=whole),
        "steps": jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    }


def jit_step(cfg: llama.LlamaConfig, ft: Finetune, optimizer: optax.GradientTransformation, shapes: State) -> Any:
    """`train_step` of (state, rows, fixed), and with adapters the frozen weights, jitted for the mesh of `shapes`. The state is donated."""
    state_shardings = jax.tree.map(lambda x: x.sharding, shapes)
    mesh = state_shardings["step"].mesh
    frozen = jax.tree.map(lambda x: x.sharding, lora.frozen_shapes(cfg, mesh, lora.of(ft)))
    return jax.jit(
        functools.partial(train_step, cfg, ft, optimizer),
        in_shardings=(state_shardings, placement.rows_shardings(mesh), sharding.replicated(mesh), *frozen),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )
