"""Cross-entropy of target tokens. The logits of all of them never exist at once: it goes through the tokens in chunks.

A chunk's logits serve its loss and its gradients in one go, so the backward pass computes nothing again, it only scales. On a mesh
every device goes through its own rows, with its part of the vocabulary, and what they have found is added up at the end, once.
Dimension letters: see model/weights.py; M target tokens of a group of rows, C of a chunk.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from humpback.model import adapters, cpu, llama, products, quantization
from humpback.model.sharding import BATCH_AXES
from humpback.rounding import ceil_div

CHUNK = 2_048  # tokens: with 32,000 words a chunk's logits take 260 MB
VOCABULARY_AXIS = "tensor"


class Head(NamedTuple):
    """The matrix behind the logits. tied: it is the embedding, (V, D); else (D, V). words: the vocabulary without its padding.
    frozen: it is not trained, and its gradient not computed."""

    matrix: jax.Array
    tied: bool
    words: int
    frozen: bool = False


def target_nats(
    cfg: llama.LlamaConfig,
    params: llama.Params,
    part: dict[str, Any],
    *,
    compute_dtype: Any,
    weights_GM: jax.Array | None = None,
    dropout: llama.Dropout | None = None,
    remat: llama.Remat = "none",
) -> jax.Array:
    """-log p of each target token of a part, (G, M) float32, or the sum of these times weights_GM, to be differentiated.

    Places that only fill up hold a number without meaning. The head is applied only where there is a loss: with a long condition
    and a short target, as in the backward direction, it would otherwise be a fifth of a small model's work. dropout, which is by the
    tokens' numbers, and remat: `llama.hidden`'s.
    """
    dtypes = llama.Dtypes(compute_dtype, activation_dtype(compute_dtype))
    ids, positions, segments, tokens = (part[f"{name}_ABT"] for name in ("ids", "positions", "segments", "tokens"))
    dropout = None if dropout is None else dropout._replace(tokens_BT=tokens)
    x_BTD = llama.hidden(cfg, params, ids, positions, segments, dtypes=dtypes, dropout=dropout, remat=remat)
    matrix = params["embedding" if cfg.tied else "head"]
    head = Head(matrix, cfg.tied, cfg.vocab_size)
    if isinstance(matrix, adapters.Frozen):
        head = Head(quantization.plain(matrix.weight, compute_dtype), cfg.tied, cfg.vocab_size, frozen=True)
    if weights_GM is None:
        return token_nats(compute_dtype, x_BTD, head, part["places_AGM"], part["targets_AGM"])
    return nats_sum(compute_dtype, x_BTD, head, part["places_AGM"], part["targets_AGM"], weights_GM)


def activation_dtype(compute_dtype: Any) -> Any:
    """The type of what lies between the products, on the mesh that is set."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return cpu.activation_dtype(device.platform if device is not None else jax.default_backend(), compute_dtype)


def token_nats(dtype: Any, x_BTD: jax.Array, head: Head, places_GM: jax.Array, targets_GM: jax.Array) -> jax.Array:
    """-log p of each target token, (G, M) float32; the products' operands in `dtype`.

    x is what `llama.hidden` gives; a place counts along the rows of its group, (B / G)·T.
    """
    return _on_mesh(dtype, x_BTD, head, places_GM, targets_GM, None)[0]


def nats_sum(
    dtype: Any, x_BTD: jax.Array, head: Head, places_GM: jax.Array, targets_GM: jax.Array, weights_GM: jax.Array
) -> jax.Array:
    """The sum of `token_nats` times weights_GM, float32, to be differentiated by x and, unless it is frozen, the matrix."""
    return _nats_sum(dtype, head.tied, head.words, head.frozen, x_BTD, head.matrix, places_GM, targets_GM, weights_GM)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _nats_sum(dtype, tied, words, frozen, x_BTD, matrix, *rows):
    return _nats_sum_forward(dtype, tied, words, frozen, x_BTD, matrix, *rows)[0]


def _nats_sum_forward(dtype, tied, words, frozen, x_BTD, matrix, places_GM, targets_GM, weights_GM):
    nats_GM, *grads = _on_mesh(dtype, x_BTD, Head(matrix, tied, words, frozen), places_GM, targets_GM, weights_GM)
    types = [jnp.zeros(0, x.dtype) for x in (x_BTD, matrix)][: len(grads)]
    return jnp.sum(nats_GM * weights_GM), (grads, types)


def _nats_sum_backward(dtype, tied, words, frozen, saved, scale):
    grads = [(grad.astype(jnp.float32) * scale).astype(like.dtype) for grad, like in zip(*saved, strict=True)]
    return *grads, *([None] if frozen else []), None, None, None


_nats_sum.defvjp(_nats_sum_forward, _nats_sum_backward)


def _on_mesh(dtype, x_BTD, head, *rows):
    """`_sweep` on each device's rows and words, of the mesh that is set; without one, on all of them."""
    mesh = jax.sharding.get_abstract_mesh()
    x_BTD, matrix = x_BTD.astype(dtype), head.matrix.astype(dtype)
    sweep = functools.partial(_sweep, head.tied, head.words, head.frozen)
    if mesh.empty:
        return sweep((), x_BTD, matrix, *rows)
    by_row = PartitionSpec(BATCH_AXES)
    whole, split = (
        PartitionSpec(VOCABULARY_AXIS, axis) if head.tied else PartitionSpec(axis, VOCABULARY_AXIS) for axis in (None, "fsdp")
    )
    found = (by_row,) if rows[-1] is None else (by_row, by_row) if head.frozen else (by_row, by_row, split)
    # The nats come out alike along the vocabulary's axis, which cannot be inferred, so it is not checked.
    run = jax.shard_map(
        functools.partial(sweep, mesh.axis_names), in_specs=(by_row, whole, *(by_row for _ in rows)), out_specs=found, check_vma=False
    )
    return run(x_BTD, matrix, *rows)


def _sweep(tied, words, frozen, axes, x_BTD, matrix, places_GM, targets_GM, weights_GM):
    """One device's (nats_GM,), and with weights also the gradients of their weighted sum by x and, unless it is frozen, the matrix.
    axes: of the mesh."""
    (G, M), D = places_GM.shape, x_BTD.shape[-1]
    x_RD = x_BTD.reshape(-1, D)
    places_M = (places_GM + jnp.arange(G)[:, None] * (x_RD.shape[0] // G)).reshape(-1)
    chunks = ceil_div(G * M, CHUNK)
    size = ceil_div(G * M, chunks)

    def cut(x_M: jax.Array) -> jax.Array:
        """(chunks, C)"""
        return jnp.pad(x_M, (0, chunks * size - G * M)).reshape(chunks, size)

    parts = cut(places_M), cut(targets_GM.reshape(-1))
    if weights_GM is None:
        nats_XC = lax.map(lambda part: _chunk(tied, words, frozen, axes, matrix, x_RD[part[0]], part[1], None)[0], parts)
        return (nats_XC.reshape(-1)[: G * M].reshape(G, M),)

    def step(grad_matrix, part):
        places_C, targets_C, weights_C = part
        nats_C, by_x_CD, by_matrix = _chunk(tied, words, frozen, axes, matrix, x_RD[places_C], targets_C, weights_C)
        return grad_matrix + by_matrix, (nats_C, by_x_CD)

    first, rest = ([part_XC[cut_] for part_XC in (*parts, cut(weights_GM.reshape(-1)))] for cut_ in (0, slice(1, None)))
    grad_matrix, found = step(0, first)
    found_X = jax.tree.map(lambda x: x[None], found)
    if chunks > 1:
        grad_matrix, more_X = lax.scan(step, grad_matrix, rest)
        found_X = jax.tree.map(lambda *x: jnp.concatenate(x), found_X, more_X)
    nats_XC, by_x_XCD = found_X
    grad_x_RD = jnp.zeros(x_RD.shape, jnp.float32).at[parts[0].reshape(-1)].add(by_x_XCD.reshape(-1, D))
    if axes:
        grad_x_RD = lax.psum(grad_x_RD, VOCABULARY_AXIS)
        if lax.axis_size(BATCH_AXES) > 1 and not frozen:  # what is sent is sent in the products' type
            grad_matrix = lax.psum_scatter(grad_matrix.astype(matrix.dtype), "fsdp", scatter_dimension=int(tied), tiled=True)
            grad_matrix = lax.psum(grad_matrix, "data")
    nats_GM, grad_x_BTD = nats_XC.reshape(-1)[: G * M].reshape(G, M), grad_x_RD.reshape(x_BTD.shape)
    return (nats_GM, grad_x_BTD) if frozen else (nats_GM, grad_x_BTD, grad_matrix)


def _chunk(tied, words, frozen, axes, matrix, x_CD, targets_C, weights_C):
    """(nats_C, and with weights the gradients of their weighted sum by x and the matrix)."""
    V = matrix.shape[0 if tied else 1]
    logits_CV = products.einsum("cd,vd->cv" if tied else "cd,dv->cv", x_CD, matrix)
    shards = lax.axis_size(VOCABULARY_AXIS) if axes else 1
    first = lax.axis_index(VOCABULARY_AXIS) * V if axes else 0
    words_V = jnp.arange(V)
    if V * shards > words:
        logits_CV = jnp.where(words_V < words - first, logits_CV, -jnp.inf)

    def everywhere(reduce, x_C):
        return reduce(x_C, VOCABULARY_AXIS) if shards > 1 else x_C

    largest_C = everywhere(lax.pmax, logits_CV.max(-1))
    total_C = everywhere(lax.psum, jnp.exp(logits_CV - largest_C[:, None]).sum(-1))
    own_C = targets_C - first
    here_C = (own_C >= 0) & (own_C < V)
    picked_C = jnp.take_along_axis(logits_CV, jnp.clip(own_C, 0, V - 1)[:, None], axis=1)[:, 0]
    picked_C = everywhere(lax.psum, jnp.where(here_C, picked_C, 0))
    log_sum_C = largest_C + jnp.log(total_C)
    nats_C = log_sum_C - picked_C
    if weights_C is None:
        return nats_C, None, None
    probs_CV = jnp.exp(logits_CV - log_sum_C[:, None]) - (words_V == own_C[:, None])
    grad_CV = (probs_CV * weights_C[:, None]).astype(x_CD.dtype)
    by_x_CD = products.einsum("cv,vd->cd" if tied else "cv,dv->cd", grad_CV, matrix)
    if frozen:
        return nats_C, by_x_CD, jnp.zeros(0)
    by_matrix = products.crossed(grad_CV, x_CD) if tied else products.crossed(x_CD, grad_CV)
    return nats_C, by_x_CD, by_matrix
