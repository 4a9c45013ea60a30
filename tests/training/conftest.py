"""A tiny model, a tokenizer of one id per word, and examples of mixed lengths."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from humpback.config import Finetune
from humpback.model.llama import LlamaConfig, forward, init_params
from humpback.tokens.examples import TokenExample
from humpback.tokens.tokenizer import Tokenizer
from humpback.training.checkpoint import Model, ModelInfo

# Every dimension differs, so that none can stand for another; all that a mesh of 8 may split is divisible.
CONFIG = LlamaConfig(vocab_size=96, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, d_ff=24)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    words = ["<unk>", "<eos>", *(f"w{i}" for i in range(94))]
    value = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": words[i], "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            for i in range(2)
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }
    config = {"eos_token": "<eos>", "unk_token": "<unk>"}
    return Tokenizer({"tokenizer.json": json.dumps(value).encode(), "tokenizer_config.json": json.dumps(config).encode()})


@pytest.fixture(scope="session")
def first_params() -> dict[str, Any]:
    return jax.tree.map(np.asarray, init_params(CONFIG, jax.random.key(0)))


@pytest.fixture
def base(tokenizer: Tokenizer, first_params: dict[str, Any]) -> Model:
    """Fresh for each test, of numpy arrays, as load_model gives them."""
    return Model(ModelInfo(CONFIG, "base", "plain"), jax.tree.map(np.array, first_params), tokenizer)


@pytest.fixture(scope="package", autouse=True)
def quick_compilation() -> Iterator[None]:
    """These tests compile some forty programs and run each a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
    """20 examples of 6 to 24 tokens with 1 to 7 target tokens."""
    random = np.random.default_rng(0)
    made = []
    for i in range(20):
        condition, target = random.integers(5, 18), random.integers(1, 8)
        made.append(TokenExample(f"{i:016x}", random.integers(2, 96, condition + target).astype(np.int32), int(condition)))
    return made


@pytest.fixture
def finetune() -> Callable[..., Finetune]:
    """A Finetune that learns in a few steps."""

    def make(**fields: object) -> Finetune:
        values = {"length": 32, "batch": 4, "steps": 8, "lr": 1e-2, "end_lr": 5e-3, "checkpoint_every": 0}
        return Finetune(**{**values, **fields})

    return make
