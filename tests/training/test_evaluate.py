"""Nats per example: those of the example alone, in the order given, on any mesh, without dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.model.llama import stack_layers
from humpback.model.sharding import make_mesh
from humpback.training.evaluate import nll


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def score(base, examples, **options):
    return nll(base.info.config, base.params, examples, **{"length": 32, "mesh": one_device(), **options})


def test_scores_are_those_of_each_example_alone(base, examples, alone):
    scores = score(base, examples)
    stacked = stack_layers(base.params)
    np.testing.assert_allclose(scores.nats, [alone(stacked, example)[0] for example in examples], rtol=1e-5)
    assert scores.tokens.tolist() == [len(e.ids) - e.target_start for e in examples]
    assert scores.nats.dtype == np.float64


def test_order_and_company_do_not_matter(base, examples):
    scores = score(base, examples)
    np.testing.assert_allclose(score(base, examples[::-1]).nats[::-1], scores.nats, rtol=1e-5)
    np.testing.assert_allclose(score(base, examples[3:4]).nats, scores.nats[3:4], rtol=1e-5)
    np.testing.assert_allclose(score(base, examples, rows=3).nats, scores.nats, rtol=1e-5)


def test_one_device_and_eight_agree(base, examples):
    many = score(base, examples, mesh=make_mesh(data=2, fsdp=2, tensor=2))
    np.testing.assert_allclose(many.nats, score(base, examples).nats, atol=1e-4)


def test_same_inputs_same_bits_and_weights_may_be_arrays_that_are_not_used_up(base, examples):
    wanted = score(base, examples).nats
    base.params.update(jax.tree.map(jnp.asarray, base.params))
    assert score(base, examples).nats.tobytes() == wanted.tobytes()
    assert score(base, examples).nats.tobytes() == wanted.tobytes()


def test_nothing_to_score(base):
    scores = score(base, [])
    assert scores.nats.shape == scores.tokens.shape == (0,)


def test_example_longer_than_a_row_raises(base, examples):
    with pytest.raises(ValueError, match="a row has 8"):
        score(base, examples, length=8)
