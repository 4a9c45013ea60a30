"""Hugging Face → ours → Hugging Face, bit for bit: a selection in which any two of the grid's values meet at least once.

The whole grid, with transformers' logits, is in tests/parity.
"""

import numpy as np
import pytest
import safetensors.numpy

from humpback.commands import convert as command
from humpback.convert import sources
from humpback.errors import UserError
from humpback.model.weights import RopeScaling
from tests import hf_layout

SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=64)
CASES = [
    # heads, key/value heads; tied; vocabulary; files; type; Llama 3's scaling
    (4, 4, True, 32000, 1, "float32", False),
    (9, 3, False, 32000, 3, "bfloat16", True),
    (8, 4, True, 32001, 3, "float16", True),
    (4, 1, False, 32001, 1, "bfloat16", False),
    (9, 3, True, 128256, 1, "float16", False),
    (4, 4, False, 128256, 3, "bfloat16", True),
    (4, 1, True, 128256, 3, "float32", True),
    (8, 4, False, 32000, 1, "float16", False),
    (9, 3, False, 32001, 3, "float32", False),
]


@pytest.mark.parametrize(("N", "K", "tied", "V", "files", "dtype", "scaled"), CASES)
def test_there_and_back(tiny, tmp_path, N, K, tied, V, files, dtype, scaled):
    cfg = tiny.config(num_heads=N, num_kv_heads=K, tied=tied, vocab_size=V, d_model=12, rope_scaling=SCALING if scaled else None)
    params = tiny.params(cfg, dtype)
    hf_layout.write_hf(tmp_path / "hf", cfg, params, tiny.tokenizer(), files, index=V != 32001)
    command.convert(str(tmp_path / "hf"), str(tmp_path / "ours"))
    command.convert(str(tmp_path / "ours"), str(tmp_path / "back"), "huggingface", file_bytes=10**9 if files == 1 else V * 12)
    opened = sources.open_source(str(tmp_path / "ours"))
    assert opened.config == cfg
    tiny.same(params, opened.params())
    written = sorted((tmp_path / "back").glob("*.safetensors"))
    assert (len(written) == 1) == (files == 1)
    found = {name: tensor for file in written for name, tensor in safetensors.numpy.load_file(file).items()}
    tiny.same(hf_layout.hf_tensors(cfg, params), found)


def test_dtype_on_request(tiny, tmp_path, capsys):
    cfg = tiny.config()
    params = tiny.params(cfg)
    hf_layout.write_hf(tmp_path / "hf", cfg, params, tiny.tokenizer())
    command.convert(str(tmp_path / "hf"), str(tmp_path / "ours"), dtype="bfloat16")
    assert "bfloat16" in capsys.readouterr().out
    command.convert(str(tmp_path / "ours"), str(tmp_path / "half"), "huggingface", dtype="float16")
    found = sources.open_source(str(tmp_path / "half"))
    rounded = params["layers"]["0"]["up"].astype(found.read(("embedding",)).dtype)
    assert found.dtype(("layers", "0", "up")) == "float16" and rounded.dtype == np.float16
    params["final_norm"][3] = 1e6
    hf_layout.write_hf(tmp_path / "large", cfg, params, tiny.tokenizer())
    with pytest.raises(UserError, match=r"large: tensor model\.norm\.weight holds 1e\+06 at \(3,\), which float16 cannot hold"):
        command.convert(str(tmp_path / "large"), str(tmp_path / "no"), dtype="float16")
    with pytest.raises(UserError):
        sources.open_source(str(tmp_path / "no"))
    params["final_norm"][3] = np.nan
    hf_layout.write_hf(tmp_path / "nan", cfg, params, tiny.tokenizer())
    for to_format in ("checkpoint", "huggingface"):
        with pytest.raises(UserError, match=r"tensor model\.norm\.weight holds nan at \(3,\)"):
            command.convert(str(tmp_path / "nan"), str(tmp_path / f"no-{to_format}"), to_format)


def test_a_vocabulary_that_was_filled_up_is_cut(tiny, tmp_path, capsys):
    cfg = tiny.config()
    params = tiny.params(cfg)
    more = {name: np.concatenate([params[name], np.ones_like(params[name][:16])]) for name in ("embedding",)}
    more["head"] = np.concatenate([params["head"], np.ones_like(params["head"][:, :16])], axis=1)
    hf_layout.write_hf(tmp_path / "hf", cfg, params | more, tiny.tokenizer())
    command.convert(str(tmp_path / "hf"), str(tmp_path / "ours"))
    assert "16 rows of lm_head.weight beyond the vocabulary of 272 are left away" in capsys.readouterr().out
    tiny.same(params, sources.open_source(str(tmp_path / "ours")).params())
