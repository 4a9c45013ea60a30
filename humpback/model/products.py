"""Matrix products, each the way its backend does it fastest; which way is decided here and nowhere else."""

import functools
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


def crossed(a_RI: jax.Array, b_RO: jax.Array, dtype: Any) -> jax.Array:
    """aᵀ b (I, O) in `dtype`: what gradients of matrices are."""
    if a_RI.dtype != jnp.bfloat16:
        return _matmul("ri,ro->io", a_RI, b_RO, dtype)
    return lax.platform_dependent(
        a_RI, b_RO,
        cpu=lambda a, b: einsum("ir,ro->io", _turn(a), b).astype(dtype), default=lambda a, b: _matmul("ri,ro->io", a, b, dtype),
    )  # fmt: skip


def _turn(x_RI: jax.Array) -> jax.Array:
    """xᵀ, as a branch that is always taken, but for a NaN, which is then everywhere, as it would be after a product.

    XLA's CPU backend has fast bfloat16 products for some orders of the axes only, and takes a plain transposition back into them.
    """
    turn = lambda x_RI: x_RI.T  # noqa: E731
    spread = lambda x_RI: jnp.full(x_RI.shape[::-1], jnp.nan, x_RI.dtype)  # noqa: E731
    return lax.cond(x_RI[0, 0] == x_RI[0, 0], turn, spread, x_RI)


def _matmul(equation: str, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """The product of two arrays of one dtype, in `dtype`. Elsewhere than on a CPU it comes out in theirs first: what is summed up
    over devices is sent in that."""
    plain = lambda a, b: jnp.einsum(equation, a, b).astype(dtype)  # noqa: E731
    if a.dtype != jnp.bfloat16:
        return plain(a, b)
    return lax.platform_dependent(a, b, cpu=lambda a, b: einsum(equation, a, b).astype(dtype), default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def matmul(dtype: Any, x_RI: jax.Array, weight_IO: jax.Array) -> jax.Array:
    """Rows times a matrix, both taken in `dtype`, (R, O) in the rows' dtype; for training, where `SAVED` is its name for
    jax.checkpoint's policies."""
    return _forward(dtype, x_RI, weight_IO)[0]


def _forward(dtype: Any, x_RI: jax.Array, weight_IO: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    out_RO = _rows_times(x_RI.astype(dtype), weight_IO.astype(dtype), x_RI.dtype)
    # Both are kept as they came: they are there anyway, to make them narrow again is cheap, and a CPU that puts a layer's bfloat16
    # into the array of all layers widens and copies all of it.
    return checkpoint_name(out_RO, SAVED), (x_RI, weight_IO)


def _rows_times(x_RI: jax.Array, weight_IO: jax.Array, dtype: Any) -> jax.Array:
    if x_RI.dtype != jnp.bfloat16:
        return _matmul("ri,io->ro", x_RI, weight_IO, dtype)
    return lax.platform_dependent(
        x_RI, weight_IO,
        cpu=lambda x, w: einsum("ri,oi->ro", x, _turn(w)).astype(dtype), default=lambda x, w: _matmul("ri,io->ro", x, w, dtype),
    )  # fmt: skip


def _backward(dtype: Any, saved: tuple[jax.Array, jax.Array], grad_RO: jax.Array) -> tuple[jax.Array, jax.Array]:
    # By itself the gradient would be a product of float32 and bfloat16, which no backend does fast.
    x_RI, weight_IO = saved
    narrow_RO = grad_RO.astype(dtype)
    grad_RI = _matmul("ro,io->ri", narrow_RO, weight_IO.astype(dtype), grad_RO.dtype)
    return grad_RI, crossed(x_RI.astype(dtype), narrow_RO, weight_IO.dtype)


matmul.defvjp(_forward, _backward)


def turned_matmul(x_RI: jax.Array, weight_OI: jax.Array) -> jax.Array:
    """Rows times a matrix that lies as (outputs, inputs), in the matrix' dtype, to the rows' dtype; for decoding."""
    return _matmul("ri,oi->ro", x_RI.astype(weight_OI.dtype), weight_OI, x_RI.dtype)
