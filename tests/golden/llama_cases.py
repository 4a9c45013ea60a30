"""Tiny LLaMA models with odd values in every field, and their weights from a numpy seed: what the script that makes the
golden logits, the parity test and the test without torch all build the same."""

import dataclasses
import zlib

import numpy as np

from humpback.model.llama import LlamaConfig, Params, RopeScaling
from humpback.model.weights import make_tree

POSITIONS = 200
_BASE = LlamaConfig(
    vocab_size=89,
    d_model=36,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=14,
    d_ff=52,
    rope_theta=777.0,
    rms_eps=3e-3,
    tied=False,
    max_positions=256,
)
_SCALING = RopeScaling(factor=5.0, low_freq_factor=1.5, high_freq_factor=3.5, original_max_position=40)

CASES: dict[str, LlamaConfig] = {
    "mha": _BASE,
    "gqa_9_3_tied": dataclasses.replace(_BASE, num_heads=9, num_kv_heads=3, head_dim=10, tied=True, rope_theta=12345.0),
    "gqa_8_4_llama3": dataclasses.replace(_BASE, d_model=40, num_heads=8, num_kv_heads=4, rope_scaling=_SCALING, rms_eps=2e-2),
    "mqa_4_1": dataclasses.replace(_BASE, num_kv_heads=1, head_dim=22, num_layers=3, d_ff=31, vocab_size=101),
    "gqa_9_3_llama3_tied": dataclasses.replace(
        _BASE, num_heads=9, num_kv_heads=3, head_dim=6, rope_scaling=_SCALING, tied=True, d_model=45, rope_theta=333.0
    ),
}


def make_params(name: str, cfg: LlamaConfig) -> Params:
    """Weights of ordinary size, norms that are not ones; float32 numpy, the same on every machine."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))

    def make(path: tuple[str, ...], weight) -> np.ndarray:
        values = rng.uniform(-1.0, 1.0, weight.sizes(cfg))
        values = 1.0 + 0.4 * values if weight.shape == "D" else values * (0.9 if path == ("embedding",) else 0.35)
        return values.astype(np.float32)

    return make_tree(cfg, make)


def make_ids(name: str, cfg: LlamaConfig) -> np.ndarray:
    """Two rows of POSITIONS ids."""
    return np.random.default_rng(zlib.crc32(name.encode()) + 1).integers(0, cfg.vocab_size, (2, POSITIONS))
