"""Adapters beside peft: what it loads of ours says the same, what it has saved comes in. Needs the `parity` extra."""

import os

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install -e .[parity])")
pytest.importorskip("peft", reason="peft is not installed (pip install -e .[parity])")

import jax
import peft
import torch
import transformers

from humpback.commands.convert import convert
from humpback.convert import sources
from humpback.model import adapters, llama
from humpback.model.adapters import Lora
from humpback.models import folders
from tests import tiny

LORA = Lora(4, 8.0, adapters.NAMES, "float32")
IDS = np.random.default_rng(0).integers(3, 512, (2, 12))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """base/, forward/ of adapters whose b is not zero, and hf/, the base for transformers."""
    path = tmp_path_factory.mktemp("adapters")
    tiny.make_base(path / "base")
    base = folders.load_model(path / "base")
    made = adapters.init(tiny.CONFIG, LORA, jax.random.key(0))
    made = jax.tree.map(lambda x: np.asarray(x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape)), made)
    adapter = folders.adapter_beside(path / "forward", path / "base", LORA, folders.digest_of(folders.weights_digest(base.params)))
    info = folders.ModelInfo(tiny.CONFIG, "forward", "chatml", adapter)
    folders.save_model(path / "forward", info, jax.tree.map(np.asarray, adapters.unstack(tiny.CONFIG, made)), base.tokenizer)
    convert(str(path / "base"), str(path / "hf"), "huggingface")
    return path


def logits_of(source):
    params = jax.tree.map(lambda x: x.astype(np.float32), source.params())
    positions = np.broadcast_to(np.arange(IDS.shape[1]), IDS.shape)
    return np.asarray(llama.forward(source.config, llama.stack_layers(params), IDS, positions))


def theirs(model):
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS)).logits.numpy()


def plain(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder / "hf"), dtype=torch.float32)


def test_peft_loads_our_adapters_and_says_the_same(folder, tmp_path):
    convert(str(folder / "forward"), str(tmp_path / "peft"), "peft")
    adapted = peft.PeftModel.from_pretrained(plain(folder), str(tmp_path / "peft"))
    ours = logits_of(sources.open_source(str(folder / "forward")))
    assert np.abs(theirs(adapted) - ours).max() < 1e-4
    assert np.abs(theirs(plain(folder)) - ours).max() > 1e-2
    assert np.abs(theirs(adapted.merge_and_unload()) - ours).max() < 1e-4


def test_merged_here_and_loaded_by_transformers_says_the_same(folder, tmp_path):
    convert(str(folder / "forward"), str(tmp_path / "merged"), "huggingface")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged"), dtype=torch.float32)
    assert np.abs(theirs(loaded) - logits_of(sources.open_source(str(folder / "forward")))).max() < 1e-4


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]])
def test_adapters_that_peft_has_saved_come_in(folder, tmp_path, targets):
    torch.manual_seed(0)
    made = peft.get_peft_model(plain(folder), peft.LoraConfig(r=3, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    made.save_pretrained(str(tmp_path / "peft"))
    assert os.path.exists(tmp_path / "peft" / "adapter_model.safetensors")
    ours = logits_of(sources.open_source(str(tmp_path / "peft"), base=str(folder / "hf")))
    assert np.abs(theirs(made) - ours).max() < 1e-4


def test_rslora_that_peft_has_saved_is_refused(folder, tmp_path):
    settings = peft.LoraConfig(r=3, target_modules=["q_proj"], use_rslora=True, task_type="CAUSAL_LM")
    peft.get_peft_model(plain(folder), settings).save_pretrained(str(tmp_path / "peft"))
    with pytest.raises(Exception, match="use_rslora is True"):
        sources.open_source(str(tmp_path / "peft"), base=str(folder / "hf"))
