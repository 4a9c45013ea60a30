"""Tunix's Sampler on a CPU, for the benchmarks (answering.py). Runs in .venv-tunix."""

import functools
import json
import pathlib
import time
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
from answering import answer
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.llama3 import model as llama3
from tunix.models.llama3 import params

BUCKET = 128  # prompts are padded to a multiple of it, so that few shapes are compiled
PAD, NEVER = 0, -1  # ids: no prompt holds the first, no draw is the second
PLAIN_ROPE = llama3.apply_rope
MODELS: dict[str, tuple[Any, llama3.ModelConfig]] = {}
SAMPLERS: dict[tuple, Sampler] = {}
COMPILED: set[tuple] = set()
READ: dict[Sampler, float] = {}  # when a sampler had last read its prompts


class Ids:
    """In place of a tokenizer: a text is the ids themselves, with spaces between."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> None:
        return None

    def eos_id(self) -> int:
        return NEVER

    def pad_id(self) -> int:
        return PAD


def versions() -> dict[str, Any]:
    """What is compared with."""
    return {"tunix": metadata.version("google-tunix"), "tunix_jax": jax.__version__}


def load(name: str, folder: str, dtype: str) -> dict[str, Any]:
    """Real weights to generate with."""
    values = json.loads((pathlib.Path(folder) / "config.json").read_text())
    theta = values["rope_parameters"]["rope_theta"] if "rope_parameters" in values else values["rope_theta"]
    config = llama3.ModelConfig(
        num_layers=values["num_hidden_layers"],
        vocab_size=values["vocab_size"],
        embed_dim=values["hidden_size"],
        hidden_dim=values["intermediate_size"],
        num_heads=values["num_attention_heads"],
        head_dim=values["head_dim"],
        num_kv_heads=values["num_key_value_heads"],
        rope_theta=int(theta),
        norm_eps=values["rms_norm_eps"],
        weight_tying=values["tie_word_embeddings"],
    )
    # Its attention never passes the config's theta on; with another one the real weights would write nonsense.
    llama3.apply_rope = functools.partial(PLAIN_ROPE, rope_theta=config.rope_theta)
    MODELS[name] = params.create_model_from_safe_tensors(folder, config, dtype=getattr(jnp, dtype)), config
    return {}


def generate(
    name: str, batches: list[list[list[int]]], new_tokens: int, ends: list[int], head: int, temperature: float, top_p: float
) -> dict[str, Any]:
    """Prompts, batch by batch; the seconds of the whole without compilation, and the tokens written; the same from the first
    draws on. `head` has no use here.
    """
    seconds, written, later = 0.0, 0, 0.0
    for batch in batches:
        length = -(-max(map(len, batch)) // BUCKET) * BUCKET
        texts = [" ".join(map(str, row)) for row in batch]
        sampler = _sampler(name, length + new_tokens, tuple(ends))
        run = functools.partial(
            sampler, texts, max_generation_steps=new_tokens, max_prompt_length=length,
            temperature=temperature, top_p=top_p, top_k=0, eos_tokens=ends or [NEVER],
        )  # fmt: skip
        shape = (name, len(batch), length, new_tokens, tuple(ends))
        if shape not in COMPILED:
            run(seed=0)
            COMPILED.add(shape)
        started = time.perf_counter()
        tokens = run(seed=time.monotonic_ns() % 2**31).tokens
        seconds += time.perf_counter() - started
        later += time.perf_counter() - READ[sampler]
        written += sum(min(len(row) + 1, new_tokens) for row in tokens)  # the end was drawn, but is not among them
    records = sum(map(len, batches))
    return {"seconds": seconds, "tokens": written, "later_seconds": later, "later_tokens": written - records}


def _sampler(name: str, cache_size: int, ends: tuple[int, ...]) -> Sampler:
    """One for each cache size and set of ends: both are constants of its compiled programs."""
    key = (name, cache_size, ends)
    if key not in SAMPLERS:
        model, config = MODELS[name]
        cache = CacheConfig(cache_size, config.num_layers, config.num_kv_heads, config.head_dim)
        SAMPLERS[key] = sampler = Sampler(model, Ids(), cache)
        prefill = sampler._compiled_prefill_fn

        def timed(*arguments, **options):
            state = jax.block_until_ready(prefill(*arguments, **options))
            READ[sampler] = time.perf_counter()
            return state

        sampler._compiled_prefill_fn = timed  # it draws the first tokens, too
    return SAMPLERS[key]


if __name__ == "__main__":
    answer(versions, load, generate)
