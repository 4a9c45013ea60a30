"""The negative log-likelihood of each example's target: the one measure for every model."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from humpback.model import llama, sharding
from humpback.rounding import round_up
from humpback.tokens import packing
from humpback.tokens.examples import TokenExample
from humpback.training import flops, placement
from humpback.training.loss import target_nats
from humpback.watchdog import COMPILING_SECONDS, Watchdog


class Scores(NamedTuple):
    """In the order of the examples. nats: float64 [examples], summed over target tokens, eos among them; tokens: int64."""

    nats: np.ndarray
    tokens: np.ndarray


def nll(
    cfg: llama.LlamaConfig,
    params: Mapping[str, Any],
    examples: Sequence[TokenExample],
    *,
    length: int,
    mesh: Mesh,
    rows: int = 4,
    compute_dtype: str = "float32",
) -> Scores:
    """Scores examples under a model, without dropout, packed into batches of `rows` rows of `length` tokens.

    params: the unstacked tree, of numpy or jax arrays. The same inputs on the same mesh give the same bits.
    """
    with jax.set_mesh(mesh):
        stacked = placement.place_params(cfg, params, mesh)
    return nll_of_stacked(cfg, stacked, examples, length=length, mesh=mesh, rows=rows, compute_dtype=compute_dtype)


def nll_of_stacked(
    cfg: llama.LlamaConfig,
    stacked: llama.Params,
    examples: Sequence[TokenExample],
    *,
    length: int,
    mesh: Mesh,
    rows: int = 4,
    compute_dtype: str = "float32",
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """`nll` of weights that are on the mesh, as placement.place_params puts them there. between: called before each batch."""
    tokens = np.array([example.target_tokens for example in examples], np.int64)
    nats = np.zeros(len(examples), np.float64)
    if not examples:
        return Scores(nats, tokens)
    groups = sharding.batch_shards(mesh)
    packed = packing.pack([len(example.ids) for example in examples], length)
    rows = round_up(min(rows, len(packed)), groups)
    batches = [
        packing.to_rows(examples, packed[start : start + rows], rows, length) for start in range(0, len(packed), rows)
    ]
    most = max(np.count_nonzero(batch.weights_BT.reshape(groups, -1), axis=1).max() for batch in batches)
    targets = round_up(int(most), 64)
    program = _program(cfg, jnp.dtype(compute_dtype), mesh)
    longest = flops.longest_seconds(cfg, [length] * rows, groups * targets, mesh)
    with Watchdog("batch", floor_seconds=longest, first_seconds=COMPILING_SECONDS + longest).pieces() as done:
        for batch in batches:
            between()
            with jax.set_mesh(mesh):
                nats_GM = np.asarray(program(stacked, placement.make_rows(batch, mesh, targets)), np.float64)
            picked = packing.gather_targets(batch, groups, targets)
            owners = np.take_along_axis(batch.examples_BT.reshape(groups, -1), picked.places_GM, axis=1)
            real = picked.weights_GM > 0
            nats += np.bincount(owners[real], nats_GM[real], minlength=len(examples))
            done()
    return Scores(nats, tokens)


@functools.lru_cache(maxsize=8)
def _program(cfg: llama.LlamaConfig, dtype: Any, mesh: Mesh) -> Any:
    """One jitted function per model and mesh, so that the second model of a stage does not compile it again."""

    def nats(stacked: llama.Params, rows: placement.Rows) -> jax.Array:
        return target_nats(cfg, stacked, placement.part_of(rows, 0), compute_dtype=dtype)

    return jax.jit(nats, out_shardings=sharding.replicated(mesh))
