"""The engine's executables: prefill, insert, generate, read, score, score_branches, each of static shapes, for the devices of a mesh.

`abstract` gives every function with the shapes and shardings it is called with, so that the same functions can be compiled ahead,
here for this machine's devices or by planning/compile.py for a TPU that is not here.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from humpback.decoding import buckets
from humpback.decoding.sampling import Sampler, all_finite
from humpback.model import cpu, llama, quantization, scoring, sharding
from humpback.model.attention import Branches
from humpback.rounding import round_up

# In place of the number of ids to read: how likely given tokens are, of rows that go on in one way, or in several.
SCORE, BRANCHES = -1, -2
LOGITS = 4  # copies of a step's float32 logits that sampling holds
_TILE = 8  # entries of a cache
_LANES = 128  # of them, of keys


def shareable(count: int, length: int) -> int:
    """How many of `count` tokens that all prompts begin with are shared, so that a row of `length` has whole tiles of its own.

    Otherwise a TPU's compiler may want a cache of few key heads in another order than the one it lies in, and hold a second one.
    """
    return max(0, count - (count - length) % _TILE)


@dataclass(frozen=True)
class Layout:
    """Everything that decides what the programs are; with the same layout a row's bits are the same whatever else is done.

    `length` holds prefix, prompt and new tokens; `prefix` is how many tokens stand before every row; `steps` are decoded between two
    looks of the host, fewer when a row ends; `prefill_tokens` are read at once: enough for full-speed matrix products, few enough
    to keep the slots busy. `lengths` are those to which prompts are padded, the longest last; without them a ladder for any.
    """

    config: llama.LlamaConfig
    mesh: Mesh
    slots: int
    length: int
    prefix: int
    dtype: str
    steps: int
    prefill_tokens: int
    weights: str = "compute"  # in the compute type, or "int8"
    lengths: tuple[int, ...] = ()

    @property
    def padded(self) -> llama.LlamaConfig:
        """The model with a vocabulary that the mesh can split; no logits of what it is filled up with leave the programs."""
        return sharding.padded(self.config, self.mesh)

    @property
    def own(self) -> int:
        """Tokens of a row after the prefix."""
        return self.length - self.prefix

    @property
    def places(self) -> int:
        """Entries of a row's cache: on a TPU whole tiles, for otherwise its compiler holds keys in another order than they are used in."""
        return self.own if self.platform == "cpu" else round_up(self.own, _LANES)

    @property
    def platform(self) -> str:
        """What is compiled for; a mesh without devices, which only plans have, is TPUs'."""
        return self.mesh.devices.flat[0].platform if isinstance(self.mesh, Mesh) else "tpu"

    @property
    def activation_dtype(self) -> jnp.dtype:
        """Of what lies between the products, and of the cache."""
        return cpu.activation_dtype(self.platform, self.dtype)

    @property
    def dtypes(self) -> llama.Dtypes:
        """For the model's functions."""
        return llama.Dtypes(jnp.dtype(self.dtype), self.activation_dtype)

    @property
    def buckets(self) -> tuple[int, ...]:
        """The lengths to which prompts are padded."""
        return self.lengths or buckets.ladder(self.own)

    @property
    def shards(self) -> int:
        """How many parts the rows are dealt to."""
        return sharding.batch_shards(self.mesh)

    def rows(self, bucket: int) -> int:
        """How many prompts of a bucket are read at once."""
        return round_up(max(1, self.prefill_tokens // bucket), self.shards)

    def by_row(self) -> NamedSharding:
        """For arrays whose first axis is rows or slots."""
        return sharding.batch_sharding(self.mesh)

    def whole(self) -> NamedSharding:
        """For what every device has."""
        return sharding.replicated(self.mesh)

    def by_head(self, rows: bool = True) -> NamedSharding:
        """For caches: rows (unless it is the prefix's, which has none), then key heads where the tensor axis divides them."""
        heads = "tensor" if self.config.num_kv_heads % self.mesh.shape["tensor"] == 0 else None
        return NamedSharding(self.mesh, PartitionSpec(*((sharding.BATCH_AXES,) if rows else ()), heads))


class Program(NamedTuple):
    """A jitted function and the arguments it is lowered with: static ones, then shapes with shardings."""

    function: Any
    static: tuple
    arguments: tuple

    def lower(self, layout: Layout) -> jax.stages.Lowered:
        with jax.set_mesh(layout.mesh):
            return self.function.lower(*self.static, *self.arguments)


@functools.lru_cache(maxsize=16)
def abstract(layout: Layout, sampler: Sampler, stops: int = 1, read: int = 0) -> dict[str, Program]:
    """The programs of a job by name, "prefill 512": `stops` is how many stop ids, `read` how many ids to read, or SCORE or
    BRANCHES (0: it generates)."""
    programs = {}
    for bucket in layout.buckets:
        rows = layout.rows(bucket)
        inputs = (_params(alone(layout)), _prefix(layout), _shape((rows, bucket), layout.by_row()), *_ints(layout, rows, 2))
        if read == SCORE:
            programs[f"score {bucket}"] = Program(score, (layout,), (*inputs, *_ints(layout, rows, 1)))
            continue
        if read == BRANCHES:
            programs[f"branches {bucket}"] = Program(score_branches, (layout,), (*inputs, *[inputs[2]] * 2))
            continue
        if read:
            programs[f"read {bucket}"] = Program(read_log_probs, (layout,), (*inputs, _shape((read,), layout.whole())))
            continue
        programs[f"prefill {bucket}"] = Program(prefill, (layout,), inputs)
        logits_PV = _shape((rows, layout.config.vocab_size), layout.by_row(), jnp.float32)
        chunk = jax.tree.map(lambda x: _shape(x.shape, layout.by_head(), x.dtype), _cache(layout, rows, bucket))
        row = {name: _shape(x.shape, layout.by_row(), x.dtype) for name, x in new_rows(rows).items()}
        programs[f"insert {bucket}"] = Program(
            insert,
            (layout, sampler),
            (_state(alone(layout)), logits_PV, chunk, *_ints(layout, rows, 1), row, _shape((stops,), layout.whole())),
        )
    if not read:
        programs["generate"] = Program(
            generate, (layout, sampler), (_params(alone(layout)), _prefix(layout), _state(alone(layout)), _shape((stops,), layout.whole()))
        )
    return programs


@functools.lru_cache(maxsize=256)
def compiled(layout: Layout, sampler: Sampler, stops: int, read: int, name: str) -> jax.stages.Compiled:
    """One program, compiled once per process."""
    return abstract(layout, sampler, stops, read)[name].lower(layout).compile()


def unload(layout: Layout) -> None:
    """Forgets all programs where they take a chip's memory, in which something else comes next."""
    if layout.platform != "cpu":
        compiled.cache_clear()


def alone(layout: Layout, name: str = "") -> Layout:
    """The layout as far as it decides what this program is: whatever lengths others are for, it is compiled once. Without a name: as far
    as it decides what all programs are given."""
    _, _, length = name.partition(" ")
    return replace(layout, lengths=(int(length),) if length else ())


def classes(layout: Layout, limits: Sequence[int], max_new: int) -> tuple[Layout, ...]:
    """The layouts for rows of each of these lengths after the prefix, ascending: each has the slots that fill the same memory, and of the
    lengths of prompts those that end in its rows with `max_new` new tokens. Without limits the layout alone."""
    made: list[Layout] = []
    for limit in limits:
        row = replace(layout, length=layout.prefix + limit)
        taken = {length for each in made for length in each.lengths}
        lengths = tuple(length for length in layout.buckets if length not in taken and (length + max_new <= limit or limit == limits[-1]))
        slots = layout.slots * row_bytes(layout) // row_bytes(row) // layout.shards * layout.shards
        made.append(replace(row, slots=max(slots, layout.slots), lengths=lengths))
    return tuple(made) or (layout,)


def row_bytes(layout: Layout) -> int:
    """What a slot takes of a device: its cache, and its logits while they are drawn from."""
    cache = cache_bytes(layout.config, layout.places, layout.mesh.shape["tensor"], layout.activation_dtype.itemsize)
    return cache + LOGITS * 4 * layout.config.vocab_size


def cache_bytes(config: llama.LlamaConfig, places: int, tensor: int, itemsize: int = 2) -> int:
    """Keys and values of a row of so many places on one of `tensor` devices that share it; heads that these do not divide are on all."""
    heads = config.num_kv_heads if config.num_kv_heads % tensor else config.num_kv_heads // tensor
    return 2 * config.num_layers * heads * config.head_dim * places * itemsize


def decoding_params(layout: Layout, params: Mapping[str, Any]) -> dict:
    """llama.decoding_params in the compute type, or in int8, on the mesh.

    A layer is asked for when its turn has come and not kept: with a tree that reads them from disk (folders.load_model) no more
    than one layer is in memory beside the result.
    """
    placed = _params_shardings(layout)
    turn_outer = jax.jit(functools.partial(_turn, layout), out_shardings={**placed, "layers": {}})
    turn_layer = jax.jit(functools.partial(_turn, layout), out_shardings={"layers": {"0": placed["layers"]["0"]}})
    turned = turn_outer({name: params[name] for name in placed if name != "layers"} | {"layers": {}})
    for layer in placed["layers"]:
        turned["layers"][layer] = turn_layer({"layers": {"0": params["layers"][layer]}})["layers"]["0"]
    return turned


def _turn(layout: Layout, params: Mapping[str, Any]) -> dict:
    turned, dtype = llama.decoding_params(layout.config, params), jnp.dtype(layout.dtype)
    more = layout.padded.vocab_size - layout.config.vocab_size
    if more:  # with ones, whose largest is not 0 as int8 would need it
        names = turned.keys() & sharding.with_vocabulary(layout.config)  # none of a layer by itself
        turned |= {name: jnp.pad(turned[name], ((0, more), (0, 0)), constant_values=1) for name in sorted(names)}
    return quantization.quantize(turned, dtype) if layout.weights == "int8" else jax.tree.map(lambda x: x.astype(dtype), turned)


def _params_shardings(layout: Layout) -> dict:
    placed = sharding.decoding_shardings(layout.padded, layout.mesh)
    return quantization.shardings(placed) if layout.weights == "int8" else placed


@functools.lru_cache(maxsize=16)
def _params(layout: Layout) -> dict:
    shapes = jax.eval_shape(lambda: _turn(layout, llama.init_params(layout.config, jax.random.key(0))))
    return jax.tree.map(lambda x, where: _shape(x.shape, where, x.dtype), shapes, _params_shardings(layout))


def _prefix(layout: Layout) -> llama.Cache | None:
    if not layout.prefix:
        return None
    return jax.tree.map(lambda x: _shape(x.shape[1:], layout.by_head(rows=False), x.dtype), _cache(layout, 1, layout.prefix))


def _cache(layout: Layout, rows: int, length: int) -> llama.Cache:
    return jax.eval_shape(lambda: llama.empty_cache(layout.config, rows, length, layout.activation_dtype))


@functools.lru_cache(maxsize=16)
def _state(layout: Layout) -> dict:
    shapes = jax.eval_shape(functools.partial(_empty_state, layout))
    return jax.tree.map(lambda x, where: _shape(x.shape, where, x.dtype), shapes, _state_shardings(layout, shapes))


def _state_shardings(layout: Layout, state: dict) -> dict:
    return {**dict.fromkeys(state, layout.by_row()), "cache": jax.tree.map(lambda _: layout.by_head(), state["cache"])}


def _shape(shape: tuple, where: NamedSharding | None, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _ints(layout: Layout, rows: int, count: int) -> list[jax.ShapeDtypeStruct]:
    return [_shape((rows,), layout.by_row())] * count


def new_rows(rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What `insert` needs to know of each row: own length, part of the prefix it uses, tokens it may write, key."""
    ints = jax.ShapeDtypeStruct((rows,), jnp.int32)
    return {"filled": ints, "shared": ints, "remaining": ints, "keys": jax.ShapeDtypeStruct((rows, 2), jnp.uint32)}


def _empty_state(layout: Layout) -> dict:
    B = layout.slots
    return {
        "cache": llama.empty_cache(layout.config, B, layout.places, layout.activation_dtype),
        "ids": jnp.zeros(B, jnp.int32),  # the token to feed next
        "log_probs": jnp.zeros(B, jnp.float32),  # of that token
        "filled": jnp.zeros(B, jnp.int32),  # entries of the cache: tokens after `shared`, that one not among them
        "shared": jnp.zeros(B, jnp.int32),  # tokens of the prefix that the row begins with
        "remaining": jnp.zeros(B, jnp.int32),  # tokens that may still be drawn
        "first": jnp.zeros(B, bool),  # that token was drawn by `insert` and has not been reported yet
        "keys": jnp.zeros((B, 2), jnp.uint32),
    }


@functools.partial(jax.jit, static_argnums=0)
def empty_state(layout: Layout) -> dict:
    """Every slot free."""
    state = _empty_state(layout)
    return jax.lax.with_sharding_constraint(state, _state_shardings(layout, state))


@functools.partial(jax.jit, static_argnums=0)
def prefix_cache(layout, params, ids_1P):
    """What stands before every row, read once: per layer keys (K, H, P) and values (K, P, H)."""
    _, cache = llama.prefill(layout.padded, params, ids_1P, jnp.full(1, layout.prefix, jnp.int32), dtypes=layout.dtypes)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x[0], layout.by_head(rows=False)), cache)


def read_prefix(layout: Layout, params: Mapping[str, Any], ids_1P: jax.Array) -> llama.Cache:
    """`prefix_cache`, by a program that is unloaded afterwards: it is needed once."""
    return prefix_cache.lower(layout, params, ids_1P).compile()(params, ids_1P)


@functools.partial(jax.jit, static_argnums=0)
def prefill(layout, params, prefix, ids_PT, lengths_P, shared_P):
    """Reads prompts of one bucket: f32 logits [P, V] after each, and their cache."""
    before = llama.Prefix(prefix, shared_P) if prefix else None
    logits_PV, chunk = llama.prefill(layout.padded, params, ids_PT, lengths_P, before, dtypes=layout.dtypes)
    chunk = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, layout.by_head()), chunk)
    return _gather_logits(layout, logits_PV), chunk


@functools.partial(jax.jit, static_argnums=0)
def read_log_probs(layout, params, prefix, ids_PT, lengths_P, shared_P, chosen):
    """f32 log-probabilities [P, len(chosen)] of the chosen ids after each prompt, NaN where not all logits are finite; the rest of
    `prefill` is not computed."""
    logits_PV, _ = prefill(layout, params, prefix, ids_PT, lengths_P, shared_P)
    log_probs_PR = logits_PV[:, chosen] - jax.nn.logsumexp(logits_PV, axis=-1, keepdims=True)
    log_probs_PR = jnp.where(all_finite(logits_PV)[:, None], log_probs_PR, jnp.nan)
    return jax.lax.with_sharding_constraint(log_probs_PR, layout.whole())


@functools.partial(jax.jit, static_argnums=0)
def score(layout, params, prefix, ids_PT, lengths_P, shared_P, starts_P):
    """f32 [P, 2], `scoring.score` of rows of one bucket; starts and lengths count from the end of the shared prefix."""
    before = llama.Prefix(prefix, shared_P) if prefix else None
    found_P2 = scoring.score(
        layout.padded, params, ids_PT, lengths_P, starts_P, before, words=layout.config.vocab_size, dtypes=layout.dtypes
    )
    return jax.lax.with_sharding_constraint(found_P2, layout.whole())


@functools.partial(jax.jit, static_argnums=0)
def score_branches(layout, params, prefix, ids_PT, lengths_P, shared_P, numbers_PT, places_PT):
    """f32 [P, T, 2], `scoring.score_branches` of rows of one bucket; places count from the end of the shared prefix."""
    before = llama.Prefix(prefix, shared_P) if prefix else None
    branches, words = Branches(numbers_PT, places_PT), layout.config.vocab_size
    found_PT2 = scoring.score_branches(layout.padded, params, ids_PT, branches, before, words=words, dtypes=layout.dtypes)
    return jax.lax.with_sharding_constraint(found_PT2, layout.whole())


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def insert(layout, sampler, state, logits_PV, chunk, slots_P, rows, stops):
    """Puts prefilled rows (`new_rows`) into slots and draws their first tokens; a slot number past the end drops the row."""
    ids_P, log_probs_P = sampler(logits_PV, _fold(rows["keys"], rows["shared"] + rows["filled"]))
    values = {
        **rows,
        "ids": ids_P,
        "log_probs": log_probs_P,
        "remaining": jnp.where(jnp.isin(ids_P, stops), 0, rows["remaining"] - 1),
        "first": jnp.ones_like(ids_P, bool),
    }
    inserted = {name: state[name].at[slots_P].set(value, mode="drop") for name, value in values.items()}
    inserted["cache"] = llama.insert_cache(state["cache"], chunk, slots_P)
    return jax.lax.with_sharding_constraint(inserted, _state_shardings(layout, inserted))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def generate(layout, sampler, params, prefix, state, stops):
    """Decodes every slot until one ends, at most `layout.steps` times.

    Returns the state and what was drawn, int32 [steps + 1, 3, B] of (valid, id, log-probability's bits), for one copy to the host;
    the first entry holds the tokens that `insert` drew.
    """

    def pack(valid_B, ids_B, log_probs_B):
        return jnp.stack([valid_B.astype(jnp.int32), ids_B, jax.lax.bitcast_convert_type(log_probs_B, jnp.int32)])

    def decode(carry):
        step, state, drawn = carry
        active_B = state["remaining"] > 0
        before = llama.Prefix(prefix, state["shared"]) if prefix else None
        rows = (state["cache"], state["ids"], state["filled"], before)
        logits_BV, cache = llama.decode_step(layout.padded, params, *rows, dtypes=layout.dtypes)
        filled_B = state["filled"] + active_B
        ids_B, log_probs_B = sampler(_gather_logits(layout, logits_BV), _fold(state["keys"], state["shared"] + filled_B))
        after = {
            **state,
            "cache": cache,
            "ids": jnp.where(active_B, ids_B, state["ids"]),
            "filled": filled_B,
            "remaining": jnp.where(active_B & ~jnp.isin(ids_B, stops), state["remaining"] - 1, 0),
        }
        return step + 1, after, drawn.at[step + 1].set(pack(active_B, ids_B, log_probs_B))

    def going_on(carry):
        step, state, _ = carry
        return (step < layout.steps) & jnp.any(state["remaining"] > 0) & ~jnp.any(occupied_B & (state["remaining"] == 0))

    occupied_B = (state["remaining"] > 0) | state["first"]
    drawn = jnp.zeros((layout.steps + 1, 3, layout.slots), jnp.int32)
    drawn = drawn.at[0].set(pack(state["first"], state["ids"], state["log_probs"]))
    state = {**state, "first": jnp.zeros_like(state["first"])}
    _, state, drawn = jax.lax.while_loop(going_on, decode, (jnp.int32(0), state, drawn))
    return jax.lax.with_sharding_constraint((state, drawn), (_state_shardings(layout, state), layout.whole()))


def _gather_logits(layout: Layout, logits_BV: jax.Array) -> jax.Array:
    """Every row's logits whole, for the sampler."""
    # First split as the head's matrix, then gathered: otherwise the compiler may gather the matrix.
    logits_BV = jax.lax.with_sharding_constraint(logits_BV, NamedSharding(layout.mesh, PartitionSpec(sharding.BATCH_AXES, "tensor")))
    return jax.lax.with_sharding_constraint(logits_BV, layout.by_row())[:, : layout.config.vocab_size]


def _fold(keys_B: jax.Array, positions_B: jax.Array) -> jax.Array:
    """Each row's key for the token at a position."""
    fold = lambda data, position: jax.random.fold_in(jax.random.wrap_key_data(data, impl="threefry2x32"), position)  # noqa: E731
    return jax.vmap(fold)(keys_B, positions_B)
