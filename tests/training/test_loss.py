"""Cross-entropy in chunks is that of all logits at once, and so is its gradient, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from humpback.model.sharding import make_mesh
from humpback.training import loss

B, T, D, V = 8, 6, 16, 32


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK", 5)


def case(groups, tied, words=V, seed=0):
    random = np.random.default_rng(seed)
    x_BTD = jnp.asarray(random.normal(size=(B, T, D)), jnp.float32)
    matrix = jnp.asarray(random.normal(size=(V, D) if tied else (D, V)), jnp.float32)
    count = B // groups * T - 3  # no multiple of a chunk
    places_GM = np.stack([random.permutation(B // groups * T)[:count] for _ in range(groups)]).astype(np.int32)
    targets_GM = random.integers(0, words, places_GM.shape).astype(np.int32)
    weights_GM = (random.random(places_GM.shape) < 0.7).astype(np.float32)
    return x_BTD, matrix, places_GM, targets_GM, weights_GM


def whole(x_BTD, matrix, tied, words, places_GM, targets_GM):
    """-log p of every target, from all logits."""
    x_GPD = x_BTD.reshape(len(places_GM), -1, D)
    x_GMD = jnp.take_along_axis(x_GPD, places_GM[:, :, None], axis=1)
    logits_GMV = (x_GMD @ (matrix.T if tied else matrix))[..., :words]
    return optax.softmax_cross_entropy_with_integer_labels(logits_GMV, targets_GM)


MESHES = {"none": {}, "one": {"devices": 1}, "rows": {"data": 2, "fsdp": 4}, "all": {"data": 2, "fsdp": 2, "tensor": 2}}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("mesh", "words"), [("none", 29), ("one", V), ("rows", V), ("all", 29)])
def test_chunked_loss_and_gradient_are_those_of_all_logits(mesh, words, tied):
    sizes = dict(MESHES[mesh])
    groups = sizes.get("data", 1) * sizes.get("fsdp", 1)
    x_BTD, matrix, places_GM, targets_GM, weights_GM = case(groups, tied, words)

    def chunked(x_BTD, matrix):
        return loss.nats_sum(jnp.float32, x_BTD, loss.Head(matrix, tied, words), places_GM, targets_GM, weights_GM)

    def reference(x_BTD, matrix):
        return jnp.sum(whole(x_BTD, matrix, tied, words, places_GM, targets_GM) * weights_GM)

    def each(x_BTD, matrix):
        return loss.token_nats(jnp.float32, x_BTD, loss.Head(matrix, tied, words), places_GM, targets_GM)

    wanted, wanted_grads = jax.value_and_grad(reference, (0, 1))(x_BTD, matrix)
    if mesh == "none":
        value, grads = jax.jit(jax.value_and_grad(chunked, (0, 1)))(x_BTD, matrix)
        nats_GM = jax.jit(each)(x_BTD, matrix)
    else:
        devices = jax.devices()[: sizes.pop("devices", 8)]
        with jax.set_mesh(make_mesh(**sizes, devices=devices)):
            value, grads = jax.jit(jax.value_and_grad(chunked, (0, 1)))(x_BTD, matrix)
            nats_GM = jax.jit(each)(x_BTD, matrix)
    np.testing.assert_allclose(nats_GM, whole(x_BTD, matrix, tied, words, places_GM, targets_GM), atol=1e-5)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    for grad, other in zip(grads, wanted_grads):
        np.testing.assert_allclose(grad, other, atol=1e-5)


def test_the_gradient_is_scaled_by_what_comes_after():
    x_BTD, matrix, *rows = case(1, True)
    grads = [
        jax.grad(lambda x, factor=factor: factor * loss.nats_sum(jnp.float32, x, loss.Head(matrix, True, V), *rows))(x_BTD)
        for factor in (1.0, -2.5)
    ]
    np.testing.assert_allclose(grads[1], -2.5 * grads[0], rtol=1e-6)


def test_no_array_holds_the_logits_of_all_tokens():
    """Of the jitted gradient's buffers the largest is a chunk's or the matrix's, not [B, T, V]."""
    x_BTD, matrix, *rows = case(1, False)

    def chunked(x_BTD, matrix):
        return loss.nats_sum(jnp.float32, x_BTD, loss.Head(matrix, False, V), *rows)

    text = str(jax.make_jaxpr(jax.grad(chunked, (0, 1)))(x_BTD, matrix))
    tokens = rows[0].size
    assert f"[{tokens},{V}]" not in text and f"[5,{V}]" in text
