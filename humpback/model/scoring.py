"""How likely given tokens are, in the form of the weights and of the prefix that decoding has. Dimension letters: see weights.py."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from humpback.model import llama
from humpback.model.attention import Branches
from humpback.model.modules import merge_outer
from humpback.model.weights import LlamaConfig

_AT_ONCE = 512  # tokens whose logits exist at the same time


def score(
    cfg: LlamaConfig,
    params: Mapping[str, Any],
    ids_BT: jax.Array,
    lengths_B: jax.Array,
    starts_B: jax.Array,
    prefix: llama.Prefix | None = None,
    *,
    words: int = 0,
    dtypes: llama.Dtypes = llama.FLOAT32,
) -> jax.Array:
    """Reads rows as `prefill` -> (B, 2) float32: the sum of log p of a row's tokens from place `starts_B` on, of at least 1, to its
    length, and 1 where each of them is its likeliest, else 0. words: of the vocabulary, without what fills it up (0: all)."""
    log_probs_BT, first_BT = _following(cfg, params, ids_BT, prefix, None, words, dtypes)
    places = 1 + jnp.arange(log_probs_BT.shape[1])  # of the token that follows
    scored_BT = (places >= starts_B[:, None]) & (places < lengths_B[:, None])
    sums_B = jnp.where(scored_BT, log_probs_BT, 0).sum(1)
    return jnp.stack([sums_B, (first_BT | ~scored_BT).all(1).astype(jnp.float32)], axis=1)


def score_branches(
    cfg: LlamaConfig,
    params: Mapping[str, Any],
    ids_BT: jax.Array,
    branches: Branches,
    prefix: llama.Prefix | None = None,
    *,
    words: int = 0,
    dtypes: llama.Dtypes = llama.FLOAT32,
) -> jax.Array:
    """Reads rows whose tokens see as `branches` says -> (B, T, 2) float32: of each token but a row's first the log p behind the token that
    stands before it in the row, and 1 where it is the likeliest there, else 0."""
    found_BT2 = jnp.stack(_following(cfg, params, ids_BT, prefix, branches, words, dtypes), axis=2)[:, : ids_BT.shape[1]]
    return jnp.roll(found_BT2.astype(jnp.float32), 1, axis=1)


def _following(
    cfg: LlamaConfig, params: Mapping[str, Any], ids_BT: jax.Array, prefix: llama.Prefix | None, branches: Branches | None, words: int,
    dtypes: llama.Dtypes,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Of the token that follows each place, and more places behind them: log p, and whether it is the likeliest."""
    B, T = ids_BT.shape
    x_BTD, _ = llama.read(cfg, params, ids_BT, None, prefix, dtypes, branches)
    outer = merge_outer(cfg, params)
    at_once = max(1, _AT_ONCE // B)
    more = -T % at_once
    following_BT = jnp.pad(ids_BT[:, 1:], ((0, 0), (0, 1 + more)))
    x_BTD = jnp.pad(x_BTD, ((0, 0), (0, more), (0, 0)))

    def some(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x_BCD, ids_BC = part
        logits_BCV = outer.logits(outer.norm(x_BCD).astype(dtypes.compute), turned=True)
        if words:
            logits_BCV = jnp.where(jnp.arange(cfg.vocab_size) < words, logits_BCV, -jnp.inf)
        picked_BC = jnp.take_along_axis(logits_BCV, ids_BC[..., None], axis=-1)[..., 0]
        return picked_BC - jax.nn.logsumexp(logits_BCV, axis=-1), picked_BC >= logits_BCV.max(-1)

    def cut(x: jax.Array) -> jax.Array:
        """(B, T, …) -> (chunks, B, C, …)"""
        return jnp.moveaxis(x.reshape(B, -1, at_once, *x.shape[2:]), 1, 0)

    def whole(x_XBC: jax.Array) -> jax.Array:
        return jnp.moveaxis(x_XBC, 0, 1).reshape(B, -1)

    log_probs_BT, first_BT = map(whole, jax.lax.map(some, (cut(x_BTD), cut(following_BT))))
    return log_probs_BT, first_BT
