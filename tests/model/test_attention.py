"""Blocked attention against the formula written out: forwards and backwards, packed rows, shared keys, lengths that do not divide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.model import attention

H = 8
CASES = [(16, 4, 4, None), (37, 4, 2, None), (64, 3, 1, "packed"), (50, 9, 3, "packed"), (7, 2, 1, "packed")]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention, "MIN_BLOCK", 16)
    monkeypatch.setattr(attention, "MAX_BLOCKS", 3)


def arrays(T, N, K, rows, B=2):
    keys = jax.random.split(jax.random.key(T), 4)
    q, k, v = (jax.random.normal(key, (B, T, heads, H)) for key, heads in zip(keys, (N, K, K)))
    segments = None
    if rows == "packed":  # borders inside a block and on its edge, and padding at the end
        segments = jnp.array([np.searchsorted([T // 3, T // 2 + b, T - 2], np.arange(T), side="right") for b in range(B)])
    return q, k, v, segments, jax.random.normal(keys[3], (B, T, N, H))


def formula(q_BTNH, k_BTKH, v_BTKH, segments_BT):
    """softmax(Q Kᵀ / √H, masked) V in float32, with every score."""
    G, T = q_BTNH.shape[2] // k_BTKH.shape[2], q_BTNH.shape[1]
    k_BTNH, v_BTNH = (jnp.repeat(x, G, axis=2) for x in (k_BTKH, v_BTKH))
    scores = jnp.einsum("btnh,bsnh->bnts", q_BTNH, k_BTNH) / np.sqrt(H)
    mask = jnp.tril(jnp.ones((T, T), bool))[None]
    if segments_BT is not None:
        mask = mask & (segments_BT[:, :, None] == segments_BT[:, None])
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1), v_BTNH)


def value_and_grads(attend, q, k, v, target):
    return jax.jit(jax.value_and_grad(lambda *x: jnp.sum(attend(*x) * target), argnums=(0, 1, 2)))(q, k, v)


@pytest.mark.parametrize(("T", "N", "K", "rows"), CASES)
def test_blocked_is_the_formula(T, N, K, rows):
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


def test_no_array_holds_all_scores():
    """48 tokens in blocks of 16: the largest matrix of scores has 16 queries, forwards and backwards."""
    q, k, v, _, target = arrays(48, 4, 4, None)

    def loss(q, k, v):
        return jnp.sum(attention.causal_attention(q, k, v, None) * target)

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q, k, v))
    assert "[2,4,16,48]" in text and "[2,4,48,48]" not in text and "[2,4,1,48,48]" not in text
