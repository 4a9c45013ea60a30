"""GGUF files that the test writes itself: weights against the source numbers, tokenizers, and what must be refused."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from humpback.convert import export, gguf, huggingface, sources
from humpback.errors import UserError
from humpback.model.weights import RopeScaling
from tests.in_memory import from_params


def _read(path):
    opened = gguf.read_file(str(path))
    return opened.config, opened.params(), opened.tokenizer


def _write(tiny, path, cfg, params, metadata=None, drop=(), tensors=None, **more):
    fields = {**tiny.gguf_metadata(cfg), **(metadata or {})}
    fields = {key: value for key, value in fields.items() if key not in drop}
    made = {**tiny.gguf_tensors(cfg, params), **(tensors or {})}
    return tiny.write_gguf(path, {k: v for k, v in made.items() if k not in drop}, fields, **more)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("N", "K"), [(9, 3), (8, 4), (4, 1)])
def test_equals_the_hugging_face_route(tiny, tmp_path, N, K, tied):
    cfg = tiny.config(num_heads=N, num_kv_heads=K, tied=tied)
    params = tiny.params(cfg)
    export.write_folder(str(tmp_path / "hf"), from_params(cfg, params, tiny.tokenizer()), export.Beside("chatml", "base"))
    opened = huggingface.read_folder(str(tmp_path / "hf"))
    cfg_hf, tokenizer_hf = opened.config, opened.tokenizer
    cfg_gguf, params_gguf, tokenizer = _read(_write(tiny, tmp_path / "a.gguf", cfg, params))
    assert cfg_gguf == cfg_hf == cfg
    tiny.same(opened.params(), params_gguf)
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (tokenizer_hf.eos_id, None, tokenizer_hf.pad_id)
    for text in ("hello world 1234", "<|im_end|> é🙂\n\n  x"):
        assert tokenizer.encode(text) == tokenizer_hf.encode(text)


def test_defaults_of_absent_metadata(tiny, tmp_path):
    cfg = tiny.config(num_heads=4, num_kv_heads=4, head_dim=6, d_model=24)
    drop = ("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.freq_base", "vocab_size")
    drop = (*(f"llama.{key}" for key in drop), "llama.rope.dimension_count")
    cfg = tiny.config(num_heads=4, num_kv_heads=4, head_dim=6, d_model=24, vocab_size=265)
    found = _read(_write(tiny, tmp_path / "a.gguf", cfg, tiny.params(cfg), drop=drop))[0]
    assert found == tiny.config(
        num_heads=4, num_kv_heads=4, head_dim=6, d_model=24, vocab_size=265, rope_theta=10000.0, rms_eps=3e-6
    )


def _nibbles(q):
    """32 four-bit numbers in 16 bytes: the first half in the low nibbles."""
    return [int(q[i]) | int(q[i + 16]) << 4 for i in range(16)]


def test_quantised_types_by_hand(tiny, tmp_path):
    cfg = tiny.config(num_layers=1, d_model=32, d_ff=2)
    params = tiny.params(cfg)
    rng = np.random.default_rng(3)
    q8 = rng.integers(-128, 128, (2, 32))
    q4 = rng.integers(0, 16, (2, 32))
    half = np.frombuffer(np.float16(0.25).tobytes(), np.uint8).tolist()
    low = np.frombuffer(np.float16(-1.5).tobytes(), np.uint8).tolist()
    cases = {
        "Q8_0": ([half + row.astype(np.int8).view(np.uint8).tolist() for row in q8], q8 * 0.25),
        "Q4_0": ([half + _nibbles(row) for row in q4], (q4 - 8) * 0.25),
        "Q4_1": ([half + low + _nibbles(row) for row in q4], q4 * 0.25 - 1.5),
        "F16": ((q4 / 16).astype(np.float16), q4 / 16),
        "F32": ((q4 / 7).astype(np.float32), (q4 / 7).astype(np.float32)),
    }
    for name, (stored, expected) in cases.items():
        quantised = name.startswith("Q")
        stored = np.array(stored, np.uint8) if quantised else stored
        types = {"blk.0.ffn_gate.weight": Type[name]} if quantised else None
        path = _write(tiny, tmp_path / f"{name}.gguf", cfg, params, tensors={"blk.0.ffn_gate.weight": stored}, types=types)
        gate = _read(path)[1]["layers"]["0"]["gate"]
        assert gate.dtype == np.float32 and np.array_equal(gate.T, expected), name


@pytest.mark.parametrize(
    "fields", [{"rope.scaling.type": "linear", "rope.scaling.factor": 2.5}, {"rope.scaling.factor": 2.5}, {"rope.scale_linear": 2.5}]
)
def test_linear_scaling(tiny, tmp_path, fields):
    cfg = tiny.config(rope_factor=2.5)
    metadata = {f"llama.{key}": value for key, value in fields.items()}
    assert _read(_write(tiny, tmp_path / "a.gguf", cfg, tiny.params(cfg), metadata))[0] == cfg


def test_llama3_scaling_from_the_factors(tiny, tmp_path):
    scaling = RopeScaling(8.0, 1.0, 4.0, 8192)
    cfg = tiny.config(head_dim=16, rope_theta=500000.0, rope_scaling=scaling)
    # Wavelengths in tokens, by the definition: under 2048 untouched, above 8192 divided by 8, blended between.
    factors = []
    for i in range(8):
        wavelength = 2 * np.pi * 500000.0 ** (2 * i / 16)
        blend = (8192 / wavelength - 1) / (4 - 1)
        factors.append(1.0 if wavelength < 2048 else 8.0 if wavelength > 8192 else 1 / ((1 - blend) / 8 + blend))
    assert len(set(factors)) > 2
    tensors = {"rope_freqs.weight": np.array(factors, np.float32)}
    path = _write(tiny, tmp_path / "a.gguf", cfg, tiny.params(cfg), tensors=tensors)
    assert _read(path)[0] == cfg
    tensors["rope_freqs.weight"][3] *= 1.1
    with pytest.raises(UserError, match=r"rope_freqs\.weight are not"):
        _read(_write(tiny, tmp_path / "b.gguf", cfg, tiny.params(cfg), tensors=tensors))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count is 4"),
        ({"llama.feed_forward_length": [14, 15]}, r"llama.feed_forward_length is \[14, 15\]"),
        ({"llama.attention.head_count_kv": 2}, "not a multiple of num_kv_heads"),
        ({"tokenizer.ggml.pre": "dbrx"}, "tokenizer.ggml.pre is 'dbrx'.*known: .*gpt-2"),
        ({"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model is 't5'"),
        ({"tokenizer.ggml.eos_token_id": 999}, "tokenizer.ggml.eos_token_id is 999"),
        ({"tokenizer.ggml.merges": ["h e x"]}, "entry 0 of tokenizer.ggml.merges is 'h e x'"),
        ({"tokenizer.ggml.merges": ["h zz"]}, "do not fit tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "2 entries for 265 tokens"),
    ],
)
def test_refused_metadata(tiny, tmp_path, metadata, message):
    cfg = tiny.config()
    path = _write(tiny, tmp_path / "a.gguf", cfg, tiny.params(cfg), metadata)
    with pytest.raises(UserError, match=message) as error:
        _read(path)
    assert "a.gguf" in str(error.value)


@pytest.mark.parametrize(
    "key", ["llama.block_count", "llama.attention.layer_norm_rms_epsilon", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"]
)
def test_missing_metadata(tiny, tmp_path, key):
    cfg = tiny.config()
    with pytest.raises(UserError, match=f"the metadata have no {key}"):
        _read(_write(tiny, tmp_path / "a.gguf", cfg, tiny.params(cfg), drop=[key]))


def test_refused_tensors(tiny, tmp_path):
    cfg = tiny.config()
    params = tiny.params(cfg)
    for name, change, message in (
        ("missing", {"drop": ["blk.1.attn_k.weight"]}, "blk.1.attn_k.weight is missing"),
        ("unknown", {"tensors": {"blk.0.attn_q.bias": np.zeros(54, np.float32)}}, "unknown tensor blk.0.attn_q.bias"),
        ("shape", {"tensors": {"blk.0.ffn_up.weight": np.zeros((20, 14), np.float32)}}, "has shape .20, 14., .* .14, 20."),
        ("type", {"tensors": {"blk.0.ffn_up.weight": np.zeros((14, 20), np.int32)}}, "blk.0.ffn_up.weight has type I32"),
        ("larger", {"metadata": {"llama.vocab_size": 273}}, "token_embd.weight has shape"),
        ("bloom", {"architecture": "bloom"}, "general.architecture is 'bloom'"),
    ):
        with pytest.raises(UserError, match=message):
            _read(_write(tiny, tmp_path / f"{name}.gguf", cfg, params, **change))


def test_tokenizer_larger_than_the_vocabulary(tiny, tmp_path):
    cfg = tiny.config(vocab_size=264)
    with pytest.raises(UserError, match="265 ids, but the model's vocabulary only 264"):
        _read(_write(tiny, tmp_path / "a.gguf", cfg, tiny.params(cfg)))


def test_a_duplicate_tensor(tiny, tmp_path):
    cfg = tiny.config()
    path = tmp_path / "a.gguf"
    _write(tiny, path, cfg, tiny.params(cfg))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"blk.1.attn_k.weight", b"blk.1.attn_q.weight"))
    with pytest.raises(UserError, match=r"duplicated tensor with name blk\.1\.attn_q\.weight"):
        _read(path)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.3, 0.6, 0.999])
def test_truncated_anywhere(tiny, tmp_path, part):
    cfg = tiny.config()
    path = tmp_path / "a.gguf"
    _write(tiny, path, cfg, tiny.params(cfg))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError, match=r"a\.gguf: (not a whole GGUF file|cannot be read|the metadata have no)"):
        _read(path)


def test_byte_level_tokenizers(tiny, tmp_path):
    cfg = tiny.config()
    ids = {token: i for i, token in enumerate(tiny.vocabulary())}

    def read(**metadata):
        metadata = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
        drop = [] if "tokenizer.ggml.add_bos_token" in metadata else ["tokenizer.ggml.add_bos_token"]
        return _read(_write(tiny, tmp_path / "a.gguf", cfg, tiny.params(cfg), metadata, drop=drop))[2]

    merged = [*tiny.vocabulary()[:-1], "12"]
    smollm = read(pre="smollm", tokens=merged, merges=["1 2"])
    assert smollm.encode("12") == [ids["1"], ids["2"]]  # digits one by one, whatever the merges say
    assert smollm.bos_id is None
    llama3 = read(pre="llama-bpe", tokens=merged, merges=["1 2"])
    assert llama3.encode("12") == [264] and llama3.bos_id == 1  # up to three digits; bos by default
    assert read(pre="llama-bpe", add_bos_token=False).bos_id is None
    # Llama 3 takes a word that is in the vocabulary whole, merges or not.
    assert read(pre="llama-bpe", merges=["h e"]).encode("hello") == [ids["hello"]]
    assert read(pre="smollm", merges=["h e"]).encode("hello") == [ids["he"], ids["l"], ids["l"], ids["o"]]


def test_sentencepiece_tokenizer(tiny, tmp_path):
    cfg = tiny.config()
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "ab"]
    types = [2, 3, 3] + [6] * 256 + [1] * 5
    scores = [0.0] * 259 + [-10.0, -11.0, -12.0, -1.0, -2.0]
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
    }  # fmt: skip
    drop = ["tokenizer.ggml.pre", "tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token"]
    tokenizer = _read(_write(tiny, tmp_path / "a.gguf", cfg, tiny.params(cfg), metadata, drop=drop))[2]
    assert tokenizer.kind == "tokenizer.model"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, 264)
    assert tokenizer.encode("ab") == [262, 261]  # ▁a scores better than ab
    assert tokenizer.encode("b") == [259, 261]
    assert tokenizer.encode("é")[1:] == [3 + 0xC3, 3 + 0xA9]  # bytes
    assert tokenizer.decode([1, 262, 261, 2]) == "ab"
    with pytest.raises(UserError, match="scores"):
        short = {**metadata, "tokenizer.ggml.scores": scores[:5]}
        _read(_write(tiny, tmp_path / "b.gguf", cfg, tiny.params(cfg), short, drop=drop))


def _split(tiny, folder, cfg, params, count=3, numbers=None, total=None):
    """A model in several files, as llama.cpp names and marks them: metadata in the first, tensors dealt out in turn."""
    folder.mkdir()
    tensors = tiny.gguf_tensors(cfg, params)
    for number in range(count):
        part = {name: value for i, (name, value) in enumerate(tensors.items()) if i % count == number}
        metadata = tiny.gguf_metadata(cfg) if number == 0 else {}
        metadata |= {"split.no": (numbers or range(count))[number], "split.count": count, "split.tensors.count": total or len(tensors)}
        tiny.write_gguf(folder / f"m-{number + 1:05d}-of-{count:05d}.gguf", part, metadata)
    return folder


@pytest.mark.parametrize("given", [1, 3])
def test_a_split_model(tiny, tmp_path, given):
    cfg = tiny.config()
    params = tiny.params(cfg)
    folder = _split(tiny, tmp_path / "m", cfg, params)
    found = _read(folder / f"m-{given:05d}-of-00003.gguf")
    assert found[0] == cfg
    tiny.same(found[1], params)


def test_split_models_that_are_not_whole(tiny, tmp_path):
    cfg = tiny.config()
    params = tiny.params(cfg)

    def refused(folder, message, file="m-00001-of-00003.gguf"):
        with pytest.raises(UserError, match=message):
            _read(folder / file)

    folder = _split(tiny, tmp_path / "missing", cfg, params)
    (folder / "m-00002-of-00003.gguf").unlink()
    refused(folder, r"m-00002-of-00003\.gguf: cannot be read")
    (folder / "m-00001-of-00003.gguf").rename(folder / "renamed.gguf")
    refused(folder, r"renamed\.gguf: is one of 3 files .* must be called NAME-00001-of-00003\.gguf", "renamed.gguf")
    refused(_split(tiny, tmp_path / "order", cfg, params, numbers=(0, 2, 1)), r"m-00002-of-00003\.gguf: split\.no is 2, must be 1")
    refused(_split(tiny, tmp_path / "total", cfg, params, total=20), r"split\.tensors\.count is 20, but its 3 files hold 21")


def test_every_type_that_the_package_can_dequantise(tiny, tmp_path):
    """Blocks of random bytes: what is read is what the package makes of them, and rows stay rows when they are read in strips."""
    readable = [kind for kind in Type if gguf._can_be_read(kind)]
    common = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS IQ4_NL TQ1_0 MXFP4"
    assert {kind.name for kind in readable} >= set(common.split())
    assert Type.I8 not in readable
    cfg = tiny.config(num_layers=1, d_model=512, num_heads=2, num_kv_heads=1, head_dim=4, d_ff=3)
    params = tiny.params(cfg)
    rng = np.random.default_rng(0)
    for kind in readable:
        block, size = gguf.gguf.GGML_QUANT_SIZES[kind]
        stored = rng.integers(0, 60, (3, 512 // block * size), np.uint8)  # small, so that no scale is infinite
        name, types = "blk.0.ffn_gate.weight", None
        if kind in (Type.F32, Type.F16):
            stored = stored.view(np.float32 if kind == Type.F32 else np.float16)
        else:
            types = {name: kind}
        path = _write(tiny, tmp_path / f"{kind.name}.gguf", cfg, params, tensors={name: stored}, types=types)
        expected = gguf.gguf.quants.dequantize(stored, kind)
        assert np.isfinite(expected).all() and expected.shape == (3, 512)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gguf, "_STRIP", 600)  # a row at a time
            gate = _read(path)[1]["layers"]["0"]["gate"]
        assert gate.dtype == np.float32 and np.array_equal(gate.T, expected), kind.name


def test_the_chat_template_decides_the_wrapper(tiny, tmp_path):
    cfg = tiny.config()
    for template, wrapper in (("{{ '<|im_start|>' }}", "chatml"), ("{{ '[INST] ' + x + ' [/INST]' }}", "inst"), ("", "chatml")):
        metadata = {"tokenizer.chat_template": template} if template else None
        opened = sources.open_source(_write(tiny, tmp_path / "a.gguf", cfg, tiny.params(cfg), metadata))
        assert (opened.chat_template, opened.wrapper) == (template, wrapper)
