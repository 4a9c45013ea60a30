"""Opening weights by what they are, and the convert command."""

import hashlib
import json
import sys

import pytest

from humpback.commands import convert as command
from humpback.convert import recognition, sources
from humpback.convert.lazy_model import LazyParams
from humpback.errors import UserError
from humpback.models import folders


@pytest.fixture
def model(tiny, tmp_path):
    """(config, parameters, path of a GGUF file with them)."""
    cfg = tiny.config(tied=True)
    params = tiny.params(cfg)
    path = tiny.write_gguf(tmp_path / "m.gguf", tiny.gguf_tensors(cfg, params), tiny.gguf_metadata(cfg))
    return cfg, params, path


def test_through_all_formats_bit_exact(tiny, model, tmp_path, capsys):
    cfg, params, path = model
    command.convert(path, str(tmp_path / "ours"))
    command.convert(str(tmp_path / "ours"), str(tmp_path / "hf"), "huggingface")
    command.convert(str(tmp_path / "hf"), str(tmp_path / "again"))
    said = capsys.readouterr().out
    for words in ("m.gguf: recognised as a GGUF file", "hf: recognised as a Hugging Face", "ours: recognised as a Humpback"):
        assert words in said
    for name, kind in (("m.gguf", "gguf"), ("ours", "checkpoint"), ("hf", "huggingface"), ("again", "checkpoint")):
        opened = sources.open_source(str(tmp_path / name))
        assert (opened.format, opened.config, opened.direction, opened.wrapper) == (kind, cfg, "base", "chatml")
        tiny.same(params, opened.params())
        lazy = LazyParams(opened)
        layers = {layer: lazy["layers"][layer] for layer in lazy["layers"]}
        tiny.same(params, {**{leaf: lazy[leaf] for leaf in lazy if leaf != "layers"}, "layers": layers})
        assert opened.tokenizer.encode("hello 12") == tiny.tokenizer().encode("hello 12")


def test_direction_and_wrapper_travel(tiny, tmp_path):
    cfg = tiny.config()
    info = folders.ModelInfo(cfg, "backward", "plain")
    folders.save_model(tmp_path / "a", info, tiny.params(cfg), tiny.tokenizer())
    command.convert(str(tmp_path / "a"), str(tmp_path / "b"), "huggingface")
    template = json.loads((tmp_path / "b/tokenizer_config.json").read_text())["chat_template"]
    assert "The text below may be" in template and "web search" not in template
    command.convert(str(tmp_path / "b"), str(tmp_path / "c"))
    assert folders.read_info(tmp_path / "c") == info
    command.convert(str(tmp_path / "b"), str(tmp_path / "d"), wrapper="inst")
    assert folders.read_info(tmp_path / "d").wrapper == "inst"


def test_sha256(model):
    path = model[2]
    with open(path, "rb") as file:
        right = hashlib.sha256(file.read()).hexdigest()
    assert sources.open_source(path, sha256=right.upper()).format == "gguf"
    with pytest.raises(UserError) as error:
        sources.open_source(path, sha256="0" * 64)
    for words in (path, "0" * 64, right):
        assert words in str(error.value)


def test_gguf_without_its_package(model, monkeypatch):
    monkeypatch.delitem(sys.modules, "humpback.convert.gguf", raising=False)
    monkeypatch.delattr("humpback.convert.gguf", raising=False)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="needs the gguf package"):
        sources.open_source(model[2])


def test_a_file_inside_a_package(tiny, model, tmp_path, monkeypatch):
    package = tmp_path / "site" / "some_weights_pkg"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "m.gguf").write_bytes((tmp_path / "m.gguf").read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    opened = sources.open_source("package:some_weights_pkg/**/*.gguf")
    assert opened.path.endswith("data/m.gguf") and "some_weights_pkg" not in sys.modules
    for path, message in (
        ("package:some_weights_pkg/*.gguf", "0 files match"),
        ("package:no_such_pkg_here/*.gguf", "no installed package no_such_pkg_here"),
        ("package:some_weights_pkg", "must be package:NAME/GLOB"),
        ("package:some_weights_pkg.data/*.gguf", "must be package:NAME/GLOB"),
    ):
        with pytest.raises(UserError, match=message.replace("*", ".")):
            sources.open_source(path)


def test_what_is_no_model(tmp_path):
    (tmp_path / "file.bin").write_bytes(b"PK12345")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("nothing", "no such file or folder"),
        ("file.bin", "is one file of PyTorch"),
        ("folder", "is an empty folder"),
    ):
        with pytest.raises(UserError, match=f"{name}: {message}"):
            sources.open_source(str(tmp_path / name))


def test_targets_that_are_not_free(model, tmp_path):
    path = model[2]
    command.convert(path, str(tmp_path / "a"))
    command.convert(path, str(tmp_path / "b"), "huggingface")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").write_text("mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for target, message in (
        ("a", "already holds a finished model"),
        ("b", "already holds a finished model"),
        ("c", "holds notes.txt"),
        ("m.gguf", "is a file"),
    ):
        for to_format in ("checkpoint", "huggingface"):
            with pytest.raises(UserError, match=message):
                command.convert(path, str(tmp_path / target), to_format)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


def test_an_interrupted_conversion_is_not_a_model_and_can_be_completed(tiny, model, tmp_path, monkeypatch):
    _, params, path = model
    publish = folders.storage.publish

    def fail(name, data, **more):
        if str(name).endswith(folders.CHECKSUMS) or str(name).endswith(recognition.CONFIG):
            raise KeyboardInterrupt
        return publish(name, data, **more)

    for to_format in ("checkpoint", "huggingface"):
        target = str(tmp_path / to_format)
        with monkeypatch.context() as patch:
            patch.setattr(folders.storage, "publish", fail)
            with pytest.raises(KeyboardInterrupt):
                command.convert(path, target, to_format)
        with pytest.raises(UserError):
            sources.open_source(target)
        command.convert(path, target, to_format)
        tiny.same(params, sources.open_source(target).params())


def test_a_broken_source_makes_no_target(model, tmp_path):
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "m.gguf").read_bytes()[:5000])
    with pytest.raises(UserError):
        command.convert(str(tmp_path / "cut.gguf"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
