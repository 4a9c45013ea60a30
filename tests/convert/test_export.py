"""What else an exported folder holds: the model card with the run's facts, the fields that other programs read."""

import json

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2

from humpback.commands import convert as command
from humpback.convert import origin, sources, tensorfiles
from humpback.errors import UserError
from humpback.model.weights import RopeScaling
from humpback.models import folders
from humpback.tokens.tokenizer import MODEL_FILE, Tokenizer
from tests import hf_layout


@pytest.fixture
def run(tiny, tmp_path):
    """forward-1 of a run, its manifests written as the stages write them."""
    cfg = tiny.config(rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64))
    folders.save_model(tmp_path / "forward-1", folders.ModelInfo(cfg, "forward", "chatml"), tiny.params(cfg), tiny.tokenizer())
    made = {
        "base": ([], {"weights": 21}, {}),
        "seed": ([], {"train": 70, "held out": 34}, {"too long": 2, "empty": 0}),
        "ratings-1": (["base"], {"in": 56, "valid": 53}, {}),
        "curated-1": (["ratings-1"], {"selected": 14}, {}),
        "forward-1": (["base", "seed", "curated-1"], {"examples": 84}, {}),
        "forward-2": (["base"], {"examples": 999}, {}),
    }
    for name, (inputs, counts, dropped) in made.items():
        config = {"seed": 7, "forward.lr": 1e-5}
        manifest = {"inputs": dict.fromkeys(inputs, "0" * 64), "counts": counts, "dropped": dropped, "config": config}
        manifest |= {"config_sha256": f"config of {name}", "weights_sha256": f"weights of {name}"} if "-" in name or name == "base" else {}
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    rating = {"iteration": 1, "histogram": {"3.0": 0, "3.5": 49, "4.0": 4}, "invalid_rate": 0.0536}
    (tmp_path / "summary.json").write_text(json.dumps({"ratings": [rating, {**rating, "iteration": 2}]}))
    return tmp_path


def test_the_card_has_the_facts_of_the_run_that_made_it(run):
    command.convert(str(run / "forward-1"), str(run / "hf"), "huggingface")
    card = (run / "hf" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for words in (
        "# forward-1", "direction is **forward**", "> Answer in the style of an AI Assistant. Answer with knowledge from web search.",
        "| seed | 70 train, 34 held out | 2 too long |", "| curated-1 | 14 selected |", "| forward-1 | 84 examples |",
        "Ratings of iteration 1: 3.5: 49, 4.0: 4; invalid: 5.4%.", "| seed | `7` |", "| weights sha256 | `weights of forward-1` |",
        "| base, weights sha256 | `weights of base` |", "| config sha256 | `config of forward-1` |", '"forward.lr": 1e-05',
    ):  # fmt: skip
        assert words in card, words
    assert "999" not in card and "iteration 2" not in card  # it was not made from these
    assert card.index("| base |") < card.index("| ratings-1 |") < card.index("| forward-1 |")


def test_the_card_is_what_the_hub_reads(run):
    """Licence, base and notices of the folder that the base came from; what nobody says is other, or the user's word."""
    (run / "base" / "origin.json").write_text('{"name": "meta-llama/Meta-Llama-3-8B", "licence": "llama3"}')
    (run / "base" / "NOTICE").write_text("Meta Llama 3 is licensed under …")
    summary = json.loads((run / "summary.json").read_text())
    models = [{"model": name, "value": value} for name, value in (("base", 2.5), ("forward-1", 2.25), ("forward-2", 1.0))]
    held_out = {"forward": [{"set": "held_out", "measure": "nll", "models": models}]}
    (run / "summary.json").write_text(json.dumps({**summary, "held_out": held_out}))
    command.convert(str(run / "forward-1"), str(run / "hf"), "huggingface")
    card = (run / "hf" / "README.md").read_text()
    head = card.split("---")[1]
    for line in ("license: llama3", "base_model: meta-llama/Meta-Llama-3-8B", "language:", "- en"):
        assert f"\n{line}\n" in head, line
    for words in ("Built with Llama", "base is meta-llama", "under forward-1: 2.2500 nats", "under base: 2.5000", "apply_chat_template"):
        assert words in card, words
    assert "forward-2" not in card and (run / "hf" / "NOTICE").read_text().startswith("Meta Llama 3 is")
    (run / "base" / "origin.json").write_text("{}")
    for licence, line, words in (("", "license: other", "look it up"), ("mit", "license: mit", "")):
        command.convert(str(run / "forward-1"), str(run / f"hf-{licence}"), "huggingface", licence=licence)
        card = (run / f"hf-{licence}" / "README.md").read_text()
        assert line in card and words in card and ("look it up" in card) == (not licence)


def test_a_conversion_keeps_where_the_weights_are_from(tiny, run, capsys):
    hf_layout.write_hf(run / "theirs", tiny.config(), tiny.params(tiny.config()), tiny.tokenizer())
    (run / "theirs" / "LICENSE").write_text("Apache License\n Version 2.0, January 2004")
    command.convert(str(run / "theirs"), str(run / "ours"))
    command.convert(str(run / "ours"), str(run / "hf"), "huggingface")
    assert "license: apache-2.0" in (run / "hf" / "README.md").read_text() and (run / "hf" / "LICENSE").exists()
    said = capsys.readouterr().out
    assert "vllm serve" in said and "from_pretrained" in said and "convert_hf_to_gguf.py" in said
    assert origin.read(str(run / "ours")).name == "theirs"


def test_fields_that_others_read(run):
    """transformers, vLLM (config.json, generation_config.json, tokenizer_config.json's chat_template) and lm-eval."""
    command.convert(str(run / "forward-1"), str(run / "hf"), "huggingface", dtype="bfloat16")
    config = json.loads((run / "hf" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["torch_dtype"] == "bfloat16"
    wanted = {
        "model_type": "llama", "hidden_size": 20, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 6, "vocab_size": 272,
        "intermediate_size": 14, "num_hidden_layers": 2, "max_position_embeddings": 96, "rms_norm_eps": 3e-6, "rope_theta": 12345.0,
        "hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "eos_token_id": 2,
    }  # fmt: skip
    assert {name: config[name] for name in wanted} == wanted
    assert config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    generation = json.loads((run / "hf" / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["temperature"], generation["top_p"], generation["do_sample"]) == (2, 0.7, 0.9, True)
    tokenizer = json.loads((run / "hf" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast" and "web search" in tokenizer["chat_template"]


def test_a_tokenizer_model_beside_a_tokenizer_json_travels_along(tiny, run):
    files = tiny.tokenizer().files() | {MODEL_FILE: b"only others read it"}
    info = folders.read_info(run / "forward-1")
    folders.save_model(run / "two", info, tiny.params(info.config), Tokenizer(files))
    command.convert(str(run / "two"), str(run / "hf"), "huggingface")
    assert (run / "hf" / MODEL_FILE).read_bytes() == b"only others read it"
    command.convert(str(run / "hf"), str(run / "again"))
    assert (run / "again" / MODEL_FILE).read_bytes() == b"only others read it"
    assert sources.open_source(str(run / "again")).tokenizer.encode("hello 12") == tiny.tokenizer().encode("hello 12")


def test_a_tokenizer_model_of_another_tokenizer_stays_behind(tiny, run, capsys):
    proto = sentencepiece_model_pb2.ModelProto()
    for piece in ("<unk>", "▁"):
        proto.pieces.add(piece=piece)
    files = tiny.tokenizer().files() | {MODEL_FILE: proto.SerializeToString()}
    info = folders.read_info(run / "forward-1")
    folders.save_model(run / "two", info, tiny.params(info.config), Tokenizer(files))
    command.convert(str(run / "two"), str(run / "hf"), "huggingface")
    assert not (run / "hf" / MODEL_FILE).exists() and "tokenizer.model has other pieces" in capsys.readouterr().out


def test_pytorch_files_without_pytorch(run, monkeypatch):
    """An error with the line that installs it, for both kinds of folders."""
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    command.convert(str(run / "forward-1"), str(run / "hf"), "huggingface")
    (run / "hf" / "model.safetensors").rename(run / "hf" / "pytorch_model.bin")
    (run / "meta").mkdir()
    (run / "meta" / "params.json").write_text("{}")
    (run / "meta" / "consolidated.00.pth").write_bytes(b"")
    for name in ("hf", "meta"):
        with pytest.raises(UserError) as error:
            sources.open_source(str(run / name))
        assert "torch, of the extra `convert`" in str(error.value) and "pip install" in str(error.value)


def test_a_file_that_is_cut_off_while_it_is_read(tiny, run):
    command.convert(str(run / "forward-1"), str(run / "hf"), "huggingface")
    opened = sources.open_source(str(run / "hf"))
    file = run / "hf" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match="was cut off while it was read"):
        opened.params()


def test_sizes_of_files(run):
    """Each but one with a single tensor keeps within the limit, and the index names what is in which."""
    command.convert(str(run / "forward-1"), str(run / "hf"), "huggingface", file_bytes=12_000)
    index = json.loads((run / "hf" / "model.safetensors.index.json").read_text())
    sizes = {}
    for file in (run / "hf").glob("*.safetensors"):
        found = tensorfiles.Safetensors().open(str(file))
        assert {name for name, where in index["weight_map"].items() if where == file.name} == set(found)
        sizes[file.name] = sum(int(np.prod(stored.shape)) * 4 for stored in found.values())
        assert sizes[file.name] <= 12_000 or len(found) == 1
    assert len(sizes) > 2 and index["metadata"]["total_size"] == sum(sizes.values())


@pytest.mark.parametrize(("before", "after"), [(12_000, 10**9), (10**9, 12_000), (12_000, 30_000)])
def test_files_of_another_size_are_not_left_beside(run, before, after):
    """llama.cpp's converter and others take all files of weights that are there."""
    command.convert(str(run / "forward-1"), str(run / "hf"), "huggingface", file_bytes=before)
    (run / "hf" / "config.json").unlink()  # as if it had been killed just before
    kept = {file.name: file.read_bytes() for file in (run / "hf").iterdir()}
    with pytest.raises(UserError, match=r"\.(safetensors|json): is none of the \d+ files of weights .* with another --file_gb"):
        command.convert(str(run / "forward-1"), str(run / "hf"), "huggingface", file_bytes=after)
    assert {file.name: file.read_bytes() for file in (run / "hf").iterdir()} == kept
    command.convert(str(run / "forward-1"), str(run / "hf"), "huggingface", file_bytes=before)
    sources.open_source(str(run / "hf"))


def test_what_was_begun_in_the_other_form_is_not_built_upon(run):
    """With model.json beside config.json, a folder would be opened as what it is not."""
    for to_format, other, last in (("checkpoint", "huggingface", "checksums.json"), ("huggingface", "checkpoint", "config.json")):
        target = run / f"target-{to_format}"
        command.convert(str(run / "forward-1"), str(target), to_format)
        (target / last).unlink()
        with pytest.raises(UserError, match=f"which no conversion to {sources.FORMATS[other]} makes"):
            command.convert(str(run / "forward-1"), str(target), other)
        command.convert(str(run / "forward-1"), str(target), to_format)
        sources.open_source(str(target))
