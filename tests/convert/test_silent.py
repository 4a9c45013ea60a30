"""What was once wrong without a word: tokens, ends and templates that a folder loses, each as people have it; and that verify sees it."""

import json
import re

import pytest
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from humpback.commands import convert as command
from humpback.convert import comparison, export, names, sources
from humpback.convert.chat_template import differing, rendered_probes
from humpback.errors import UserError
from humpback.model.weights import RopeScaling
from humpback.models import folders
from humpback.tokens.tokenizer import CONFIG_FILE, JSON_FILE, MODEL_FILE, Tokenizer
from tests import hf_layout

CHATML = {"<|im_start|>": 264, "<|im_end|>": 265}


def sentencepiece_model(**types) -> bytes:
    """<unk>, <s>, </s>, the bytes, ▁, a, b, ▁a, ab: 264 pieces."""
    proto = sentencepiece_model_pb2.ModelProto()
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((f"<0x{i:02X}>", 0.0, 6) for i in range(256))]
    pieces += [("▁", -10.0, 1), ("a", -11.0, 1), ("b", -12.0, 1), ("▁a", -1.0, 1), ("ab", -2.0, 1)]
    for text, score, kind in pieces:
        proto.pieces.add(piece=text, score=score, type=types.get(text, kind))
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback, proto.trainer_spec.vocab_size = 2, True, len(pieces)
    proto.trainer_spec.pad_id = -1
    proto.normalizer_spec.name, proto.normalizer_spec.remove_extra_whitespaces = "identity", False
    return proto.SerializeToString()


def chatml_files() -> dict[str, bytes]:
    """A chatml finetune with the slow tokenizer."""
    config = {"eos_token": "<|im_end|>", "bos_token": "<s>", "unk_token": "<unk>", "add_bos_token": True}
    return {MODEL_FILE: sentencepiece_model(), "added_tokens.json": json.dumps(CHATML).encode(), CONFIG_FILE: json.dumps(config).encode()}


def llama2(scheme="first", normalized=False, **config) -> Tokenizer:
    """What transformers 5 saves for Llama-2's family."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}}
    vocab |= {token: len(vocab) + i for i, token in enumerate(["▁", "a", "b", "▁a", "ab"])}
    value = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocab, merges=[("▁", "a"), ("a", "b")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    value.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    value.decoder = tokenizers.decoders.Sequence([*steps, tokenizers.decoders.Strip(" ", 1, 0)])
    value.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=normalized) for text in ("<unk>", "<s>", "</s>")])
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, **config}
    return Tokenizer({JSON_FILE: value.to_str().encode(), CONFIG_FILE: json.dumps(settings).encode()}, "llama2")


@pytest.fixture
def exported(tiny, tmp_path, capsys):
    """(source, exported folder, what was said) of a forward model with a tokenizer."""

    def make(tokenizer, name="m", direction="forward", wrapper="inst"):
        cfg = tiny.config()
        folders.save_model(tmp_path / name, folders.ModelInfo(cfg, direction, wrapper), tiny.params(cfg), tokenizer)
        command.convert(str(tmp_path / name), str(tmp_path / f"{name}-hf"), "huggingface")
        return sources.open_source(str(tmp_path / name)), tmp_path / f"{name}-hf", capsys.readouterr().out

    return make


def differences(source, folder) -> list[str]:
    target = sources.open_source(str(folder))
    lines = [*comparison.compare_configs(source, target), *comparison.compare_tokenizers(source.tokenizer, target.tokenizer, [])]
    return [*lines, *comparison.compare_chat(source, target)]


def test_tokens_beside_a_tokenizer_model(tiny, tmp_path, exported):
    """Point 2: added_tokens.json, or added_tokens_decoder, is all that has chatml's tokens."""
    decoder = {str(i): {"content": text, "special": True} for text, i in CHATML.items()}
    config = json.loads(chatml_files()[CONFIG_FILE]) | {"added_tokens_decoder": decoder}
    for files in (chatml_files(), {MODEL_FILE: sentencepiece_model(), CONFIG_FILE: json.dumps(config).encode()}):
        tokenizer = Tokenizer(files)
        assert (tokenizer.vocab_size, tokenizer.eos_id) == (266, 265) and CHATML.items() <= tokenizer.specials.items()
        ids = tokenizer.encode_wrapped("<|im_start|>", "a <|im_end|>", "<|im_end|>")
        assert ids[:3] == [1, 264, 262] and ids[-1] == 265 and ids.count(265) == 1  # in the user's text it is text
        assert Tokenizer(tokenizer.files()).files() == tokenizer.files()
    source, folder, _ = exported(Tokenizer(chatml_files()), wrapper="chatml")
    assert differences(source, folder) == []
    with pytest.raises(UserError, match=r"the id 263 is 'ab', but the files beside it say '<\|x\|>'"):
        Tokenizer({**chatml_files(), "added_tokens.json": b'{"<|x|>": 263, "<|im_end|>": 265}'})


def test_named_tokens_are_special(tiny):
    """Point 11: whatever a file says of them."""
    model = sentencepiece_model(ab=4, a=4)
    tokenizer = Tokenizer({MODEL_FILE: model, CONFIG_FILE: b'{"eos_token": "ab", "bos_token": "<s>"}'})
    assert tokenizer.specials["ab"] == 263 and tokenizer.added == {"a": 260}
    value = json.loads(tiny.tokenizer().files()[JSON_FILE])
    value["added_tokens"][2]["special"] = False
    files = {JSON_FILE: json.dumps(value).encode(), CONFIG_FILE: b'{"eos_token": "<|im_end|>"}'}
    assert Tokenizer(files).specials["<|im_end|>"] == 2 and Tokenizer(files).encode("<|im_end|>") != [2]


def test_what_llama_cpp_needs_lies_in_an_export(exported):
    """Point 3: a tokenizer.model that goes along, or is made, and every added token in tokenizer_config.json."""
    source, folder, _ = exported(Tokenizer(chatml_files()), wrapper="chatml")
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert {int(i): entry["content"] for i, entry in config["added_tokens_decoder"].items()}.items() >= {264: "<|im_start|>"}.items()
    source, folder, said = exported(llama2(), name="json")
    made = Tokenizer({MODEL_FILE: (folder / MODEL_FILE).read_bytes(), CONFIG_FILE: (folder / CONFIG_FILE).read_bytes()})
    for text in ("ab a b", "aab  bé", ""):
        assert made.encode(text) == source.tokenizer.encode(text)
    assert differences(source, folder) == [] and "other ids than tokenizer.json to a text that begins with a space" in said


def test_a_begin_token_takes_no_space_from_a_text(tiny):
    """Point 4: transformers adds it to the ids, so the text is still the first thing."""
    tokenizer = llama2("first")
    assert tokenizer.encode_alone("ab") == tokenizer.encode_wrapped("", "ab", "") == [1, *tokenizer.encode("ab")] == [1, 262, 261]
    assert tokenizer.encode_wrapped("a", "b", "")[1:] == [263]  # a chat template writes it into the text


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_flags_that_would_change_a_chat_are_mended(exported, scheme):
    """Point 6: LLaMA-1's special tokens are looked for in the normalised text."""
    value = json.loads(llama2().files()[JSON_FILE])
    value["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}  # fmt: skip
    value["pre_tokenizer"] = None
    for entry in value["added_tokens"]:
        entry["normalized"] = True
    files = llama2().files() | {JSON_FILE: json.dumps(value).encode()}
    broken = Tokenizer(files)
    rendered = rendered_probes("inst", "forward", broken)
    assert differing(broken.files()[JSON_FILE], rendered)
    _, folder, said = exported(broken)
    assert differing((folder / JSON_FILE).read_bytes(), rendered) == [] and "flags in tokenizer.json are changed" in said


def test_a_base_keeps_its_template_and_its_ends(tiny, tmp_path, capsys):
    """Point 7, through GGUF and through a change of type."""
    cfg = tiny.config()
    metadata = {**tiny.gguf_metadata(cfg), "tokenizer.chat_template": "{{ 'mine' }}", "tokenizer.ggml.eot_token_id": 0}
    tiny.write_gguf(tmp_path / "m.gguf", tiny.gguf_tensors(cfg, tiny.params(cfg)), metadata)
    command.convert(str(tmp_path / "m.gguf"), str(tmp_path / "a"), "huggingface")
    assert "own chat template is kept" in capsys.readouterr().out
    (tmp_path / "a" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "repetition_penalty": 1.3}))
    command.convert(str(tmp_path / "a"), str(tmp_path / "b"), "huggingface", dtype="bfloat16")
    read = {name: json.loads((tmp_path / "b" / name).read_text()) for name in (CONFIG_FILE, "generation_config.json", "config.json")}
    assert read[CONFIG_FILE]["chat_template"] == "{{ 'mine' }}"
    assert read["generation_config.json"]["repetition_penalty"] == 1.3 and read["config.json"]["eos_token_id"] == [2, 0]
    assert sources.open_source(str(tmp_path / "b")).end_ids == (2, 0)


def test_the_filler_is_not_the_end(tiny, exported):
    """Point 8: who trains further masks it."""
    for config, pad in (({}, "<unk>"), ({"pad_token": "</s>"}, "<unk>"), ({"pad_token": "<s>"}, "<s>")):
        assert llama2(**config).pad_id == llama2().specials[pad]
    _, folder, _ = exported(llama2())
    assert json.loads((folder / CONFIG_FILE).read_text())["pad_token"] == "<unk>"
    config = json.loads((folder / "config.json").read_text())
    assert (config["pad_token_id"], config["eos_token_id"], config["transformers_version"][:2]) == (0, 2, "4.")


def test_notes_and_refusals_of_configs(tiny, tmp_path):
    """Point 9, and a filler without a row (point 12)."""
    cfg = tiny.config()
    hf_layout.write_hf(tmp_path / "m", cfg, tiny.params(cfg), tiny.tokenizer())
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "rope_scaling": {"factor": 8}}))
    with pytest.raises(UserError, match="rope_scaling has a factor, 8, and no type"):
        sources.open_source(str(tmp_path / "m"))
    _, notes = names.fit_tokenizer(tiny.tokenizer(), tiny.config(vocab_size=1000), "m")
    assert "265 ids, the model 1000 rows" in notes[0] and names.fit_tokenizer(tiny.tokenizer(), cfg, "m")[1] == []
    listed = {"added_tokens.json": b'{"<pad>": 265}', CONFIG_FILE: b'{"eos_token": "<|im_end|>", "pad_token": "<pad>"}'}
    padded = Tokenizer({**tiny.tokenizer().files(), **listed})
    assert padded.pad_id == 265
    fitting, (note,) = names.fit_tokenizer(padded, tiny.config(vocab_size=265), "m")
    assert fitting.vocab_size == 265 and fitting.pad_id != 265 and "<pad> = 265 has no row" in note
    cfg = tiny.config(vocab_size=128256, rope_theta=500000.0, max_positions=131072, d_model=2)
    path = tiny.write_gguf(tmp_path / "old.gguf", tiny.gguf_tensors(cfg, tiny.params(cfg)), tiny.gguf_metadata(cfg))
    assert any("no rope_freqs.weight" in note for note in sources.open_source(path).notes)


def test_rows_that_fill_up_a_gguf_are_no_tokens(tiny, tmp_path, capsys):
    """Point 12: [PADn] of type UNUSED."""
    cfg = tiny.config()
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "ab"]
    tokens += [f"[PAD{i}]" for i in range(264, 272)]
    metadata = {
        **tiny.gguf_metadata(cfg), "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 5 + [5] * 8,
        "tokenizer.ggml.scores": [0.0] * 259 + [-10.0, -11.0, -12.0, -1.0, -2.0] + [-1000.0] * 8,
    }  # fmt: skip
    path = tiny.write_gguf(tmp_path / "m.gguf", tiny.gguf_tensors(cfg, tiny.params(cfg)), metadata)
    command.convert(path, str(tmp_path / "hf"), "huggingface")
    source = sources.open_source(path)
    assert source.tokenizer.vocab_size == 264 and source.config.vocab_size == 272
    assert differences(source, tmp_path / "hf") == []


def change_json(folder, name, change):
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def _first(entries, text="<|im_end|>"):
    return next(entry for entry in entries if entry["content"] == text)


def _leave_away(folder):
    change_json(folder, CONFIG_FILE, lambda v: v.pop("added_tokens_decoder"))
    (folder / MODEL_FILE).write_bytes(sentencepiece_model())


PLANTS = {
    "1 two models": (None, "two models are there"),
    "2 an added token is gone": (
        lambda f: change_json(f, JSON_FILE, lambda v: v["added_tokens"].remove(_first(v["added_tokens"], "<|im_start|>"))),
        r"special token '<\|im_start\|>' is 264 in the source and none",
    ),
    "3 not listed": (_leave_away, "llama.cpp makes other tokens"),
    "4 a space": (
        lambda f: change_json(f, JSON_FILE, lambda v: v["normalizer"]["normalizers"].pop(0)), "the tokenizers differ from token 0 on",
    ),
    "5 the filler": (lambda f: change_json(f, CONFIG_FILE, lambda v: v.update(pad_token="<s>")), "pad_id is 0 in the source and 1"),
    "6 flags": (
        lambda f: change_json(f, JSON_FILE, lambda v: _first(v["added_tokens"]).update(rstrip=True)), "other ids than training had",
    ),
    "7 the template": (
        lambda f: change_json(f, CONFIG_FILE, lambda v: v.update(chat_template=v["chat_template"].replace("web", "net"))),
        "the chat templates differ: 'web search",
    ),
    "8 the ends": (lambda f: change_json(f, "generation_config.json", lambda v: v.update(eos_token_id=[2, 265])), r"ends at \[265\]"),
    "9 scaled positions": (lambda f: change_json(f, "config.json", lambda v: v.update(rope_scaling=None)), "rope_scaling is"),
}  # fmt: skip


def test_verify_finds_each_plant(tiny, tmp_path):
    """One a point, in an export that is otherwise equal."""
    cfg = tiny.config(rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64))
    folders.save_model(tmp_path / "m", folders.ModelInfo(cfg, "forward", "chatml"), tiny.params(cfg), Tokenizer(chatml_files()))
    source = sources.open_source(str(tmp_path / "m"))
    for name, (plant, message) in PLANTS.items():
        folder = tmp_path / name.replace(" ", "-")
        export.write_folder(str(folder), source, export.Beside("chatml", "forward"))
        assert differences(source, folder) == [], name
        if plant is None:
            hf_layout.write_hf(tmp_path / "other", cfg, tiny.params(cfg, seed=1), tiny.tokenizer(), files=2)
            for file in (tmp_path / "other").glob("model*"):
                (folder / file.name).write_bytes(file.read_bytes())
            with pytest.raises(UserError, match=message):
                sources.open_source(str(folder))
            continue
        plant(folder)
        if name.startswith("2"):  # nor elsewhere
            change_json(folder, CONFIG_FILE, lambda v: v["added_tokens_decoder"].pop("264"))
        lines = differences(source, folder)
        assert any(re.search(message, line) for line in lines), (name, lines)
