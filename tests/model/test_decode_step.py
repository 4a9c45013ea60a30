"""Prefill and decoding one token at a time: equal to the full forward, rows independent, the cache updated in place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.model import llama
from tests.golden.llama_cases import CASES, make_params

LENGTHS = np.array([5, 61, 1, 33])  # of the prompts
STEPS, S = 12, 80


def texts(cfg):
    return np.random.default_rng(3).integers(0, cfg.vocab_size, (4, S))


def start(cfg, params, ids_BS, T=64):
    """Prefills prompts of mixed lengths, padded with arbitrary ids, into a longer cache."""
    ids_BT = np.where(np.arange(T) < LENGTHS[:, None], ids_BS[:, :T], 7)
    prefill = jax.jit(functools.partial(llama.prefill, cfg))
    logits_BV, chunk = prefill(llama.decoding_params(cfg, params), jnp.asarray(ids_BT), jnp.asarray(LENGTHS))
    return logits_BV, llama.insert_cache(llama.empty_cache(cfg, 4, S), chunk, jnp.arange(4))


@pytest.mark.parametrize("name", CASES)
def test_step_by_step_equals_the_full_forward_with_mixed_lengths(name):
    cfg, params = CASES[name], jax.tree.map(jnp.asarray, make_params(name, CASES[name]))
    ids_BS = texts(cfg)
    positions_BS = jnp.broadcast_to(jnp.arange(S), (4, S))
    full_BSV = llama.forward(cfg, llama.stack_layers(params), jnp.asarray(ids_BS), positions_BS)
    rows = np.arange(4)
    logits_BV, cache = start(cfg, params, ids_BS)
    np.testing.assert_allclose(logits_BV, full_BSV[rows, LENGTHS - 1], atol=1e-4, rtol=0)
    step, params = jax.jit(functools.partial(llama.decode_step, cfg), donate_argnums=1), llama.decoding_params(cfg, params)
    for i in range(STEPS):
        positions_B = LENGTHS + i
        logits_BV, cache = step(params, cache, jnp.asarray(ids_BS[rows, positions_B]), jnp.asarray(positions_B))
        np.testing.assert_allclose(logits_BV, full_BSV[rows, positions_B], atol=1e-4, rtol=0)


@pytest.mark.optimized
def test_a_row_has_the_same_bits_whatever_its_neighbours():
    name = "gqa_9_3_tied"
    cfg, params = CASES[name], llama.decoding_params(CASES[name], make_params(name, CASES[name]))
    prefill = jax.jit(functools.partial(llama.prefill, cfg))
    step = jax.jit(functools.partial(llama.decode_step, cfg))

    def run(ids_BS, lengths, fill):
        """Logits of row 1 in the prefill and in three steps; `fill` is what the cache holds before."""
        logits_BV, chunk = prefill(params, jnp.asarray(ids_BS[:, :64]), jnp.asarray(lengths))
        empty = jax.tree.map(lambda x: x + fill, llama.empty_cache(cfg, 4, S))
        cache, seen = llama.insert_cache(empty, chunk, jnp.arange(4)), [logits_BV[1]]
        for i in range(3):
            ids_B = ids_BS[np.arange(4), lengths + i]
            logits_BV, cache = step(params, cache, jnp.asarray(ids_B), jnp.asarray(lengths + i))
            seen.append(logits_BV[1])
        return np.stack(seen)

    ids_BS = texts(cfg)
    others = (ids_BS + 1) % cfg.vocab_size
    others[1, : LENGTHS[1] + 3] = ids_BS[1, : LENGTHS[1] + 3]  # its own padding differs too
    lengths = np.array([60, LENGTHS[1], 2, 9])
    first, second = run(ids_BS, LENGTHS, 0.0), run(others, lengths, 50.0)
    np.testing.assert_array_equal(first.view(np.int32), second.view(np.int32))


def test_insert_puts_rows_into_slots_and_drops_those_past_the_end():
    cfg = CASES["mha"]
    # The dropped row comes last and holds another number, so that clipping its slot to the last one would be seen.
    chunk = jax.tree.map(lambda x: x + jnp.array([1.0, 5.0]).reshape(2, 1, 1, 1), llama.empty_cache(cfg, 2, 16))
    cache = llama.insert_cache(llama.empty_cache(cfg, 3, 40), chunk, jnp.asarray([2, 3]))
    for k_BKHS, v_BKSH in cache:
        assert (k_BKHS[2, :, :, :16] == 1).all() and (v_BKSH[2, :, :16] == 1).all()
        assert float(k_BKHS.sum()) == float(v_BKSH.sum()) == 16 * cfg.num_kv_heads * cfg.head_dim


def test_the_donated_cache_is_updated_in_place():
    cfg = CASES["mha"]
    params = llama.decoding_params(cfg, jax.tree.map(jnp.asarray, make_params("mha", cfg)))
    cache = llama.empty_cache(cfg, 2, 256)
    step = jax.jit(functools.partial(llama.decode_step, cfg), donate_argnums=1)
    memory = step.lower(params, cache, jnp.zeros(2, int), jnp.zeros(2, int)).compile().memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    assert memory.alias_size_in_bytes == size
    assert memory.temp_size_in_bytes < size / 2
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(cache)]
    _, after = step(params, cache, jnp.zeros(2, int), jnp.zeros(2, int))
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(after)] == places


def test_bfloat16_cache_and_compute():
    cfg = CASES["mha"]
    params = llama.decoding_params(cfg, jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), make_params("mha", cfg)))
    ids_BT = jnp.asarray(texts(cfg)[:, :16])
    dtypes = llama.Dtypes(jnp.bfloat16, jnp.bfloat16)
    prefill, step = (jax.jit(functools.partial(f, cfg, dtypes=dtypes)) for f in (llama.prefill, llama.decode_step))
    logits_BV, cache = prefill(params, ids_BT, jnp.full(4, 9))
    assert logits_BV.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(cache)} == {jnp.dtype(jnp.bfloat16)}
    logits_BV, cache = step(params, cache, ids_BT[:, 9], jnp.full(4, 9))
    assert logits_BV.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(cache)} == {jnp.dtype(jnp.bfloat16)}


def test_misfits_are_refused():
    cfg = CASES["mha"]
    params = llama.decoding_params(cfg, make_params("mha", cfg))
    one = jnp.zeros(1, int)
    with pytest.raises(ValueError, match="257 positions"):
        llama.prefill(cfg, params, jnp.zeros((1, 257), int), one + 1)
    with pytest.raises(ValueError, match="257 positions"):
        llama.decode_step(cfg, params, llama.empty_cache(cfg, 1, 257), one, one)
    swapped = tuple((v, k) for k, v in llama.empty_cache(cfg, 1, 20))
    with pytest.raises(ValueError, match="a cache of this model for 1 rows"):
        llama.decode_step(cfg, params, swapped, one, one)
    with pytest.raises(ValueError, match="a cache of this model for 1 rows"):
        llama.decode_step(cfg, params, llama.empty_cache(cfg, 1, 20)[:1], one, one)


@pytest.mark.parametrize("name", CASES)
def test_a_prefix_read_once_equals_prompts_read_whole(name):
    """Rows that use all, some and none of the prefix, through prefill and steps."""
    cfg, params = CASES[name], llama.decoding_params(CASES[name], make_params(name, CASES[name]))
    ids_BS, P, T = texts(cfg), 20, 48
    shared_B, own_B = np.array([P, 7, 0, P]), np.array([5, 40, 33, 1])
    ids_BS[:, :P] = np.where(np.arange(P) < shared_B[:, None], ids_BS[0, :P], ids_BS[:, :P])
    rows = np.arange(4)
    whole, step = (jax.jit(functools.partial(f, cfg)) for f in (llama.prefill, llama.decode_step))
    _, prefix = whole(params, jnp.asarray(ids_BS[:1, :P]), jnp.array([P]))
    prefix = jax.tree.map(lambda x: x[0], prefix)
    own_BT = np.stack([np.pad(ids_BS[b, shared_B[b] : shared_B[b] + own_B[b]], (0, T - own_B[b]), constant_values=3) for b in rows])
    expected_BV, chunk = whole(params, jnp.asarray(ids_BS[:, :64]), jnp.asarray(shared_B + own_B))
    cache = llama.insert_cache(llama.empty_cache(cfg, 4, S), chunk, rows)
    found_BV, chunk = whole(params, jnp.asarray(own_BT), jnp.asarray(own_B), llama.Prefix(prefix, jnp.asarray(shared_B)))
    own_cache = llama.insert_cache(llama.empty_cache(cfg, 4, 60), chunk, rows)
    np.testing.assert_allclose(found_BV, expected_BV, atol=1e-4, rtol=0)
    for i in range(3):
        ids_B = jnp.asarray(ids_BS[rows, shared_B + own_B + i])
        expected_BV, cache = step(params, cache, ids_B, jnp.asarray(shared_B + own_B + i))
        found_BV, own_cache = step(params, own_cache, ids_B, jnp.asarray(own_B + i), llama.Prefix(prefix, jnp.asarray(shared_B)))
        np.testing.assert_allclose(found_BV, expected_BV, atol=1e-4, rtol=0)
