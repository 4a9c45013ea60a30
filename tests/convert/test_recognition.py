"""What a path is when it is not what a reader takes: said in one sentence, with the way out; and folders with files of two models."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from humpback.convert import recognition, sources
from humpback.errors import UserError
from tests import hf_layout

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"


@pytest.fixture
def folder(tiny, tmp_path):
    """Writes a Hugging Face folder of a seed."""

    def write(name="m", seed=0, **more):
        cfg = tiny.config()
        hf_layout.write_hf(tmp_path / name, cfg, tiny.params(cfg, seed=seed), tiny.tokenizer(), **more)
        return tmp_path / name

    return write


def refused(path, message):
    for look in (sources.open_source, sources.list_files):
        with pytest.raises(UserError, match=message) as error:
            look(str(path))
    assert "\x1b" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("old.gguf", b"GGUF\x01\x00\x00\x00more", "GGUF file of version 1"),
        ("old.bin", b"tjgg\x03\x00\x00\x00", "GGML file of 2023"),
        ("m.gguf", POINTER, "git-lfs pointer"),
        ("m.gguf", b"<!DOCTYPE html><html>", "web page"),
        ("m.gguf", b"", "is empty"),
        ("m.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "one file of weights alone; give the folder"),
        ("m.bin", b"PK\x03\x04", "one file of PyTorch; give the folder"),
        ("config.json", b"{}", "one file of a model; give the folder"),
        ("m.tar.gz", b"\x1f\x8b\x08", "archive; unpack"),
        ("m.gguf", b"GG", "not a GGUF file"),
    ],
)
def test_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)


@pytest.mark.parametrize("path", ["meta-llama/Llama-2-7b", "https://huggingface.co/meta-llama/Llama-2-7b/tree/main", "hf://meta-llama/Llama-2-7b"])
def test_a_name_on_the_hub(path):
    said = refused(path, "hf download meta-llama/Llama-2-7b --local-dir Llama-2-7b")
    assert said.startswith(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "an empty folder"),
        ({"adapter_config.json": b'{"base_model_name_or_path": "a/b"}', "adapter_model.safetensors": b""}, r"adapter.*base is a/b.*merge"),
        ({"adapter_config.json": b"{", "adapter_model.bin": b"PK"}, "LoRA adapter, not a model; merge"),
        ({"config.json": b"{}", "adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "LoRA adapter, not a model"),
        ({"snapshots/abc/config.json": b"{}", "refs/main": b"abc"}, "Hub's cache of a model; give the snapshot in it: .*/snapshots/abc"),
        ({"models--a--b/snapshots/abc/config.json": b"{}"}, "Hub's cache of 1 models; give a snapshot: .*models--a--b/snapshots"),
        ({"m.Q4.gguf": b"GGUF", "m.Q8.gguf": b"GGUF"}, r"folder with GGUF files; give one of them: .*m\.Q4\.gguf, .*m\.Q8\.gguf"),
        ({"7B/params.json": b"{}", "tokenizer.model": b""}, "folder of models; give one of them: .*7B"),
        ({"consolidated.safetensors": b"", "params.json": b"{}"}, r"consolidated weights without a consolidated\.00\.pth"),
        ({"model.safetensors": b"", "tokenizer.json": b"{}"}, r"holds weights, but no config\.json"),
        ({"model_index.json": b"{}"}, "diffusers"),
        ({"config.json": b"{}", "zero_to_fp32.py": b""}, r"DeepSpeed; run the zero_to_fp32\.py"),
        ({"config.json": b"{}", "__0_0.distcp": b""}, "distributed form"),
        ({"config.json": b"{}", "model.onnx": b""}, "holds ONNX"),
        ({"config.json": b"{}", "model.safetensors": POINTER}, r"model\.safetensors: is a git-lfs pointer.*git lfs pull"),
        ({"config.json": b"{}", "tokenizer.model": POINTER, "model.safetensors": b""}, r"tokenizer\.model: is a git-lfs pointer"),
        ({"params.json": b"{}", "consolidated.00.pth": POINTER}, r"consolidated\.00\.pth: is a git-lfs pointer"),
        ({"config.json": b"{}", "model.safetensors.incomplete": b""}, "download that was not finished"),
        ({"weights/a": b"", "tokenizer.json": b"{}"}, "conversion that was interrupted; run the same"),
        ({"notes.txt": b"mine"}, r"neither config\.json"),
    ],
)
def test_folders(tmp_path, files, message):
    place = tmp_path / "f"
    place.mkdir()
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    said = refused(place, message)
    assert ("interrupted" in said) == ("interrupted" in message)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name: f"_orig_mod.{name}", r"torch\.compile"),
        (lambda name: f"module.{name}", "wrapper that trained it"),
        (lambda name: f"base_model.model.{name}", "after merge_and_unload"),
        (lambda name: name.replace("q_proj", "qkv_proj").replace("lm_head", "other"), "in one matrix"),
        (lambda name: name.replace("q_proj.weight", "q_proj.qweight"), "quantised model"),
        (lambda name: name.replace("model.", "model.language_model.", 1), "sees pictures"),
        (lambda name: name.replace("mlp.up_proj", "mlp.experts.0.up_proj"), "mixture of experts"),
    ],
)
def test_names_of_tensors_say_how_they_were_saved(folder, rename, message):
    """Also where the head is missing by its name: nothing is said that would make a wrong model load."""
    path = folder()
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    safetensors.numpy.save_file({rename(name): array for name, array in tensors.items()}, path / "model.safetensors")
    with pytest.raises(UserError, match=message) as error:
        sources.open_source(str(path))
    assert "tie_word_embeddings" not in str(error.value)


def test_no_advice_ties_or_unties_a_head(folder):
    path = folder()
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    del tensors["lm_head.weight"]
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    with pytest.raises(UserError, match="no tensor lm_head") as error:
        sources.open_source(str(path))
    assert "set it" not in str(error.value) and "not whole" in str(error.value)


def test_a_template_that_is_not_utf_8(folder):
    path = folder()
    (path / "chat_template.jinja").write_bytes(b"{{ '\xff' }}")
    with pytest.raises(UserError, match=r"chat_template\.jinja: is not UTF-8"):
        sources.open_source(str(path))


def test_a_single_file_beside_another_models_shards(folder, tiny):
    """transformers takes the single file, other programs what the index names."""
    path, other = folder("new", seed=1), folder("old", files=2)
    for file in other.glob("model*"):
        shutil.copy(file, path)
    assert "two models are there" in refused(path, r"model\.safetensors and the files of model\.safetensors\.index\.json")
    (path / "model-00001-of-00002.safetensors").unlink()
    refused(path, "two models are there")
    (path / "model-00002-of-00002.safetensors").unlink()
    opened = sources.open_source(str(path))
    tiny.same(opened.params(), tiny.params(tiny.config(), seed=1))
    assert any("names files that are gone; model.safetensors is read" in note for note in opened.notes)


def test_parts_of_two_models_or_too_few(folder):
    path, other = folder("new", files=2), folder("old", files=3)
    shutil.copy(other / "model-00003-of-00003.safetensors", path)
    opened = sources.open_source(str(path))
    assert any("not read: model-00003-of-00003.safetensors" in note for note in opened.notes)
    (path / "model.safetensors.index.json").unlink()
    refused(path, "two models are there, of 2 and of 3 parts")
    (path / "model-00003-of-00003.safetensors").unlink()
    (path / "model-00001-of-00002.safetensors").unlink()
    refused(path, r"model-00001-of-00002\.safetensors: no such file, of 2 parts")


def test_what_lies_beside_is_not_the_model(folder, tiny):
    path = folder()
    safetensors.numpy.save_file({"x": np.zeros(1, np.float32)}, path / "consolidated.safetensors")
    tiny.same(sources.open_source(str(path)).params(), tiny.params(tiny.config()))
    (path / "adapter_config.json").write_text("{}")
    refused(path, "a whole model and a LoRA adapter")


def test_a_left_over_index_beside_other_files(folder):
    """What reads them is another reader; here it is only asked which it is."""
    path = folder(files=2)
    for file in path.glob("model-*"):
        file.unlink()
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors: no such file, which the index"):
        recognition.choose_weights(str(path))
    (path / "pytorch_model.bin").write_bytes(b"PK")
    chosen = recognition.choose_weights(str(path))
    assert [file.rpartition("/")[2] for file in chosen.files] == ["pytorch_model.bin"]
    assert "model.safetensors.index.json is left over" in chosen.notes[0]
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": []}))
    with pytest.raises(UserError, match="no weight_map"):
        recognition.choose_weights(str(path))
