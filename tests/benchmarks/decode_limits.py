"""What this machine could do at best, matrix products and copying, and how much of both our side of decode.py did."""

import concurrent.futures
import dataclasses
import time

import common
import jax
import jax.numpy as jnp
import numpy as np
from decode_ours import Turn

from humpback.model import llama, products

_COPY_BYTES = 1 << 28
_TIMES = 8


@dataclasses.dataclass(frozen=True)
class Limits:
    """`flops`, `flops_bf16`: multiplications and additions a second in a product; `bandwidth`: bytes read and written a second in
    a copy."""

    flops: float
    flops_bf16: float
    bandwidth: float


def measure(cfg: llama.LlamaConfig) -> Limits:
    """The best of a few of each, the products in the model's own largest shapes."""
    best = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        rates = {}
        for rows, inner, outputs in ((512, cfg.d_model, cfg.d_ff), (512, cfg.d_ff, cfg.d_model), (2048, 2048, 2048)):
            left, right = jnp.ones((rows, inner), dtype), jnp.ones((outputs, inner), dtype)
            product = jax.jit(lambda left, right: products.einsum("ri,oi->ro", left, right))
            jax.block_until_ready(product(left, right))
            seconds = min(_seconds(lambda: jax.block_until_ready(product(left, right))) for _ in range(_TIMES))  # noqa: B023
            rates[f"{rows} x {inner} x {outputs}"] = 2 * rows * inner * outputs / seconds
        common.say(f"limits: {dtype.__name__} products " + ", ".join(f"{s}: {r / 1e9:.0f}" for s, r in rates.items()) + " GFLOP/s")
        best[dtype] = max(rates.values())
    bandwidth = _copy_rate()
    common.say(f"limits: copy {bandwidth / 1e9:.1f} GB/s read and written")
    return Limits(best[jnp.float32], best[jnp.bfloat16], bandwidth)


def matmul_flops(cfg: llama.LlamaConfig, turn: Turn) -> float:
    """Of the products with weights of a turn: every token that is read or fed back, and the head of every draw.

    Attention's own products, padding and everything else are not counted: they are what there is to save.
    """
    layers, head = _weights(cfg)
    fed = turn.stats.read_tokens + turn.tokens - turn.records  # the last token of a text is drawn, but not fed
    return 2 * (layers * fed + head * turn.tokens)


def step_bytes(cfg: llama.LlamaConfig, dtype: str, rows: int, length: float) -> float:
    """Of the weights in `dtype` and the float32 caches of `rows` rows, filled to `length`: what a decode step must move."""
    layers, head = _weights(cfg)
    cache = rows * length * 2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim
    return jnp.dtype(dtype).itemsize * (layers + head) + 4 * cache


def _weights(cfg: llama.LlamaConfig) -> tuple[int, int]:
    """Entries of the matrices of all layers, and of the head."""
    attention = 2 * cfg.d_model * cfg.head_dim * (cfg.num_heads + cfg.num_kv_heads)
    return cfg.num_layers * (attention + 3 * cfg.d_model * cfg.d_ff), cfg.d_model * cfg.vocab_size


def _copy_rate() -> float:
    """Every core copies a share of arrays far larger than the caches."""
    cores = common.cores()
    shares = [(np.ones(_COPY_BYTES // cores, np.uint8), np.zeros(_COPY_BYTES // cores, np.uint8)) for _ in range(cores)]
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        copy = lambda: list(pool.map(lambda share: np.copyto(share[1], share[0]), shares))  # noqa: E731
        copy()
        return 2 * _COPY_BYTES // cores * cores / min(_seconds(copy) for _ in range(_TIMES))


def _seconds(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
