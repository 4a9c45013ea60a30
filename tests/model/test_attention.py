"""Attention in blocks against the formula written out: forwards and backwards, packed rows, shared keys, lengths that do not divide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from humpback.model import attention
from humpback.model.sharding import make_mesh

H = 8
CASES = [(16, 4, 4, None), (37, 4, 2, None), (64, 3, 1, "packed"), (50, 9, 3, "packed"), (7, 2, 1, "packed"), (70, 2, 2, "mixed")]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 16)
    monkeypatch.setattr(attention, "MAX_BLOCKS", 3)


def arrays(T, N, K, rows, B=2):
    keys = jax.random.split(jax.random.key(T), 5)
    q, k, v = (jax.random.normal(key, (B, T, heads, H)) for key, heads in zip(keys, (N, K, K)))
    segments = jnp.ones((B, T), jnp.int32)
    if rows == "packed":  # borders inside a block and on its edge, and padding at the end
        borders = np.array([T // 3, T // 2, T - 2])
        segments = jnp.array([1, 2, 3, 0])[np.array([np.searchsorted(borders + b, np.arange(T), side="right") for b in range(B)])]
    if rows == "mixed":  # as no row is packed, but what is asked for holds
        segments = jax.random.randint(keys[4], (B, T), 0, 4)
    return q, k, v, segments, jax.random.normal(keys[3], (B, T, N, H))


def formula(q_BTNH, k_BTKH, v_BTKH, segments_BT):
    """softmax(Q Kᵀ / √H, masked) V in float32, with every score."""
    G, T = q_BTNH.shape[2] // k_BTKH.shape[2], q_BTNH.shape[1]
    k_BTNH, v_BTNH = (jnp.repeat(x, G, axis=2) for x in (k_BTKH, v_BTKH))
    scores = jnp.einsum("btnh,bsnh->bnts", q_BTNH, k_BTNH) / np.sqrt(H)
    mask = jnp.tril(jnp.ones((T, T), bool))[None] & (segments_BT[:, :, None] == segments_BT[:, None])
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1), v_BTNH)


def value_and_grads(attend, q, k, v, target):
    return jax.jit(jax.value_and_grad(lambda *x: jnp.sum(attend(*x) * target), argnums=(0, 1, 2)))(q, k, v)


@pytest.mark.parametrize(("T", "N", "K", "rows"), CASES)
def test_it_is_the_formula(T, N, K, rows):
    q, k, v, segments, target = arrays(T, N, K, rows)
    blocked = functools.partial(attention.causal_attention, segments_BT=segments)
    wanted = functools.partial(formula, segments_BT=segments)
    np.testing.assert_allclose(blocked(q, k, v), wanted(q, k, v), atol=2e-6)
    found, grads = value_and_grads(blocked, q, k, v, target)
    other, other_grads = value_and_grads(wanted, q, k, v, target)
    assert float(found) == pytest.approx(float(other), rel=1e-5)
    for grad, reference in zip(grads, other_grads):
        np.testing.assert_allclose(grad, reference, atol=5e-6)


@pytest.mark.parametrize("rows", [None, "packed"])
def test_in_bfloat16_it_is_near(rows):
    q, k, v, segments, target = arrays(50, 4, 2, rows)
    found = value_and_grads(functools.partial(attention.causal_attention, segments_BT=segments, dtype=jnp.bfloat16), q, k, v, target)
    wanted = value_and_grads(functools.partial(formula, segments_BT=segments), q, k, v, target)
    for grad, reference in zip(found[1], wanted[1]):
        assert float(jnp.linalg.norm(grad - reference) / jnp.linalg.norm(reference)) < 0.01


@pytest.mark.parametrize(("T", "N", "K"), [(16, 4, 4), (37, 4, 2), (64, 3, 1)])
def test_prompts_are_the_formula(T, N, K):
    q, k, v, segments, _ = arrays(T, N, K, None)
    np.testing.assert_allclose(attention.prompt_attention(q, k, v), formula(q, k, v, segments), atol=2e-6)


def test_no_array_holds_all_scores():
    """48 tokens in blocks of 16: the largest matrix of scores has 16 queries and 16 keys, forwards and backwards."""
    q, k, v, segments, target = arrays(48, 4, 4, None)

    def loss(q, k, v):
        return jnp.sum(attention.causal_attention(q, k, v, segments) * target)

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q, k, v))
    assert "[4,16,16]" in text and "48,48]" not in text and "16,48]" not in text


def test_blocks_of_other_segments_are_not_looked_at():
    """NaN in the keys of the first segment, two blocks of four: masked ones would make the second's scores NaN, too."""
    q, k, v, _, target = arrays(64, 2, 1, None)
    segments = jnp.asarray(np.repeat([[1, 2]], 2, 0).repeat(32, 1))
    found, grads = value_and_grads(
        lambda q, k, v: attention.causal_attention(q, k.at[:, :32].set(jnp.nan), v, segments)[:, 32:], q, k, v, target[:, 32:]
    )
    assert np.isfinite(found) and np.isfinite(grads[0][:, 32:]).all() and np.isfinite(grads[2][:, 32:]).all()
    np.testing.assert_array_equal(attention._first_seen(segments[0], 16), [0, 0, 2, 2])


@pytest.mark.parametrize("K", [2, 1])
def test_every_device_has_its_rows_and_heads(K):
    """Nothing is sent, unless there are fewer key heads than devices that share them."""
    *given, target = arrays(50, 4, K, "packed", B=8)
    mesh = make_mesh(2, 2, 2)
    by_row, by_head = (NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, axis)) for axis in (None, "tensor"))
    keys = by_head if K == 2 else by_row
    where = by_head, keys, keys, NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def run(q, k, v, segments):
        return value_and_grads(functools.partial(attention.causal_attention, segments_BT=segments), q, k, v, target)

    with jax.set_mesh(mesh):
        many = jax.jit(run, in_shardings=where).lower(*given).compile()
        found, grads = many(*jax.device_put(tuple(given), where))
    expected, other_grads = run(*given)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    for grad, reference in zip(grads, other_grads, strict=True):
        np.testing.assert_allclose(grad, reference, atol=5e-6)
    if K == 2:
        assert "all-gather(" not in many.as_text()
