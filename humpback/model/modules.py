"""LLaMA's modules: one layer's weights, and those outside the layers, with what each does.

NNX stays in this file and in llama.init_params: modules are merged from nested dicts of arrays inside a jitted function and never
leave it. Dimension letters: see weights.py.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from humpback.model import attention, quantization
from humpback.model.weights import WEIGHTS, LlamaConfig, layer_names, outer_names

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Drop = Callable[[jax.Array, int], jax.Array]
Product = Callable[[jax.Array, jax.Array], jax.Array]


def rms_norm(x: jax.Array, scale: jax.Array, eps: float, axis: int = -1) -> jax.Array:
    """x over its root mean square along `axis` (D), times scale; computed in float32, returned in x's dtype."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=axis, keepdims=True) + eps)
    return (x32 * scale.astype(jnp.float32)).astype(x.dtype)


def row_product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Rows x (R, I) times a weight of the table, whose first dimensions are the inputs."""
    return x @ weight.astype(x.dtype).reshape(x.shape[-1], -1)


def turned_product(x: jax.Array, weight_OI: jax.Array) -> jax.Array:
    """Rows x (R, I) times a matrix of `decoding_params`."""
    matrix_OI, scale_O1 = quantization.factors(weight_OI, x.dtype)
    return quantization.scaled(jnp.einsum("ri,oi->ro", x, matrix_OI), None if scale_O1 is None else scale_O1[:, 0])


def column_product(weight_OI: jax.Array, x_IB: jax.Array) -> jax.Array:
    """A matrix of `decoding_params` times columns."""
    matrix_OI, scale_O1 = quantization.factors(weight_OI, x_IB.dtype)
    return quantization.scaled(matrix_OI @ x_IB, scale_O1)


class Layer(nnx.Module):
    """One transformer layer; its weights are the table's `per_layer` rows."""

    def __init__(self, cfg: LlamaConfig, key: jax.Array, dtype: Any):
        self.cfg = cfg
        for index, name in enumerate(layer_names()):
            setattr(self, name, nnx.Param(WEIGHTS[name].init(cfg, jax.random.fold_in(key, index), dtype)))

    def __call__(
        self,
        x_BTD: jax.Array,
        tables: tuple[jax.Array, jax.Array],
        attend: Attend,
        drop: Drop | None = None,
        product: Product = row_product,
    ) -> jax.Array:
        """`attend(q, k, v)` is given rotated queries and keys; `drop(branch, number)` is dropout on a branch."""
        branch = self.attention(rms_norm(x_BTD, self.attention_norm[...], self.cfg.rms_eps), tables, attend, product)
        x_BTD = x_BTD + (drop(branch, 0) if drop else branch)
        branch = self.feed_forward(rms_norm(x_BTD, self.ffn_norm[...], self.cfg.rms_eps), product)
        return x_BTD + (drop(branch, 1) if drop else branch)

    def attention(self, x_BTD: jax.Array, tables: tuple[jax.Array, jax.Array], attend: Attend, product: Product) -> jax.Array:
        # Every product is one plain matrix product over B·T rows: the form all backends do fastest.
        B, T, D = x_BTD.shape
        cfg = self.cfg
        x = x_BTD.reshape(B * T, D)
        q = product(x, self.q[...]).reshape(B, T, cfg.num_heads, cfg.head_dim)
        k = product(x, self.k[...]).reshape(B, T, cfg.num_kv_heads, cfg.head_dim)
        v = product(x, self.v[...]).reshape(B, T, cfg.num_kv_heads, cfg.head_dim)
        out = attend(attention.rotate(q, tables), attention.rotate(k, tables), v)
        return product(out.reshape(B * T, -1), self.o[...]).reshape(B, T, D)

    def feed_forward(self, x_BTD: jax.Array, product: Product) -> jax.Array:
        B, T, D = x_BTD.shape
        x = x_BTD.reshape(B * T, D)
        return product(jax.nn.silu(product(x, self.gate[...])) * product(x, self.up[...]), self.down[...]).reshape(B, T, D)

    def columns(self, x_DB: jax.Array, tables: tuple[jax.Array, jax.Array], attend: Attend) -> jax.Array:
        """The same layer for one token of each row, from the matrices of `decoding_params`; `attend` takes (B, heads, H)."""
        cfg, B = self.cfg, x_DB.shape[1]

        def heads(weight: nnx.Param, count: int) -> jax.Array:
            return column_product(weight[...], h_DB).reshape(count, cfg.head_dim, B).transpose(2, 0, 1)

        h_DB = rms_norm(x_DB, self.attention_norm[...][:, None], cfg.rms_eps, axis=0)
        q_BNH, k_BKH, v_BKH = heads(self.q, cfg.num_heads), heads(self.k, cfg.num_kv_heads), heads(self.v, cfg.num_kv_heads)
        q_BNH, k_BKH = (attention.rotate(x[:, None], tables)[:, 0] for x in (q_BNH, k_BKH))
        x_DB = x_DB + column_product(self.o[...], attend(q_BNH, k_BKH, v_BKH).reshape(B, -1).T)
        h_DB = rms_norm(x_DB, self.ffn_norm[...][:, None], cfg.rms_eps, axis=0)
        h_FB = jax.nn.silu(column_product(self.gate[...], h_DB)) * column_product(self.up[...], h_DB)
        return x_DB + column_product(self.down[...], h_FB)


class Outer(nnx.Module):
    """What stands before and after the layers: embedding, final norm, head."""

    def __init__(self, cfg: LlamaConfig, key: jax.Array, dtype: Any):
        self.cfg = cfg
        for index, name in enumerate(outer_names(cfg)):
            setattr(self, name, nnx.Param(WEIGHTS[name].init(cfg, jax.random.fold_in(key, index), dtype)))

    def embed(self, ids: jax.Array, dtype: Any) -> jax.Array:
        return quantization.rows(self.embedding[...], ids, dtype)

    def norm(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.final_norm[...], self.cfg.rms_eps)

    def norm_columns(self, x_DB: jax.Array) -> jax.Array:
        return rms_norm(x_DB, self.final_norm[...][:, None], self.cfg.rms_eps, axis=0)

    def logits(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, self.cfg.d_model)
        if self.cfg.tied:
            out = jnp.einsum("rd,vd->rv", rows, self.embedding[...].astype(x.dtype), preferred_element_type=jnp.float32)
        else:
            out = jnp.einsum("rd,dv->rv", rows, self.head[...].astype(x.dtype), preferred_element_type=jnp.float32)
        return out.reshape(*x.shape[:-1], self.cfg.vocab_size)

    def column_logits(self, x_DB: jax.Array) -> jax.Array:
        """Logits (B, V) float32, from `decoding_params`."""
        head_VD, scale_V1 = quantization.factors((self.embedding if self.cfg.tied else self.head)[...], x_DB.dtype)
        logits_VB = quantization.scaled(jnp.einsum("vd,db->vb", head_VD, x_DB, preferred_element_type=jnp.float32), scale_V1)
        return jax.lax.optimization_barrier(logits_VB).T  # else the compiler swaps the factors, which is slower


@functools.lru_cache(maxsize=64)
def _graphdefs(cfg: LlamaConfig) -> tuple[Any, Any]:
    """(of Outer, of Layer): the static halves of the modules, made once per config without allocating a weight."""
    key = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
    return tuple(
        nnx.split(nnx.eval_shape(lambda k, module=module: module(cfg, k, jnp.float32), key))[0]
        for module in (Outer, Layer)
    )


def merge_outer(cfg: LlamaConfig, params: Mapping[str, Any]) -> Outer:
    """The module with the weights outside the layers of a tree."""
    return nnx.merge(_graphdefs(cfg)[0], {name: value for name, value in params.items() if name != "layers"})


def merge_layer(cfg: LlamaConfig, weights: Mapping[str, jax.Array]) -> Layer:
    """The module with one layer's weights."""
    return nnx.merge(_graphdefs(cfg)[1], dict(weights))
