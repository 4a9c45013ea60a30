"""Families that differ from LLaMA against transformers: tiny random models with odd values in every field. Needs the `parity` extra."""

import functools

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install -e .[parity])")
pytest.importorskip("transformers", reason="transformers is not installed (pip install -e .[parity])")

import jax
import jax.numpy as jnp
import torch
import transformers

from humpback.commands.convert import convert
from humpback.convert import comparison, sources
from humpback.model import llama
from tests import tiny

POSITIONS = 300
COMMON = {
    "vocab_size": 512, "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 5, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 400, "rms_norm_eps": 3e-3, "attn_implementation": "eager",
}  # fmt: skip
# Family -> (class of the config, fields, longest sequence that is read).
CASES = {
    "llama_linear": ("LlamaConfig", {"head_dim": 10, "rope_theta": 777.0, "rope": {"rope_type": "linear", "factor": 2.5}}, 400),
    "llama_dynamic": ("LlamaConfig", {"head_dim": 10, "rope_theta": 777.0, "rope": {"rope_type": "dynamic", "factor": 2.5}}, 400),
    "mistral": ("MistralConfig", {"head_dim": 10, "sliding_window": None, "rope_theta": 777.0}, 400),
    "mistral_window": ("MistralConfig", {"head_dim": 10, "sliding_window": 310, "rope_theta": 777.0}, 310),
    "qwen2": ("Qwen2Config", {"rope_theta": 12345.0, "use_sliding_window": False, "sliding_window": 7}, 400),
    "qwen2_tied": ("Qwen2Config", {"rope_theta": 777.0, "tie_word_embeddings": True}, 400),
    "qwen3": ("Qwen3Config", {"head_dim": 14, "rope_theta": 777.0}, 400),
    "smollm3": ("SmolLM3Config", {"rope_theta": 777.0, "tie_word_embeddings": True, "no_rope_layer_interval": 4}, 400),
    "smollm3_every_third": ("SmolLM3Config", {"rope_theta": 777.0, "no_rope_layers": [1, 1, 0, 1, 1], "tie_word_embeddings": False}, 400),
}


@functools.cache
def theirs(name):
    """The model by its own class, every number random, norms and biases among them."""
    kind, fields, _ = CASES[name]
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": fields["rope_theta"], **fields.get("rope", {})}}
    rest = {key: value for key, value in fields.items() if key not in ("rope_theta", "rope")}
    config = getattr(transformers, kind)(**COMMON, **rest, **rope, pad_token_id=None, bos_token_id=None, eos_token_id=2)
    torch.manual_seed(len(name))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.normal_(std=0.8 if "embed" in key else 0.15)
            if "norm" in key:
                value += 1.0
    return model


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(tmp_path, name):
    model = theirs(name)
    model.save_pretrained(str(tmp_path / "theirs"))
    for file, data in tiny.make_tokenizer().files().items():
        (tmp_path / "theirs" / file).write_bytes(data)
    opened = sources.open_source(str(tmp_path / "theirs"))
    cfg, params = opened.config, jax.tree.map(jnp.asarray, opened.params())
    assert cfg.max_positions == CASES[name][2] and name.startswith(cfg.family)
    ids = np.random.default_rng(1).integers(0, 512, (1, POSITIONS))
    with torch.no_grad():
        wanted = model(torch.tensor(ids)).logits.numpy()
    assert wanted.std() > 0.5
    ours = jax.jit(functools.partial(llama.forward, cfg))(llama.stack_layers(params), ids, np.arange(POSITIONS)[None])
    np.testing.assert_allclose(ours, wanted, atol=1e-4, rtol=0)

    (said,) = comparison.run_here(opened, [ids[0, :40].tolist()], 16)
    row = torch.tensor(ids[:, :40])
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0)
    found = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=16, do_sample=False)
    assert said.greedy == found[0, 40:].tolist()

    convert(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    convert(str(tmp_path / "ours"), str(tmp_path / "back"), "huggingface")
    again = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "back"), attn_implementation="eager").eval()
    assert type(again) is type(model)
    with torch.no_grad():
        assert np.abs(again(torch.tensor(ids)).logits.numpy() - wanted).max() <= 1e-5
