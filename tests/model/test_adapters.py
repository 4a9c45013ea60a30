"""Adapters: nothing changes before the first update, merged weights say what adapted ones do, and only adapters have a gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback import config
from humpback.model import adapters, llama, quantization, sharding
from humpback.model.adapters import Lora
from humpback.model.llama import LlamaConfig

PLAIN = LlamaConfig(vocab_size=96, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, d_ff=24)
FAMILIES = {
    "grouped heads": PLAIN,
    "tied": dataclasses.replace(PLAIN, tied=True),
    "biases": dataclasses.replace(PLAIN, qkv_bias=True),
    "normed heads": dataclasses.replace(PLAIN, qk_norm=True),
    "layers without positions": dataclasses.replace(PLAIN, no_rope_every=2),
}
ALL = Lora(3, 6.0, adapters.NAMES, "float32")
IDS = np.random.default_rng(0).integers(0, 96, (2, 9))


def draw(cfg: LlamaConfig, lora: Lora, fresh: bool = False):
    """(unstacked weights, stacked adapters); those that are not fresh have a b."""
    made = adapters.init(cfg, lora, jax.random.key(1))
    if not fresh:
        draws = {name: jax.random.normal(jax.random.key(2), pair["b"].shape) / 8 for name, pair in made["layers"].items()}
        made = {"layers": {name: pair | {"b": draws[name]} for name, pair in made["layers"].items()}}
    return llama.init_params(cfg, jax.random.key(0)), made


def frozen(params, base: str):
    """Stacked, as training holds them."""
    held = {str(layer): {name: adapters.held(name, x, base) for name, x in weights.items()} for layer, weights in params["layers"].items()}
    outer = {name: adapters.held(name, x, base) for name, x in params.items() if name != "layers"}
    layers = jax.tree.map(lambda *xs: jnp.stack(xs), *held.values())
    return {**outer, "layers": layers}


@functools.partial(jax.jit, static_argnums=(0, 2))
def logits(cfg, tree, remat="none"):
    positions = jnp.broadcast_to(jnp.arange(IDS.shape[1]), IDS.shape)
    x = llama.hidden(cfg, tree, jnp.asarray(IDS), positions, remat=remat)
    plain = {name: quantization.plain(leaf.weight, x.dtype) for name, leaf in tree.items() if isinstance(leaf, adapters.Frozen)}
    return llama.logits(cfg, {**tree, **plain}, x)


@pytest.mark.parametrize("cfg", FAMILIES.values(), ids=FAMILIES)
def test_before_the_first_update_the_logits_are_the_bases_bit_for_bit(cfg):
    params, made = draw(cfg, ALL, fresh=True)
    wanted = logits(cfg, llama.stack_layers(params))
    found = logits(cfg, adapters.joined(frozen(params, "float32"), made, ALL.scale))
    assert np.array_equal(wanted, found)


@pytest.mark.parametrize(
    "cfg, names", [*((cfg, adapters.NAMES) for cfg in FAMILIES.values()), (PLAIN, ("q", "down"))], ids=[*FAMILIES, "of some matrices"]
)
def test_merged_weights_say_what_adapted_ones_do(cfg, names):
    lora = dataclasses.replace(ALL, names=names)
    params, made = draw(cfg, lora)
    by_layer = adapters.unstack(cfg, made)["layers"]
    merged = {
        **params,
        "layers": {
            layer: {name: adapters.merged(name, x, by_layer[layer].get(name), lora.scale, "float32") for name, x in weights.items()}
            for layer, weights in params["layers"].items()
        },
    }
    adapted = logits(cfg, adapters.joined(frozen(params, "float32"), made, lora.scale))
    assert np.abs(logits(cfg, llama.stack_layers(merged)) - adapted).max() < 1e-5
    assert np.abs(logits(cfg, llama.stack_layers(params)) - adapted).max() > 1e-2


@pytest.mark.parametrize("base", ["bfloat16", "int8"])
def test_adapters_over_narrow_weights_are_merged_onto_these(base):
    params, made = draw(PLAIN, ALL)
    by_layer = adapters.unstack(PLAIN, made)["layers"]
    exact = {
        layer: {name: adapters.merged(name, x, by_layer[layer].get(name), ALL.scale, base, exact=True) for name, x in weights.items()}
        for layer, weights in params["layers"].items()
    }
    outer = {name: adapters.merged(name, x, None, ALL.scale, base, exact=True) for name, x in params.items() if name != "layers"}
    adapted = logits(PLAIN, adapters.joined(frozen(params, base), made, ALL.scale))
    assert np.abs(logits(PLAIN, llama.stack_layers({**outer, "layers": exact})) - adapted).max() < 1e-5
    assert adapters.merged("q", params["layers"]["0"]["q"], by_layer["0"]["q"], ALL.scale, base).dtype == jnp.bfloat16


@pytest.mark.parametrize(("base", "remat"), [("float32", "none"), ("int8", "full")])
def test_the_gradient_is_that_of_the_merged_weights_by_the_adapters(base, remat):
    params, made = draw(PLAIN, ALL)
    held = frozen(params, base)

    def adapted(made):
        return jnp.sum(jnp.sin(logits(PLAIN, adapters.joined(held, made, ALL.scale), remat)))

    def whole(made):
        def leaf(name, weight):
            pair = made["layers"].get(name)
            whole = quantization.plain(weight, jnp.float32)
            if pair is None:
                return whole
            flat = jnp.einsum("lir,lro->lio", pair["a"].reshape(2, -1, 3), pair["b"].reshape(2, 3, -1), precision="highest")
            return whole + ALL.scale * flat.reshape(whole.shape)

        return jnp.sum(jnp.sin(logits(PLAIN, llama.map_weights(leaf, held))))

    found, wanted = jax.grad(adapted)(made), jax.grad(whole)(made)
    for path, gradient in jax.tree.leaves_with_path(wanted):
        other = functools.reduce(lambda tree, key: tree[key.key], path, found)
        assert np.abs(other - gradient).max() < 1e-4 * max(1, np.abs(gradient).max()), path


def test_fresh_adapters_are_drawn_by_key_within_their_bound():
    made = adapters.init(PLAIN, ALL, jax.random.key(1))
    again, other = adapters.init(PLAIN, ALL, jax.random.key(1)), adapters.init(PLAIN, ALL, jax.random.key(2))
    for name, pair in made["layers"].items():
        bound = llama.WEIGHTS[name].inputs(PLAIN) ** -0.5
        assert not pair["b"].any() and 0.8 * bound < np.abs(pair["a"]).max() <= bound
        assert np.array_equal(pair["a"], again["layers"][name]["a"]) and not np.array_equal(pair["a"], other["layers"][name]["a"])
        assert not np.array_equal(pair["a"][0], pair["a"][1])
        assert pair["a"].dtype == pair["b"].dtype == jnp.float32
    assert not np.array_equal(made["layers"]["k"]["a"], made["layers"]["v"]["a"])


def test_adapters_lie_as_their_matrix_does():
    mesh = sharding.make_mesh(1, 4, 2)
    placed = adapters.shardings(PLAIN, mesh, ALL)["layers"]
    found = {(name, part): tuple(placed[name][part].spec) for name in ("q", "o", "down", "gate") for part in adapters.PARTS}
    assert found["q", "a"] == (None, "fsdp", None) and found["q", "b"] == (None, None, "tensor", None)
    assert found["o", "a"] == (None, "tensor", None, None) and found["o", "b"] == (None, None, "fsdp")
    assert found["down", "a"] == (None, "tensor", None) and found["gate", "b"] == (None, None, "tensor")


def test_the_config_and_the_model_name_the_same_matrices_and_types():
    assert config.LORA_NAMES == adapters.NAMES
    rule = {name: item.metadata["rule"] for name, item, _ in config.fields(config.Finetune())}["lora_base"]
    assert all(map(rule.allows, adapters.TYPES))


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_other_trees_of_adapters_are_refused(change):
    tree = adapters.unstack(PLAIN, adapters.init(PLAIN, ALL, jax.random.key(0)))
    adapters.check(PLAIN, ALL.names, 3, tree)
    pair = tree["layers"]["1"]["up"]
    if change == "missing":
        del pair["b"]
    elif change == "unknown":
        pair["c"] = pair["b"]
    else:
        pair["b"] = pair["b"][:2]
    with pytest.raises(ValueError, match=r"adapter layers/1/up/[bc]"):
        adapters.check(PLAIN, ALL.names, 3, tree)
