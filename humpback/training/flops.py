"""How much arithmetic a training step is, by a formula, and how much a TPU could do: together the MFU.

    MFU = step_flops / (seconds of the step · devices · peak_flops of one)

Never XLA's cost_analysis: it counts the body of a loop once, and what rematerialisation computes again as if it were progress.
"""

import functools
import math
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from humpback import chips, watchdog
from humpback.model.adapters import Lora
from humpback.model.weights import WEIGHTS, LlamaConfig, layer_names


@functools.cache
def layer_weights(cfg: LlamaConfig) -> int:
    """Weights of all layers' products: q, k, v, o, gate, up, down."""
    return cfg.num_layers * sum(math.prod(WEIGHTS[name].sizes(cfg)) for name in layer_names(cfg) if WEIGHTS[name].matrix)


def step_flops(cfg: LlamaConfig, lengths: Sequence[int], target_tokens: int, lora: Lora | None = None) -> int:
    """Floating-point operations of one training step, a multiplication and an addition as two.

    lengths: tokens of each example, not of the rows that they are packed into; target_tokens: those with a loss, of all.

        6 · W · Σ len           W: `layer_weights`; 2 forward, twice that backward
      + 6 · D · V · targets     the head, which is applied to target tokens only
      + 6 · L · N · H · Σ len²  attention inside each example: two products of 2 · N · H · len² forward, halved as it is causal,
                                and twice that backward

    With adapters, of A weights, W and D · V count 4, as no gradient of a frozen matrix is computed, and A counts 6.

    Norms, rotary positions, softmax, the embedding's look-up and the optimizer are not counted, nor padding, nor anything that
    is computed a second time to save memory.
    """
    each = 4 if lora else 6
    products = (each * layer_weights(cfg) + (6 * lora.count(cfg) if lora else 0)) * sum(lengths)
    head = each * cfg.d_model * cfg.vocab_size * target_tokens
    attention = 6 * cfg.num_layers * cfg.num_heads * cfg.head_dim * sum(length**2 for length in lengths)
    return products + head + attention


def longest_seconds(cfg: LlamaConfig, lengths: Sequence[int], target_tokens: int, mesh: Mesh) -> float:
    """What a step may take on a mesh without being a hang; see `step_flops`."""
    peak = peak_flops(mesh.devices.flat[0])
    return watchdog.LEAST_SECONDS + watchdog.computing_seconds(step_flops(cfg, lengths, target_tokens), mesh.size, peak)


def peak_flops(device: jax.Device) -> float | None:
    """The device's peak in bfloat16, FLOP/s, by its kind; None where it is not known, as for a CPU."""
    chip = chips.of_device(device.device_kind)
    return chip.flops if chip else None
