"""The learning rate's ends, the paper's table, what decays, and where the moments lie."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.config import Finetune
from humpback.model.llama import LlamaConfig, abstract_params, stack_layers
from humpback.model.sharding import TRAINING_RULES, make_mesh, param_shardings, replicated
from humpback.training.optimizer import apply, decay_mask, learning_rate, make_optimizer, schedule, state_shardings, steps_and_batch

CONFIG = LlamaConfig(vocab_size=96, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, d_ff=24)


@pytest.mark.optimized
@pytest.mark.parametrize("steps", [2, 7, 500, 1_600])
def test_rate_at_first_middle_and_last_step(steps):
    cfg = Finetune()
    rate = jax.jit(lambda step: learning_rate(step, cfg, steps))
    assert float(rate(0)) == float(np.float32(1e-5))
    assert float(rate(steps - 1)) == float(np.float32(9e-6))  # the value itself: not a factor, not a rounding beside it
    assert float(rate((steps - 1) / 2)) == pytest.approx(9.5e-6, rel=1e-6)
    assert all(float(rate(i)) >= float(rate(i + 1)) for i in range(0, steps - 1, 97))


def test_both_ends_are_exact_whatever_they_are():
    random = np.random.default_rng(0)
    for lr, end in random.uniform(1e-7, 1e-3, (100, 2)).tolist():
        cfg = Finetune(lr=lr, end_lr=end)
        assert float(learning_rate(0, cfg, 7)) == float(np.float32(lr))
        assert float(learning_rate(6, cfg, 7)) == float(np.float32(end))


def test_rate_that_rises_and_a_run_of_one_step():
    cfg = Finetune(lr=0.0, end_lr=0.1)
    assert float(learning_rate(4, cfg, 5)) == float(np.float32(0.1))
    assert float(learning_rate(0, Finetune(), 1)) == float(np.float32(1e-5))


def test_a_step_is_as_long_as_the_rate():
    optimizer = make_optimizer(Finetune(weight_decay=0.0, clip=0.0, eps=0.0))
    params, state, places = {"q": jnp.ones(1)}, optimizer.init({"q": jnp.ones(1)}), [1.0]
    for rate in (1.0, 0.75, 0.5):
        params, state = apply(optimizer, {"q": jnp.full(1, 3.0)}, state, params, rate)
        places.append(float(params["q"][0]))
    assert np.diff(places) == pytest.approx([-1.0, -0.75, -0.5], rel=1e-5)  # Adam's step on a constant gradient is the rate


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        (1, (1, 8)), (3, (2, 8)), (99, (38, 8)), (100, (30, 8)), (101, (300, 8)), (800, (300, 8)), (1_600, (600, 8)),
        (1_601, (500, 32)), (2_000, (500, 32)), (3_200, (500, 32)), (6_400, (600, 32)), (12_800, (600, 32)),
        (25_600, (1_200, 32)), (25_601, (1_600, 32)), (45_021, (1_600, 32)), (51_200, (1_600, 32)), (51_201, (1_601, 32)),
        (502_133, (15_692, 32)),
    ],
)  # fmt: skip
def test_paper_table(examples, expected):
    assert steps_and_batch(examples) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (38, 8)), ({"epochs": 2.0}, (25, 8)), ({"epochs": 2.0, "batch": 4}, (50, 4)), ({"epochs": 0.5, "batch": 99}, (1, 99)),
        ({"steps": 5}, (5, 8)), ({"batch": 4}, (38, 4)),
    ],
)  # fmt: skip
def test_steps_or_epochs_in_place_of_the_table(fields, expected):
    assert schedule(99, Finetune(**fields)) == expected


def test_table_without_examples_raises():
    with pytest.raises(ValueError, match="no example"):
        steps_and_batch(0)


def test_norms_do_not_decay_and_everything_else_does():
    params = jax.eval_shape(stack_layers, abstract_params(CONFIG))
    layer = {"q": True, "k": True, "v": True, "o": True, "gate": True, "up": True, "down": True}
    layer |= {"attention_norm": False, "ffn_norm": False}
    assert decay_mask(params) == {"embedding": True, "head": True, "final_norm": False, "layers": layer}


def test_decay_reaches_the_weights_it_should():
    optimizer = make_optimizer(Finetune(weight_decay=0.1))
    params = {"q": jnp.full(2, 2.0), "final_norm": jnp.full(2, 2.0)}
    moved, _ = apply(optimizer, jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params, 0.5)
    assert moved["q"].tolist() == pytest.approx([1.9, 1.9])  # less rate * decay * weight, apart from the moments
    assert moved["final_norm"].tolist() == [2, 2]


def test_gradient_is_clipped_by_its_global_norm():
    fields = {"weight_decay": 0.0, "eps": 1.0}  # a large epsilon lets the size through
    params = {"q": jnp.zeros(1), "k": jnp.zeros(1)}
    small, large = {"q": jnp.full(1, 0.6), "k": jnp.full(1, 0.8)}, {"q": jnp.full(1, 6.0), "k": jnp.full(1, 8.0)}

    def update(clip, gradient):
        optimizer = make_optimizer(Finetune(**fields, clip=clip))
        return float(apply(optimizer, gradient, optimizer.init(params), params, 1.0)[0]["q"][0])

    assert update(1.0, large) == pytest.approx(update(1.0, small), rel=1e-5)
    assert update(0.0, large) != pytest.approx(update(0.0, small), rel=1e-2)


def test_moments_lie_as_their_weights():
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    params = jax.eval_shape(stack_layers, abstract_params(CONFIG))
    shardings = param_shardings(CONFIG, mesh, TRAINING_RULES, stacked=True)
    found = state_shardings(make_optimizer(Finetune()), params, shardings, replicated(mesh))
    moments = [s for s in jax.tree.leaves(found, is_leaf=lambda s: isinstance(s, dict)) if isinstance(s, dict)]
    assert moments == [shardings, shardings]  # mu and nu
    counters = [s for s in jax.tree.leaves(found) if s == replicated(mesh)]
    assert len(counters) == 1


def test_every_field_of_the_optimizer_changes_the_update():
    params = {"q": jnp.linspace(-1.0, 1.0, 4), "final_norm": jnp.ones(4)}
    gradients = [jax.tree.map(lambda x, s=s: jnp.cos(x * s), params) for s in (3.0, 5.0)]

    def after(**fields):
        cfg = dataclasses.replace(Finetune(lr=0.1, end_lr=0.05, eps=1e-3), **fields)
        optimizer = make_optimizer(cfg)
        state, value = optimizer.init(params), params
        for step, gradient in enumerate(gradients):
            value, state = apply(optimizer, gradient, state, value, learning_rate(step, cfg, 2))
        return np.concatenate([np.asarray(x) for x in jax.tree.leaves(value)])

    usual = after()
    changes = {"lr": 0.2, "end_lr": 0.1, "weight_decay": 0.0, "beta1": 0.5, "beta2": 0.5, "eps": 0.1, "clip": 0.1}
    for name, value in changes.items():
        assert np.abs(after(**{name: value}) - usual).max() > 1e-5, name
