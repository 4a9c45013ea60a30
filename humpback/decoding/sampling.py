"""Samplers: how a next token is drawn from logits. Greedy, temperature, exact nucleus without sorting the vocabulary."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

_BLOCK = 128


@dataclass(frozen=True)
class Sampler:
    """`temperature` 0 is greedy; `top_p` keeps the fewest likeliest tokens whose probabilities sum to at least it (ties: all)."""

    temperature: float = 0.0
    top_p: float = 1.0

    def __call__(self, logits_BV: jax.Array, keys_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws one id per row from f32 logits; returns ids int32 [B] and the model's own log-probabilities f32 [B] of them.

        Each row uses its own key and nothing of the other rows.
        """
        logits_BV = logits_BV.astype(jnp.float32)
        log_norm_B = jax.nn.logsumexp(logits_BV, axis=-1)
        if self.temperature == 0:
            ids_B = jnp.argmax(logits_BV, axis=-1)
        else:
            scaled_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / self.temperature
            mass_BV = jnp.exp(scaled_BV)
            if self.top_p < 1:
                mass_BV = jnp.where(mass_BV >= nucleus_threshold(mass_BV, self.top_p)[:, None], mass_BV, 0)
            uniforms_B = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys_B)
            ids_B = invert_cdf(mass_BV, uniforms_B)
        chosen_B = jnp.take_along_axis(logits_BV, ids_B[:, None], axis=-1)[:, 0]
        return ids_B.astype(jnp.int32), chosen_B - log_norm_B


def nucleus_threshold(mass_BV: jax.Array, top_p: float) -> jax.Array:
    """The largest mass t of each row for which the masses ≥ t sum to at least `top_p` of the row.

    Masses are not negative, so their bit patterns are ordered as they are, and bisection over the bits is exact. A token below
    (1 - top_p) / V of the whole can never be needed, which is where the search begins.
    """
    total_B = mass_BV.sum(-1)
    goal_B = top_p * total_B
    bits = lambda x: jax.lax.bitcast_convert_type(x, jnp.int32)  # noqa: E731
    low_B = bits(jnp.maximum((1 - top_p) / mass_BV.shape[-1] * total_B * 0.5, 0))
    high_B = bits(mass_BV.max(-1))

    def narrow(state):
        low_B, high_B = state  # `low` satisfies the goal; above `high` nothing does
        middle_B = low_B + (high_B - low_B + 1) // 2
        threshold_B = jax.lax.bitcast_convert_type(middle_B, jnp.float32)
        enough_B = jnp.where(mass_BV >= threshold_B[:, None], mass_BV, 0).sum(-1) >= goal_B
        return jnp.where(enough_B, middle_B, low_B), jnp.where(enough_B, high_B, middle_B - 1)

    low_B, _ = jax.lax.while_loop(lambda state: jnp.any(state[0] < state[1]), narrow, (low_B, jnp.maximum(low_B, high_B)))
    return jax.lax.bitcast_convert_type(low_B, jnp.float32)


def invert_cdf(mass_BV: jax.Array, uniforms_B: jax.Array) -> jax.Array:
    """The first id whose cumulative mass exceeds uniform × total; never an id without mass.

    Two levels, blocks and then inside one block, since a flat cumulative sum over V is slow.
    """
    B, V = mass_BV.shape
    blocks = -(-V // _BLOCK)
    mass_BMC = jnp.pad(mass_BV, ((0, 0), (0, blocks * _BLOCK - V))).reshape(B, blocks, _BLOCK)
    mass_BM = mass_BMC.sum(-1)
    upto_BM = jnp.cumsum(mass_BM, axis=-1)
    goal_B = uniforms_B * upto_BM[:, -1]
    block_B = _first_above(upto_BM, mass_BM, goal_B)
    upto_B, own_B = (jnp.take_along_axis(x_BM, block_B[:, None], axis=1)[:, 0] for x_BM in (upto_BM, mass_BM))
    inside_BC = jnp.take_along_axis(mass_BMC, block_B[:, None, None], axis=1)[:, 0]
    return block_B * _BLOCK + _first_above(jnp.cumsum(inside_BC, axis=-1), inside_BC, goal_B - (upto_B - own_B))


def _first_above(upto_BC: jax.Array, mass_BC: jax.Array, goal_B: jax.Array) -> jax.Array:
    """First index with mass whose running sum is above the goal; where rounding leaves none, the last index with mass."""
    fits_BC = (upto_BC > goal_B[:, None]) & (mass_BC > 0)
    last_B = mass_BC.shape[-1] - 1 - jnp.argmax(mass_BC[:, ::-1] > 0, axis=-1)
    return jnp.where(fits_BC.any(-1), jnp.argmax(fits_BC, axis=-1), last_B)
