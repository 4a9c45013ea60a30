"""transformers at its best on a CPU, for the benchmarks: reads one JSON line a request, answers one. Runs in .venv-peers.

Request: {"do": one of COMMANDS, …its arguments}. Several models may be alive under different names.
"""

import json
import os
import sys
import time
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

MODELS: dict[str, LlamaForCausalLM] = {}
OPTIMIZERS: dict[str, torch.optim.Optimizer] = {}
CLIP: dict[str, float] = {}
AUTOCAST: dict[str, bool] = {}


def make_model(model: dict[str, Any], dtype: torch.dtype) -> LlamaForCausalLM:
    """Random weights in the shapes of a humpback LlamaConfig; sdpa attention, no dropout, no token that ends a text."""
    if model.get("rope_scaling"):
        raise ValueError("the benchmarks' models have no RoPE scaling")
    config = LlamaConfig(
        vocab_size=model["vocab_size"],
        hidden_size=model["d_model"],
        intermediate_size=model["d_ff"],
        num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"],
        num_key_value_heads=model["num_kv_heads"],
        head_dim=model["head_dim"],
        max_position_embeddings=model["max_positions"],
        rms_norm_eps=model["rms_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": model["rope_theta"]},
        tie_word_embeddings=model["tied"],
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype)


def versions() -> dict[str, Any]:
    """What is compared with."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def train_setup(name: str, model: dict[str, Any], optimizer: dict[str, float]) -> dict[str, Any]:
    """A model and its AdamW under `name`, which ends in f32, bf16 (weights too) or bf16_autocast. Norms do not decay."""
    made = make_model(model, torch.bfloat16 if name.endswith("bf16") else torch.float32).train()
    groups = [
        {"params": [p for p in made.parameters() if p.ndim > 1], "weight_decay": optimizer["weight_decay"]},
        {"params": [p for p in made.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    betas = (optimizer["beta1"], optimizer["beta2"])
    # The fused update is the fastest that torch has on a CPU.
    OPTIMIZERS[name] = torch.optim.AdamW(groups, lr=optimizer["lr"], betas=betas, eps=optimizer["eps"], fused=True)
    MODELS[name], CLIP[name], AUTOCAST[name] = made, optimizer["clip"], name.endswith("autocast")
    return {}


def train_step(name: str, ids: list[list[int]]) -> dict[str, Any]:
    """One step with loss on all tokens; its seconds."""
    model, optimizer = MODELS[name], OPTIMIZERS[name]
    started = time.perf_counter()
    batch = torch.tensor(ids)
    with torch.autocast("cpu", torch.bfloat16, enabled=AUTOCAST[name]):
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP[name])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    value = loss.item()
    seconds = time.perf_counter() - started
    if value != value:
        raise ValueError(f"{name}: the loss is not a number")
    return {"seconds": seconds, "loss": value}


def decode_setup(name: str, model: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A model to generate with."""
    MODELS[name] = make_model(model, getattr(torch, dtype)).eval()
    return {}


def decode(name: str, ids: list[list[int]], batch: int, new_tokens: int, temperature: float, top_p: float) -> dict[str, Any]:
    """All prompts, `batch` at a time; the seconds of the whole. Only the last position's logits are computed."""
    model = MODELS[name]
    # top_k=0: without it transformers would add its own default of 50, another distribution.
    drawing = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    config = GenerationConfig(**drawing, max_new_tokens=new_tokens, use_cache=True)
    written, started = 0, time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(ids), batch):
            prompts = torch.tensor(ids[start : start + batch])
            mask = torch.ones_like(prompts)
            texts = model.generate(prompts, attention_mask=mask, generation_config=config, logits_to_keep=1)
            written += texts[:, prompts.shape[1] :].numel()
    seconds = time.perf_counter() - started
    if written != len(ids) * new_tokens:
        raise ValueError(f"{name} wrote {written} tokens, not {len(ids) * new_tokens}")
    return {"seconds": seconds}


COMMANDS = {function.__name__: function for function in (versions, train_setup, train_step, decode_setup, decode)}


def main() -> None:
    """Answers until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # so that nothing a library prints is taken for an answer
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    transformers.logging.set_verbosity_error()
    for line in sys.stdin:
        request = json.loads(line)
        answer = COMMANDS[request.pop("do")](**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
