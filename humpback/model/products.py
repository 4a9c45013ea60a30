"""Matrix products, each the way its backend does it fastest; which way is decided here and nowhere else."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

SAVED = "product"


def einsum(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """jnp.einsum of two arrays of one dtype, summed up and returned in float32.

    XLA's CPU backend has fast bfloat16 products, twice the speed of float32, as long as they come out in float32 and their operands are
    bfloat16 when it looks for them; its simplifier likes to widen an operand that was float32 just before, hence the barrier.
    """
    plain = lambda a, b: jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)  # noqa: E731
    if a.dtype != jnp.bfloat16:
        return plain(a, b)
    return lax.platform_dependent(a, b, cpu=lambda a, b: plain(*lax.optimization_barrier((a, b))), default=plain)


def crossed(a_RI: jax.Array, b_RO: jax.Array) -> jax.Array:
    """aᵀ b (…, I, O) float32, of each matrix in the leading axes: what gradients are."""
    plain = lambda a, b: jnp.einsum("...ri,...ro->...io", a, b, preferred_element_type=jnp.float32)  # noqa: E731
    if a_RI.dtype != jnp.bfloat16:
        return plain(a_RI, b_RO)
    narrow = b_RO.shape[-1] < a_RI.shape[-1]  # the smaller one is turned, and with it what comes out

    def turned(a_RI: jax.Array, b_RO: jax.Array) -> jax.Array:
        if narrow:
            return _turn(einsum("...or,...ri->...oi", _turn(b_RO), a_RI))
        return einsum("...ir,...ro->...io", _turn(a_RI), b_RO)

    return lax.platform_dependent(a_RI, b_RO, cpu=turned, default=plain)


def _turn(x_RI: jax.Array) -> jax.Array:
    """xᵀ, as a branch that is always taken, but for a NaN, which is then everywhere, as it would be after a product.

    XLA's CPU backend has fast bfloat16 products for some orders of the axes only, and takes a plain transposition back into them.
    """
    turn = lambda x_RI: x_RI.swapaxes(-1, -2)  # noqa: E731
    spread = lambda x_RI: jnp.full_like(turn(x_RI), jnp.nan)  # noqa: E731
    first = x_RI[(0,) * x_RI.ndim]
    return lax.cond(first == first, turn, spread, x_RI)


def _matmul(equation: str, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """The product of two arrays of one dtype, in `dtype`. Elsewhere than on a CPU it comes out in theirs first: what is summed up
    over devices is sent in that."""
    plain = lambda a, b: jnp.einsum(equation, a, b).astype(dtype)  # noqa: E731
    if a.dtype != jnp.bfloat16:
        return plain(a, b)
    return lax.platform_dependent(a, b, cpu=lambda a, b: einsum(equation, a, b).astype(dtype), default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def matmul(dtype: Any, x_RI: jax.Array, weights: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Rows times each of some matrices (I, O), all taken in `dtype`, (R, O) in the rows' dtype; for training, where `SAVED` is
    their name for jax.checkpoint's policies."""
    return _forward(dtype, x_RI, weights)[0]


def _forward(dtype: Any, x_RI: jax.Array, weights: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], Any]:
    def one_by_one(x_RI: jax.Array, *weights: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(_matmul("ri,io->ro", x_RI, weight_IO, x_dtype) for weight_IO in weights)

    def together(x_RI: jax.Array, *weights: jax.Array) -> tuple[jax.Array, ...]:
        out_RO = einsum("ri,oi->ro", x_RI, _turn(jnp.concatenate(weights, axis=1))).astype(x_dtype)
        return tuple(jnp.split(out_RO, _borders(weights), axis=1))

    x_dtype = x_RI.dtype
    narrow = (x_RI.astype(dtype), *(weight_IO.astype(dtype) for weight_IO in weights))
    outs = lax.platform_dependent(*narrow, cpu=together if dtype == jnp.bfloat16 else one_by_one, default=one_by_one)
    # What came is kept as it came: it is there anyway, to make it narrow again is cheap, and a CPU that puts a layer's bfloat16 into
    # the array of all layers widens and copies all of it.
    return tuple(checkpoint_name(out_RO, SAVED) for out_RO in outs), (x_RI, weights)


def _backward(dtype: Any, saved: tuple[jax.Array, Any], grads: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    # By itself the gradient would be a product of float32 and bfloat16, which no backend does fast.
    x_RI, weights = saved
    count, x_dtype, weight_dtype = len(weights), x_RI.dtype, weights[0].dtype

    def one_by_one(x_RI: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        pairs = list(zip(arrays[:count], arrays[count:], strict=True))
        grad_RI = sum(_matmul("ro,io->ri", grad_RO, weight_IO, x_dtype) for weight_IO, grad_RO in pairs)
        return grad_RI, *(_matmul("ri,ro->io", x_RI, grad_RO, weight_dtype) for _, grad_RO in pairs)

    def together(x_RI: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        weight_IO, grad_RO = jnp.concatenate(arrays[:count], axis=1), jnp.concatenate(arrays[count:], axis=1)
        by_weight_IO = crossed(x_RI, grad_RO).astype(weight_dtype)
        return einsum("ro,io->ri", grad_RO, weight_IO).astype(x_dtype), *jnp.split(by_weight_IO, _borders(arrays[:count]), axis=1)

    narrow = (x.astype(dtype) for x in (x_RI, *weights, *grads))
    grad_RI, *by_weights = lax.platform_dependent(*narrow, cpu=together if dtype == jnp.bfloat16 else one_by_one, default=one_by_one)
    return grad_RI, tuple(by_weights)


def _borders(matrices: Sequence[jax.Array]) -> list[int]:
    """Where the columns of matrices that stand side by side change from one to the next."""
    return list(itertools.accumulate(matrix.shape[1] for matrix in matrices))[:-1]


matmul.defvjp(_forward, _backward)


def turned_matmul(x_RI: jax.Array, weight_OI: jax.Array) -> jax.Array:
    """Rows times a matrix that lies as (outputs, inputs), in the matrix' dtype, to the rows' dtype; for decoding."""
    return _matmul("ri,oi->ro", x_RI.astype(weight_OI.dtype), weight_OI, x_RI.dtype)
