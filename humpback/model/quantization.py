"""Weights as int8, of decoding and of a frozen base: a matrix becomes qwix's QArray, int8 values and one float32 scale an output.

Only what rounds, and the shardings, need qwix (the extra `int8`); the products take what is there. Dimension letters: see weights.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from humpback import extras
from humpback.model.weights import WEIGHTS, Params, map_weights


def _qwix() -> Any:
    return extras.load("qwix", "int8", "a model in int8")


def quantize(tree: Params, dtype: Any) -> Params:
    """Rounds every matrix of a tree of llama.decoding_params to int8, casts the norms to `dtype`.

    The largest weight of an output becomes 127. UserError without qwix.
    """

    def narrow(name: str, weight: jax.Array) -> Any:
        return quantize_array(weight, (0,)) if WEIGHTS[name].matrix else weight.astype(dtype)

    return map_weights(narrow, tree)


def quantize_array(weight: jax.Array, outputs: tuple[int, ...]) -> Any:
    """Rounds one array to int8, with a scale for each place along the axes `outputs`. UserError without qwix."""
    return _qwix().quantize(weight.astype(jnp.float32), jnp.int8, channelwise_axes=outputs)


def array_sharding(where: NamedSharding, outputs: tuple[int, ...]) -> Any:
    """Derives the shardings of `quantize_array`'s result from that of the array: scales are split as the outputs are."""
    scales = PartitionSpec(*(axis if number in outputs else None for number, axis in enumerate(where.spec)))
    return _qwix().QArray(where, NamedSharding(where.mesh, scales), qtype=jnp.int8)


def shardings(placed: Params) -> Params:
    """Derives the shardings of `quantize`'s tree from sharding.decoding_shardings: scales are split as the outputs are."""

    def narrow(name: str, where: NamedSharding) -> Any:
        return array_sharding(where, (0,)) if WEIGHTS[name].matrix else where

    return map_weights(narrow, placed)


def factors(weight: Any, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
    """Splits a weight: (matrix (O, I) in `dtype`, None), or a QArray's values in `dtype`, which holds them, and scales (O,) float32.

    The scales belong to outputs, so they are applied to the product: qwix would apply them to the whole matrix first.
    """
    if not hasattr(weight, "qvalue"):
        return weight.astype(dtype), None
    return weight.qvalue.astype(dtype), weight.scale[:, 0]


def parts(weight: Any, inputs: int) -> tuple[jax.Array, jax.Array | None]:
    """Splits a weight whose first dimensions are the inputs: (matrix (I, O), None), or int8 values (I, O) and scales (O,) float32."""
    if not hasattr(weight, "qvalue"):
        return weight.reshape(inputs, -1), None
    return weight.qvalue.reshape(inputs, -1), weight.scale.reshape(-1)


def plain(weight: Any, dtype: Any) -> jax.Array:
    """A weight or QArray as an array: values times scales, rounded to `dtype` once."""
    return (weight.qvalue * weight.scale if hasattr(weight, "qvalue") else weight).astype(dtype)


def scaled(product_RO: jax.Array, scale_O: jax.Array | None) -> jax.Array:
    """Multiplies a product with a matrix of `factors` by its scales, in the product's dtype."""
    return product_RO if scale_O is None else (product_RO * scale_O).astype(product_RO.dtype)


def rows(weight: Any, ids: jax.Array, dtype: Any) -> jax.Array:
    """Looks up the rows `ids` of a matrix or QArray, in `dtype`: an embedding."""
    if not hasattr(weight, "qvalue"):
        return jnp.take(weight, ids, axis=0).astype(dtype)
    return (jnp.take(weight.qvalue, ids, axis=0) * jnp.take(weight.scale, ids, axis=0)).astype(dtype)
