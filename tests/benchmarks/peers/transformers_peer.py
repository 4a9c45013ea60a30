"""transformers at its best on a CPU, for the benchmarks (answering.py). Runs in .venv-peers.

Several models may be alive under different names.
"""

import logging
import os
import time
from typing import Any

import peft
import torch
import transformers
from answering import answer
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
)

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
    return {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}


def train_setup(name: str, model: dict[str, Any], folder: str, optimizer: dict[str, float], rank: int = 0) -> dict[str, Any]:
    """A model and its AdamW under `name`: f32, bf16 (weights too) or bf16_autocast. Real weights of `folder`, random ones without it.
    With a `rank` adapters of all matrices train, in float32, as peft makes them. Neither they nor norms decay.
    """
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    if folder:
        made = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").train()
    else:
        made = make_model(model, dtype).train()
    if rank:
        lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        made = peft.get_peft_model(made, lora)
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.0 if rank else optimizer["weight_decay"]},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    betas = (optimizer["beta1"], optimizer["beta2"])
    # The fused update is the fastest that torch has on a CPU.
    OPTIMIZERS[name] = torch.optim.AdamW(groups, lr=optimizer["lr"], betas=betas, eps=optimizer["eps"], fused=True)
    MODELS[name], CLIP[name], AUTOCAST[name] = made, optimizer["clip"], name == "bf16_autocast"
    return {}


def train_step(name: str, ids: list[list[list[int]]], starts: list[list[int]]) -> dict[str, Any]:
    """One step over batches of examples, whose gradients are summed up: its seconds, and the mean loss of all tokens from each
    example's start on.

    Padded on the right, where the causal mask alone keeps padding out, so that attention needs no mask of its own.
    """
    model, optimizer = MODELS[name], OPTIMIZERS[name]
    started = time.perf_counter()
    targets = sum(len(row) - start for batch, begins in zip(ids, starts) for row, start in zip(batch, begins))
    losses = []
    for batch, begins in zip(ids, starts):
        length = max(map(len, batch))
        padded = torch.tensor([row + [0] * (length - len(row)) for row in batch])
        labels = torch.tensor([[-100] * start + row[start:] + [-100] * (length - len(row)) for row, start in zip(batch, begins)])
        with torch.autocast("cpu", torch.bfloat16, enabled=AUTOCAST[name]):
            loss = model(input_ids=padded, labels=labels, use_cache=False, num_items_in_batch=targets).loss
        loss.backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP[name])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    value = sum(loss.item() for loss in losses)
    seconds = time.perf_counter() - started
    if value != value:
        raise ValueError(f"{name}: the loss is not a number")
    return {"seconds": seconds, "loss": value}


def forget() -> dict[str, Any]:
    """Lets go of all models and optimizers."""
    MODELS.clear()
    OPTIMIZERS.clear()
    return {}


def load(name: str, folder: str, dtype: str) -> dict[str, Any]:
    """Real weights to generate and read with."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    model.generation_config = GenerationConfig()  # the folder's own would fill in what a request leaves out
    MODELS[name] = model.eval()
    return {}


def generate(
    name: str, batches: list[list[list[int]]], new_tokens: int, ends: list[int], head: int, temperature: float, top_p: float
) -> dict[str, Any]:
    """Prompts, batch by batch; the seconds of the whole and the tokens written, and the same from the first draws on. Only the
    last position's logits are computed.

    `head` tokens that all prompts begin with are read once, before the time begins, and every batch is given their keys and
    values; 0: no such thing.
    """
    model = MODELS[name]
    drawing = _drawing(temperature, top_p)
    config = GenerationConfig(**drawing, max_new_tokens=new_tokens, eos_token_id=ends or None, pad_token_id=ends[0] if ends else None)
    written, later = 0, 0.0
    with torch.inference_mode():
        read = _read_head(model, batches[0][0][:head])
        started = time.perf_counter()
        for batch in batches:
            prompts, mask = _pad_after_head(batch, head)
            given = {"past_key_values": _copies(read, len(batch))} if head else {}
            clock = _Clock()
            texts = model.generate(
                prompts, attention_mask=mask, generation_config=config, logits_processor=[clock], logits_to_keep=1, **given
            )
            later += time.perf_counter() - clock.first
            written += sum(_length(text, ends) for text in texts[:, prompts.shape[1] :].tolist())
    records = sum(map(len, batches))
    return {"seconds": time.perf_counter() - started, "tokens": written, "later_seconds": later, "later_tokens": written - records}


def generate_continuously(
    name: str, prompts: list[list[int]], new_tokens: int, ends: list[int], slots: int, temperature: float, top_p: float
) -> dict[str, Any]:
    """All prompts by transformers' own continuous batching, which finds common heads itself; returns what `generate` returns."""
    config = GenerationConfig(**_drawing(temperature, top_p), max_new_tokens=new_tokens, eos_token_id=ends or -1, pad_token_id=0)
    page = 128
    longest = max(map(len, prompts)) + new_tokens
    batching = ContinuousBatchingConfig(
        page_size=page, num_blocks=slots * (longest // page + 2), max_batch_tokens=1024, max_requests_per_batch=slots
    )
    started = time.perf_counter()
    texts = list(MODELS[name].generate_batch(prompts, config, batching, record_timestamps=True).values())
    ended = time.perf_counter()
    errors = [text.error for text in texts if text.error]
    if errors or len(texts) != len(prompts):
        raise ValueError(f"{name}: {len(texts)} of {len(prompts)} texts, errors {errors}")
    all_read = max(text.timestamps[0] for text in texts)
    return {
        "seconds": ended - started,
        "tokens": sum(len(text.generated_tokens) for text in texts),
        "later_seconds": ended - all_read,
        "later_tokens": sum(moment > all_read for text in texts for moment in text.timestamps),
    }


def read(name: str, batches: list[list[list[int]]], token_ids: list[int], head: int) -> dict[str, Any]:
    """The logits of a few tokens after each prompt, in the order of the batches; `head` as in generate.

    Padded on the right, where the causal mask alone keeps padding out, and the head's matrix is applied to last positions only.
    """
    model, logits = MODELS[name], []
    with torch.inference_mode():
        common = _read_head(model, batches[0][0][:head])
        started = time.perf_counter()
        for batch in batches:
            rows = [prompt[head:] for prompt in batch]
            ids = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
            given = {"past_key_values": _copies(common, len(batch)), "use_cache": True} if head else {"use_cache": False}
            states = model.model(ids, **given).last_hidden_state
            last = states[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
            logits += model.lm_head(last)[:, token_ids].float().tolist()
    return {"seconds": time.perf_counter() - started, "logits": logits}


def products(dtype: str) -> dict[str, Any]:
    """FLOP/s of a large matrix product, the best of a few."""
    size, seconds = 2048, []
    left, right = (torch.ones(size, size, dtype=getattr(torch, dtype)) for _ in range(2))
    for _ in range(6):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        seconds.append(time.perf_counter() - started)
    return {"flops": 2 * size**3 / min(seconds)}


class _Clock(LogitsProcessor):
    """Remembers when the first logits came; leaves them as they are."""

    first: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.first = self.first or time.perf_counter()
        return scores


def _drawing(temperature: float, top_p: float) -> dict[str, Any]:
    # top_k=0: without it transformers would add its own default of 50, another distribution.
    return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0, "use_cache": True}


def _read_head(model: LlamaForCausalLM, ids: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values [1, heads, length, size] of every layer."""
    if not ids:
        return []
    return [(layer.keys, layer.values) for layer in model.model(torch.tensor([ids]), use_cache=True).past_key_values.layers]


def _copies(read: list[tuple[torch.Tensor, torch.Tensor]], rows: int) -> DynamicCache:
    cache = DynamicCache()
    for number, (keys, values) in enumerate(read):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
    return cache


def _pad_after_head(batch: list[list[int]], head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask with the padding between the common head and the rest."""
    length = max(map(len, batch))
    ids = [row[:head] + [0] * (length - len(row)) + row[head:] for row in batch]
    mask = [[1] * head + [0] * (length - len(row)) + [1] * (len(row) - head) for row in batch]
    return torch.tensor(ids), torch.tensor(mask)


def _length(text: list[int], ends: list[int]) -> int:
    """How many tokens were drawn, the end among them."""
    return next((place + 1 for place, token in enumerate(text) if token in ends), len(text))


def main() -> None:
    """Answers, with all cores and without chatter."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # it misses psutil, which our settings don't need
    answer(versions, train_setup, train_step, forget, load, generate, generate_continuously, read, products)


if __name__ == "__main__":
    main()
