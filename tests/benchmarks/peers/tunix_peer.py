"""Tunix's Sampler and trainer on a CPU, for the benchmarks (answering.py). Runs in .venv-tunix."""

import functools
import json
import pathlib
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from answering import answer
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.llama3 import model as llama3
from tunix.models.llama3 import params
from tunix.sft import utils
from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig, TrainingInput

BUCKET = 128  # prompts are padded to a multiple of it, so that few shapes are compiled
PAD, NEVER = 0, -1  # ids: no prompt holds the first, no draw is the second
PLAIN_ROPE = llama3.apply_rope
MODELS: dict[str, tuple[Any, llama3.ModelConfig]] = {}
SAMPLERS: dict[tuple, Sampler] = {}
COMPILED: set[tuple] = set()
READ: dict[Sampler, float] = {}  # when a sampler had last read its prompts
TRAINING: dict[str, tuple[llama3.Llama3, Callable]] = {}  # a model, and the step that updates it


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


def train_setup(name: str, model: dict[str, Any], folder: str, optimizer: dict[str, float]) -> dict[str, Any]:
    """A model with random weights in the shapes of a humpback LlamaConfig, weights and computation in `name`, f32 or bf16, and the
    step of Tunix' own trainer, which trains all weights when there is no LoRA. Norms do not decay. Real weights: not here.
    """
    if folder:
        raise ValueError("Tunix trains random weights here")
    config = llama3.ModelConfig(
        num_layers=model["num_layers"],
        vocab_size=model["vocab_size"],
        embed_dim=model["d_model"],
        hidden_dim=model["d_ff"],
        num_heads=model["num_heads"],
        head_dim=model["head_dim"],
        num_kv_heads=model["num_kv_heads"],
        rope_theta=int(model["rope_theta"]),
        norm_eps=model["rms_eps"],
        weight_tying=model["tied"],
    )
    rngs, dtype = nnx.Rngs(0), jnp.bfloat16 if name == "bf16" else jnp.float32
    made = llama3.Llama3(config, rngs=rngs)

    def begin(value: jax.Array) -> jax.Array:
        # Its feed-forward matrices would begin as zeros, and stay so.
        return (0.02 * jax.random.normal(rngs.params(), value.shape) if value.ndim > 1 else value).astype(dtype)

    nnx.update(made, jax.tree.map(begin, nnx.state(made, nnx.Param)))
    adamw = optax.adamw(
        optimizer["lr"], b1=optimizer["beta1"], b2=optimizer["beta2"], eps=optimizer["eps"], weight_decay=optimizer["weight_decay"],
        mask=lambda tree: jax.tree.map(lambda value: value.ndim > 1, tree),
    )  # fmt: skip
    trainer = PeftTrainer(made, optax.chain(optax.clip_by_global_norm(optimizer["clip"]), adamw), TrainingConfig(eval_every_n_steps=1))
    trainer.with_gen_model_input_fn(
        lambda given: {
            "input_tokens": given.input_tokens,
            "input_mask": given.input_mask,
            "positions": utils.build_positions_from_mask(given.input_mask),
            "attention_mask": utils.make_causal_attn_mask(given.input_mask),
        }
    )
    TRAINING[name] = made, trainer.jit_train_and_eval_step(cache_nnx_graph=True)[0]
    return {}


def train_step(name: str, ids: list[list[list[int]]], starts: list[list[int]]) -> dict[str, Any]:
    """One step over one batch of examples of one length, with loss on all tokens but the first; its seconds and mean loss."""
    if len(ids) != 1 or set(starts[0]) != {1} or len(set(map(len, ids[0]))) != 1:
        raise ValueError("Tunix gets one batch without padding or prompts here")
    model, step = TRAINING[name]
    batch = np.array(ids[0], np.int32)
    started = time.perf_counter()
    loss, _, _ = step(TrainingInput(batch, np.ones(batch.shape, bool)))
    jax.block_until_ready(nnx.state(model))
    value = float(loss)
    seconds = time.perf_counter() - started
    if value != value:
        raise ValueError(f"{name}: the loss is not a number")
    return {"seconds": seconds, "loss": value}


if __name__ == "__main__":
    answer(versions, load, generate, train_setup, train_step)
