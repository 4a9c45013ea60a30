"""How a layer's weights, which a mesh splits over `fsdp`, come together where the layer is computed. Dimension letters: see weights.py."""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import PartitionSpec

from humpback.model import adapters, sharding
from humpback.model.weights import WEIGHTS, LlamaConfig, Params


def is_split() -> bool:
    """Tells whether the mesh that is set splits weights over `fsdp`."""
    return jax.sharding.get_abstract_mesh().shape.get("fsdp", 1) > 1


def gather_layer(cfg: LlamaConfig, weights: Params) -> Params:
    """Gathers a layer's weights where the mesh splits them: matrices as (inputs, outputs), their gradients scattered again.

    Left to itself the compiler gathers some of them twice. Norms are not split.
    """
    if not is_split():
        return weights
    mesh = jax.sharding.get_abstract_mesh()

    def gather(name: str, leaf: Any) -> Any:
        (inputs, outputs), leading = sharding.matrix_spec(cfg, mesh, name), WEIGHTS[name].leading_inputs
        if not isinstance(leaf, adapters.Frozen):
            return _gather(PartitionSpec(inputs, outputs), leaf.reshape(WEIGHTS[name].inputs(cfg), -1))

        def whole(x: jax.Array) -> jax.Array:
            matrix_IO = x.reshape(math.prod(x.shape[:leading]), -1)  # or int8's scales, which have one place where it has its inputs
            spec = PartitionSpec(inputs if matrix_IO.shape[0] > 1 else None, outputs)
            return jax.lax.with_sharding_constraint(matrix_IO, _gathered(spec))

        leaf = dataclasses.replace(leaf, weight=jax.tree.map(whole, leaf.weight))
        if leaf.a is None:
            return leaf
        a_IP = _gather(PartitionSpec(inputs, None), leaf.a.reshape(-1, leaf.a.shape[-1]))
        return dataclasses.replace(leaf, a=a_IP, b=_gather(PartitionSpec(None, outputs), leaf.b.reshape(leaf.b.shape[0], -1)))

    return {name: gather(name, leaf) if WEIGHTS[name].matrix else leaf for name, leaf in weights.items()}


def sent(dtype: Any, leaf: Any) -> Any:
    """A matrix of all layers in the type in which it is gathered; int8 stays what it is, adapters, of which little is sent, too."""
    if not isinstance(leaf, adapters.Frozen):
        return leaf.astype(dtype)
    return leaf if hasattr(leaf.weight, "qvalue") else dataclasses.replace(leaf, weight=leaf.weight.astype(dtype))


def _gathered(spec: PartitionSpec) -> PartitionSpec:
    return PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(spec: PartitionSpec, matrix_IO: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(matrix_IO, _gathered(spec))


_gather.defvjp(
    lambda spec, matrix_IO: (_gather(spec, matrix_IO), None), lambda spec, _, grad_IO: (jax.lax.with_sharding_constraint(grad_IO, spec),)
)
