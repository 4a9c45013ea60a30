"""What training and evaluation share: weights and rows on the mesh, and the nats of the target tokens."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from humpback.model import llama, sharding
from humpback.tokens import packing

Rows = dict[str, Any]


def row_groups(mesh: Mesh) -> int:
    """Into how many equal groups the rows of a batch are split on this mesh."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device, whole."""
    return NamedSharding(mesh, PartitionSpec())


def place_params(cfg: llama.LlamaConfig, params: Mapping[str, Any], mesh: Mesh) -> llama.Params:
    """Unstacked weights, of numpy or jax arrays, as stacked float32 ones on the mesh. Always a copy: they may be donated."""
    shardings = sharding.param_shardings(cfg, mesh, sharding.TRAINING_RULES)
    stacked = sharding.param_shardings(cfg, mesh, sharding.TRAINING_RULES, stacked=True)

    def stack(tree: llama.Params) -> llama.Params:
        # jnp.copy, because jit may hand an argument that it returns unchanged through without copying it.
        return jax.tree.map(lambda x: jnp.copy(x.astype(jnp.float32)), llama.stack_layers(tree))

    return jax.jit(stack, out_shardings=stacked)(jax.device_put(dict(params), shardings))


def unstack_params(cfg: llama.LlamaConfig, stacked: llama.Params, mesh: Mesh) -> llama.Params:
    """Stacked weights on the mesh as the unstacked tree, still there."""
    shardings = sharding.param_shardings(cfg, mesh, sharding.TRAINING_RULES)
    return jax.jit(lambda tree: llama.unstack_layers(tree, cfg), out_shardings=shardings)(stacked)


def rows_shardings(mesh: Mesh) -> Rows:
    """The shardings of `make_rows`' arrays: all are split over the batch."""
    names = ("ids_BT", "positions_BT", "segments_BT", "places_GM", "targets_GM", "weights_GM")
    return dict.fromkeys(names, sharding.batch_sharding(mesh))


def make_rows(batch: packing.Batch, mesh: Mesh, targets: int) -> Rows:
    """A batch as the arrays that a program takes, on the mesh; `targets` is M, how many places each group of rows has.

    Every process holds the whole batch, a pure function of the step, and puts only its own part on its devices.
    """
    picked = packing.gather_targets(batch, row_groups(mesh), targets)
    arrays = {**batch._asdict(), **picked._asdict()}
    return {name: place_array(arrays[name], where) for name, where in rows_shardings(mesh).items()}


def place_array(array: np.ndarray, where: NamedSharding) -> jax.Array:
    """A host array that every process has, on the mesh."""
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def target_nats(cfg: llama.LlamaConfig, params: llama.Params, rows: Rows, **options: Any) -> jax.Array:
    """-log p of each target token, (G, M) float32; places that only fill up hold a number without meaning.

    The head is applied only where there is a loss: with a long condition and a short target, as in the backward
    direction, it would otherwise be a fifth of a small model's work. options: `llama.hidden`'s.
    """
    x_BTD = llama.hidden(cfg, params, rows["ids_BT"], rows["positions_BT"], rows["segments_BT"], **options)
    x_GPD = x_BTD.reshape(rows["places_GM"].shape[0], -1, cfg.d_model)
    x_GMD = jnp.take_along_axis(x_GPD, rows["places_GM"][:, :, None], axis=1)
    logits_GMV = llama.logits(cfg, params, x_GMD)
    picked_GM = jnp.take_along_axis(logits_GMV, rows["targets_GM"][:, :, None], axis=2)[:, :, 0]
    return jax.nn.logsumexp(logits_GMV, axis=-1) - picked_GM
