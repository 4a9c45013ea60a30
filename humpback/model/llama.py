"""LLaMA's forward pass: for training (layers scanned), prefilling and decoding (layers unrolled, cache in and out).

Pure functions of nested dicts of arrays (weights.py), around the modules of modules.py. Dimension letters: see weights.py.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from humpback.model import adapters, attention, gathering, kernels, products, sharding
from humpback.model.modules import Drop, Layer, Outer, merge_layer, merge_outer, row_product, turned_product
from humpback.model.weights import (
    WEIGHTS,
    LlamaConfig,
    Params,
    RopeScaling,
    Weight,
    check_params,
    map_weights,
    parameter_count,
    stack_layers,
    unstack_layers,
)
from humpback.rounding import ceil_div

__all__ = [
    "FLOAT32",
    "WEIGHTS",
    "Dropout",
    "Dtypes",
    "LlamaConfig",
    "Params",
    "Prefix",
    "RopeScaling",
    "Weight",
    "abstract_params",
    "check_params",
    "decode_step",
    "decoding_params",
    "empty_cache",
    "forward",
    "hidden",
    "init_params",
    "insert_cache",
    "logits",
    "parameter_count",
    "prefill",
    "read",
    "stack_layers",
    "unstack_layers",
]

# Per layer: rotated keys (B, K, H, S) and values (B, K, S, H).
Cache = tuple[tuple[jax.Array, jax.Array], ...]
Remat = Literal["none", "dots", "full"]


class Dtypes(NamedTuple):
    """The types of numbers: `compute` of the operands of products, `activation` of what lies between them, and of a cache."""

    compute: Any
    activation: Any


FLOAT32 = Dtypes(jnp.float32, jnp.float32)


class Dropout(NamedTuple):
    """Dropout of both residual branches of every layer: a function of the key, the layer and the token's number.

    tokens_BT: these numbers (None: the places in the batch); with them it does not depend on how examples are packed.
    adapters: the rate of what goes into the adapters, where there are some.
    """

    rate: float
    key: jax.Array
    tokens_BT: jax.Array | None = None
    adapters: float = 0.0


class Prefix(NamedTuple):
    """What stands before every row: per layer keys (K, H, P) and values (K, P, H). Row b uses its first shared_B[b] tokens."""

    cache: Cache
    shared_B: jax.Array

    @property
    def length(self) -> int:
        """P, in tokens."""
        return self.cache[0][0].shape[2]

    def of_layer(self, layer: int) -> kernels.Prefix:
        """Returns what one layer attends to."""
        return *self.cache[layer], self.shared_B


REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.save_only_these_names(products.SAVED),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def abstract_params(cfg: LlamaConfig, dtype: Any = jnp.float32) -> Params:
    """Describes the unstacked tree, a jax.ShapeDtypeStruct at every leaf; allocates nothing."""
    return jax.eval_shape(lambda: init_params(cfg, jax.random.key(0), dtype))


def init_params(cfg: LlamaConfig, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Draws a fresh unstacked tree: norms are ones, the rest normal with standard deviation fan_in ** -0.5."""

    def pure(module: nnx.Module) -> dict[str, jax.Array]:
        return nnx.to_pure_dict(nnx.state(module))

    layers = {
        str(layer): pure(Layer(cfg, jax.random.fold_in(key, layer + 1), dtype)) for layer in range(cfg.num_layers)
    }
    return {**pure(Outer(cfg, jax.random.fold_in(key, 0), dtype)), "layers": layers}


def forward(
    cfg: LlamaConfig,
    stacked_params: Mapping[str, Any],
    ids_BT: jax.Array,
    positions_BT: jax.Array,
    segments_BT: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """Computes logits (B, T, V) float32 of every position: `logits` of `hidden`, whose arguments and options these are."""
    return logits(cfg, stacked_params, hidden(cfg, stacked_params, ids_BT, positions_BT, segments_BT, **options))


def hidden(
    cfg: LlamaConfig,
    stacked_params: Mapping[str, Any],
    ids_BT: jax.Array,
    positions_BT: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    dtypes: Dtypes = FLOAT32,
    dropout: Dropout | None = None,
    remat: Remat = "none",
) -> jax.Array:
    """Computes what the last layer says, after the final norm: (B, T, D) in dtypes.activation. For training and evaluation.

    ids_BT, positions_BT int: tokens and their rotary positions, which restart in every segment of a packed row.
    segments_BT int: tokens attend to earlier tokens with the same number; padding is a segment (0) like any other.
    None: the whole row is one segment. dropout: None for none.
    remat: what the backward pass computes again: nothing, all but the matrix products with weights, or everything inside a layer.
    Raises ValueError for a row longer than max_positions without segments, an unknown remat or a bad rate.
    """
    if segments_BT is None:
        _check_length(cfg, ids_BT.shape[1])
        segments_BT = jnp.ones_like(ids_BT)
    if remat not in REMAT_POLICIES:
        raise ValueError(f"remat must be one of {sorted(REMAT_POLICIES)}, not {remat!r}")
    for rate in () if dropout is None else (dropout.rate, dropout.adapters):
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"dropout's rate must be at least 0 and below 1, not {rate}")
    outer = merge_outer(cfg, stacked_params)
    tables = attention.rope_tables(cfg, positions_BT)
    attend = functools.partial(attention.causal_attention, segments_BT=segments_BT, dtype=dtypes.compute)
    keys_L, drops = _dropout_by_layer(cfg, dropout, ids_BT)
    layers = stacked_params["layers"]
    frugal = remat == "full" and not isinstance(layers["gate"], adapters.Frozen)  # which computes the gradients of all three matrices

    def step(x_BTD: jax.Array, scanned: tuple[Params, Any, Any]) -> tuple[jax.Array, None]:
        weights, key, rotated = scanned
        weights = gathering.gather_layer(cfg, weights)
        layer = merge_layer(cfg, weights)
        # By no angle where a layer does not rotate: one loop goes over both sorts of layers.
        turns = tables if rotated is None else (jnp.where(rotated, tables[0], 1.0), jnp.where(rotated, tables[1], 0.0))
        drop, drop_inputs = drops(key)
        product = functools.partial(row_product, dtypes.compute, drop=drop_inputs)
        return _constrain_batch(layer(x_BTD, turns, attend, drop, product, frugal=frugal)), None

    if remat != "none":
        # Inside a scan nothing can be merged across iterations, so the barrier against it is not needed.
        step = jax.checkpoint(step, policy=REMAT_POLICIES[remat], prevent_cse=False)
    if gathering.is_split():
        # Before the loop, so that the gradients of all layers, which are sent in this type, wait in it for the optimizer.
        layers = {name: gathering.sent(dtypes.compute, weight) if WEIGHTS[name].matrix else weight for name, weight in layers.items()}
    x_BTD = _constrain_batch(outer.embed(ids_BT, dtypes.activation))
    rotated_L = jnp.array([cfg.rotates(layer) for layer in range(cfg.num_layers)]) if cfg.no_rope_every else None
    x_BTD, _ = jax.lax.scan(step, x_BTD, (layers, keys_L, rotated_L))
    return outer.norm(x_BTD)


def logits(cfg: LlamaConfig, params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    """Multiplies x (…, D), after the final norm, with the head: (…, V) float32. params may be stacked or not."""
    return merge_outer(cfg, params).logits(x)


def decoding_params(cfg: LlamaConfig, params: Mapping[str, Any]) -> Params:
    """Turns every matrix of an unstacked tree to (outputs, inputs), the form that `prefill` and `decode_step` take.

    Heads and their size are one axis. A tied model's head is its embedding, which has this form already.
    """

    def turn(name: str, weight: jax.Array) -> jax.Array:
        return weight.reshape(WEIGHTS[name].inputs(cfg), -1).T if WEIGHTS[name].leading_inputs else weight

    return map_weights(turn, params)


def prefill(
    cfg: LlamaConfig,
    params: Mapping[str, Any],
    ids_BT: jax.Array,
    lengths_B: jax.Array,
    prefix: Prefix | None = None,
    *,
    dtypes: Dtypes = FLOAT32,
) -> tuple[jax.Array, Cache]:
    """Reads prompts padded on the right -> (logits (B, V) float32 of each row's last token, cache with S = T).

    params: `decoding_params`. The cache is that of `empty_cache`, full up to T; what lies past a row's length is never
    attended to, because decoding overwrites it first. With a prefix ids_BT and lengths_B are of what follows it.
    Raises ValueError when P + T exceeds max_positions.
    """
    x_BTD, cache = read(cfg, params, ids_BT, lengths_B, prefix, dtypes)
    outer = merge_outer(cfg, params)
    return outer.logits(outer.norm(x_BTD[:, 0]).astype(dtypes.compute), turned=True), cache


def read(
    cfg: LlamaConfig,
    params: Mapping[str, Any],
    ids_BT: jax.Array,
    lengths_B: jax.Array | None,
    prefix: Prefix | None,
    dtypes: Dtypes,
    branches: attention.Branches | None = None,
) -> tuple[jax.Array, Cache]:
    """What the last layer says, and the cache of `prefill`: (B, 1, D) of each row's last token, without lengths of all, (B, T, D)."""
    B, T = ids_BT.shape
    _check_length(cfg, T + (prefix.length if prefix else 0))
    outer = merge_outer(cfg, params)
    starts_B = prefix.shared_B if prefix else jnp.zeros(B, jnp.int32)
    tables = attention.rope_tables(cfg, starts_B[:, None] + (branches.places_BT if branches else jnp.arange(T)))
    numbers_BT = branches.numbers_BT if branches else None
    cache: list[tuple[jax.Array, jax.Array]] = []

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> jax.Array:
        before = prefix.of_layer(len(cache)) if prefix else None
        cache.append((k_BTKH.transpose(0, 2, 3, 1), v_BTKH.transpose(0, 2, 1, 3)))
        if len(cache) == cfg.num_layers and last_B is not None:
            return attention.cache_attention(q_BTNH[:, 0], *cache[-1], last_B, before)[:, None]
        return attention.prompt_attention(q_BTNH, k_BTKH, v_BTKH, before, dtype=dtypes.compute, numbers_BT=numbers_BT)

    x_BTD, last_B = outer.embed(ids_BT, dtypes.activation), None if lengths_B is None else jnp.maximum(lengths_B - 1, 0)
    product = functools.partial(turned_product, dtypes.compute)
    for layer in range(cfg.num_layers):
        # Of what the last layer says only the last token's is asked for.
        only_B = last_B if layer == cfg.num_layers - 1 else None
        turns = tables if cfg.rotates(layer) else None
        x_BTD = merge_layer(cfg, params["layers"][str(layer)])(x_BTD, turns, attend, None, product, only_B)
        # Else a TPU's compiler adds up several layers' branches at once and keeps them until then: 2.3 GiB for 80 layers of int8.
        x_BTD = jax.lax.optimization_barrier(x_BTD)
    return x_BTD, tuple(cache)


def empty_cache(cfg: LlamaConfig, batch: int, length: int, dtype: Any = jnp.float32) -> Cache:
    """Makes zeros for `batch` rows of up to `length` tokens: per layer rotated keys (B, K, H, S) and values (B, K, S, H).

    Rows and key/value heads are the first two axes of every array, so one PartitionSpec fits all of them.
    """
    B, S, K, H = batch, length, cfg.num_kv_heads, cfg.head_dim
    return tuple((jnp.zeros((B, K, H, S), dtype), jnp.zeros((B, K, S, H), dtype)) for _ in range(cfg.num_layers))


def insert_cache(cache: Cache, chunk: Cache, slots_P: jax.Array) -> Cache:
    """Puts `chunk` (a prefill of P rows, T <= S) into rows slots_P of the cache; rows past the end are dropped."""
    T = chunk[0][0].shape[3]
    return tuple(
        (
            k.at[slots_P, :, :, :T].set(new_k.astype(k.dtype), mode="drop"),
            v.at[slots_P, :, :T].set(new_v.astype(v.dtype), mode="drop"),
        )
        for (k, v), (new_k, new_v) in zip(cache, chunk, strict=True)
    )


def decode_step(
    cfg: LlamaConfig,
    params: Mapping[str, Any],
    cache: Cache,
    ids_B: jax.Array,
    filled_B: jax.Array,
    prefix: Prefix | None = None,
    *,
    dtypes: Dtypes = FLOAT32,
) -> tuple[jax.Array, Cache]:
    """Feeds one token per row -> (logits (B, V) float32 of the next one, the cache with this token in it).

    Row b writes its key and value behind the first filled_B[b] entries of its cache, and attends to these and to its part of
    the prefix. params: `decoding_params`. Donate the cache to the jitted function and it is updated in place.
    Raises ValueError when P + S exceeds max_positions or the cache is not one of `empty_cache` or `prefill`.
    """
    _check_cache(cfg, cache, ids_B.shape[0], prefix.length if prefix else 0)
    outer = merge_outer(cfg, params)
    tables = attention.rope_tables(cfg, (filled_B + prefix.shared_B if prefix else filled_B)[:, None])
    new_cache: list[tuple[jax.Array, jax.Array]] = []

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> jax.Array:
        before = prefix.of_layer(len(new_cache)) if prefix else None
        k_BKHS, v_BKSH = cache[len(new_cache)]
        if kernels.takes_write(k_BKHS):
            own = k_BTKH[:, 0], v_BTKH[:, 0]
            out_BNH = attention.cache_attention(q_BTNH[:, 0], k_BKHS, v_BKSH, filled_B - 1, before, own)
            # Only when it has been looked at may it be changed, or the compiler keeps a copy of it.
            out_BNH, own = jax.lax.optimization_barrier((out_BNH, own))
            new_cache.append(kernels.write_rows(k_BKHS, v_BKSH, own[0], own[1], filled_B))
            return out_BNH[:, None]
        k_BKHS = _write(k_BKHS, k_BTKH[:, 0, :, :, None], filled_B, axis=1)
        v_BKSH = _write(v_BKSH, v_BTKH[:, 0, :, None], filled_B, axis=0)
        new_cache.append((k_BKHS, v_BKSH))
        return attention.cache_attention(q_BTNH[:, 0], k_BKHS, v_BKSH, filled_B, before)[:, None]

    x_BTD = outer.embed(ids_B[:, None], dtypes.activation)
    product = functools.partial(turned_product, dtypes.compute)
    for layer in range(cfg.num_layers):
        turns = tables if cfg.rotates(layer) else None
        x_BTD = merge_layer(cfg, params["layers"][str(layer)])(x_BTD, turns, attend, None, product)
    return outer.logits(outer.norm(x_BTD[:, 0]).astype(dtypes.compute), turned=True), tuple(new_cache)


def _write(cache: jax.Array, new: jax.Array, at_B: jax.Array, axis: int) -> jax.Array:
    """Puts each row's `new` into its matrix of every head, from at_B[b] on along one of its axes."""
    # Written like this a TPU's compiler leaves the cache where it is; with .at[rows, :, :, at_B].set it copies it twice a visit.
    update = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=axis)
    return jax.vmap(jax.vmap(update, (0, 0, None)))(cache, new.astype(cache.dtype), at_B)


def _check_length(cfg: LlamaConfig, length: int) -> None:
    if length > cfg.max_positions:
        raise ValueError(f"{length} positions are more than this model's max_positions, {cfg.max_positions}")


def _check_cache(cfg: LlamaConfig, cache: Cache, batch: int, prefix_length: int) -> None:
    shapes = [(k.shape, v.shape) for k, v in cache]
    length = shapes[0][0][-1]
    k_BKHS = (batch, cfg.num_kv_heads, cfg.head_dim, length)
    v_BKSH = (batch, cfg.num_kv_heads, length, cfg.head_dim)
    if len(shapes) != cfg.num_layers or any(shape != (k_BKHS, v_BKSH) for shape in shapes):
        raise ValueError(
            f"a cache of this model for {batch} rows has {cfg.num_layers} layers of keys (B, K, H, S) and values "
            f"(B, K, S, H), as empty_cache, prefill and insert_cache make it; this one starts with {shapes[0]}"
        )
    # A cache may be filled up to whole tiles, whose last places no token has.
    filling = kernels.LANES - 1 if length % kernels.LANES == 0 else 0
    _check_length(cfg, length + prefix_length - filling)


def _dropout_by_layer(
    cfg: LlamaConfig, dropout: Dropout | None, ids_BT: jax.Array
) -> tuple[jax.Array | None, Callable[[Any], tuple[Drop | None, Drop | None]]]:
    """Derives a key for every layer, and how a layer's key drops, from branches and before adapters; without dropout no keys, and nothing
    drops."""
    if dropout is None or dropout.rate == dropout.adapters == 0.0:
        return None, lambda key: (None, None)
    rates, tokens_BT = (dropout.rate, dropout.adapters), dropout.tokens_BT
    if tokens_BT is None:
        tokens_BT = jnp.arange(ids_BT.size).reshape(ids_BT.shape)
    keys_L = jax.vmap(functools.partial(jax.random.fold_in, dropout.key))(jnp.arange(cfg.num_layers))

    def drops(key: Any) -> tuple[Drop | None, Drop | None]:
        branches, inputs = (functools.partial(_dropout, key, rate, tokens_BT) if rate else None for rate in rates)
        return branches, inputs

    return keys_L, drops


def _dropout(key: jax.Array, rate: float, tokens_BT: jax.Array, x_BTD: jax.Array, branch: int) -> jax.Array:
    """Zeroes elements of x with probability `rate` (to 1 / 65536) and scales the others: the expectation is x."""
    D, fold = x_BTD.shape[-1], jax.random.fold_in
    # 16 random bits an element: a word drawn serves two, because drawing them is what costs.
    keys_R = jax.vmap(fold, (None, 0))(fold(key, branch), tokens_BT.reshape(-1))
    words_RW = jax.vmap(lambda key: jax.random.bits(key, (ceil_div(D, 2),), jnp.uint32))(keys_R)
    dropped = min(round(rate * 65536), 65535)  # of the 65536 values
    # Lower halves, then upper ones: in the order in which they lie a TPU's compiler writes out a word for each.
    kept_RD = jnp.concatenate([(words_RW & 65535) >= dropped, (words_RW >> 16) >= dropped], axis=1)[:, :D]
    return jnp.where(kept_RD.reshape(x_BTD.shape), x_BTD * (65536 / (65536 - dropped)), 0).astype(x_BTD.dtype)


def _constrain_batch(x_BTD: jax.Array) -> jax.Array:
    """Pins the rows to the mesh axes of the batch, when a mesh is set (jax.set_mesh).

    Without it the compiler may follow the weights' sharding and split D instead of the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in sharding.BATCH_AXES if axis in mesh.axis_names)
    if not axes:
        return x_BTD
    return jax.lax.with_sharding_constraint(x_BTD, PartitionSpec(axes, None, None))
