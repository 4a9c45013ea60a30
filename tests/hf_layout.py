"""Hugging Face and Meta folders written by the tests themselves, knowing nothing of the code under test."""

import json
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy

from humpback.model.weights import LlamaConfig


def hf_tensors(cfg: LlamaConfig, params: Any) -> dict[str, np.ndarray]:
    """Each tensor by its Hugging Face name, written out by hand: (outputs, inputs)."""
    N, K, H, D = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.d_model
    tensors = {"model.embed_tokens.weight": params["embedding"], "model.norm.weight": params["final_norm"]}
    if not cfg.tied:
        tensors["lm_head.weight"] = params["head"].T
    for i, layer in params["layers"].items():
        tensors |= {
            f"model.layers.{i}.input_layernorm.weight": layer["attention_norm"],
            f"model.layers.{i}.post_attention_layernorm.weight": layer["ffn_norm"],
            f"model.layers.{i}.self_attn.q_proj.weight": layer["q"].reshape(D, N * H).T,
            f"model.layers.{i}.self_attn.k_proj.weight": layer["k"].reshape(D, K * H).T,
            f"model.layers.{i}.self_attn.v_proj.weight": layer["v"].reshape(D, K * H).T,
            f"model.layers.{i}.self_attn.o_proj.weight": layer["o"].reshape(N * H, D).T,
            f"model.layers.{i}.mlp.gate_proj.weight": layer["gate"].T,
            f"model.layers.{i}.mlp.up_proj.weight": layer["up"].T,
            f"model.layers.{i}.mlp.down_proj.weight": layer["down"].T,
        }
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def hf_config(cfg: LlamaConfig) -> dict[str, Any]:
    """config.json's fields."""
    scaling = cfg.rope_scaling and {
        "rope_type": "llama3", "factor": cfg.rope_scaling.factor, "low_freq_factor": cfg.rope_scaling.low_freq_factor,
        "high_freq_factor": cfg.rope_scaling.high_freq_factor,
        "original_max_position_embeddings": cfg.rope_scaling.original_max_position,
    }  # fmt: skip
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": cfg.vocab_size, "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.num_layers, "num_attention_heads": cfg.num_heads, "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.head_dim, "intermediate_size": cfg.d_ff, "rms_norm_eps": cfg.rms_eps, "rope_theta": cfg.rope_theta,
        "rope_scaling": scaling, "tie_word_embeddings": cfg.tied, "max_position_embeddings": cfg.max_positions, "hidden_act": "silu",
    }  # fmt: skip


def write_hf(folder: pathlib.Path, cfg: LlamaConfig, params: Any, tokenizer: Any, files: int = 1, index: bool = True) -> None:
    """A folder by the safetensors library; its tensors dealt out to several files in turn."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(hf_config(cfg)))
    for name, data in tokenizer.files().items():
        (folder / name).write_bytes(data)
    tensors = hf_tensors(cfg, params)
    names = [f"model-{i + 1:05d}-of-{files:05d}.safetensors" if files > 1 else "model.safetensors" for i in range(files)]
    where = {tensor: names[i % files] for i, tensor in enumerate(tensors)}
    for name in names:
        part = {tensor: value for tensor, value in tensors.items() if where[tensor] == name}
        safetensors.numpy.save_file(part, folder / name, metadata={"format": "pt"})
    if files > 1 and index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rotary rows half a head apart -> Meta's and GGUF's, written out row by row: halves become neighbours."""
    head_dim = rows.shape[0] // heads
    out = np.empty_like(rows)
    for head in range(heads):
        for i in range(head_dim // 2):
            out[head * head_dim + 2 * i] = rows[head * head_dim + i]
            out[head * head_dim + 2 * i + 1] = rows[head * head_dim + head_dim // 2 + i]
    return out


def meta_shards(cfg: LlamaConfig, params: Any, shards: int, embedding_axis: int, first: bool = False) -> list[dict[str, np.ndarray]]:
    """Meta's tensors of each device: matrices that read the width D cut along their rows, those that write it along columns.

    first: of LLaMA 1, whose files have the rotary frequencies of each layer.
    """
    N, K, H, D = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.d_model
    head = params["embedding"] if cfg.tied else params["head"].T
    whole = {"tok_embeddings.weight": (params["embedding"], embedding_axis), "output.weight": (head, 0)}
    whole["norm.weight"] = (params["final_norm"], None)
    freqs = (np.arange(H // 2, dtype=np.float32), None)
    whole |= {f"layers.{i}.attention.inner_attention.rope.freqs": freqs for i in params["layers"]} if first else {"rope.freqs": freqs}
    for i, layer in params["layers"].items():
        whole |= {
            f"layers.{i}.attention_norm.weight": (layer["attention_norm"], None),
            f"layers.{i}.ffn_norm.weight": (layer["ffn_norm"], None),
            f"layers.{i}.attention.wq.weight": (interleave(layer["q"].reshape(D, N * H).T, N), 0),
            f"layers.{i}.attention.wk.weight": (interleave(layer["k"].reshape(D, K * H).T, K), 0),
            f"layers.{i}.attention.wv.weight": (layer["v"].reshape(D, K * H).T, 0),
            f"layers.{i}.attention.wo.weight": (layer["o"].reshape(N * H, D).T, 1),
            f"layers.{i}.feed_forward.w1.weight": (layer["gate"].T, 0),
            f"layers.{i}.feed_forward.w3.weight": (layer["up"].T, 0),
            f"layers.{i}.feed_forward.w2.weight": (layer["down"].T, 1),
        }
    parts = {name: [array] * shards if axis is None else np.split(array, shards, axis) for name, (array, axis) in whole.items()}
    return [{name: np.ascontiguousarray(part[i]) for name, part in parts.items()} for i in range(shards)]
