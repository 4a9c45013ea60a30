"""A grid of shapes and types through transformers; Meta's layout and PyTorch's files equal to the Hugging Face route. `parity` extra."""

import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install -e .[parity])")
pytest.importorskip("transformers", reason="transformers is not installed (pip install -e .[parity])")

import jax
import torch
import transformers

from humpback.commands.convert import convert
from humpback.convert import comparison, sources, tensorfiles
from humpback.errors import UserError
from humpback.model import llama
from humpback.model.weights import LlamaConfig, RopeScaling, make_tree, stack_layers
from humpback.models import folders
from tests import hf_layout, tiny

SCALING = RopeScaling(8.0, 1.0, 4.0, 64)
HEADS = [(4, 4), (9, 3), (8, 4), (4, 1)]
GRID = list(itertools.product(HEADS, [True, False], [32000, 32001, 128256], [False, True]))
DTYPES = ["float32", "bfloat16", "float16"]


def model(heads=(9, 3), tied=False, V=512, dtype="float32", scaled=False, D=36, seed=0, **fields):
    cfg = LlamaConfig(
        vocab_size=V, d_model=D, num_layers=2, num_heads=heads[0], num_kv_heads=heads[1], head_dim=fields.pop("head_dim", 8), d_ff=20,
        rope_theta=12345.0, rms_eps=3e-5, tied=tied, rope_scaling=SCALING if scaled else None, max_positions=256, **fields,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    kind = tensorfiles.DTYPES[dtype]
    return cfg, make_tree(cfg, lambda path, w: (rng.normal(size=w.sizes(cfg)) / 4).astype(kind))


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def test_the_grid(tmp_path):
    """Hugging Face → ours → Hugging Face bit for bit, and logits of the last through transformers over 200 positions.

    Types and numbers of files go round; all combinations with them, without transformers, are in tests/soak.
    """
    tokenizer = tiny.make_tokenizer()
    assert len(GRID) == 48
    for number, (heads, tied, V, scaled) in enumerate(GRID):
        dtype, files = DTYPES[number % 3], 1 + 2 * (number // 2 % 2)
        cfg, params = model(heads, tied, V, dtype, scaled, D=2 * heads[0], seed=number)
        folder = tmp_path / str(number)
        hf_layout.write_hf(folder / "hf", cfg, params, tokenizer, files)
        convert(str(folder / "hf"), str(folder / "ours"))
        convert(str(folder / "ours"), str(folder / "back"), "huggingface", file_bytes=10**9 if files == 1 else V * 12)
        back = sources.open_source(str(folder / "back"))
        assert back.config == cfg
        same(params, back.params())
        ids = np.random.default_rng(number).integers(0, V, 200)
        (theirs,) = comparison.run_transformers(back, [ids], 0)
        ours = np.asarray(llama.forward(cfg, stack_layers(params), ids[None], np.arange(200)[None]))[0]
        assert np.abs(ours - theirs.logits).max() <= 1e-4 and theirs.logits.std() > 0.1, (number, cfg)
        shutil.rmtree(folder)


def write_meta(folder: pathlib.Path, cfg, params, shards, embedding_axis, tokenizer: bytes, first=False, **more):
    folder.mkdir(parents=True)
    for number, tensors in enumerate(hf_layout.meta_shards(cfg, params, shards, embedding_axis, first)):
        values = {name: torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if array.dtype.name == "bfloat16"
                  else torch.from_numpy(array) for name, array in tensors.items()}  # fmt: skip
        torch.save(values, folder / f"consolidated.{number:02d}.pth")
    fields = {"dim": cfg.d_model, "n_layers": cfg.num_layers, "n_heads": cfg.num_heads, "norm_eps": cfg.rms_eps, "vocab_size": -1,
              "multiple_of": 4, "rope_theta": cfg.rope_theta, "n_kv_heads": cfg.num_kv_heads}  # fmt: skip
    (folder / "params.json").write_text(json.dumps({**fields, **more}))
    (folder / "tokenizer.model").write_bytes(tokenizer)


@pytest.fixture
def sentencepiece_model(test_data):
    return (test_data / "stories260k" / "tok512.model").read_bytes()


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "tied", "axis"), [("float32", False, 1), ("bfloat16", False, 0), ("float16", True, 1)])
def test_meta_equals_the_hugging_face_route(tmp_path, sentencepiece_model, shards, dtype, tied, axis):
    cfg, params = model((8, 4), tied, 512, dtype, D=64)
    write_meta(tmp_path / "meta", cfg, params, shards, axis, sentencepiece_model)
    hf_layout.write_hf(tmp_path / "hf", cfg, params, tiny.make_tokenizer())
    convert(str(tmp_path / "meta"), str(tmp_path / "a"))
    convert(str(tmp_path / "hf"), str(tmp_path / "b"))
    a, b = sources.open_source(str(tmp_path / "a")), sources.open_source(str(tmp_path / "b"))
    assert a.config == llama.LlamaConfig(**{**cfg.to_dict(), "rope_scaling": None, "max_positions": 2048}) and a.wrapper == "inst"
    same(a.params(), b.params())
    same(a.params(), params)
    assert a.tokenizer.bos_id == 1 and a.tokenizer.files()["tokenizer.model"] == sentencepiece_model


@pytest.mark.parametrize("shards", [1, 2])
def test_the_first_llama_as_it_was_published(tmp_path, sentencepiece_model, shards):
    """The paper's base: frequencies in every layer, no n_kv_heads, no theta, the vocabulary's size -1, the tokenizer one folder up."""
    cfg, params = model((8, 8), False, 512, "float16", D=64)
    folder = tmp_path / "LLaMA" / "7B"
    write_meta(folder, cfg, params, shards, 1, sentencepiece_model, first=True)
    (folder / "tokenizer.model").rename(tmp_path / "LLaMA" / "tokenizer.model")
    published = {"dim": 64, "multiple_of": 256, "n_heads": 8, "n_layers": cfg.num_layers, "norm_eps": 1e-06, "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(published))
    opened = sources.open_source(str(folder))
    same(opened.params(), params)
    found = opened.config
    assert (found.num_kv_heads, found.vocab_size, found.rope_theta, found.rms_eps, found.max_positions) == (8, 512, 10000.0, 1e-6, 2048)
    assert opened.tokenizer.bos_id == 1 and ("tokenizer.model" in dict(sources.list_files(str(folder)))) is False


def test_decapodas_spelling(tmp_path, sentencepiece_model):
    """LLaMAForCausalLM, frequencies of each layer in the files, names of special tokens that are empty."""
    cfg, params = model((4, 4))
    hf_layout.write_hf(tmp_path / "m", cfg, params, tiny.make_tokenizer())
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": ["LLaMAForCausalLM"]}))
    (tmp_path / "m" / "model.safetensors").unlink()
    state = {name: torch.from_numpy(array) for name, array in hf_layout.hf_tensors(cfg, params).items()}
    state |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.zeros(4) for i in range(cfg.num_layers)}
    torch.save(state, tmp_path / "m" / "pytorch_model.bin")
    (tmp_path / "m" / "tokenizer.json").unlink()
    (tmp_path / "m" / "tokenizer.model").write_bytes(sentencepiece_model)
    (tmp_path / "m" / "tokenizer_config.json").write_text('{"bos_token": "", "eos_token": "", "unk_token": ""}')
    (tmp_path / "m" / "special_tokens_map.json").write_text("{}")
    opened = sources.open_source(str(tmp_path / "m"))
    same(opened.params(), params)
    assert (opened.tokenizer.bos_id, opened.tokenizer.eos_id) == (1, 2)


def test_meta_llama_3(tmp_path):
    """tiktoken, scaled positions, and the tokenizer of Llama 3.1."""
    from tests.convert.test_tiktoken import lines

    cfg, params = model((8, 2), False, 600, "bfloat16", D=64)
    write_meta(tmp_path / "meta", cfg, params, 2, 0, lines(), use_scaled_rope=True, rope_theta=500000.0, max_seq_len=77)
    opened = sources.open_source(str(tmp_path / "meta"))
    assert opened.config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192) and opened.config.max_positions == 77
    assert opened.tokenizer.specials["<|eom_id|>"] == opened.tokenizer.vocab_size - 248
    same(opened.params(), params)
    params_file = tmp_path / "meta" / "params.json"
    params_file.write_text(json.dumps({**json.loads(params_file.read_text()), "use_scaled_rope": False, "max_seq_len": None}))
    older = sources.open_source(str(tmp_path / "meta"))
    assert older.config.rope_scaling is None and older.config.max_positions == 8192
    assert "<|eom_id|>" not in older.tokenizer.specials


def test_meta_that_is_refused(tmp_path, sentencepiece_model):
    cfg, params = model((8, 4), False, 512, D=64)

    def write(name, **more):
        write_meta(tmp_path / name, cfg, params, 2, 1, sentencepiece_model, **more)
        return tmp_path / name

    def change(folder, number, **tensors):
        file = folder / f"consolidated.{number:02d}.pth"
        values = torch.load(file, weights_only=True) | tensors
        torch.save({name: value for name, value in values.items() if value is not None}, file)

    def refused(folder, message):
        with pytest.raises(UserError, match=message):
            convert(str(folder), str(tmp_path / "target"))
        assert not (tmp_path / "target").exists()

    refused(write("moe", moe={"experts": 8}), r"params\.json: moe is .*not a plain LLaMA")
    refused(write("layers", n_layers=3), r"tensor layers\.2\..* is missing")
    refused(write("width", n_kv_heads=2), r"attention\.wk\.weight has shape \(32, 64\), the config asks for \(16, 64\)")
    folder = write("gap")
    (folder / "consolidated.00.pth").rename(folder / "consolidated.02.pth")
    refused(folder, r"consolidated\.00\.pth: is missing")
    folder = write("cut")
    data = (folder / "consolidated.01.pth").read_bytes()
    (folder / "consolidated.01.pth").write_bytes(data[: len(data) // 2])
    refused(folder, r"consolidated\.01\.pth: not a whole PyTorch file")
    folder = write("other")
    change(folder, 1, **{"layers.0.attention.wq.bias": torch.zeros(3)})
    refused(folder, r"consolidated\.01\.pth: unknown tensor layers\.0\.attention\.wq\.bias")
    folder = write("norms")
    change(folder, 1, **{"norm.weight": torch.zeros(64)})
    with pytest.raises(UserError, match=r"consolidated\.01\.pth: tensor norm\.weight is not the same as in"):
        convert(str(folder), str(tmp_path / "norms-target"))
    folder = write("text")
    change(folder, 0, **{"norm.weight": "no tensor"})
    refused(folder, r"consolidated\.00\.pth: norm\.weight is a str, not a tensor")
    folder = write("pickle")
    torch.save({"norm.weight": pathlib.PurePosixPath("/")}, folder / "consolidated.00.pth")
    refused(folder, r"consolidated\.00\.pth: holds other Python objects than tensors")
    (write("no-tokenizer") / "tokenizer.model").unlink()
    refused(tmp_path / "no-tokenizer", r"no tokenizer\.model")


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pytorch_files_equal_safetensors(tmp_path, files, dtype):
    """As PyTorch writes them, tied weights being one memory with two names; with and without an index."""
    cfg, params = model((4, 2), tied=True, dtype=dtype)
    hf_layout.write_hf(tmp_path / "hf", cfg, params, tiny.make_tokenizer())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "hf"), dtype=getattr(torch, dtype))
    state = theirs.state_dict()
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    (tmp_path / "hf" / "model.safetensors").unlink()
    names = list(state)
    for number in range(files):
        name = "pytorch_model.bin" if files == 1 else f"pytorch_model-{number + 1:05d}-of-{files:05d}.bin"
        chosen = names[number::files] if number else [*names[number::files], "lm_head.weight"]
        torch.save({key: state[key] for key in dict.fromkeys(chosen) if number == 0 or key != "lm_head.weight"}, tmp_path / "hf" / name)
    opened = sources.open_source(str(tmp_path / "hf"))
    assert opened.config.tied and opened.dtype(("layers", "0", "q")) == dtype
    same(opened.params(), params)
    if files == 2:
        (tmp_path / "hf" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": "missing.bin"}}))
        with pytest.raises(UserError, match=r"missing\.bin: no such file"):
            sources.open_source(str(tmp_path / "hf"))


def test_verify_by_transformers(tmp_path):
    """Equal models pass; one number that is changed shows in the tensor, the logits and the KL divergence."""
    assert comparison.has_transformers()
    cfg, params = model()
    hf_layout.write_hf(tmp_path / "a", cfg, params, tiny.make_tokenizer())
    params["layers"]["1"]["v"][0] += 1.0
    hf_layout.write_hf(tmp_path / "b", cfg, params, tiny.make_tokenizer())
    a, b = sources.open_source(str(tmp_path / "a")), sources.open_source(str(tmp_path / "b"))
    texts = [a.tokenizer.encode("How do I cut a mortise?"), a.tokenizer.encode("Two")]
    before = comparison.run_here(a, texts, 12)
    # How a folder likes to be sampled is not what is compared.
    generation = {"repetition_penalty": 5.0, "eos_token_id": [a.tokenizer.eos_id, before[0].greedy[3]], "do_sample": True}
    for name in "ab":
        (tmp_path / name / "generation_config.json").write_text(json.dumps(generation))
    for target, is_same in ((a, True), (b, False)):
        results = [comparison.compare_outcomes(x, y, 1e-4) for x, y in zip(before, comparison.run_transformers(target, texts, 12))]
        assert all((result.apart <= 1e-4 and result.kl[1] < 1e-6 and result.greedy_differs is None) == is_same for result in results)
        assert all(len(result.top) == 10 for result in results)


def test_verify_asks_autotokenizer(tmp_path):
    """Ids of texts and of a chat, as transformers alone reads the folder."""
    cfg, params = model()
    folders.save_model(tmp_path / "m", folders.ModelInfo(cfg, "forward", "chatml"), params, tiny.make_tokenizer())
    convert(str(tmp_path / "m"), str(tmp_path / "hf"), "huggingface")
    source = sources.open_source(str(tmp_path / "m"))

    def differences():
        return list(comparison.compare_auto(source, sources.open_source(str(tmp_path / "hf")), ["How do I cut a mortise?"]))

    assert differences() == []
    file = tmp_path / "hf" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "chat_template": config["chat_template"].replace("web", "net")}))
    (line,) = differences()
    assert line.startswith("the tokenizers differ from token") and "'chat: " in line and line.endswith("in transformers")


def test_pickles_that_are_no_weights(tmp_path):
    """One sentence without escape codes: which object it is, or that the file is older than what can be mapped."""
    cfg, params = model()
    hf_layout.write_hf(tmp_path / "hf", cfg, params, tiny.make_tokenizer())
    file = tmp_path / "hf" / "pytorch_model.bin"
    state = {name: torch.from_numpy(array) for name, array in hf_layout.hf_tensors(cfg, params).items()}
    (tmp_path / "hf" / "model.safetensors").unlink()
    for make, message in (
        (lambda: torch.save(state, file, _use_new_zipfile_serialization=False), r"before 1\.6.*weights_only=True\), NEW"),
        (lambda: torch.save({**state, "args": pathlib.PurePosixPath("/")}, file), r"other Python objects than tensors \(.*safetensors"),
        (lambda: file.write_bytes(b"PK\x03\x04 cut"), "not a whole PyTorch file"),
    ):
        make()
        with pytest.raises(UserError, match=message) as error:
            sources.open_source(str(tmp_path / "hf"))
        assert "\x1b" not in str(error.value) and "Please" not in str(error.value) and "pytorch_model.bin" in str(error.value)
