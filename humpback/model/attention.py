"""The attention mathematics: rotary positions, causal attention inside segments, attention to a cache.

Grouped queries share their keys: the G query heads of one key head become G·T rows of one matrix, so K and V are
never repeated in memory. Softmax is in float32. Dimension letters: see weights.py.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from humpback.model import kernels, products
from humpback.model.kernels import Prefix
from humpback.model.weights import LlamaConfig

# Queries are taken in blocks that see only the keys up to their own end: the upper triangle of the score matrix is
# not computed at all. At most MAX_BLOCKS, because each is compiled.
MIN_BLOCK = 256
MAX_BLOCKS = 8
MASKED = -1e30  # finite: a row that is masked everywhere gives a mean, not NaN
# A CPU looks at a long cache in pieces, as far as the longest row fills it. To cut a piece out takes longer than to look at it, so
# that a shorter cache is looked at whole.
LONG_CACHE, CHUNK = 512, 128


def inverse_frequencies(cfg: LlamaConfig) -> np.ndarray:
    """Radians per position of the H/2 rotations, float32, with Llama 3's scaling where the config has it."""
    freq = 1.0 / cfg.rope_theta ** (np.arange(0, cfg.head_dim, 2, dtype=np.float64) / cfg.head_dim)
    if (scaling := cfg.rope_scaling) is not None:
        wavelength = 2 * np.pi / freq
        # How far each wavelength lies between "slow, fully stretched" (0) and "fast, untouched" (1).
        span = scaling.high_freq_factor - scaling.low_freq_factor
        smooth = (scaling.original_max_position / wavelength - scaling.low_freq_factor) / span
        smooth = np.clip(smooth, 0.0, 1.0)
        freq = (1 - smooth) * freq / scaling.factor + smooth * freq
    return freq.astype(np.float32)


def rope_tables(cfg: LlamaConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """positions (…) int -> cosines and sines (…, H/2) float32."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(cfg)

    def tables(angles: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.cos(angles), jnp.sin(angles)

    def once(angles: jax.Array) -> tuple[jax.Array, jax.Array]:
        return lax.cond(jnp.max(angles) >= 0, tables, lambda angles: (angles, angles), angles)

    # On a CPU XLA would compute them again in every layer, which takes as long as a product does, were it not for the branch.
    return lax.platform_dependent(angles, cpu=once, default=tables)


def rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates x (B, T, heads, H) by its positions; Hugging Face's layout: element i pairs with i + H/2."""
    cos, sin = (table[:, :, None, :] for table in tables)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def causal_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array | None,
    prefix: Prefix | None = None,
    dtype: Any = None,
) -> jax.Array:
    """Each token attends to itself and to the earlier tokens of its row that have its segment number -> (B, T, N, H).

    Earlier means earlier in the row, whatever the positions say. Every token sees at least itself; with a prefix, also
    the part of it that the row uses. Products are in `dtype` (None: the queries', as the
    kernel's always are).
    """
    if kernels.takes_splash(q_BTNH, k_BTKH, segments_BT, prefix):
        return kernels.splash_attention(q_BTNH, k_BTKH, v_BTKH, segments_BT, prefix)
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    G = N // K
    dtype = dtype or q_BTNH.dtype
    q_BKGTH = q_BTNH.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4) * H**-0.5
    k_BKSH, v_BKSH = (x.transpose(0, 2, 1, 3) for x in (k_BTKH, v_BTKH))
    used_BP = None
    if prefix is not None:
        k_KHP, v_KPH, shared_B = prefix
        P = k_KHP.shape[2]
        used_BP = jnp.arange(P) < shared_B[:, None]
        k_BKSH = jnp.concatenate([jnp.broadcast_to(k_KHP.transpose(0, 2, 1), (B, K, P, H)).astype(k_BKSH.dtype), k_BKSH], axis=2)
        v_BKSH = jnp.concatenate([jnp.broadcast_to(v_KPH, (B, K, P, H)).astype(v_BKSH.dtype), v_BKSH], axis=2)
    out_BKGTH = _blocked(dtype, q_BKGTH, k_BKSH, v_BKSH, segments_BT, used_BP)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H).astype(q_BTNH.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocked(
    dtype: Any, q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, segments_BT: jax.Array | None, used_BP: jax.Array | None
) -> jax.Array:
    """(B, K, G, T, H) float32 for scaled queries: the first S - T keys are a prefix, of which used_BP says who uses what.

    Only a block's scores exist at a time; the backward pass keeps the sums of the exponentials and computes the scores again.
    """
    return _blocked_forward(dtype, q_BKGTH, k_BKSH, v_BKSH, segments_BT, used_BP)[0]


def _blocked_forward(dtype, q_BKGTH, k_BKSH, v_BKSH, segments_BT, used_BP):
    given = q_BKGTH, k_BKSH, v_BKSH
    q_BKGTH, k_BKSH, v_BKSH = (x.astype(dtype) for x in given)
    # A column of ones beside the values adds up the weights in the same product.
    v_BKSI = jnp.concatenate([v_BKSH, jnp.ones((*v_BKSH.shape[:3], 1), dtype)], axis=3)
    outputs = []
    for start, stop, seen in _blocks(q_BKGTH, k_BKSH):
        mask_BTS = _mask(segments_BT, used_BP, start, stop)
        outputs.append(_block(q_BKGTH[:, :, :, start:stop], k_BKSH[:, :, :seen], v_BKSI[:, :, :seen], mask_BTS))
    out_BKGTH, log_sums_BKGT = (checkpoint_name(_join([block[i] for block in outputs]), products.SAVED) for i in (0, 1))
    return out_BKGTH, (given, segments_BT, used_BP, out_BKGTH, log_sums_BKGT)


def _blocked_backward(dtype, saved, grad_BKGTH):
    given, segments_BT, used_BP, out_BKGTH, log_sums_BKGT = saved
    q_BKGTH, k_BKSH, v_BKSH = (x.astype(dtype) for x in given)
    # How far the whole row's weights pull: what the softmax takes from each weight's gradient.
    pulls_BKGT = jnp.sum(grad_BKGTH * out_BKGTH, axis=-1)
    grads_q, grad_k, grad_v = [], jnp.zeros(k_BKSH.shape), jnp.zeros(v_BKSH.shape)
    for start, stop, seen in _blocks(q_BKGTH, k_BKSH):
        part = (x[:, :, :, start:stop] for x in (q_BKGTH, grad_BKGTH, log_sums_BKGT, pulls_BKGT))
        mask_BTS = _mask(segments_BT, used_BP, start, stop)
        dq, dk, dv = _block_backward(*part, k_BKSH[:, :, :seen], v_BKSH[:, :, :seen], mask_BTS)
        grads_q.append(dq)
        grad_k, grad_v = grad_k.at[:, :, :seen].add(dk), grad_v.at[:, :, :seen].add(dv)
    grads = (grad.astype(x.dtype) for grad, x in zip((_join(grads_q), grad_k, grad_v), given, strict=True))
    return *grads, None, None


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _blocks(q_BKGTH: jax.Array, k_BKSH: jax.Array) -> Iterator[tuple[int, int, int]]:
    """(first query, first of the next block, how many keys these can see)."""
    T, S = q_BKGTH.shape[3], k_BKSH.shape[2]
    size = max(MIN_BLOCK, -(-T // MAX_BLOCKS))
    for start in range(0, T, size):
        stop = min(start + size, T)
        yield start, stop, S - T + stop


def _join(blocks: list[jax.Array]) -> jax.Array:
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=3)


def _mask(segments_BT: jax.Array | None, used_BP: jax.Array | None, start: int, stop: int) -> jax.Array:
    """Which keys the queries of a block see, (B or 1, stop - start, P + stop) bool."""
    mask_BTS = jnp.asarray(np.arange(stop)[None, :] <= np.arange(start, stop)[:, None])[None]
    if segments_BT is not None:
        mask_BTS &= segments_BT[:, start:stop, None] == segments_BT[:, None, :stop]
    if used_BP is not None:
        B, P = used_BP.shape
        before_BTP = jnp.broadcast_to(used_BP[:, None], (B, stop - start, P))
        mask_BTS = jnp.concatenate([before_BTP, jnp.broadcast_to(mask_BTS, (B, *mask_BTS.shape[1:]))], axis=2)
    return mask_BTS


def _scores(q_BKMH: jax.Array, k_BKSH: jax.Array, mask_BMS: jax.Array) -> jax.Array:
    return products.einsum("bkmh,bksh->bkms", q_BKMH, k_BKSH) + mask_BMS[:, None]


def _rows(q_BKGTH: jax.Array, mask_BTS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The queries of a key head as rows (B, K, G·T, H), and what is added to their scores, (B, G·T, S)."""
    B, K, G, T, H = q_BKGTH.shape
    return q_BKGTH.reshape(B, K, G * T, H), jnp.tile(jnp.where(mask_BTS, 0.0, MASKED), (1, G, 1))


def _block(q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSI: jax.Array, mask_BTS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(B, K, G, T, H) and the logarithm of the sum of the exponentials (B, K, G, T), both float32. The values' last column is ones."""
    # The softmax is written out: adding the mask and dividing after the product with V touches the (T, S) matrices
    # less often than jax.nn.softmax of a jnp.where does.
    B, K, G, T, H = q_BKGTH.shape
    # The barrier, different in each layer, keeps XLA's CPU backend from writing out the mask of all layers for every head beforehand.
    q_BKMH, mask_BMS, k_BKSH, v_BKSI = lax.optimization_barrier((*_rows(q_BKGTH, mask_BTS), k_BKSH, v_BKSI))
    scores = _scores(q_BKMH, k_BKSH, mask_BMS)
    largest = lax.optimization_barrier(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest).astype(v_BKSI.dtype)
    out = products.einsum("bkms,bksh->bkmh", weights, v_BKSI).reshape(B, K, G, T, H + 1)
    return out[..., :H] / out[..., H:], jnp.log(out[..., H]) + largest.reshape(B, K, G, T)


def _block_backward(q_BKGTH, grad_BKGTH, log_sums_BKGT, pulls_BKGT, k_BKSH, v_BKSH, mask_BTS):
    """The gradients of a block's scaled queries (B, K, G, T, H) and of the keys and values (B, K, S, H) that it sees, float32."""
    B, K, G, T, H = q_BKGTH.shape
    grad_BKMH = grad_BKGTH.reshape(B, K, G * T, H).astype(v_BKSH.dtype)
    q_BKMH, mask_BMS, k_BKSH, v_BKSH, grad_BKMH = lax.optimization_barrier((*_rows(q_BKGTH, mask_BTS), k_BKSH, v_BKSH, grad_BKMH))
    weights = jnp.exp(_scores(q_BKMH, k_BKSH, mask_BMS) - log_sums_BKGT.reshape(B, K, G * T, 1))
    grad_weights = products.einsum("bkmh,bksh->bkms", grad_BKMH, v_BKSH)
    grad_scores = (weights * (grad_weights - pulls_BKGT.reshape(B, K, G * T, 1))).astype(q_BKMH.dtype)
    grad_q = products.einsum("bkms,bksh->bkmh", grad_scores, k_BKSH)
    grad_k, grad_v = products.crossed(grad_scores, q_BKMH), products.crossed(weights.astype(grad_BKMH.dtype), grad_BKMH)
    return grad_q.reshape(B, K, G, T, H), grad_k, grad_v


def cache_attention(
    q_BNH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array, last_B: jax.Array, prefix: Prefix | None = None
) -> jax.Array:
    """One query per row against its cache entries 0 … last, and the part of the prefix that it uses -> (B, N, H).

    Keys lie as (H, S) and values as (S, H), so that both products are plain ones over contiguous rows: on a CPU a step
    with 16 rows of 1,024 entries takes half the time it takes with (S, K, H) for both. The prefix is read once for all
    rows. What lies beyond a row's last entry changes no bit.
    """
    B, N, H = q_BNH.shape
    K, S = k_BKHS.shape[1], k_BKHS.shape[3]
    q_BKGH = (q_BNH.reshape(B, K, N // K, H) * H**-0.5).astype(k_BKHS.dtype)
    state = jnp.full(q_BKGH.shape[:3], MASKED), jnp.zeros(q_BKGH.shape[:3]), jnp.zeros(q_BKGH.shape)
    if prefix is not None:
        k_KHP, v_KPH, shared_B = prefix
        scores = products.einsum("bkgh,khp->bkgp", q_BKGH, k_KHP)
        used_BP = jnp.arange(k_KHP.shape[2]) < shared_B[:, None]
        state = _more(state, scores, used_BP, lambda probs: products.einsum("bkgp,kph->bkgh", probs.astype(v_KPH.dtype), v_KPH))

    def look(state: _Softmax, k_BKHS: jax.Array, v_BKSH: jax.Array, seen_BS: jax.Array) -> _Softmax:
        scores = products.einsum("bkgh,bkhs->bkgs", q_BKGH, k_BKHS)
        return _more(state, scores, seen_BS, lambda probs: products.einsum("bkgs,bksh->bkgh", probs.astype(v_BKSH.dtype), v_BKSH))

    def whole(*state: jax.Array) -> _Softmax:
        return look(state, k_BKHS, v_BKSH, jnp.arange(S) <= last_B[:, None])

    def in_chunks(*state: jax.Array) -> _Softmax:
        def body(chunk: jax.Array, state: _Softmax) -> _Softmax:
            start = jnp.minimum(chunk * CHUNK, S - CHUNK)  # the last one may begin in the one before
            at_S = start + jnp.arange(CHUNK)
            k, v = (lax.dynamic_slice_in_dim(x, start, CHUNK, axis) for x, axis in ((k_BKHS, 3), (v_BKSH, 2)))
            return look(state, k, v, (at_S >= chunk * CHUNK) & (at_S <= last_B[:, None]))

        return lax.fori_loop(0, jnp.max(last_B) // CHUNK + 1, body, state)

    chunks = in_chunks if S > LONG_CACHE else whole
    _, total, out_BKGH = lax.platform_dependent(*state, cpu=chunks, default=whole)
    return (out_BKGH / total[..., None]).astype(q_BNH.dtype).reshape(B, N, H)


# A softmax under way, f32: the largest score so far and the sum of the exponentials (B, K, G), the weighted values (B, K, G, H).
_Softmax = tuple[jax.Array, jax.Array, jax.Array]


def _more(state: _Softmax, scores_BKGS: jax.Array, seen_BS: jax.Array, weigh: Callable[[jax.Array], jax.Array]) -> _Softmax:
    """Takes further entries in; those that no row sees leave every bit as it was."""
    largest, total, out = state
    scores_BKGS = jnp.where(seen_BS[:, None, None], scores_BKGS, MASKED)
    now = jnp.maximum(largest, scores_BKGS.max(-1))
    kept, probs = jnp.exp(largest - now), jnp.where(seen_BS[:, None, None], jnp.exp(scores_BKGS - now[..., None]), 0)
    return now, total * kept + probs.sum(-1), out * kept[..., None] + weigh(probs)
