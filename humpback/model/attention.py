"""The attention mathematics: rotary positions, causal attention inside segments, of prompts, and to a cache.

Grouped queries share their keys: the G query heads of one key head become G·T rows of one matrix, so K and V are
never repeated in memory. Softmax is in float32. Dimension letters: see weights.py.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from humpback.model import cpu, kernels, products
from humpback.model.kernels import Prefix
from humpback.model.weights import LlamaConfig
from humpback.rounding import ceil_div, round_up

BLOCK = 256  # queries, and in training keys, whose scores exist at a time
MAX_BLOCKS = 8  # of a prompt's queries, because each is compiled
MASKED = -1e30  # finite: a row that is masked everywhere gives a mean, not NaN


class Branches(NamedTuple):
    """Rows that go on in several ways from where they have begun.

    numbers_BT: a token of number 0 is of the trunk, which all see; others see the trunk and what has their own number. places_BT: where
    each token stands, counted along the trunk and its branch, for a branch begins where the trunk ends.
    """

    numbers_BT: jax.Array
    places_BT: jax.Array


def inverse_frequencies(cfg: LlamaConfig) -> np.ndarray:
    """Returns the radians per position of the H/2 rotations, float32, with the config's scaling."""
    freq = 1.0 / cfg.rope_theta ** (np.arange(0, cfg.head_dim, 2, dtype=np.float64) / cfg.head_dim) / cfg.rope_factor
    if (scaling := cfg.rope_scaling) is not None:
        wavelength = 2 * np.pi / freq
        # How far each wavelength lies between "slow, fully stretched" (0) and "fast, untouched" (1).
        span = scaling.high_freq_factor - scaling.low_freq_factor
        smooth = (scaling.original_max_position / wavelength - scaling.low_freq_factor) / span
        smooth = np.clip(smooth, 0.0, 1.0)
        freq = (1 - smooth) * freq / scaling.factor + smooth * freq
    return freq.astype(np.float32)


def rope_tables(cfg: LlamaConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes cosines and sines (…, H/2) float32 of the rotations at positions (…) int."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(cfg)
    return cpu.once(lambda angles: (jnp.cos(angles), jnp.sin(angles)), angles)


def rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates x (B, T, heads, H) by its positions; Hugging Face's layout: element i pairs with i + H/2."""
    cos, sin = (table[:, :, None, :] for table in tables)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def causal_attention(
    q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, segments_BT: jax.Array, dtype: Any = None
) -> jax.Array:
    """Each token attends to itself and to the earlier tokens of its row that have its segment number -> (B, T, N, H).

    Earlier means earlier in the row, whatever the positions say. For training: it never holds the scores of more than a block of
    queries with a block of keys, and passes over blocks that no segment joins. Products are in `dtype` (None: the queries', as the
    kernel's always are).
    """
    if kernels.takes_splash(q_BTNH, k_BTKH, segments_BT, None):
        return kernels.splash_attention(q_BTNH, k_BTKH, v_BTKH, segments_BT)
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    blocks = ceil_div(T, BLOCK)
    size = T if blocks == 1 else round_up(ceil_div(T, blocks), 16)
    fill = functools.partial(kernels.pad, count=blocks * size - T)
    q_BKGTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4) * H**-0.5
    k_BKTH, v_BKTH = (fill(x.transpose(0, 2, 1, 3), 2) for x in (k_BTKH, v_BTKH))
    out_BKGTH = _packed(dtype or q_BTNH.dtype, size, fill(q_BKGTH, 3), k_BKTH, v_BKTH, fill(segments_BT, 1))
    return out_BKGTH[:, :, :, :T].transpose(0, 3, 1, 2, 4).reshape(B, T, N, H).astype(q_BTNH.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _packed(
    dtype: Any, size: int, q_BKGTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, segments_BT: jax.Array
) -> jax.Array:
    """Attends for scaled queries: (B, K, G, T, H) float32; `size` divides T.

    The backward pass keeps the sums of the exponentials and computes the scores again.
    """
    return _packed_forward(dtype, size, q_BKGTH, k_BKTH, v_BKTH, segments_BT)[0]


def _packed_forward(dtype, size, q_BKGTH, k_BKTH, v_BKTH, segments_BT):
    inputs = q_BKGTH, k_BKTH, v_BKTH
    outputs = _by_row(functools.partial(_row, size), *(x.astype(dtype) for x in inputs), segments_BT)
    out_BKGTH, log_sums_BKGT = (checkpoint_name(x, products.SAVED) for x in outputs)
    return out_BKGTH, (inputs, segments_BT, out_BKGTH, log_sums_BKGT)


def _packed_backward(dtype, size, saved, grad_BKGTH):
    inputs, segments_BT, out_BKGTH, log_sums_BKGT = saved
    # How far the whole row's weights pull: what the softmax takes from each weight's gradient.
    pulls_BKGT = jnp.sum(grad_BKGTH * out_BKGTH, axis=-1)
    narrow = (x.astype(dtype) for x in (*inputs, grad_BKGTH))
    grads = _by_row(functools.partial(_row_backward, size), *narrow, log_sums_BKGT, pulls_BKGT, segments_BT)
    return *(grad.astype(x.dtype) for grad, x in zip(grads, inputs, strict=True)), None


_packed.defvjp(_packed_forward, _packed_backward)


def _by_row(attend: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Applies `attend` to one row after the other; every device of the mesh that is set takes its rows and key heads.

    These are the arrays' first two axes; the last array has the segments, which are of all heads.
    """
    rows, heads = kernels.row_and_head_axes(*arrays[0].shape[:2])
    by_head, by_row = PartitionSpec(rows, heads), PartitionSpec(rows)

    def all_rows(*arrays: jax.Array) -> Any:
        return lax.map(lambda row: attend(*row), arrays)

    if rows is None and heads is None:
        return all_rows(*arrays)
    # What comes out varies over the axes that share nothing, too, as far as can be inferred, so that they are not checked.
    specs = (*(by_head for _ in arrays[1:]), by_row)
    return jax.shard_map(all_rows, in_specs=specs, out_specs=by_head, check_vma=False)(*arrays)


def _row(size: int, q_KGTH: jax.Array, k_KTH: jax.Array, v_KTH: jax.Array, segments_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Attends in one row: (K, G, T, H) and the logarithms of the sums of the exponentials (K, G, T), both float32."""
    K, G, T, H = q_KGTH.shape
    # A column of ones beside the values adds up the weights in the same product.
    v_KTI = jnp.concatenate([v_KTH, jnp.ones((K, T, 1), v_KTH.dtype)], axis=2)
    first_X = _first_seen(segments_T, size)

    def block(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        q_KMH = _cut(q_KGTH, i, size, 2).reshape(K, G * size, H)

        def more(j: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            largest, out = state
            scores = _scores(q_KMH, _cut(k_KTH, j, size, 1), segments_T, i, j)
            now = cpu.largest_first(jnp.maximum(largest, scores.max(axis=-1, keepdims=True)))
            weights = jnp.exp(scores - now).astype(v_KTI.dtype)
            return now, out * jnp.exp(largest - now) + products.einsum("kms,ksi->kmi", weights, _cut(v_KTI, j, size, 1))

        start = jnp.full((K, G * size, 1), MASKED), jnp.zeros((K, G * size, H + 1))
        largest, out = lax.fori_loop(first_X[i], i + 1, more, start)
        return (out[..., :H] / out[..., H:]).reshape(K, G, size, H), (jnp.log(out[..., H:]) + largest).reshape(K, G, size)

    out_XKGSH, log_sums_XKGS = lax.map(block, jnp.arange(T // size))
    return _joined(out_XKGSH), _joined(log_sums_XKGS)


def _row_backward(size, q_KGTH, k_KTH, v_KTH, grad_KGTH, log_sums_KGT, pulls_KGT, segments_T):
    """Computes the gradients of one row's scaled queries (K, G, T, H), keys and values (K, T, H), float32."""
    K, G, T, H = q_KGTH.shape
    first_X = _first_seen(segments_T, size)

    def block(by_keys: tuple[jax.Array, jax.Array], i: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        q_KMH, grad_KMH = (_cut(x, i, size, 2).reshape(K, G * size, H) for x in (q_KGTH, grad_KGTH))
        log_sums_KM1, pulls_KM1 = (_cut(x, i, size, 2).reshape(K, G * size, 1) for x in (log_sums_KGT, pulls_KGT))

        def more(j: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            grad_q, grad_k, grad_v = state
            k_KSH, v_KSH = (_cut(x, j, size, 1) for x in (k_KTH, v_KTH))
            weights = jnp.exp(_scores(q_KMH, k_KSH, segments_T, i, j) - log_sums_KM1)
            grad_weights = products.einsum("kmh,ksh->kms", grad_KMH, v_KSH)
            grad_scores = (weights * (grad_weights - pulls_KM1)).astype(q_KMH.dtype)
            grad_q += products.einsum("kms,ksh->kmh", grad_scores, k_KSH)
            grad_k = _add(grad_k, products.crossed(grad_scores, q_KMH), j)
            return grad_q, grad_k, _add(grad_v, products.crossed(weights.astype(grad_KMH.dtype), grad_KMH), j)

        grad_q, grad_k, grad_v = lax.fori_loop(first_X[i], i + 1, more, (jnp.zeros(q_KMH.shape), *by_keys))
        return (grad_k, grad_v), grad_q.reshape(K, G, size, H)

    (grad_k, grad_v), grad_q_XKGSH = lax.scan(block, (jnp.zeros(k_KTH.shape), jnp.zeros(v_KTH.shape)), jnp.arange(T // size))
    return _joined(grad_q_XKGSH), grad_k, grad_v


def _first_seen(segments_T: jax.Array, size: int) -> jax.Array:
    """Finds, for each of the X blocks of queries, the first block of keys that may have a segment in common with it."""
    # Padding, 0, stands behind all segments: as the largest number it leaves the ranges of a packed row's blocks apart.
    numbers_XS = jnp.where(segments_T == 0, jnp.iinfo(segments_T.dtype).max, segments_T).reshape(-1, size)
    least_X, most_X = numbers_XS.min(axis=1), numbers_XS.max(axis=1)
    return jnp.argmax((least_X[:, None] <= most_X) & (least_X <= most_X[:, None]), axis=1)


def _scores(q_KMH: jax.Array, k_KSH: jax.Array, segments_T: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
    """Computes the masked scores (K, M, S) of block i of the queries, G·S rows of each key head, with block j of the keys."""
    size, at_S = k_KSH.shape[1], jnp.arange(k_KSH.shape[1])
    seen_SS = (i * size + at_S)[:, None] >= j * size + at_S
    seen_SS &= _cut(segments_T, i, size, 0)[:, None] == _cut(segments_T, j, size, 0)
    # Adding the mask touches the scores less often than a jnp.where does.
    return products.einsum("kmh,ksh->kms", q_KMH, k_KSH) + jnp.tile(jnp.where(seen_SS, 0.0, MASKED), (q_KMH.shape[1] // size, 1))


def _cut(x: jax.Array, block: jax.Array, size: int, axis: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(x, block * size, size, axis)


def _add(sum_KTH: jax.Array, x_KSH: jax.Array, block: jax.Array) -> jax.Array:
    size = x_KSH.shape[1]
    return lax.dynamic_update_slice_in_dim(sum_KTH, _cut(sum_KTH, block, size, 1) + x_KSH, block * size, 1)


def _joined(blocks: jax.Array) -> jax.Array:
    """Joins blocks (X, K, G, S, …) to (K, G, T, …)."""
    return jnp.moveaxis(blocks, 0, 2).reshape(*blocks.shape[1:3], -1, *blocks.shape[4:])


def prompt_attention(
    q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, prefix: Prefix | None = None, dtype: Any = None,
    numbers_BT: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Each token attends to itself, to all earlier ones of its row and, with a prefix, to the part of it that the row uses.

    numbers_BT: those of `Branches`; then not to those of other branches. (B, T, N, H); products as in `causal_attention`. For prompts,
    which are short and many: queries are taken in blocks of all rows, which see only the keys up to their own end.
    """
    if numbers_BT is None and kernels.takes_splash(q_BTNH, k_BTKH, None, prefix):
        return kernels.splash_attention(q_BTNH, k_BTKH, v_BTKH, None, prefix)
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    dtype = dtype or q_BTNH.dtype
    q_BKGTH = (q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4) * H**-0.5).astype(dtype)
    k_BKSH, v_BKSH = (x.transpose(0, 2, 1, 3).astype(dtype) for x in (k_BTKH, v_BTKH))
    used_BP = None
    if prefix is not None:
        k_KHP, v_KPH, shared_B = prefix
        P = k_KHP.shape[2]
        used_BP = jnp.arange(P) < shared_B[:, None]
        k_BKSH = jnp.concatenate([jnp.broadcast_to(k_KHP.transpose(0, 2, 1), (B, K, P, H)).astype(dtype), k_BKSH], axis=2)
        v_BKSH = jnp.concatenate([jnp.broadcast_to(v_KPH, (B, K, P, H)).astype(dtype), v_BKSH], axis=2)
    v_BKSI = jnp.concatenate([v_BKSH, jnp.ones((*v_BKSH.shape[:3], 1), dtype)], axis=3)
    size = max(BLOCK, ceil_div(T, MAX_BLOCKS))
    outputs = []
    for start in range(0, T, size):
        stop = min(start + size, T)
        seen = k_BKSH.shape[2] - T + stop
        mask_BTS = _prompt_mask(used_BP, start, stop, numbers_BT)
        outputs.append(_prompt_block(q_BKGTH[:, :, :, start:stop], k_BKSH[:, :, :seen], v_BKSI[:, :, :seen], mask_BTS))
    out_BKGTH = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=3)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H).astype(q_BTNH.dtype)


def _prompt_mask(used_BP: jax.Array | None, start: int, stop: int, numbers_BT: jax.Array | None = None) -> jax.Array:
    """Says which keys the queries of a block see, (B or 1, stop - start, P + stop) bool."""
    mask_BTS = jnp.asarray(np.arange(stop)[None, :] <= np.arange(start, stop)[:, None])[None]
    if numbers_BT is not None:
        of_keys_B1S = numbers_BT[:, None, :stop]
        mask_BTS = mask_BTS & ((of_keys_B1S == 0) | (of_keys_B1S == numbers_BT[:, start:stop, None]))
    if used_BP is None:
        return mask_BTS
    B, P = used_BP.shape
    before_BTP = jnp.broadcast_to(used_BP[:, None], (B, stop - start, P))
    return jnp.concatenate([before_BTP, jnp.broadcast_to(mask_BTS, (B, *mask_BTS.shape[1:]))], axis=2)


def _prompt_block(q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSI: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Attends for a block of scaled queries: (B, K, G, T, H) float32.

    The values' last column is ones, which adds up the weights in the same product.
    """
    # The softmax is written out: adding the mask and dividing after the product with V touches the (T, S) matrices
    # less often than jax.nn.softmax of a jnp.where does.
    B, K, G, T, H = q_BKGTH.shape
    q_BKMH, mask_BMS = q_BKGTH.reshape(B, K, G * T, H), jnp.tile(jnp.where(mask_BTS, 0.0, MASKED), (1, G, 1))
    q_BKMH, mask_BMS, k_BKSH, v_BKSI = cpu.layer_by_layer(q_BKMH, mask_BMS, k_BKSH, v_BKSI)
    scores = products.einsum("bkmh,bksh->bkms", q_BKMH, k_BKSH) + mask_BMS[:, None]
    largest = cpu.largest_first(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest).astype(v_BKSI.dtype)
    out = products.einsum("bkms,bksi->bkmi", weights, v_BKSI).reshape(B, K, G, T, H + 1)
    return out[..., :H] / out[..., H:]


def cache_attention(
    q_BNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    last_B: jax.Array,
    prefix: Prefix | None = None,
    own: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """One query per row attends to its cache entries 0 … last and to the part of the prefix that it uses -> (B, N, H).

    own: the row's own key and value (B, K, H) each, when they are not in the cache yet; last is then -1 for an empty one.

    Keys lie as (H, S) and values as (S, H), so that both products are plain ones over contiguous rows: on a CPU a step
    with 16 rows of 1,024 entries takes half the time it takes with (S, K, H) for both. The prefix is read once for all
    rows. What lies beyond a row's last entry changes no bit.
    """
    B, N, H = q_BNH.shape
    K = k_BKHS.shape[1]
    q_BKGH = (q_BNH.reshape(B, K, N // K, H) * H**-0.5).astype(k_BKHS.dtype)
    if own is not None and N == K:
        # With a second query, of zeros, these are matrix products; of a single one a TPU adds up products of numbers, three times as long.
        q_BKGH = jnp.pad(q_BKGH, ((0, 0), (0, 0), (0, 1), (0, 0)))
    state = jnp.full(q_BKGH.shape[:3], MASKED), jnp.zeros(q_BKGH.shape[:3]), jnp.zeros(q_BKGH.shape)
    if prefix is not None:
        k_KHP, v_KPH, shared_B = prefix
        scores = products.einsum("bkgh,khp->bkgp", q_BKGH, k_KHP)
        used_BP = jnp.arange(k_KHP.shape[2]) < shared_B[:, None]
        state = _more(state, scores, used_BP, lambda probs: products.einsum("bkgp,kph->bkgh", probs.astype(v_KPH.dtype), v_KPH))

    def look(state: _Softmax, k_BKHS: jax.Array, v_BKSH: jax.Array, seen_BS: jax.Array) -> _Softmax:
        scores = products.einsum("bkgh,bkhs->bkgs", q_BKGH, k_BKHS)
        return _more(state, scores, seen_BS, lambda probs: products.einsum("bkgs,bksh->bkgh", probs.astype(v_BKSH.dtype), v_BKSH))

    largest, total, out_BKGH = cpu.look_at_cache(look, state, k_BKHS, v_BKSH, last_B)
    if own is not None:
        k_BKH, v_BKH = (x.astype(k_BKHS.dtype) for x in own)
        scores = products.einsum("bkgh,bkh->bkg", q_BKGH, k_BKH)[..., None]
        weigh = lambda probs: probs * v_BKH[:, :, None].astype(jnp.float32)  # noqa: E731
        _, total, out_BKGH = _more((largest, total, out_BKGH), scores, jnp.ones((B, 1), bool), weigh)
    out_BKGH = (out_BKGH / total[..., None])[:, :, : N // K]
    return out_BKGH.astype(q_BNH.dtype).reshape(B, N, H)


# A softmax under way, f32: the largest score so far and the sum of the exponentials (B, K, G), the weighted values (B, K, G, H).
_Softmax = tuple[jax.Array, jax.Array, jax.Array]


def _more(state: _Softmax, scores_BKGS: jax.Array, seen_BS: jax.Array, weigh: Callable[[jax.Array], jax.Array]) -> _Softmax:
    """Takes further entries in; those that no row sees leave every bit as it was."""
    largest, total, out = state
    scores_BKGS = jnp.where(seen_BS[:, None, None], scores_BKGS, MASKED)
    now = jnp.maximum(largest, scores_BKGS.max(-1))
    kept, probs = jnp.exp(largest - now), jnp.where(seen_BS[:, None, None], jnp.exp(scores_BKGS - now[..., None]), 0)
    return now, total * kept + probs.sum(-1), out * kept[..., None] + weigh(probs)
