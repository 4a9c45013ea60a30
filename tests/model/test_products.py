"""Products of float32 are products of float32 on every backend, and those of bfloat16 are left alone."""

import re

import jax
import jax.numpy as jnp
import pytest

from humpback.model import llama

CFG = llama.LlamaConfig(vocab_size=64, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=48)


def products(function, *arguments) -> set[str]:
    """What the program says of the precision of its products."""
    text = jax.jit(function).lower(*arguments).as_text()
    found = re.findall(r"stablehlo\.dot_general.*", text)
    assert len(found) > 10
    return {(re.search(r"precision = \[(\w+), (\w+)\]", line) or ["", "none"])[1] for line in found}


@pytest.mark.parametrize(("dtype", "precision"), [("float32", {"HIGHEST"}), ("bfloat16", {"none", "DEFAULT"})])
def test_training_and_decoding(dtype, precision):
    dtypes = llama.Dtypes(jnp.dtype(dtype), jnp.dtype(dtype))
    params = llama.init_params(CFG, jax.random.key(0), dtypes.compute)
    ids_BT, last_B = jnp.zeros((2, 16), jnp.int32), jnp.array([16, 9])

    def loss(stacked):
        return llama.forward(CFG, stacked, ids_BT, jnp.arange(16)[None], dtypes=dtypes).mean()

    turned = llama.decoding_params(CFG, params)
    _, cache = llama.prefill(CFG, turned, ids_BT, last_B, dtypes=dtypes)
    for function, arguments in (
        (jax.grad(loss), (llama.stack_layers(params),)),
        (lambda *given: llama.prefill(CFG, *given, dtypes=dtypes), (turned, ids_BT, last_B)),
        (lambda *given: llama.decode_step(CFG, *given, dtypes=dtypes), (turned, cache, ids_BT[:, 0], last_B - 1)),
    ):
        assert products(function, *arguments) <= precision
