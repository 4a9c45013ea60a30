"""Families that differ from LLaMA, through Hugging Face, GGUF, training, decoding and meshes; tests/parity asks transformers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from humpback.convert import export, families, names, sources
from humpback.errors import UserError
from humpback.model import llama, sharding
from humpback.model.weights import WEIGHTS, layer_names, leaves
from tests.in_memory import from_params

TRAITS = {
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "smollm3": {"no_rope_every": 4, "num_layers": 5, "tied": True},
}


def made(tiny, name, **more):
    cfg = tiny.config(**{"num_heads": 8, "num_kv_heads": 4, **TRAITS[name], "family": name, **more})
    return cfg, tiny.params(cfg)


@pytest.mark.parametrize("name", TRAITS)
def test_hugging_face_there_and_back(tiny, tmp_path, name):
    head_dim = {"d_model": 48} if name in ("qwen2", "smollm3") else {}  # whose classes have D / N alone
    cfg, params = made(tiny, name, **head_dim)
    export.write_folder(str(tmp_path / "m"), from_params(cfg, params, tiny.tokenizer()), export.Beside("chatml", "base"))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["architectures"] == [families.FAMILIES[name].classes[0]] and config["model_type"] == name
    opened = sources.open_source(str(tmp_path / "m"))
    assert opened.config == cfg and opened.config.family == name
    tiny.same(opened.params(), params)
    tensors = safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")
    assert ("model.layers.0.self_attn.q_proj.bias" in tensors) == (name == "qwen2")
    assert ("model.layers.0.self_attn.k_norm.weight" in tensors) == (name == "qwen3")


@pytest.mark.parametrize("name", TRAITS)
def test_gguf(tiny, tmp_path, name):
    """Qwen's rows lie as Hugging Face's do, the others' are interleaved, of biases and norms too."""
    cfg, params = made(tiny, name)
    family = families.FAMILIES[name]
    tensors, metadata = {}, {}
    for path, weight in leaves(cfg):
        array = params
        for part in path:
            array = array[part]
        rows = names.to_huggingface(path, array, cfg)
        if family.interleaved and path[-1] in ("q", "k"):
            rows = tiny.interleave(rows, weight.sizes(cfg)[1])
        tensors[names.outside_name(path, "gguf")] = rows
    for key, value in tiny.gguf_metadata(cfg).items():
        metadata[key.replace("llama.", f"{family.gguf}.", 1) if key.startswith("llama.") else key] = value
    opened = sources.open_source(tiny.write_gguf(tmp_path / "m.gguf", tensors, metadata, family.gguf))
    assert opened.config == cfg
    tiny.same(opened.params(), params)


def test_absent_fields_are_each_familys_own():
    plain = {"vocab_size": 9, "hidden_size": 64, "num_attention_heads": 8}
    for kind, wanted in (("mistral", 4096), ("llama", None), ("qwen2", None), ("qwen3", None)):
        assert families.window({**plain}, families.FAMILIES[kind]) == wanted
    assert families.window({"sliding_window": None}, families.FAMILIES["mistral"]) is None
    assert families.window({"use_sliding_window": True, "sliding_window": 9}, families.FAMILIES["qwen2"]) == 9
    smollm3 = families.FAMILIES["smollm3"]
    assert families.no_rope_every({}, smollm3, 8, "c") == 4 and families.no_rope_every({"no_rope_layers": [1] * 6}, smollm3, 6, "c") == 0
    with pytest.raises(UserError, match="no_rope_layers is"):
        families.no_rope_every({"no_rope_layers": [0, 0, 1, 1]}, smollm3, 4, "c")


@pytest.mark.parametrize(
    ("kind", "why"),
    [("gemma2", "caps logits"), ("olmo2", "after the branches"), ("phi3", "longrope"), ("mixtral", "mixture"), ("qwen3_moe", "mixture"),
     ("qwen3_next", "linear"), ("bloom", "not known here")],
)  # fmt: skip
def test_others_are_refused_by_name(kind, why):
    with pytest.raises(UserError, match=f"'{kind}'.*{why}.*readable are LLaMA"):
        families.of_config({"architectures": ["X"], "model_type": kind}, "config.json")
    with pytest.raises(UserError, match=f"'{kind}'.*{why}"):
        families.of_gguf(kind, "m.gguf")


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "smollm3"])
def test_decoding_training_and_meshes_agree(tiny, name):
    """Gradients reach each new weight; cached steps, and four devices, give the numbers of one whole pass."""
    cfg, params = made(tiny, name, d_model=32, head_dim=8, d_ff=16)
    params = jax.tree.map(lambda x: jnp.asarray(x) * 0.3, params)
    ids = np.random.default_rng(0).integers(0, cfg.vocab_size, (4, 12))
    places = np.broadcast_to(np.arange(12), (4, 12))
    stacked = llama.stack_layers(params)
    loss = jax.jit(lambda p: jax.nn.logsumexp(llama.forward(cfg, p, ids, places), axis=-1).mean())
    grads = jax.jit(jax.grad(loss))(stacked)
    for new in {"q_bias", "k_norm", "v_bias"} & set(layer_names(cfg)):
        assert np.abs(np.asarray(grads["layers"][new])).reshape(cfg.num_layers, -1).max(axis=1).min() > 0, new
    whole = llama.forward(cfg, stacked, ids, places)
    turned = llama.decoding_params(cfg, params)
    row = np.pad(ids[:, :8], ((0, 0), (0, 8)))
    last, cache = llama.prefill(cfg, turned, row, np.full(4, 8))
    np.testing.assert_allclose(last, whole[:, 7], atol=1e-5)
    for at in range(8, 12):
        last, cache = llama.decode_step(cfg, turned, cache, ids[:, at], np.full(4, at))
        np.testing.assert_allclose(last, whole[:, at], atol=1e-5)
    for sizes in ({"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"tensor": 4}):
        mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:4])
        with jax.set_mesh(mesh):
            placed = jax.device_put(stacked, sharding.param_shardings(cfg, mesh, sharding.TRAINING_RULES, stacked=True))
            got = jax.jit(jax.grad(loss))(placed)
        for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(grads), strict=True):
            np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)


def test_a_row_says_for_which_config_it_is(tiny):
    assert {name: WEIGHTS[name].only for name in WEIGHTS if WEIGHTS[name].only} == {
        "q_bias": "qkv_bias", "k_bias": "qkv_bias", "v_bias": "qkv_bias", "q_norm": "qk_norm", "k_norm": "qk_norm",
    }  # fmt: skip
    plain = tiny.config()
    assert not {"q_bias", "q_norm"} & set(layer_names(plain))
    assert {"q_bias", "q_norm"} <= set(layer_names(dataclasses.replace(plain, qkv_bias=True, qk_norm=True)))
    params = llama.init_params(dataclasses.replace(plain, qkv_bias=True, qk_norm=True), jax.random.key(0))["layers"]["0"]
    assert float(params["q_bias"].sum()) == 0 and float(params["q_norm"].mean()) == 1
