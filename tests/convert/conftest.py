"""Tiny models and tokenizers for the conversion tests, and a GGUF writer that knows nothing of the code under test."""

import json

import gguf
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from humpback.model.weights import LlamaConfig, make_tree
from humpback.tokens.tokenizer import CONFIG_FILE, JSON_FILE, Tokenizer
from tests.hf_layout import interleave

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("Ġw", "o")]


def vocabulary() -> list[str]:
    """Special tokens, the 256 bytes, the merges' results: 265 tokens."""
    return [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES)]


def tiny_config(**fields) -> LlamaConfig:
    """Odd sizes, so that no two dimensions can be mistaken for each other; 9 query and 3 kv heads."""
    values = {
        "vocab_size": 272, "d_model": 20, "num_layers": 2, "num_heads": 9, "num_kv_heads": 3, "head_dim": 6, "d_ff": 14,
        "rope_theta": 12345.0, "rms_eps": 3e-6, "tied": False, "max_positions": 96,
    }  # fmt: skip
    return LlamaConfig(**(values | fields))


def tiny_params(cfg: LlamaConfig, dtype: str = "float32", seed: int = 0):
    rng = np.random.default_rng(seed)
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    return make_tree(cfg, lambda path, weight: rng.normal(size=weight.sizes(cfg)).astype(kind))


def tiny_tokenizer() -> Tokenizer:
    vocab = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    return Tokenizer({JSON_FILE: tokenizer.to_str().encode(), CONFIG_FILE: json.dumps(config).encode()})


def gguf_tensors(cfg: LlamaConfig, params) -> dict[str, np.ndarray]:
    """A llama GGUF's tensors from our parameters, each written out by hand: (outputs, inputs), q and k interleaved."""
    N, K, H, D = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.d_model
    tensors = {"token_embd.weight": params["embedding"], "output_norm.weight": params["final_norm"]}
    if not cfg.tied:
        tensors["output.weight"] = params["head"].T
    for i, layer in params["layers"].items():
        tensors |= {
            f"blk.{i}.attn_norm.weight": layer["attention_norm"],
            f"blk.{i}.ffn_norm.weight": layer["ffn_norm"],
            f"blk.{i}.attn_q.weight": interleave(layer["q"].reshape(D, N * H).T, N),
            f"blk.{i}.attn_k.weight": interleave(layer["k"].reshape(D, K * H).T, K),
            f"blk.{i}.attn_v.weight": layer["v"].reshape(D, K * H).T,
            f"blk.{i}.attn_output.weight": layer["o"].reshape(N * H, D).T,
            f"blk.{i}.ffn_gate.weight": layer["gate"].T,
            f"blk.{i}.ffn_up.weight": layer["up"].T,
            f"blk.{i}.ffn_down.weight": layer["down"].T,
        }
    return tensors


def gguf_metadata(cfg: LlamaConfig) -> dict:
    tokens = vocabulary()
    return {
        "llama.block_count": cfg.num_layers,
        "llama.context_length": cfg.max_positions,
        "llama.embedding_length": cfg.d_model,
        "llama.feed_forward_length": cfg.d_ff,
        "llama.attention.head_count": cfg.num_heads,
        "llama.attention.head_count_kv": cfg.num_kv_heads,
        "llama.attention.key_length": cfg.head_dim,
        "llama.attention.value_length": cfg.head_dim,
        "llama.rope.dimension_count": cfg.head_dim,
        "llama.rope.freq_base": float(cfg.rope_theta),
        "llama.attention.layer_norm_rms_epsilon": float(cfg.rms_eps),
        "llama.vocab_size": cfg.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)),
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in MERGES],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }


def write_gguf(path, tensors, metadata, architecture: str = "llama", types=None) -> str:
    """A GGUF file by the library's writer; types: tensor name -> quantisation type of bytes already quantised."""
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, array in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(array), raw_dtype=(types or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.fixture
def tiny():
    """The helpers above as one object: test modules cannot import a conftest."""
    import types

    return types.SimpleNamespace(
        config=tiny_config, params=tiny_params, tokenizer=tiny_tokenizer, gguf_tensors=gguf_tensors, specials=SPECIALS,
        gguf_metadata=gguf_metadata, write_gguf=write_gguf, vocabulary=vocabulary, interleave=interleave, same=same,
    )  # fmt: skip


def same(a, b, path: str = "") -> None:
    """Fails unless two trees have the same leaves, dtypes and bytes."""
    if isinstance(a, dict):
        assert set(a) == set(b), path
        for key in a:
            same(a[key], b[key], f"{path}/{key}")
        return
    assert a.dtype == b.dtype and a.shape == b.shape, path
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path
