"""AdamW with a linear learning rate, and the paper's table of steps (section 3.1)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from humpback.config import Finetune
from humpback.model import adapters
from humpback.model.weights import WEIGHTS
from humpback.rounding import ceil_div

# (examples, steps, batch), the paper's own for the 7B model.
PAPER_TABLE = (
    (100, 30, 8),
    (800, 300, 8),
    (1_600, 600, 8),
    (3_200, 500, 32),
    (6_400, 600, 32),
    (12_800, 600, 32),
    (25_600, 1_200, 32),
    (51_200, 1_600, 32),
)


def steps_and_batch(num_examples: int) -> tuple[int, int]:
    """(steps, examples in a step) by the number of examples: the row of the smallest table entry that is not below it.

    Above the table one epoch at batch 32, below it three at batch 8. Raises ValueError without an example.
    """
    if num_examples < 1:
        raise ValueError("there is no example to train on")
    if num_examples < PAPER_TABLE[0][0]:
        return ceil_div(3 * num_examples, 8), 8
    for size, steps, batch in PAPER_TABLE:
        if num_examples <= size:
            return steps, batch
    return ceil_div(num_examples, 32), 32


def schedule(num_examples: int, cfg: Finetune) -> tuple[int, int]:
    """(steps, examples in a step): what `cfg` sets, steps or epochs, which are rounded up to whole steps, else the paper's table."""
    steps, batch = steps_and_batch(num_examples)
    batch = cfg.batch or batch
    if cfg.epochs:
        steps = math.ceil(cfg.epochs * num_examples / batch)
    return cfg.steps or steps, batch


def learning_rate(step: int | jax.Array, cfg: Finetune, steps: int | jax.Array) -> jax.Array:
    """The rate (f32) of one step, counted from 0: cfg.lr at the first, linearly to exactly cfg.end_lr at the last.

    No warm-up. The two ends are weighted apart because `lr + fraction * (end - lr)` misses the end by a rounding.
    """
    fraction = jnp.asarray(step, jnp.float32) / jnp.maximum(jnp.asarray(steps, jnp.float32) - 1, 1)
    return (1 - fraction) * jnp.float32(cfg.lr) + fraction * jnp.float32(cfg.end_lr)


def decay_mask(params: Any) -> Any:
    """True for every leaf that decays: the matrices and the embedding, not the norms; by the table of weights. Adapters do not: what
    they add to is not theirs to shrink."""

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = path[-1].key
        return name not in adapters.PARTS and WEIGHTS[name].matrix

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(cfg: Finetune) -> optax.GradientTransformation:
    """Clip by the global norm (0: never), then AdamW with decoupled decay by `decay_mask`, all but the rate: see `apply`."""
    adam = optax.scale_by_adam(b1=cfg.beta1, b2=cfg.beta2, eps=cfg.eps)
    clip = [optax.clip_by_global_norm(cfg.clip)] if cfg.clip else []
    return optax.chain(*clip, adam, optax.add_decayed_weights(cfg.weight_decay, decay_mask))


def apply(
    optimizer: optax.GradientTransformation, grads: Any, state: optax.OptState, params: Any, rate: float | jax.Array
) -> tuple[Any, optax.OptState]:
    """(params, state) after an update at a rate. It does not count steps itself, as a step may be left out and the rate go on."""
    updates, state = optimizer.update(grads, state, params)
    return jax.tree.map(lambda param, update: param - rate * update, params, updates), state


def state_shardings(optimizer: optax.GradientTransformation, abstract: Any, shardings: Any, replicated: Any) -> Any:
    """The optimizer state's shardings: the moments lie as their weights do, counters are on every device.

    `abstract` and `shardings` are trees of the parameters' shapes and shardings.
    """
    state = jax.eval_shape(optimizer.init, abstract)
    return optax.tree_utils.tree_map_params(
        optimizer, lambda _, sharding: sharding, state, shardings, transform_non_params=lambda _: replicated
    )
