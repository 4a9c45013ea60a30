"""The training forward: against the golden logits, causality, segments, dropout, remat, the tree's own rules."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.model import llama
from tests.golden import make_llama_logits
from tests.golden.llama_cases import CASES, POSITIONS, make_ids, make_params

CFG = CASES["gqa_9_3_tied"]
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def stacked():
    return llama.stack_layers(jax.tree.map(jnp.asarray, make_params("gqa_9_3_tied", CFG)))


def rows(T, B=2):
    """ids, positions of B random rows."""
    ids_BT = jax.random.randint(jax.random.key(5), (B, T), 0, CFG.vocab_size)
    return ids_BT, jnp.broadcast_to(jnp.arange(T), (B, T))


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_golden_ones_of_transformers(name):
    cfg = CASES[name]
    positions_BT = jnp.broadcast_to(jnp.arange(POSITIONS), (2, POSITIONS))
    ours = llama.forward(cfg, llama.stack_layers(make_params(name, cfg)), jnp.asarray(make_ids(name, cfg)), positions_BT)
    golden = np.load(make_llama_logits.PATH)[name]
    np.testing.assert_allclose(ours[:, np.array(make_llama_logits.SHOWN)], golden, atol=1e-4, rtol=0)


FIELD_CHANGES = {
    "rope_theta": 9999.0,
    "rope_scaling": llama.RopeScaling(5.0, 1.5, 3.5, 41),
    "rms_eps": 1e-3,
}


@pytest.mark.parametrize("field", FIELD_CHANGES)
def test_every_field_without_a_shape_reaches_the_logits(field, stacked):
    ids_BT, positions_BT = rows(70)
    before = llama.forward(CFG, stacked, ids_BT, positions_BT)
    after = llama.forward(dataclasses.replace(CFG, **{field: FIELD_CHANGES[field]}), stacked, ids_BT, positions_BT)
    assert jnp.abs(before - after).max() > 1e-2


@pytest.mark.parametrize("T", [20, 300])  # in one block of queries, and across several
def test_causality_by_gradient(stacked, T):
    ids_BT, positions_BT = rows(T, B=1)
    at = T * 2 // 3
    # One line of the table for every position, so that the gradient tells the positions apart.
    embedding = jnp.take(stacked["embedding"], ids_BT[0], axis=0)
    cfg = dataclasses.replace(CFG, vocab_size=T, max_positions=T)

    @jax.jit
    @jax.grad
    def influence(embedding):  # of every input position on the output at `at`
        params = {**stacked, "embedding": embedding}
        return llama.hidden(cfg, params, jnp.arange(T)[None], positions_BT)[0, at].sum()

    grads_TD = influence(embedding)
    per_position = jnp.abs(grads_TD).max(axis=-1)
    assert per_position[: at + 1].min() > 0
    assert per_position[at + 1 :].max() == 0


def test_segments_are_as_if_alone_and_padding_changes_nothing(stacked):
    lengths = (40, 130, 61)
    T = sum(lengths) + 29
    ids_BT, _ = rows(T, B=1)
    positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(29, int)])
    segments = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)] + [np.zeros(29, int)])
    packed = llama.forward(CFG, stacked, ids_BT, jnp.asarray(positions)[None], jnp.asarray(segments)[None])
    assert bool(jnp.isfinite(packed).all())
    start = 0
    for n in lengths:
        alone = llama.forward(CFG, stacked, ids_BT[:, start : start + n], jnp.arange(n)[None])
        np.testing.assert_allclose(packed[:, start : start + n], alone, atol=1e-4, rtol=0)
        start += n
    other_padding = ids_BT.at[:, start:].set(3)
    again = llama.forward(CFG, stacked, other_padding, jnp.asarray(positions)[None], jnp.asarray(segments)[None])
    np.testing.assert_array_equal(packed[:, :start], again[:, :start])


def test_dropout_is_on_only_with_a_key_and_depends_on_it(stacked):
    ids_BT, positions_BT = rows(30)

    @functools.partial(jax.jit, static_argnums=0)
    def run(rate, key):
        return llama.hidden(CFG, stacked, ids_BT, positions_BT, dropout=None if key is None else llama.Dropout(rate, key))

    off = run(0.5, None)
    np.testing.assert_array_equal(off, run(0.0, KEY))
    on = run(0.5, KEY)
    assert jnp.abs(on - off).max() > 0.1
    np.testing.assert_array_equal(on, run(0.5, KEY))
    assert jnp.abs(on - run(0.5, jax.random.key(8))).max() > 0.1


def test_dropout_keeps_the_expectation_and_drops_the_given_share():
    x = jnp.full((64, 128, 16), 3.0)
    tokens = jnp.arange(64 * 128).reshape(64, 128)
    dropped = llama._dropout(KEY, 0.3, tokens, x, 0)
    assert abs(float((dropped == 0).mean()) - 0.3) < 0.01  # 131,072 draws: one sd is 0.0013
    assert abs(float(dropped.mean()) - 3.0) < 0.03
    np.testing.assert_allclose(jnp.unique(dropped), [0.0, 3.0 / 0.7], rtol=1e-4)
    assert (llama._dropout(KEY, 0.3, tokens, x, 1) != dropped).any()  # the two branches differ
    np.testing.assert_array_equal(llama._dropout(KEY, 0.3, tokens[::-1], x, 0), dropped[::-1])  # it is the token's, not the place's


def test_dropout_differs_by_layer(stacked, monkeypatch):
    """The masks of layers and branches are all different: seen by making each layer add what its masks keep."""
    ids_BT, positions_BT = rows(16)
    keys = []
    real = llama._dropout

    def spy(key, rate, tokens, x, branch):
        jax.debug.callback(lambda data: keys.append((tuple(np.asarray(data).tolist()), branch)), jax.random.key_data(key))
        return real(key, rate, tokens, x, branch)

    monkeypatch.setattr(llama, "_dropout", spy)
    llama.hidden(CFG, stacked, ids_BT, positions_BT, dropout=llama.Dropout(0.1, KEY)).block_until_ready()
    jax.effects_barrier()
    assert len(keys) == len(set(keys)) == 2 * CFG.num_layers


def test_remat_changes_memory_not_numbers(stacked):
    ids_BT, positions_BT = rows(150)

    def loss(params, remat):
        return llama.forward(CFG, params, ids_BT, positions_BT, dropout=llama.Dropout(0.2, KEY), remat=remat).var()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    programs = {remat: run.lower(stacked, remat).compile() for remat in ("none", "dots", "full")}
    value, grads = programs["none"](stacked)
    for remat in ("dots", "full"):
        other_value, other_grads = programs[remat](stacked)
        np.testing.assert_allclose(value, other_value, rtol=1e-5)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-4), grads, other_grads)
    # and it is no no-op: less and less is kept for the backward pass
    none, dots, full = (program.memory_analysis().temp_size_in_bytes for program in programs.values())
    assert none > 1.2 * dots > 1.2 * full


def test_gradient_equals_finite_differences(stacked):
    ids_BT, positions_BT = rows(140)
    run = jax.jit(jax.value_and_grad(lambda params: llama.forward(CFG, params, ids_BT, positions_BT)[:, :, 0].mean()))
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), stacked)
    step = 2e-4
    up, down = (run(jax.tree.map(lambda x, d, h=h: x + h * d, stacked, direction))[0] for h in (step, -step))
    slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(run(stacked)[1]), jax.tree.leaves(direction)))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=2e-2)


def test_bfloat16_compute_is_near_and_gives_float32_logits(stacked):
    ids_BT, positions_BT = rows(50)
    exact = llama.forward(CFG, stacked, ids_BT, positions_BT)
    near = llama.forward(CFG, stacked, ids_BT, positions_BT, dtypes=llama.Dtypes(jnp.bfloat16, jnp.bfloat16))
    assert near.dtype == jnp.float32
    assert 1e-4 < jnp.abs(near - exact).mean() < 0.1 * exact.std()


def test_forward_is_logits_of_hidden(stacked):
    ids_BT, positions_BT = rows(12)
    x_BTD = llama.hidden(CFG, stacked, ids_BT, positions_BT)
    np.testing.assert_allclose(
        llama.logits(CFG, stacked, x_BTD[:, 5]), llama.forward(CFG, stacked, ids_BT, positions_BT)[:, 5], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("bad", [{"remat": "some"}, {"dropout": llama.Dropout(1.0, KEY)}, {"dropout": llama.Dropout(-0.1, KEY)}])
def test_bad_arguments_are_refused(stacked, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        llama.hidden(CFG, stacked, *rows(4), **bad)


def test_rows_longer_than_the_model_are_refused_unless_packed(stacked):
    ids_BT, positions_BT = rows(257)
    with pytest.raises(ValueError, match=r"257 positions .* 256"):
        llama.hidden(CFG, stacked, ids_BT, positions_BT)
    llama.hidden(CFG, stacked, ids_BT, positions_BT % 100, positions_BT // 100 + 1)
