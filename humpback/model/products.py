"""Matrix products, each the way its backend does it fastest; which way is decided here and nowhere else."""

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


def _matmul(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The product in the dtype of its operands. Elsewhere than on a CPU it comes out so by itself: what is summed up over devices
    is sent in that dtype."""
    if a.dtype != jnp.bfloat16:
        return jnp.einsum(equation, a, b)
    return lax.platform_dependent(
        a, b, cpu=lambda a, b: einsum(equation, a, b).astype(a.dtype), default=lambda a, b: jnp.einsum(equation, a, b)
    )


@jax.custom_vjp
def matmul(x_RI: jax.Array, weight_IO: jax.Array) -> jax.Array:
    """Rows times a matrix, (R, O) in the operands' dtype; for training, where `SAVED` is its name for jax.checkpoint's policies."""
    return checkpoint_name(_matmul("ri,io->ro", x_RI, weight_IO), SAVED)


def _forward(x_RI: jax.Array, weight_IO: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return checkpoint_name(_matmul("ri,io->ro", x_RI, weight_IO), SAVED), (x_RI, weight_IO)


def _backward(saved: tuple[jax.Array, jax.Array], grad_RO: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_RI, weight_IO = saved
    return _matmul("ro,io->ri", grad_RO, weight_IO), _matmul("ri,ro->io", x_RI, grad_RO)


# By itself the gradient would be a product of float32 and bfloat16, which no backend does fast.
matmul.defvjp(_forward, _backward)


def turned_matmul(x_RI: jax.Array, weight_OI: jax.Array) -> jax.Array:
    """Rows times a matrix that lies as (outputs, inputs), in the matrix' dtype, to the rows' dtype; for decoding."""
    if x_RI.dtype == weight_OI.dtype:
        return _matmul("ri,oi->ro", x_RI, weight_OI)
    return einsum("ri,oi->ro", x_RI.astype(weight_OI.dtype), weight_OI).astype(x_RI.dtype)
