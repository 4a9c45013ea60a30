"""What XLA's CPU backend is told so that it is fast: every workaround, each with the jaxlib that needs it.

Two were looked at: 0.10.2 (Python 3.11) and 0.12.0 (Python 3.13). "In the text" means that the compiled program shows what the
workaround avoids; tests/model/test_cpu.py reads it with the jaxlib that is installed, on a CPU with instructions for bfloat16
products. What the text does not show is timed by tests/benchmarks/cpu.py. Elsewhere than on a CPU all of this is the plain operation,
or a barrier that costs nothing. Dimension letters: see weights.py.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

# A cache of more entries is looked at in chunks: to cut one out of a shorter cache takes longer than to look at it.
LONG_CACHE, CHUNK = 512, 128
SUM_LANES = 128  # so many sums run side by side in `sum_masses`' rows, because one long sum is added up a number at a time; timed

T = TypeVar("T")


def activation_dtype(platform: str, compute_dtype: Any) -> jnp.dtype:
    """Chooses the type of what lies between products in `compute_dtype`, and of caches: on a CPU float32.

    A CPU does nothing but products in bfloat16 fast. 0.10.2, in the text: to change one entry of a bfloat16 cache, or to put one layer's
    array beside those of all layers, it widens the whole and narrows it again. 0.12.0 does so no more.
    """
    return jnp.dtype(jnp.float32 if platform == "cpu" else compute_dtype)


def einsum(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies two bfloat16 arrays on a CPU: jnp.einsum, in float32.

    0.10.2, in the text: it widens both operands of a product that comes out in bfloat16, which halves its speed; 0.12.0 does not.
    The barrier keeps operands that were float32 just before from being widened back; no text of either shows that any more.
    """
    return jnp.einsum(equation, *lax.optimization_barrier((a, b)), preferred_element_type=jnp.float32)


def crossed(a_RI: jax.Array, b_RO: jax.Array) -> jax.Array:
    """Multiplies bfloat16 arrays on a CPU to aᵀ b (…, I, O) float32: it turns the smaller one, and with it what comes out.

    0.10.2 and 0.12.0, in the text: both widen the operands of a product over their first axes.
    """
    if b_RO.shape[-1] < a_RI.shape[-1]:
        return turn(einsum("...or,...ri->...oi", turn(b_RO), a_RI))
    return einsum("...ir,...ro->...io", turn(a_RI), b_RO)


def turn(x_RI: jax.Array) -> jax.Array:
    """Transposes in a branch that is always taken, but for a NaN, which is then everywhere, as it would be after a product.

    0.10.2 and 0.12.0, in the text: both take a plain transposition back into the product that it was to serve.
    """
    swap = lambda x_RI: x_RI.swapaxes(-1, -2)  # noqa: E731
    spread = lambda x_RI: jnp.full_like(swap(x_RI), jnp.nan)  # noqa: E731
    first = x_RI[(0,) * x_RI.ndim]
    return lax.cond(first == first, swap, spread, x_RI)


def matmul(dtype: Any, x_RI: jax.Array, weights: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Multiplies bfloat16 rows on a CPU with each of some matrices (I, O), in `dtype`, as one product; timed."""
    out_RO = einsum("ri,oi->ro", x_RI, turn(jnp.concatenate(weights, axis=1))).astype(dtype)
    return tuple(jnp.split(out_RO, _borders(weights), axis=1))


def matmul_gradients(
    dtypes: tuple[Any, Any], x_RI: jax.Array, weights: Sequence[jax.Array], grads: Sequence[jax.Array]
) -> tuple[jax.Array, ...]:
    """Differentiates `matmul` by the rows and by each matrix, in a dtype for these and one for those, as two products; timed."""
    by_weight_IO = crossed(x_RI, jnp.concatenate(grads, axis=1)).astype(dtypes[1])
    return row_gradients(dtypes[0], weights, grads), *jnp.split(by_weight_IO, _borders(weights), axis=1)


def row_gradients(dtype: Any, weights: Sequence[jax.Array], grads: Sequence[jax.Array]) -> jax.Array:
    """Differentiates `matmul` by the rows alone, in `dtype`, as one product; timed."""
    return einsum("ro,io->ri", jnp.concatenate(grads, axis=1), jnp.concatenate(weights, axis=1)).astype(dtype)


def _borders(matrices: Sequence[jax.Array]) -> list[int]:
    """Returns where the columns of matrices that stand side by side change from one to the next."""
    return list(itertools.accumulate(matrix.shape[1] for matrix in matrices))[:-1]


def once(tables: Callable[[jax.Array], tuple[jax.Array, jax.Array]], angles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes rotary tables of angles that are not negative in a branch, which keeps them from being computed wherever they are used.

    0.10.2 and 0.12.0, in the text: every layer has cosines and sines of its own, which take as long as a product.
    """

    def branch(angles: jax.Array) -> tuple[jax.Array, jax.Array]:
        return lax.cond(jnp.max(angles) >= 0, tables, lambda angles: (angles, angles), angles)

    return lax.platform_dependent(angles, cpu=branch, default=tables)


def in_the_loop(table: T, ids: jax.Array) -> tuple[T, jax.Array]:
    """Puts an embedding and the ids that are looked up in it behind a barrier.

    0.10.2, in the text: the whole bfloat16 table is widened before a loop of decode steps; 0.12.0 does so no more.
    """
    return lax.optimization_barrier((table, ids))


def two_rows(x_RD: jax.Array) -> jax.Array:
    """Doubles a single row before it is multiplied with a head; leaves several as they are.

    0.10.2 and 0.12.0, in the text: for a single row the whole head is widened to float32.
    """
    return jnp.concatenate([x_RD, x_RD]) if x_RD.shape[0] == 1 else x_RD


def layer_by_layer(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Puts what a layer's attention takes, its mask among it, behind a barrier, which is another one in each layer.

    0.10.2, in the text: the mask, the same in all layers, is written out for every head before the first; so it is by 0.12.0 where
    `largest_first` is not.
    """
    return lax.optimization_barrier(arrays)


def largest_first(largest: jax.Array) -> jax.Array:
    """Puts the largest score of each query behind a barrier, so that it is not sought again for every key.

    No text of 0.10.2 shows that any more; 0.12.0 writes the scores out because of it, and without it does not.
    """
    return lax.optimization_barrier(largest)


def look_at_cache(
    look: Callable[..., tuple[jax.Array, ...]], state: tuple[jax.Array, ...], k_BKHS: jax.Array, v_BKSH: jax.Array, last_B: jax.Array
) -> tuple[jax.Array, ...]:
    """Applies `look(state, keys, values, seen)` to all entries of a cache, of which each row sees 0 … last.

    A CPU looks at a long cache in chunks, as far as the longest row fills it; timed.
    """
    S = k_BKHS.shape[3]

    def whole(*state: jax.Array) -> tuple[jax.Array, ...]:
        return look(state, k_BKHS, v_BKSH, jnp.arange(S) <= last_B[:, None])

    def in_chunks(*state: jax.Array) -> tuple[jax.Array, ...]:
        def body(chunk: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            start = jnp.minimum(chunk * CHUNK, S - CHUNK)  # the last one may begin in the one before
            at_S = start + jnp.arange(CHUNK)
            k, v = (lax.dynamic_slice_in_dim(x, start, CHUNK, axis) for x, axis in ((k_BKHS, 3), (v_BKSH, 2)))
            return look(state, k, v, (at_S >= chunk * CHUNK) & (at_S <= last_B[:, None]))

        return lax.fori_loop(0, jnp.max(last_B) // CHUNK + 1, body, state)

    return lax.platform_dependent(*state, cpu=in_chunks if S > LONG_CACHE else whole, default=whole)


def sum_masses(x: jax.Array, axis: int) -> jax.Array:
    """Adds up over an axis what is not negative; a NaN stays one.

    0.10.2 and 0.12.0, in the text: a plain addition becomes a library's sum, which is told apart from this one by its zero.
    """
    return lax.reduce(x, jnp.float32(0), lambda a, b: a + jnp.where(b < 0, 0, b), (axis,))
