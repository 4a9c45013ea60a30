"""Makes llama_logits.npz: what Hugging Face's LlamaForCausalLM says about the models of llama_cases.py.

    python -m tests.golden.make_llama_logits        (needs torch and transformers: pip install '.[parity]')

For every case: `NAME` = logits [2, 5, V] float32 at positions SHOWN, which lie before and past 64 positions.
"""

import pathlib

import numpy as np

from tests.golden.llama_cases import CASES, make_ids, make_params

SHOWN = (0, 1, 63, 130, 199)
PATH = pathlib.Path(__file__).with_name("llama_logits.npz")


def hf_model(cfg, params):
    """A transformers model with our weights, float32 and eager attention."""
    import torch
    import transformers

    rope = {"rope_type": "default", "rope_theta": cfg.rope_theta}
    if scaling := cfg.rope_scaling:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        }
    config = transformers.LlamaConfig(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.d_model,
        num_hidden_layers=cfg.num_layers,
        num_attention_heads=cfg.num_heads,
        num_key_value_heads=cfg.num_kv_heads,
        head_dim=cfg.head_dim,
        intermediate_size=cfg.d_ff,
        rms_norm_eps=cfg.rms_eps,
        tie_word_embeddings=cfg.tied,
        max_position_embeddings=cfg.max_positions,
        rope_parameters=rope,
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
    state = {"model.embed_tokens.weight": params["embedding"], "model.norm.weight": params["final_norm"]}
    if not cfg.tied:
        state["lm_head.weight"] = params["head"].T
    for layer, w in params["layers"].items():
        prefix = f"model.layers.{layer}."
        for ours, theirs in {"q": "q_proj", "k": "k_proj", "v": "v_proj"}.items():
            state[f"{prefix}self_attn.{theirs}.weight"] = w[ours].reshape(cfg.d_model, -1).T
        state[f"{prefix}self_attn.o_proj.weight"] = w["o"].reshape(-1, cfg.d_model).T
        for name in ("gate", "up", "down"):
            state[f"{prefix}mlp.{name}_proj.weight"] = w[name].T
        state[f"{prefix}input_layernorm.weight"] = w["attention_norm"]
        state[f"{prefix}post_attention_layernorm.weight"] = w["ffn_norm"]
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or set(missing) - ({"lm_head.weight"} if cfg.tied else set()):
        raise RuntimeError(f"missing {missing}, unexpected {unexpected}")
    return model


def hf_logits(name: str) -> np.ndarray:
    """Logits [2, POSITIONS, V] of one case."""
    import torch

    cfg = CASES[name]
    model = hf_model(cfg, make_params(name, cfg))
    with torch.no_grad():
        return model(torch.from_numpy(make_ids(name, cfg))).logits.numpy()


if __name__ == "__main__":
    np.savez_compressed(PATH, **{name: hf_logits(name)[:, SHOWN] for name in CASES})
    print(f"wrote {PATH}")
