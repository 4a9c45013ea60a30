import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.decoding.sampling import Sampler, _total, invert_cdf, nucleus_threshold, top_k_threshold


def lanes(mass):
    """One row of masses as the sampler looks at it."""
    return jnp.asarray(np.pad(mass, (0, -len(mass) % 128)).reshape(1, -1, 128))


def sorted_threshold(mass, top_p):
    """Reference: sorts, and takes the mass at which the sum reaches top_p."""
    ordered = np.sort(mass.astype(np.float64))[::-1]
    reached = np.cumsum(ordered) >= top_p * ordered.sum() * (1 - 1e-7)
    return ordered[np.argmax(reached)]


HOSTILE = {
    "normal": np.exp(np.random.default_rng(0).normal(size=5000) * 3),
    "uniform": np.ones(5000),
    "spike": np.concatenate([[1e6], np.full(4999, 1e-6)]),
    "ties": np.repeat([8.0, 4.0, 2.0, 1.0], 4),
    "zeros": np.concatenate([np.zeros(100), [1.0, 2.0, 3.0]]),
    "one": np.array([1.0]),
    "steep": np.exp2(-np.arange(100.0)),
}


@pytest.mark.parametrize("top_p", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", HOSTILE)
def test_threshold_equals_a_sorted_reference(name, top_p):
    mass = HOSTILE[name].astype(np.float32)
    found = float(nucleus_threshold(lanes(mass), top_p)[0])
    kept, expected = mass >= found, mass >= np.float32(sorted_threshold(mass, top_p))
    assert (kept == expected).all()


def test_a_sum_is_that_of_all_entries_and_no_nan_is_lost():
    rows = np.random.default_rng(6).random((2, 3, 128), np.float32)
    np.testing.assert_allclose(jax.jit(_total)(rows), rows.sum((1, 2)), rtol=1e-6)
    rows[1, 2, 5] = np.nan
    assert np.isnan(jax.jit(_total)(rows)).tolist() == [False, True]


def test_frequencies_are_those_of_the_nucleus():
    """Chi-square of 20,000 draws against the renormalised nucleus (10 degrees of freedom, p = 0.001: 29.6)."""
    logits = np.random.default_rng(1).normal(size=40).astype(np.float32) * 1.5
    scaled = np.exp((logits - logits.max()) / 0.7)
    kept = np.where(scaled >= np.float32(sorted_threshold(scaled, 0.9)), scaled, 0)
    expected = kept / kept.sum()
    draws = 20_000
    keys = jax.random.split(jax.random.key(3), draws)
    ids, _ = Sampler(0.7, 0.9)(jnp.broadcast_to(logits, (draws, 40)), keys)
    observed = np.bincount(np.asarray(ids), minlength=40)
    assert observed[expected == 0].sum() == 0
    real = expected > 0
    chi_square = ((observed[real] - draws * expected[real]) ** 2 / (draws * expected[real])).sum()
    assert real.sum() == 11
    assert chi_square < 29.6


def test_greedy_and_log_probability():
    logits = jnp.array([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]])
    ids, log_probs = Sampler(0.0)(logits, jax.random.split(jax.random.key(0), 2))
    assert ids.tolist() == [1, 0]
    np.testing.assert_allclose(log_probs, jax.nn.log_softmax(logits)[jnp.arange(2), ids], atol=1e-6)


def test_top_p_0_is_greedy_and_a_row_depends_on_its_own_key_only():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(8, 300)), jnp.float32)
    keys = jax.random.split(jax.random.key(4), 8)
    assert (Sampler(1.0, 0.0)(logits, keys)[0] == logits.argmax(-1)).all()
    ids = Sampler(1.0, 0.9)(logits, keys)[0]
    changed = Sampler(1.0, 0.9)(logits.at[1:].set(0.0), keys.at[1:].set(keys[0]))[0]
    assert ids[0] == changed[0]


@pytest.mark.parametrize("size", [1, 127, 128, 129, 1000])
def test_inversion_never_gives_an_id_without_mass(size):
    mass = np.zeros(size, np.float32)
    mass[size // 2 :: 3] = 1e-3
    uniforms = jnp.array([0.0, 0.25, 0.5, 0.999999, np.nextafter(np.float32(1), np.float32(0))], jnp.float32)
    ids = np.asarray(invert_cdf(jnp.broadcast_to(lanes(mass), (5, *lanes(mass).shape[1:])), uniforms))
    assert (mass[ids] > 0).all()
    in_order = sorted(np.flatnonzero(mass), key=lambda i: (i % 128, i // 128))  # lane after lane
    assert ids[0] == in_order[0] and ids[-1] == in_order[-1]


@pytest.mark.parametrize("k", [1, 2, 7, 5000, 6000])
@pytest.mark.parametrize("name", HOSTILE)
def test_top_k_keeps_the_k_likeliest_and_their_ties(name, k):
    mass = HOSTILE[name].astype(np.float32)
    found = float(top_k_threshold(lanes(mass), k)[0])
    positive = np.sort(mass[mass > 0])[::-1]
    expected = positive[k - 1] if k <= len(positive) else 0.0
    assert ((mass >= found) == (mass >= expected)).all()


def test_top_k_frequencies_and_top_k_before_top_p():
    logits = jnp.log(jnp.array([0.5, 0.2, 0.2, 0.1]))
    keys = jax.random.split(jax.random.key(5), 4_000)
    rows = jnp.broadcast_to(logits, (4_000, 4))
    share = np.bincount(np.asarray(Sampler(1.0, 1.0, 3)(rows, keys)[0]), minlength=4) / 4_000
    np.testing.assert_allclose(share, [0.5 / 0.9, 0.2 / 0.9, 0.2 / 0.9, 0], atol=0.03)
    assert (Sampler(1.0, 0.55, 3)(rows, keys)[0] == 0).all()  # 0.5 of the 0.9 that top-k left


@pytest.mark.parametrize("sampler", [Sampler(0.0), Sampler(0.7, 0.9), Sampler(1.0, 1.0, 5)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_told_and_give_an_id_that_exists(sampler, value):
    logits = np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32)
    logits[1, 7] = value
    ids, log_probs = jax.jit(sampler)(jnp.array(logits), jax.random.split(jax.random.key(0), 3))
    assert np.isnan(log_probs).tolist() == [False, True, False] and 0 <= int(ids.min()) <= int(ids.max()) < 300
