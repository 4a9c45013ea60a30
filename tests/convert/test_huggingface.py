"""Hugging Face folders: exact round trips, every config field, and everything that must be refused."""

import json

import numpy as np
import pytest
import safetensors.numpy

from humpback.convert import export, huggingface
from humpback.errors import UserError
from humpback.model.weights import RopeScaling
from tests.in_memory import from_params

_LLAMA3 = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=64)


def _write(tiny, path, cfg, params, **more):
    export.write_folder(str(path), from_params(cfg, params, tiny.tokenizer()), export.Beside("chatml", "forward"), **more)


def _read(path):
    opened = huggingface.read_folder(str(path))
    return opened.config, opened.params(), opened.tokenizer


def _change(path, **values):
    """Rewrites fields of config.json; None removes one."""
    config = json.loads((path / "config.json").read_text())
    for key, value in values.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    (path / "config.json").write_text(json.dumps(config))


def _change_tensors(path, change):
    file = path / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("N", "K"), [(9, 3), (8, 4), (4, 1), (4, 4)])
def test_round_trip_is_bit_exact(tiny, tmp_path, N, K, tied, dtype):
    cfg = tiny.config(num_heads=N, num_kv_heads=K, tied=tied, rope_scaling=_LLAMA3 if tied else None)
    params = tiny.params(cfg, dtype)
    _write(tiny, tmp_path / "a", cfg, params)
    cfg2, params2, tokenizer = _read(tmp_path / "a")
    assert cfg2 == cfg
    tiny.same(params, params2)
    assert tokenizer.encode("hello world") == tiny.tokenizer().encode("hello world")
    assert huggingface.read_purpose(str(tmp_path / "a")) == ("forward", "chatml")
    _write(tiny, tmp_path / "b", cfg2, params2)  # ours -> theirs again: the same file, byte for byte
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_the_tensors_are_transformers_own(tiny, tmp_path):
    cfg = tiny.config()
    params = tiny.params(cfg)
    _write(tiny, tmp_path, cfg, params)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")  # the library reads what we write
    q = params["layers"]["1"]["q"]
    assert np.array_equal(tensors["model.layers.1.self_attn.q_proj.weight"], q.reshape(20, 54).T)
    assert np.array_equal(tensors["model.layers.0.mlp.down_proj.weight"], params["layers"]["0"]["down"].T)
    assert np.array_equal(tensors["lm_head.weight"], params["head"].T)
    assert len(tensors) == 2 * 9 + 3


def test_several_files(tiny, tmp_path):
    cfg = tiny.config()
    params = tiny.params(cfg)
    _write(tiny, tmp_path, cfg, params, file_bytes=20_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 2 and files[0].startswith("model-00001-of-")
    tiny.same(params, _read(tmp_path)[1])
    (tmp_path / files[1]).unlink()
    with pytest.raises(UserError, match=files[1]):
        _read(tmp_path)


def test_a_tensor_in_two_files(tiny, tmp_path):
    _write(tiny, tmp_path, tiny.config(), tiny.params(tiny.config()), file_bytes=20_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    first, second = safetensors.numpy.load_file(files[0]), safetensors.numpy.load_file(files[1])
    name = next(iter(first))
    safetensors.numpy.save_file({**second, name: first[name]}, files[1])
    with pytest.raises(UserError, match=f"{name} is in .* and again in"):
        _read(tmp_path)


def test_both_spellings_of_rope(tiny, tmp_path):
    cfg = tiny.config(rope_scaling=_LLAMA3)
    _write(tiny, tmp_path, cfg, tiny.params(cfg))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == 12345.0 and config["rope_scaling"]["rope_type"] == "llama3"
    rope = {**config["rope_scaling"], "rope_theta": 12345.0}
    _change(tmp_path, rope_theta=None, rope_scaling=None, rope_parameters=rope)
    assert _read(tmp_path)[0] == cfg
    _change(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 7.0})
    assert _read(tmp_path)[0] == tiny.config(rope_theta=7.0)
    _change(tmp_path, rope_parameters=None, rope_theta=12345.0, rope_scaling={"type": "linear", "factor": 4})
    assert _read(tmp_path)[0] == tiny.config(rope_factor=4.0)
    _change(tmp_path, rope_scaling={"type": "linear", "factor": 0.5})
    with pytest.raises(UserError, match=r"config\.json: LlamaConfig\.rope_factor must be at least 1, not 0\.5"):
        _read(tmp_path)
    for begins, positions in ((None, 96), (64, 64)):  # up to where dynamic scaling begins nothing is scaled
        _change(tmp_path, rope_scaling={"type": "dynamic", "factor": 4.0, "original_max_position_embeddings": begins})
        assert _read(tmp_path)[0] == tiny.config(max_positions=positions)


def test_defaults_of_absent_fields_are_transformers_own(tiny, tmp_path):
    cfg = tiny.config(num_heads=4, num_kv_heads=4, head_dim=6, d_model=24)
    _write(tiny, tmp_path, cfg, tiny.params(cfg))
    absent = ("head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta", "max_position_embeddings")
    _change(tmp_path, **dict.fromkeys((*absent, "tie_word_embeddings")))
    found = _read(tmp_path)[0]
    assert (found.head_dim, found.num_kv_heads, found.rms_eps) == (6, 4, 1e-6)
    assert (found.rope_theta, found.max_positions, found.tied) == (10000.0, 2048, False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention_bias", True),
        ("mlp_bias", True),
        ("sliding_window", 4096),
        ("hidden_act", "gelu"),
        ("quantization_config", {"quant_method": "gptq"}),
        ("architectures", ["MixtralForCausalLM"]),
        ("model_type", "mixtral"),
        ("rope_scaling", {"type": "linear"}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 2.0}),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("rope_parameters", {"rope_type": "longrope", "rope_theta": 1e4}),
        ("rope_theta", "many"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": "many"}),
        ("hidden_size", None),
        ("vocab_size", None),
        ("rms_norm_eps", True),
    ],
)
def test_refused_config_fields(tiny, tmp_path, field, value):
    _write(tiny, tmp_path, tiny.config(), tiny.params(tiny.config()))
    _change(tmp_path, **{field: value})
    with pytest.raises(UserError, match=rf"config\.json: .*{field}"):
        _read(tmp_path)


def _rename(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(old)})


_UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(_UP), f"{_UP} is missing"),
        (lambda t: t.update({"model.layers.1.self_attn.q_proj.bias": np.zeros(54, np.float32)}), "unknown tensor .*bias"),
        (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": t[_UP]}), "unknown tensor model.layers.2"),
        (lambda t: t.update({_UP: np.ascontiguousarray(t[_UP].T)}), rf"{_UP} has shape \(20, 14\), .* \(14, 20\)"),
        (lambda t: t.update({_UP: t[_UP].astype(np.int8)}), f"{_UP} has type I8"),
        (lambda t: t.pop("lm_head.weight"), "tie_word_embeddings is false"),
    ],
)
def test_refused_tensors(tiny, tmp_path, change, message):
    _write(tiny, tmp_path, tiny.config(), tiny.params(tiny.config()))
    _change_tensors(tmp_path, change)
    with pytest.raises(UserError, match=message):
        _read(tmp_path)


def test_tied_with_a_head(tiny, tmp_path):
    cfg = tiny.config(tied=True)
    _write(tiny, tmp_path, cfg, tiny.params(cfg))
    embedding = "model.embed_tokens.weight"
    _change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t[embedding].copy()}))
    assert "head" not in _read(tmp_path)[1]  # the same numbers twice contradict nothing
    _change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t[embedding] + 1}))
    with pytest.raises(UserError, match=r"tie_word_embeddings is true, but lm_head\.weight differs"):
        _read(tmp_path)
    _change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t[embedding].astype(np.int8)}))
    with pytest.raises(UserError, match=r"tie_word_embeddings is true, but lm_head\.weight differs"):
        _read(tmp_path)
    _change_tensors(tmp_path, _rename(embedding, "lm_head.weight"))
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight is missing"):
        _read(tmp_path)


def test_rotary_frequencies_of_old_files_are_not_weights(tiny, tmp_path):
    _write(tiny, tmp_path, tiny.config(), tiny.params(tiny.config()))
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    _change_tensors(tmp_path, lambda t: t.update({name: np.ones(3, np.float32)}))
    tiny.same(tiny.params(tiny.config()), _read(tmp_path)[1])


@pytest.mark.parametrize("keep", [0, 5, 300, 20_000])
def test_truncated_safetensors(tiny, tmp_path, keep):
    _write(tiny, tmp_path, tiny.config(), tiny.params(tiny.config()))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors: not a whole safetensors file"):
        _read(tmp_path)


def test_no_weights_or_broken_config(tiny, tmp_path):
    _write(tiny, tmp_path, tiny.config(), tiny.params(tiny.config()))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights are there"):
        _read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        _read(tmp_path)


def test_tokenizer_larger_than_the_vocabulary(tiny, tmp_path):
    cfg = tiny.config(vocab_size=264)
    with pytest.raises(UserError, match="265 ids, but the model's vocabulary only 264"):
        _write(tiny, tmp_path, cfg, tiny.params(cfg))
    assert not list(tmp_path.iterdir())


def test_config_is_last_and_a_second_call_completes(tiny, tmp_path, monkeypatch):
    cfg = tiny.config()
    params = tiny.params(cfg)
    published, publish = [], export.storage.publish

    def fail_at_weights(path, data, **more):
        if str(path).endswith(".safetensors"):
            raise KeyboardInterrupt
        return publish(path, data, **more)

    monkeypatch.setattr(export.storage, "publish", fail_at_weights)
    with pytest.raises(KeyboardInterrupt):
        _write(tiny, tmp_path, cfg, params)
    assert not (tmp_path / "config.json").exists()
    monkeypatch.setattr(export.storage, "publish", lambda path, data: (published.append(path), publish(path, data)))
    _write(tiny, tmp_path, cfg, params)
    assert published[-1].endswith("config.json")
    tiny.same(params, _read(tmp_path)[1])
    with pytest.raises(UserError, match="already holds a finished model"):
        _write(tiny, tmp_path, cfg, params)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="was begun for another model"):
        _write(tiny, tmp_path, cfg, tiny.params(cfg, seed=1))
