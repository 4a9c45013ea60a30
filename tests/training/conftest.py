"""What the tests of training share, as fixtures; the values themselves are in case.py."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from humpback.config import Finetune
from humpback.model.llama import forward
from humpback.models.folders import Model
from humpback.tokens.examples import TokenExample
from humpback.tokens.tokenizer import Tokenizer
from tests.training import case
from tests.training.case import CONFIG


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return case.make_tokenizer()


@pytest.fixture
def base() -> Model:
    """Fresh for each test."""
    return case.make_base()


@pytest.fixture(scope="package")
def alone() -> Callable[..., tuple[float, dict[str, Any]]]:
    """(summed nats, their gradient) of one example by itself, with every position's logits: what all else must agree with."""

    @jax.jit
    def nats(params, ids_T, start, length):
        logits_TV = forward(CONFIG, params, ids_T[None], jnp.arange(32)[None])[0]
        nats_T = optax.softmax_cross_entropy_with_integer_labels(logits_TV[:-1], ids_T[1:])
        here = jnp.arange(31)
        return jnp.sum(jnp.where((here >= start - 1) & (here < length - 1), nats_T, 0.0))

    program = jax.jit(jax.value_and_grad(nats))

    def call(stacked: dict[str, Any], example: TokenExample) -> tuple[float, dict[str, Any]]:
        ids_T = np.zeros(32, np.int32)  # attention is causal: what stands after the example does not reach it
        ids_T[: len(example.ids)] = example.ids
        value, grads = program(stacked, ids_T, example.target_start, len(example.ids))
        return float(value), grads

    return call


@pytest.fixture
def examples() -> list[TokenExample]:
    return case.make_examples()


@pytest.fixture
def finetune() -> Callable[..., Finetune]:
    return case.make_finetune
