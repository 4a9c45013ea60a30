"""Floating-point operations of a step against numbers computed by hand, and the TPUs' peaks."""

import dataclasses
import types

import jax
import pytest

from humpback.chips import CHIPS
from humpback.model.llama import LlamaConfig
from humpback.model.sizes import SIZES
from humpback.training.flops import peak_flops, step_flops

CONFIG = LlamaConfig(vocab_size=96, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, d_ff=24)


def test_by_hand():
    # A layer: q 16·24 + k, v 2·16·12 + o 24·16 + gate, up, down 3·16·24 = 2,304 weights; 2 layers, 8 tokens, 6 each: 221,184.
    # Head: 6·16·96 for each of 4 targets: 36,864. Attention: 6·2·4·6 · (9 + 25): 9,792.
    assert step_flops(CONFIG, [3, 5], 4) == 221_184 + 36_864 + 9_792
    assert step_flops(CONFIG, [5, 3], 0) == 221_184 + 9_792
    assert step_flops(CONFIG, [8], 4) == 221_184 + 36_864 + 6 * 2 * 4 * 6 * 64  # one example of all the tokens attends more
    assert step_flops(dataclasses.replace(CONFIG, tied=True), [3, 5], 4) == 267_840  # a tied head multiplies as well


@pytest.mark.parametrize(
    ("name", "published", "products", "head", "attention"),
    [
        ("llama2_7b", 8.12e13, 79_577_154_060_288, 1_610_612_736_000, 3_298_534_883_328),
        ("llama2_70b", 8.44e14, 841_126_395_248_640, 3_221_225_472_000, 16_492_674_416_640),
    ],
)
def test_one_example_of_2048_tokens(name, published, products, head, attention):
    """`published`: MaxText's step without its recomputation and without attention, all tokens targets."""
    assert step_flops(SIZES[name], [2048], 2048) == products + head + attention
    assert step_flops(SIZES[name], [1] * 2048, 2048) == pytest.approx(published, rel=1e-3)


def test_peaks():
    kinds = {"TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v6 lite": 918e12, "TPU v3": None, "cpu": None}
    assert {kind: peak_flops(types.SimpleNamespace(device_kind=kind)) for kind in kinds} == kinds
    assert peak_flops(jax.devices("cpu")[0]) is None
    for chip in CHIPS.values():
        assert peak_flops(types.SimpleNamespace(device_kind=chip.kind)) == chip.flops
