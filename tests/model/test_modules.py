"""The feed-forward branch with a backward pass in parts: the plain one's numbers in less memory, on a mesh without sending matrices."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from humpback.model import llama, modules, weights
from humpback.model.sharding import make_mesh

ROWS, WIDE = 256, 16
PRODUCT = functools.partial(modules.row_product, jnp.float32)


def test_declared_attributes_are_the_tables():
    assert list(inspect.get_annotations(modules.Layer)) == [name for name, weight in weights.WEIGHTS.items() if weight.per_layer]
    untied = llama.LlamaConfig(16, 8, 1, 1, 1, 8, 8, tied=False)
    assert list(inspect.get_annotations(modules.Outer)) == weights.outer_names(untied)


def given(width):
    """Rows, gate, up, down, and the gradient of what comes out."""
    rng = np.random.default_rng(width)
    shapes = (ROWS, WIDE), (WIDE, width), (WIDE, width), (width, WIDE), (ROWS, WIDE)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def gradients(branch, *arrays):
    """Of `branch` by the rows and the matrices."""
    *arguments, grad = arrays
    return jax.vjp(functools.partial(branch, PRODUCT), *arguments)[1](grad)


@pytest.mark.parametrize("width", [32, 300, 1024, 1100])
def test_frugal_equals_plain(width):
    arrays = given(width)
    np.testing.assert_array_equal(modules.frugal_swiglu(PRODUCT, *arrays[:4]), modules.swiglu(PRODUCT, *arrays[:4]))
    for frugal, plain in zip(gradients(modules.frugal_swiglu, *arrays), gradients(modules.swiglu, *arrays), strict=True):
        np.testing.assert_allclose(frugal, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())


def test_frugal_backward_has_only_parts_one_after_the_other():
    arrays = given(4096)

    def backward(branch):
        pull = jax.vjp(jax.checkpoint(functools.partial(branch, PRODUCT)), *arrays[:4])[1]
        return str(jax.make_jaxpr(pull)(arrays[4]))

    whole, part = f"f32[{ROWS},4096]", f"f32[{ROWS},{4096 // modules.PARTS}]"
    plain, frugal = backward(modules.swiglu), backward(modules.frugal_swiglu)
    assert whole in plain and part not in plain and "optimization_barrier" not in plain
    # Forward stands there, too, with what it gives unused.
    after = frugal[frugal.index("optimization_barrier") :]
    assert part in frugal and whole not in after and frugal.count("optimization_barrier") == modules.PARTS


def test_frugal_on_a_mesh():
    """The width is split over `tensor`: same numbers, and nothing of a matrix is sent."""
    arrays, mesh = given(2048), make_mesh(1, 2, 4)
    rows, columns = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), (None, "tensor")))
    where = rows, columns, columns, NamedSharding(mesh, PartitionSpec("tensor")), rows
    placed = [jax.device_put(x, there) for x, there in zip(arrays, where, strict=True)]
    with jax.set_mesh(mesh):
        run = jax.jit(functools.partial(gradients, modules.frugal_swiglu), out_shardings=where[:4]).lower(*placed).compile()
        found = run(*placed)
    for many, plain in zip(found, gradients(modules.swiglu, *arrays), strict=True):
        np.testing.assert_allclose(many, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())
    sent = [kind for kind in ("all-gather", "all-to-all", "collective-permute") if f" {kind}(" in run.as_text()]
    assert not sent
