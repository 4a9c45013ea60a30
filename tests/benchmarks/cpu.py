"""What the workarounds of model/cpu.py save whose use no compiled text shows, each in turns with the plain way.

SmolLM2-135M's shapes. Run it on a quiet machine: .venv/bin/python tests/benchmarks/cpu.py. The last line is a JSON object: the
milliseconds of both, medians, by workaround.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from humpback.model import attention, cpu
from humpback.model.sizes import SIZES

ROWS = 2_048  # tokens of a training step's row
SLOTS, ENTRIES, FILLED = 32, 1_792, 400  # a cache of long rows, of which the longest is filled so far


def matrices(cfg: Any, rows: int) -> tuple[Callable, Callable, tuple]:
    """gate and up, forwards and backwards: as one product, and one by one."""
    random = np.random.default_rng(0)
    x_RI, *weights = (jnp.asarray(random.normal(size=size), jnp.bfloat16) for size in ((rows, cfg.d_model), *2 * [(cfg.d_model, cfg.d_ff)]))
    grads = [jnp.asarray(random.normal(size=(rows, cfg.d_ff)), jnp.bfloat16) for _ in weights]

    def together(x_RI, weights, grads):
        return cpu.matmul(jnp.float32, x_RI, weights), cpu.matmul_gradients((jnp.float32, jnp.float32), x_RI, weights, grads)

    def one_by_one(x_RI, weights, grads):
        outs = [cpu.einsum("ri,io->ro", x_RI, weight) for weight in weights]
        by_rows = sum(cpu.einsum("ro,io->ri", grad, weight) for weight, grad in zip(weights, grads))
        return outs, by_rows, [cpu.crossed(x_RI, grad) for grad in grads]

    return jax.jit(together), jax.jit(one_by_one), (x_RI, weights, grads)


def cache(cfg: Any, slots: int, entries: int, filled: int) -> tuple[Callable, Callable, tuple]:
    """A decode step's look at a long cache: in chunks as far as it is filled, and whole."""
    random = np.random.default_rng(0)
    K, H = cfg.num_kv_heads, cfg.head_dim
    sizes = (slots, cfg.num_heads, H), (slots, K, H, entries), (slots, K, entries, H)
    arrays = tuple(jnp.asarray(random.normal(size=size), jnp.float32) for size in sizes)
    last_B = jnp.asarray(random.integers(0, filled, slots).clip(max=filled - 1), jnp.int32)

    def look(long: int, *arrays: jax.Array) -> jax.Array:
        before, cpu.LONG_CACHE = cpu.LONG_CACHE, long
        try:
            return attention.cache_attention(*arrays)  # it is traced, so that the number holds
        finally:
            cpu.LONG_CACHE = before

    return jax.jit(functools.partial(look, 0)), jax.jit(functools.partial(look, entries)), (*arrays, last_B)


def sums(cfg: Any, slots: int) -> tuple[Callable, Callable, tuple]:
    """A sampler's sum of a row: in SUM_LANES lanes, and along the vocabulary."""
    masses_BV = jnp.asarray(np.random.default_rng(0).random((slots, cfg.vocab_size // cpu.SUM_LANES * cpu.SUM_LANES)), jnp.float32)
    lanes = lambda x_BV: cpu.sum_masses(x_BV.reshape(len(x_BV), -1, cpu.SUM_LANES), axis=1).sum(-1)  # noqa: E731
    return jax.jit(lanes), jax.jit(functools.partial(cpu.sum_masses, axis=1)), (masses_BV,)


def milliseconds(function: Callable, arguments: tuple) -> float:
    """Of one call."""
    started = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    """Measures in turns and prints."""
    values = common.arguments(__doc__, rounds=30)
    cfg = common.SMOKE_MODEL if values.smoke else SIZES["smollm2_135m"]
    rows, slots, entries, filled = (64, 4, 256, 100) if values.smoke else (ROWS, SLOTS, ENTRIES, FILLED)
    measured = {}
    for name, (ours, plain, given) in {
        "matrices side by side": matrices(cfg, rows),
        "a long cache in chunks": cache(cfg, slots, entries, filled),
        "sums in lanes": sums(cfg, slots),
    }.items():
        milliseconds(ours, given), milliseconds(plain, given)  # compiled
        turns = [(milliseconds(ours, given), milliseconds(plain, given)) for _ in range(values.rounds)]
        measured[name] = [round(statistics.median(side), 3) for side in zip(*turns)]
        common.say(f"{name}: {measured[name][0]:.2f} ms, without {measured[name][1]:.2f} ms")
    print(json.dumps({"jaxlib": jaxlib.__version__, "milliseconds": measured}))


if __name__ == "__main__":
    main()
