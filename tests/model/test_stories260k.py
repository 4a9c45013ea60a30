"""A trained model: greedy decoding gives exactly the continuation computed independently of this project."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.model import llama
from tests import stories260k

pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module")
def story(test_data):
    folder = test_data / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    cfg, params = stories260k.load(folder / "stories260K.bin")
    llama.check_params(cfg, params)
    assert llama.parameter_count(cfg) == 260_032
    greedy = json.loads((folder / "greedy.json").read_text())
    return cfg, jax.tree.map(jnp.asarray, params), greedy["prompt_ids"], greedy["greedy_ids"]


def test_full_forward_predicts_every_id(story):
    cfg, params, prompt, ids = story
    positions_BT = jnp.arange(len(ids))[None]
    logits_BTV = llama.forward(cfg, llama.stack_layers(params), jnp.asarray(ids)[None], positions_BT)
    predicted = np.asarray(logits_BTV[0].argmax(axis=-1))
    assert len(ids) > 64 + len(prompt)  # a wrong rotary layout hides in short texts
    assert predicted[len(prompt) - 1 : -1].tolist() == ids[len(prompt) :]


def test_prefill_and_steps_write_the_same_ids(story):
    cfg, params, prompt, ids = story
    total, params = len(ids), llama.decoding_params(cfg, params)
    logits_BV, chunk = llama.prefill(cfg, params, jnp.asarray([prompt + [0] * 3]), jnp.asarray([len(prompt)]))
    cache = llama.insert_cache(llama.empty_cache(cfg, 1, total), chunk, jnp.arange(1))
    step = jax.jit(functools.partial(llama.decode_step, cfg), donate_argnums=1)
    written = list(prompt)
    while len(written) < total:
        written.append(int(logits_BV[0].argmax()))
        logits_BV, cache = step(params, cache, jnp.asarray(written[-1:]), jnp.asarray([len(written) - 1]))
    assert written == ids
