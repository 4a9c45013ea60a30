"""LLaMA's modules: one layer's weights, and those outside the layers, with what each does.

NNX stays in this file and in llama.init_params: modules are merged from nested dicts of arrays inside a jitted function and never
leave it. Dimension letters: see weights.py.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from humpback.model import adapters, attention, cpu, kernels, products, quantization
from humpback.model.weights import WEIGHTS, LlamaConfig, layer_names, outer_names
from humpback.rounding import ceil_div, round_up

PARTS = 4  # of the width in `frugal_swiglu`
WIDTH_AXES = tuple(WEIGHTS[name].shape.index("F") for name in ("gate", "up", "down"))

Parameter = nnx.Param[jax.Array]
Tables = tuple[jax.Array, jax.Array]  # of attention.rope_tables
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Drop = Callable[[jax.Array, int], jax.Array]
Product = Callable[..., tuple[jax.Array, ...]]  # of rows with any number of matrices


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Divides x (…, D) by its root mean square and multiplies it with scale; in float32, returned in x's dtype."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (x32 * scale.astype(jnp.float32)).astype(x.dtype)


def row_product(dtype: Any, x: jax.Array, *weights: Any, drop: Drop | None = None) -> tuple[jax.Array, ...]:
    """Multiplies rows x (R, I) with weights of the table, whose first dimensions are the inputs, in `dtype`; the results are in x's.

    drop: dropout on what goes into the adapters, where the weights are adapters.Frozen.
    """
    if isinstance(weights[0], adapters.Frozen):
        return adapters.product(dtype, x, weights, drop)
    return products.matmul(dtype, x, tuple(weight.reshape(x.shape[-1], -1) for weight in weights))


def turned_product(dtype: Any, x: jax.Array, *weights: jax.Array) -> tuple[jax.Array, ...]:
    """Multiplies rows x (R, I) with matrices (O, I) of `decoding_params`, all in `dtype`; the results are in x's."""
    parts = [quantization.factors(weight_OI, dtype) for weight_OI in weights]
    return tuple(quantization.scaled(products.turned_matmul(x, matrix_OI), scale_O) for matrix_OI, scale_O in parts)


def swiglu(product: Product, h_RD: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """Computes the feed-forward branch of normed rows, (R, D)."""
    gate_RF, up_RF = product(h_RD, gate, up)
    return product(jax.nn.silu(gate_RF) * up_RF, down)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def frugal_swiglu(product: Product, h_RD: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """Computes `swiglu`, of which the backward pass keeps nothing and computes all again, one of PARTS of the width after the other.

    Three arrays (R, F) would otherwise be most of what a layer's backward pass holds.
    """
    return swiglu(product, h_RD, gate, up, down)


def _frugal_backward(product: Product, saved: tuple[jax.Array, ...], grad_RD: jax.Array) -> tuple[jax.Array, ...]:
    h_RD, *matrices = saved
    # Cut inside of what each device has of the width, or the matrices would have to be sent.
    shards = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    views = [x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :]) for x, axis in zip(matrices, WIDTH_AXES, strict=True)]
    width = views[0].shape[-1]
    size = round_up(ceil_div(width, PARTS), kernels.LANES)

    def again(h_RD: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Rows that come out as they went in take the gradient so far, to which each product then adds its own: no other array is held.
        (gate_RF,), (up_RF,) = product(h_RD, gate), product(h_RD, up)
        return h_RD, product(jax.nn.silu(gate_RF) * up_RF, down)[0]

    grad_h_RD, by_part = jnp.zeros_like(h_RD), []
    for start in range(0, width, size):
        stop = min(start + size, width)
        part = (jax.lax.slice_in_dim(view, start, stop, axis=axis + 1) for view, axis in zip(views, WIDTH_AXES, strict=True))
        grad_h_RD, *grads = jax.vjp(again, h_RD, *part)[1]((grad_h_RD, grad_RD))
        by_part.append(grads)
        # Else the next part is begun before this one is done.
        h_RD, grad_RD, grad_h_RD, by_part = jax.lax.optimization_barrier((h_RD, grad_RD, grad_h_RD, by_part))
    joined = (jnp.concatenate(grads, axis=axis + 1) for grads, axis in zip(zip(*by_part, strict=True), WIDTH_AXES, strict=True))
    return grad_h_RD, *(grad.reshape(x.shape) for grad, x in zip(joined, matrices, strict=True))


frugal_swiglu.defvjp(lambda product, *inputs: (swiglu(product, *inputs), inputs), _frugal_backward)


class Layer(nnx.Module):
    """One transformer layer; its weights are those of the table's `per_layer` rows that the config has."""

    attention_norm: Parameter
    q: Parameter
    k: Parameter
    v: Parameter
    q_bias: Parameter
    k_bias: Parameter
    v_bias: Parameter
    q_norm: Parameter
    k_norm: Parameter
    o: Parameter
    ffn_norm: Parameter
    gate: Parameter
    up: Parameter
    down: Parameter

    def __init__(self, cfg: LlamaConfig, key: jax.Array, dtype: Any):
        self.cfg = cfg
        for index, name in enumerate(layer_names(cfg)):
            setattr(self, name, nnx.Param(WEIGHTS[name].init(cfg, jax.random.fold_in(key, index), dtype)))

    def __call__(
        self,
        x_BTD: jax.Array,
        tables: Tables | None,
        attend: Attend,
        drop: Drop | None,
        product: Product,
        last_B: jax.Array | None = None,
        frugal: bool = False,
    ) -> jax.Array:
        """Applies the layer to x. `attend(q, k, v)` gets rotated queries and keys; `drop(branch, number)` is dropout on a branch.
        tables: None in a layer that rotates nothing.
        last_B: only this token of each row goes on, (B, 1, D); the others serve as keys and values. frugal: with `frugal_swiglu`.
        """
        h_BTD, (T, H) = rms_norm(x_BTD, self.attention_norm[...], self.cfg.rms_eps), (x_BTD.shape[1], self.cfg.head_dim)
        # Every product is a plain matrix product over B·T rows, the form all backends do fastest, those of the same rows in one go.
        rows = lambda a: a.reshape(-1, a.shape[-1])  # noqa: E731
        heads = lambda a: a.reshape(len(x_BTD), -1, a.shape[-1] // H, H)  # noqa: E731
        if last_B is None:
            q, k, v = product(rows(h_BTD), self.q[...], self.k[...], self.v[...])
        else:
            k, v = product(rows(h_BTD), self.k[...], self.v[...])
        k_BTKH, v_BTKH = self._placed(heads(self._biased(k, "k")), "k", tables), heads(self._biased(v, "v"))
        if last_B is not None:
            pick = lambda a: jnp.take_along_axis(a, last_B[:, None, None], axis=1)  # noqa: E731
            x_BTD, h_BTD, tables, T = pick(x_BTD), pick(h_BTD), tables and (pick(tables[0]), pick(tables[1])), 1
            (q,) = product(rows(h_BTD), self.q[...])
        out_BTNH = attend(self._placed(heads(self._biased(q, "q")), "q", tables), k_BTKH, v_BTKH)
        (branch,) = product(out_BTNH.reshape(-1, self.cfg.num_heads * H), self.o[...])
        branch_BTD = branch.reshape(-1, T, self.cfg.d_model)
        x_BTD = x_BTD + (drop(branch_BTD, 0) if drop else branch_BTD)
        h_RD = rows(rms_norm(x_BTD, self.ffn_norm[...], self.cfg.rms_eps))
        branch = (frugal_swiglu if frugal else swiglu)(product, h_RD, self.gate[...], self.up[...], self.down[...])
        branch_BTD = branch.reshape(-1, T, self.cfg.d_model)
        return x_BTD + (drop(branch_BTD, 1) if drop else branch_BTD)

    def _biased(self, rows: jax.Array, name: str) -> jax.Array:
        """Adds the bias of q, k or v to their rows (R, heads · H), where the config has one."""
        return rows + getattr(self, f"{name}_bias")[...].reshape(-1).astype(rows.dtype) if self.cfg.qkv_bias else rows

    def _placed(self, x: jax.Array, name: str, tables: Tables | None) -> jax.Array:
        """Norms each head of q or k (B, T, heads, H), where the config has it, and rotates it."""
        if self.cfg.qk_norm:
            x = rms_norm(x, getattr(self, f"{name}_norm")[...], self.cfg.rms_eps)
        return x if tables is None else attention.rotate(x, tables)


class Outer(nnx.Module):
    """What stands before and after the layers: embedding, final norm, head (of a model that is not tied)."""

    embedding: Parameter
    final_norm: Parameter
    head: Parameter

    def __init__(self, cfg: LlamaConfig, key: jax.Array, dtype: Any):
        self.cfg = cfg
        for index, name in enumerate(outer_names(cfg)):
            setattr(self, name, nnx.Param(WEIGHTS[name].init(cfg, jax.random.fold_in(key, index), dtype)))

    def embed(self, ids: jax.Array, dtype: Any) -> jax.Array:
        table = self.embedding[...]
        return quantization.rows(*cpu.in_the_loop(table.weight if isinstance(table, adapters.Frozen) else table, ids), dtype)

    def norm(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.final_norm[...], self.cfg.rms_eps)

    def logits(self, x: jax.Array, turned: bool = False) -> jax.Array:
        """Computes logits (…, V) float32 of x (…, D) after the final norm; `turned`: the head is that of `decoding_params`."""
        rows = cpu.two_rows(x.reshape(-1, self.cfg.d_model))
        if self.cfg.tied or turned:
            head_VD, scale_V = quantization.factors((self.embedding if self.cfg.tied else self.head)[...], x.dtype)
            out = quantization.scaled(products.einsum("rd,vd->rv", rows, head_VD), scale_V)
        else:
            out = products.einsum("rd,dv->rv", rows, self.head[...].astype(x.dtype))
        return out[: math.prod(x.shape[:-1])].reshape(*x.shape[:-1], self.cfg.vocab_size)


@functools.lru_cache(maxsize=64)
def _graphdefs(cfg: LlamaConfig) -> tuple[Any, Any]:
    """Makes the static halves of the modules (Outer, Layer), once per config and without allocating a weight."""
    key = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
    outer, layer = (nnx.eval_shape(lambda k, module=module: module(cfg, k, jnp.float32), key) for module in (Outer, Layer))
    return nnx.split(outer)[0], nnx.split(layer)[0]


def merge_outer(cfg: LlamaConfig, params: Mapping[str, Any]) -> Outer:
    """Puts a tree's weights outside the layers into their module."""
    return nnx.merge(_graphdefs(cfg)[0], {name: value for name, value in params.items() if name != "layers"})


def merge_layer(cfg: LlamaConfig, weights: Mapping[str, jax.Array]) -> Layer:
    """Puts one layer's weights into their module."""
    return nnx.merge(_graphdefs(cfg)[1], dict(weights))
