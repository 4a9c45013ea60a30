"""Prompts in, tokens out: a fixed number of slots, refilled as they finish (ids only; text stays outside).

Three programs run over and over, each with static shapes: `prefill` reads a few prompts of one length bucket, `insert` puts their
caches into free slots and draws each one's first token, `generate` decodes all slots a few steps. A row's numbers depend on its
own prompt, key and bucket, never on its neighbours, its slot or the order of the work.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from humpback.decoding.sampling import Sampler
from humpback.model import llama, sharding

_PREFILL_TOKENS = 512  # prompt tokens read at once: enough for full-speed matrix products, little enough to keep slots busy
_BUCKETS = (64, 128, 192, 256, 384, 512, 640, 768, 896, 1_024, 1_280, 1_536, 1_792)


@dataclass(frozen=True)
class Request:
    """One prompt. `key` is the key data uint32 [2] of its draws, `max_new` the most tokens to write (the stop id included)."""

    id: str
    ids: np.ndarray
    key: np.ndarray
    max_new: int


@dataclass(frozen=True)
class Result:
    """What was written: ids without the stop id, the log-probability of each drawn id, and why it ended: `stop` or `length`."""

    id: str
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish: str


class Engine:
    """Decodes on a mesh. `params` is the unstacked tree, placed by DECODING_RULES; `length` holds prompt and new tokens."""

    def __init__(
        self,
        config: llama.LlamaConfig,
        params: dict,
        mesh: jax.sharding.Mesh,
        *,
        slots: int,
        length: int,
        compute_dtype: str = "float32",
        steps_per_visit: int = 8,
    ):
        self.config, self.mesh, self.length, self.steps_per_visit = config, mesh, length, steps_per_visit
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self.slots = -(-slots // shards) * shards
        self._dtype = jnp.dtype(compute_dtype)
        self._batch = sharding.batch_sharding(mesh)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        placed = sharding.param_shardings(config, mesh, sharding.DECODING_RULES)
        self.params = jax.tree.map(lambda x, where: jax.device_put(x.astype(self._dtype), where), params, placed)
        self.buckets = tuple(b for b in _BUCKETS if b < length) + (length,)
        self._rows = {b: -(-max(1, _PREFILL_TOKENS // b) // shards) * shards for b in self.buckets}

    def generate(
        self,
        requests: Iterable[Request],
        sampler: Sampler,
        stop_ids: frozenset[int],
        on_token: Callable[[str, int], None] | None = None,
    ) -> Iterator[Result]:
        """Yields one Result per request, in the order in which they finish. ValueError names a request that cannot fit.

        `on_token` is called with (request id, token id) for each token when the host sees it, stop ids apart.
        """
        groups = self._groups(requests)
        ready: deque[tuple[int, Request, jax.Array, tuple]] = deque()
        tenants: list[_Tenant | None] = [None] * self.slots
        with jax.set_mesh(self.mesh):
            state = self._empty_state()
            stops = jnp.array(sorted(stop_ids), jnp.int32)
            while True:
                free = [slot for slot, tenant in enumerate(tenants) if tenant is None]
                while free and (group := ready.popleft() if ready else next(groups, None)):
                    taken, rest = group.split(len(free))
                    if rest:
                        ready.appendleft(rest)
                    rows = dict(zip(taken.rows, free, strict=False))
                    state = self._insert(state, taken, rows, sampler, stops)
                    for row, slot in rows.items():
                        tenants[slot] = _Tenant(taken.requests[row])
                    free = free[len(rows) :]
                if all(tenant is None for tenant in tenants):
                    return
                state, packed = _generate(
                    self.config, sampler, self.steps_per_visit, self._dtype, self._replicated, self.params, state, stops
                )
                yield from _collect(np.asarray(packed), tenants, stop_ids, on_token)

    def read(self, requests: Iterable[Request], token_ids: list[int]) -> Iterator[tuple[str, np.ndarray]]:
        """Prefill only: yields (id, f32 logits of `token_ids` after the prompt), for ratings that need no decoding."""
        chosen = jnp.array(token_ids, jnp.int32)
        with jax.set_mesh(self.mesh):
            for group in self._groups(requests):
                logits_PV, _ = group.prefilled
                values = np.asarray(_pick(logits_PV, chosen, self._replicated))
                for row in group.rows:
                    yield group.requests[row].id, values[row]

    def _groups(self, requests: Iterable[Request]) -> Iterator["_Group"]:
        """Prefills requests of one bucket together; the last of a bucket run with empty rows."""
        waiting: dict[int, list[Request]] = {}
        for request in requests:
            if not 0 < len(request.ids) <= self.length - request.max_new:
                raise ValueError(
                    f"request {request.id}: {len(request.ids)} prompt ids and {request.max_new} new ones do not fit into {self.length}"
                )
            bucket = next(b for b in self.buckets if len(request.ids) <= b)
            waiting.setdefault(bucket, []).append(request)
            if len(waiting[bucket]) == self._rows[bucket]:
                yield self._prefill(bucket, waiting.pop(bucket))
        for bucket in sorted(waiting):
            yield self._prefill(bucket, waiting[bucket])

    def _prefill(self, bucket: int, requests: list[Request]) -> "_Group":
        rows = self._rows[bucket]
        ids_PT = np.zeros((rows, bucket), np.int32)
        lengths_P = np.ones(rows, np.int32)
        keys_P = np.zeros((rows, 2), np.uint32)
        for row, request in enumerate(requests):
            ids_PT[row, : len(request.ids)] = request.ids
            lengths_P[row] = len(request.ids)
            keys_P[row] = request.key
        on = functools.partial(jax.device_put, device=self._batch)
        with jax.set_mesh(self.mesh):
            prefilled = _prefill(self.config, self._dtype, self._batch, self.params, on(ids_PT), on(lengths_P))
        return _Group(list(range(len(requests))), requests, lengths_P, keys_P, prefilled)

    def _insert(self, state: dict, group: "_Group", rows: dict[int, int], sampler: Sampler, stops: jax.Array) -> dict:
        slots_P = np.full(len(group.lengths_P), self.slots, np.int32)  # past the end: not inserted
        max_new_P = np.zeros(len(group.lengths_P), np.int32)
        for row, slot in rows.items():
            slots_P[row] = slot
            max_new_P[row] = group.requests[row].max_new
        logits_PV, chunk = group.prefilled
        return _insert(sampler, state, logits_PV, chunk, slots_P, group.lengths_P, max_new_P, group.keys_P, stops)

    def _empty_state(self) -> dict:
        B, tensor = self.slots, self.mesh.shape["tensor"]
        heads = "tensor" if self.config.num_kv_heads % tensor == 0 else None
        by_head = NamedSharding(self.mesh, PartitionSpec(("data", "fsdp"), heads))
        zeros = lambda shape, dtype: jax.device_put(jnp.zeros(shape, dtype), self._batch)  # noqa: E731
        return {
            "cache": _empty_cache(self.config, B, self.length, self._dtype, by_head),
            "ids": zeros((B,), jnp.int32),  # the token to feed next
            "log_probs": zeros((B,), jnp.float32),  # of that token
            "positions": zeros((B,), jnp.int32),  # of that token
            "remaining": zeros((B,), jnp.int32),  # tokens that may still be drawn
            "first": zeros((B,), bool),  # that token was drawn by `insert` and has not been reported yet
            "keys": zeros((B, 2), jnp.uint32),
        }


@dataclass
class _Tenant:
    """The request in a slot and what it has drawn so far."""

    request: Request
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def take(self, token: int, log_prob: float, stop_ids: frozenset[int]) -> Result | None:
        """Adds a drawn token; the Result when it was the last."""
        self.log_probs.append(log_prob)
        if token not in stop_ids:
            self.ids.append(token)
            if len(self.ids) < self.request.max_new:
                return None
        finish = "stop" if token in stop_ids else "length"
        return Result(self.request.id, tuple(self.ids), tuple(self.log_probs), finish)


@dataclass(frozen=True)
class _Group:
    """Requests prefilled together; `rows` are those that are not in a slot yet."""

    rows: list[int]
    requests: list[Request]
    lengths_P: np.ndarray
    keys_P: np.ndarray
    prefilled: tuple  # logits_PV, cache of P rows

    def split(self, count: int) -> tuple["_Group", "_Group | None"]:
        """(the first `count` rows, the others or None)."""
        rest = replace(self, rows=self.rows[count:]) if len(self.rows) > count else None
        return replace(self, rows=self.rows[:count]), rest


def _collect(
    packed: np.ndarray,
    tenants: list[_Tenant | None],
    stop_ids: frozenset[int],
    on_token: Callable[[str, int], None] | None,
) -> Iterator[Result]:
    """Deals one visit's draws, int32 [steps + 1, 3, B] of (valid, id, log-probability's bits), to the tenants of the slots."""
    valid, tokens, bits = packed[:, 0], packed[:, 1], packed[:, 2]
    log_probs = bits.view(np.float32)
    for slot, tenant in enumerate(tenants):
        for step in np.flatnonzero(valid[:, slot]):
            token = int(tokens[step, slot])
            if on_token and token not in stop_ids:
                on_token(tenant.request.id, token)
            if result := tenant.take(token, float(log_probs[step, slot]), stop_ids):
                tenants[slot] = None
                yield result


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _empty_cache(config, batch, length, dtype, where):
    empty = llama.empty_cache(config, batch, length, dtype)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, where), empty)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _prefill(config, dtype, batch, params, ids_PT, lengths_P):
    logits_PV, chunk = llama.prefill(config, params, ids_PT, lengths_P, compute_dtype=dtype)
    return jax.lax.with_sharding_constraint(logits_PV, batch), chunk


@functools.partial(jax.jit, static_argnums=(0,), donate_argnums=(1,))
def _insert(sampler, state, logits_PV, chunk, slots_P, lengths_P, max_new_P, keys_P, stops):
    """Puts prefilled rows into slots and draws their first tokens; a slot number past the end drops the row."""
    ids_P, log_probs_P = sampler(logits_PV, _fold(keys_P, lengths_P))
    values = {
        "ids": ids_P,
        "log_probs": log_probs_P,
        "positions": lengths_P,
        "remaining": jnp.where(jnp.isin(ids_P, stops), 0, max_new_P - 1),
        "first": jnp.ones_like(ids_P, bool),
        "keys": keys_P,
    }
    inserted = {name: state[name].at[slots_P].set(value, mode="drop") for name, value in values.items()}
    return {**inserted, "cache": llama.insert_cache(state["cache"], chunk, slots_P)}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnums=(6,))
def _generate(config, sampler, steps, dtype, replicated, params, state, stops):
    """Decodes every slot `steps` times. Returns the state and what was drawn, packed for one copy to the host (see _collect)."""

    def pack(valid_B, ids_B, log_probs_B):
        return jnp.stack([valid_B.astype(jnp.int32), ids_B, jax.lax.bitcast_convert_type(log_probs_B, jnp.int32)])

    def step(state, _):
        active_B = state["remaining"] > 0
        logits_BV, cache = llama.decode_step(
            config, params, state["cache"], state["ids"], state["positions"], compute_dtype=dtype
        )
        positions_B = state["positions"] + active_B
        ids_B, log_probs_B = sampler(logits_BV, _fold(state["keys"], positions_B))
        after = {
            **state,
            "cache": cache,
            "ids": jnp.where(active_B, ids_B, state["ids"]),
            "positions": positions_B,
            "remaining": jnp.where(active_B & ~jnp.isin(ids_B, stops), state["remaining"] - 1, 0),
        }
        return after, pack(active_B, ids_B, log_probs_B)

    first = pack(state["first"], state["ids"], state["log_probs"])
    state, drawn = jax.lax.scan(step, {**state, "first": jnp.zeros_like(state["first"])}, length=steps)
    return state, jax.lax.with_sharding_constraint(jnp.concatenate([first[None], drawn]), replicated)


@functools.partial(jax.jit, static_argnums=(2,))
def _pick(logits_PV, chosen, replicated):
    return jax.lax.with_sharding_constraint(logits_PV[:, chosen], replicated)


def _fold(keys_B: jax.Array, positions_B: jax.Array) -> jax.Array:
    """Each row's key for the token at a position."""
    fold = lambda data, position: jax.random.fold_in(jax.random.wrap_key_data(data, impl="threefry2x32"), position)  # noqa: E731
    return jax.vmap(fold)(keys_B, positions_B)
