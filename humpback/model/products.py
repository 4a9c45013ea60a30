"""Matrix products, each the way its backend does it fastest; which way is decided here, what a CPU does stands in cpu.py.

Of float32 they are products of float32: a TPU left to itself rounds the operands to bfloat16.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from humpback.model import cpu, quantization

SAVED = "product"


def _einsum(equation: str, a: jax.Array, b: jax.Array, **options: Any) -> jax.Array:
    return jnp.einsum(equation, a, b, precision=lax.Precision.HIGHEST if a.dtype == jnp.float32 else None, **options)


def einsum(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies two arrays of one dtype by jnp.einsum, summed up and returned in float32."""
    plain = functools.partial(_einsum, equation, preferred_element_type=jnp.float32)
    if a.dtype != jnp.bfloat16:
        return plain(a, b)
    return lax.platform_dependent(a, b, cpu=functools.partial(cpu.einsum, equation), default=plain)


def crossed(a_RI: jax.Array, b_RO: jax.Array) -> jax.Array:
    """Multiplies to aᵀ b (…, I, O) float32, for each matrix in the leading axes: what gradients are."""
    plain = functools.partial(_einsum, "...ri,...ro->...io", preferred_element_type=jnp.float32)
    if a_RI.dtype != jnp.bfloat16:
        return plain(a_RI, b_RO)
    return lax.platform_dependent(a_RI, b_RO, cpu=cpu.crossed, default=plain)


def _matmul(equation: str, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """Multiplies two arrays of one dtype to `dtype`. Elsewhere than on a CPU the product comes out in theirs first: what is summed
    up over devices is sent in that."""
    plain = lambda a, b: _einsum(equation, a, b).astype(dtype)  # noqa: E731
    if a.dtype != jnp.bfloat16:
        return plain(a, b)
    return lax.platform_dependent(a, b, cpu=lambda a, b: cpu.einsum(equation, a, b).astype(dtype), default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def matmul(dtype: Any, x_RI: jax.Array, weights: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Multiplies rows with each of some matrices (I, O), all taken in `dtype`, to (R, O) in the rows' dtype; for training, where
    `SAVED` is their name for jax.checkpoint's policies."""
    return _forward(dtype, x_RI, weights)[0]


def _forward(dtype: Any, x_RI: jax.Array, weights: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], Any]:
    # What came is kept as it came: it is there anyway, and to make it narrow again is cheap (and see cpu.activation_dtype).
    return tuple(checkpoint_name(out_RO, SAVED) for out_RO in _products(dtype, x_RI, weights)), (x_RI, weights)


def _products(dtype: Any, x_RI: jax.Array, weights: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    def one_by_one(x_RI: jax.Array, *weights: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(_matmul("ri,io->ro", x_RI, weight_IO, x_dtype) for weight_IO in weights)

    def together(x_RI: jax.Array, *weights: jax.Array) -> tuple[jax.Array, ...]:
        return cpu.matmul(x_dtype, x_RI, weights)

    x_dtype = x_RI.dtype
    narrow = (x_RI.astype(dtype), *(weight_IO.astype(dtype) for weight_IO in weights))
    return lax.platform_dependent(*narrow, cpu=together if dtype == jnp.bfloat16 else one_by_one, default=one_by_one)


def _backward(dtype: Any, saved: tuple[jax.Array, Any], grads: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    # By itself the gradient would be a product of float32 and bfloat16, which no backend does fast.
    x_RI, weights = saved
    count, x_dtype, weight_dtype = len(weights), x_RI.dtype, weights[0].dtype

    def one_by_one(x_RI: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        pairs = list(zip(arrays[:count], arrays[count:], strict=True))
        grad_RI: Any = sum(_matmul("ro,io->ri", grad_RO, weight_IO, x_dtype) for weight_IO, grad_RO in pairs)
        return grad_RI, *(_matmul("ri,ro->io", x_RI, grad_RO, weight_dtype) for _, grad_RO in pairs)

    def together(x_RI: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        return cpu.matmul_gradients((x_dtype, weight_dtype), x_RI, arrays[:count], arrays[count:])

    narrow = (x.astype(dtype) for x in (x_RI, *weights, *grads))
    grad_RI, *by_weights = lax.platform_dependent(*narrow, cpu=together if dtype == jnp.bfloat16 else one_by_one, default=one_by_one)
    return grad_RI, tuple(by_weights)


matmul.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def frozen_matmul(
    dtype: Any, x_RI: jax.Array, weights: tuple[jax.Array, ...], scales: tuple[jax.Array | None, ...]
) -> tuple[jax.Array, ...]:
    """`matmul` with matrices that are not trained, perhaps of int8: neither is their gradient computed, nor are the rows kept for it.

    scales: of each matrix (O,) float32, with which its product is multiplied, or None.
    """
    return _frozen_forward(dtype, x_RI, weights, scales)[0]


def _frozen_forward(dtype: Any, x_RI: jax.Array, weights: tuple[jax.Array, ...], scales: tuple[Any, ...]) -> tuple[Any, Any]:
    outs = (quantization.scaled(out_RO, scale_O) for out_RO, scale_O in zip(_products(dtype, x_RI, weights), scales, strict=True))
    return tuple(checkpoint_name(out_RO, SAVED) for out_RO in outs), (weights, scales)


def _frozen_backward(dtype: Any, saved: tuple[Any, Any], grads: tuple[jax.Array, ...]) -> tuple[jax.Array, None, None]:
    (weights, scales), x_dtype = saved, grads[0].dtype
    grads = tuple(quantization.scaled(grad_RO, scale_O).astype(dtype) for grad_RO, scale_O in zip(grads, scales, strict=True))

    def one_by_one(*arrays: jax.Array) -> Any:
        pairs = zip(arrays[: len(weights)], arrays[len(weights) :], strict=True)
        return sum(_matmul("ro,io->ri", grad_RO, weight_IO, x_dtype) for weight_IO, grad_RO in pairs)

    def together(*arrays: jax.Array) -> jax.Array:
        return cpu.row_gradients(x_dtype, arrays[: len(weights)], arrays[len(weights) :])

    narrow = (*(weight_IO.astype(dtype) for weight_IO in weights), *grads)
    return lax.platform_dependent(*narrow, cpu=together if dtype == jnp.bfloat16 else one_by_one, default=one_by_one), None, None


frozen_matmul.defvjp(_frozen_forward, _frozen_backward)


def turned_matmul(x_RI: jax.Array, weight_OI: jax.Array) -> jax.Array:
    """Multiplies rows with a matrix that lies as (outputs, inputs), in the matrix' dtype, to the rows' dtype; for decoding."""
    return _matmul("ri,oi->ro", x_RI.astype(weight_OI.dtype), weight_OI, x_RI.dtype)
