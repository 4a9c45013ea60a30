"""The table of outside names, and single tensors there and back."""

import numpy as np
import pytest

from humpback.convert import names
from humpback.model.weights import WEIGHTS, leaves


def test_the_table_has_every_weight_once():
    assert set(names.NAMES) == set(WEIGHTS)
    for family in ("huggingface", "gguf"):
        outside = [getattr(row, family) for row in names.NAMES.values()]
        assert len(set(outside)) == len(outside)
        for name, row in names.NAMES.items():
            assert ("{layer}" in getattr(row, family)) == WEIGHTS[name].per_layer


@pytest.mark.parametrize("family", ["huggingface", "gguf", "meta"])
def test_a_tensor_is_found_by_its_name(tiny, family):
    for path, weight in leaves(tiny.config(num_layers=12)):
        assert names.weight_of(names.outside_name(path, family), family) is weight
    assert names.weight_of("rope.freqs", family) is None and names.weight_of("layers.1.attention.inner.freqs", family) is None


def test_shapes_are_outputs_by_inputs(tiny):
    cfg = tiny.config()
    shapes = {path[-1]: names.outside_shape(path, cfg) for path, _ in leaves(cfg)}
    assert shapes == {
        "embedding": (272, 20), "head": (272, 20), "final_norm": (20,), "attention_norm": (20,), "ffn_norm": (20,),
        "q": (54, 20), "k": (18, 20), "v": (18, 20), "o": (20, 54), "gate": (14, 20), "up": (14, 20), "down": (20, 14),
    }  # fmt: skip


def test_a_matrix_by_hand(tiny):
    cfg = tiny.config(d_model=2, num_heads=2, num_kv_heads=1, head_dim=2)
    rows = np.array([[0, 1], [10, 11], [20, 21], [30, 31]], np.float32)  # (heads * head_dim, inputs)
    ours = names.from_huggingface(("layers", "0", "q"), rows, cfg)
    assert ours.tolist() == [[[0, 10], [20, 30]], [[1, 11], [21, 31]]]  # DNH
    output = np.arange(8, dtype=np.float32).reshape(2, 4)  # (D, heads * head_dim)
    assert names.from_huggingface(("layers", "0", "o"), output, cfg)[1, 0].tolist() == [2, 6]  # NHD


def test_rotary_rows_of_gguf_by_hand(tiny):
    cfg = tiny.config(d_model=1, num_heads=2, num_kv_heads=1, head_dim=4)
    rows = np.arange(8, dtype=np.float32)[:, None]
    # Within a head the pairs (0, 1), (2, 3) become the halves (0, 2), (1, 3).
    ours = names.from_interleaved(("layers", "0", "q"), rows, cfg)
    assert ours[0].tolist() == [[0, 2, 1, 3], [4, 6, 5, 7]]
    # v is not rotated and keeps its order.
    assert names.from_interleaved(("layers", "0", "v"), rows[:4], cfg)[0].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("tied", [True, False])
def test_every_leaf_there_and_back(tiny, tied):
    cfg = tiny.config(tied=tied)
    params = tiny.params(cfg)
    for path, _ in leaves(cfg):
        array = params
        for part in path:
            array = array[part]
        outside = names.to_huggingface(path, array, cfg)
        assert outside.shape == names.outside_shape(path, cfg)
        assert np.array_equal(names.from_huggingface(path, outside, cfg), array)
