"""Samplers: how a next token is drawn from logits. Greedy, temperature, top-k, exact nucleus without sorting the vocabulary."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from humpback.model import cpu
from humpback.rounding import ceil_div

_LANES = cpu.SUM_LANES  # a row of V masses is looked at as (M, L): sums run over M first, in L lanes side by side


@dataclass(frozen=True)
class Sampler:
    """`temperature` 0 is greedy; `top_k` keeps the k likeliest tokens (0: all); `top_p` keeps the fewest likeliest of these whose
    probabilities sum to at least it. Tokens that tie with the last one kept are kept, too."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0

    def __call__(self, logits_BV: jax.Array, keys_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws one id per row from f32 logits; returns ids int32 [B] and the model's own log-probabilities f32 [B] of them.

        Each row uses its own key and nothing of the other rows. A row whose logits are not all finite gets id 0 and NaN.
        """
        largest_B1 = logits_BV.max(-1, keepdims=True)
        shifted_BML = _lanes(logits_BV - largest_B1)
        log_norm_B = jnp.log(_total(jnp.exp(shifted_BML)))
        if self.temperature == 0:
            # Not where the difference is 0: fused with a product (int8's scales) the subtraction is of something not rounded.
            ids_B = _first(logits_BV == largest_B1)
        else:
            mass_BML = jnp.exp(shifted_BML / self.temperature)
            if self.top_k:
                mass_BML = _keep(mass_BML, top_k_threshold(mass_BML, self.top_k))
            if self.top_p < 1:
                mass_BML = _keep(mass_BML, nucleus_threshold(mass_BML, self.top_p))
            uniforms_B = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys_B)
            ids_B = invert_cdf(mass_BML, uniforms_B)
        chosen_B = jnp.take_along_axis(shifted_BML.reshape(logits_BV.shape[0], -1), ids_B[:, None], axis=-1)[:, 0]
        finite_B = all_finite(logits_BV)
        return jnp.where(finite_B, ids_B, 0), jnp.where(finite_B, chosen_B - log_norm_B, jnp.nan)


def all_finite(x_BV: jax.Array) -> jax.Array:
    """Whether no number of a row is infinite or NaN, bool [B]."""
    return jnp.isfinite(jnp.abs(x_BV).max(-1))


def _lanes(x_BV: jax.Array) -> jax.Array:
    """(B, V) -> (B, M, L) in the order of the ids, the end filled with -inf."""
    B, V = x_BV.shape
    M = ceil_div(V, _LANES)
    return jnp.pad(x_BV, ((0, 0), (0, M * _LANES - V)), constant_values=-jnp.inf).reshape(B, M, _LANES)


def _total(x_BML: jax.Array) -> jax.Array:
    """Each row's sum; no entry is negative, and a NaN stays one."""
    return cpu.sum_masses(x_BML, axis=1).sum(-1)


def _keep(mass_BML: jax.Array, threshold_B: jax.Array) -> jax.Array:
    return jnp.where(mass_BML >= threshold_B[:, None, None], mass_BML, 0)


def nucleus_threshold(mass_BML: jax.Array, top_p: float) -> jax.Array:
    """The largest mass t of each row for which the masses ≥ t sum to at least `top_p` of the row; the largest mass for 0."""
    total_B = _total(mass_BML)
    # All tokens below (1 - top_p) / V of the whole are together less than what may be left out: none of them is needed.
    least_B = (1 - top_p) / (mass_BML.shape[1] * _LANES) * total_B * 0.5
    return _largest_threshold(mass_BML, lambda kept: kept, top_p * total_B, least_B)


def top_k_threshold(mass_BML: jax.Array, top_k: int) -> jax.Array:
    """The largest mass t of each row for which at least `top_k` masses are ≥ t; 0 when fewer are above 0."""
    goal_B = jnp.full(mass_BML.shape[0], top_k, jnp.float32)
    return _largest_threshold(mass_BML, lambda kept: (kept > 0).astype(jnp.float32), goal_B, jnp.zeros_like(goal_B))


def _largest_threshold(mass_BML: jax.Array, measure: Callable[[jax.Array], jax.Array], goal_B: jax.Array, least_B: jax.Array) -> jax.Array:
    """The largest t with total(measure(masses ≥ t, others 0)) ≥ goal; `least_B`, from where it searches, when there is none.

    Masses are not negative, so their bit patterns are ordered as they are, and bisection over the bits is exact.
    """
    bits = lambda x: jax.lax.bitcast_convert_type(x, jnp.int32)  # noqa: E731

    def narrow(state):
        low_B, high_B = state  # `low` reaches the goal (or is the least); nothing above `high` does
        middle_B = low_B + (high_B - low_B + 1) // 2
        enough_B = _total(measure(_keep(mass_BML, jax.lax.bitcast_convert_type(middle_B, jnp.float32)))) >= goal_B
        return jnp.where(enough_B, middle_B, low_B), jnp.where(enough_B, high_B, middle_B - 1)

    low_B, high_B = bits(least_B), bits(mass_BML.max(1).max(-1))
    low_B, _ = jax.lax.while_loop(lambda state: jnp.any(state[0] < state[1]), narrow, (low_B, jnp.maximum(low_B, high_B)))
    return jax.lax.bitcast_convert_type(low_B, jnp.float32)


def invert_cdf(mass_BML: jax.Array, uniforms_B: jax.Array) -> jax.Array:
    """An id (int32) drawn by its mass: the first whose cumulative mass exceeds uniform × total, lane after lane.

    Never an id without mass. Two levels, the lane and then the place in it, since a flat cumulative sum over V is slow.
    """
    mass_BL = mass_BML.sum(1)
    upto_BL = jnp.cumsum(mass_BL, axis=-1)
    goal_B = uniforms_B * upto_BL[:, -1]
    lane_B = _first_above(upto_BL, mass_BL, goal_B)
    upto_B, own_B = (jnp.take_along_axis(x_BL, lane_B[:, None], axis=1)[:, 0] for x_BL in (upto_BL, mass_BL))
    inside_BM = jnp.take_along_axis(mass_BML, lane_B[:, None, None], axis=2)[:, :, 0]
    return _first_above(jnp.cumsum(inside_BM, axis=-1), inside_BM, goal_B - (upto_B - own_B)) * _LANES + lane_B


def _first_above(upto_BC: jax.Array, mass_BC: jax.Array, goal_B: jax.Array) -> jax.Array:
    """First index with mass whose running sum is above the goal; where rounding leaves none, the last index with mass."""
    has_BC = mass_BC > 0
    fits_BC = (upto_BC > goal_B[:, None]) & has_BC
    return jnp.where(fits_BC.any(-1), _first(fits_BC), mass_BC.shape[-1] - 1 - _first(has_BC[:, ::-1]))


def _first(found_BC: jax.Array) -> jax.Array:
    """The first true index of each row, int32; the length of the row where there is none."""
    length = found_BC.shape[-1]
    return jnp.where(found_BC, jnp.arange(length, dtype=jnp.int32), length).min(-1)
