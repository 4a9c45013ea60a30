"""The table of weights: trees, counts, checks, stacking, configs to and from JSON."""

import dataclasses
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.model import llama, weights
from humpback.model.sizes import SIZES
from tests.golden.llama_cases import CASES, make_params

PUBLISHED = {
    "llama_7b": 6_738_415_616,
    "llama_13b": 13_015_864_320,
    "llama_33b": 32_528_943_616,
    "llama_65b": 65_285_660_672,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3_2_1b": 1_235_814_400,
    "tinyllama_1b": 1_100_048_384,
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "smollm2_1b7": 1_711_376_384,
    "mistral_7b": 7_248_023_552,
    "qwen2_5_7b": 7_615_616_512,
    "qwen3_8b": 8_190_735_360,
    "smollm3_3b": 3_075_098_624,
}
# What a count cannot see: (theta, eps, positions, tied) as published with each model.
PUBLISHED_REST = {
    "llama_7b": (1e4, 1e-6, 2048, False),
    "llama_13b": (1e4, 1e-6, 2048, False),
    "llama_33b": (1e4, 1e-6, 2048, False),
    "llama_65b": (1e4, 1e-5, 2048, False),
    "llama2_7b": (1e4, 1e-5, 4096, False),
    "llama2_13b": (1e4, 1e-5, 4096, False),
    "llama2_70b": (1e4, 1e-5, 4096, False),
    "llama3_8b": (5e5, 1e-5, 8192, False),
    "llama3_70b": (5e5, 1e-5, 8192, False),
    "llama3_2_1b": (5e5, 1e-5, 131072, True),
    "tinyllama_1b": (1e4, 1e-5, 2048, False),
    "smollm2_135m": (1e5, 1e-5, 8192, True),
    "smollm2_360m": (1e5, 1e-5, 8192, True),
    "smollm2_1b7": (1.3e5, 1e-5, 8192, True),
    "mistral_7b": (1e6, 1e-5, 32768, False),
    "qwen2_5_7b": (1e6, 1e-6, 131072, False),
    "qwen3_8b": (1e6, 1e-6, 32768, False),
    "smollm3_3b": (5e6, 1e-6, 65536, True),
}
CFG = CASES["mha"]


@pytest.fixture
def params():
    return make_params("mha", CFG)


def test_every_named_size_has_the_published_number_of_parameters():
    assert set(SIZES) == set(PUBLISHED)
    for name, cfg in SIZES.items():
        abstract = llama.abstract_params(cfg)
        assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == PUBLISHED[name], name
        assert llama.parameter_count(cfg) == PUBLISHED[name], name
        llama.check_params(cfg, abstract)  # the modules declare what the table says
        assert (cfg.rope_theta, cfg.rms_eps, cfg.max_positions, cfg.tied) == PUBLISHED_REST[name], name


@pytest.mark.parametrize("name", CASES)
def test_modules_and_table_agree_on_the_tree(name):
    cfg = CASES[name]
    params = llama.abstract_params(cfg, jnp.bfloat16)
    llama.check_params(cfg, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert jax.tree.map(lambda leaf: leaf.shape, params) == jax.tree.map(np.shape, make_params(name, cfg))


def test_initial_values():
    cfg = dataclasses.replace(CFG, d_model=64, d_ff=256, head_dim=16)
    params = jax.jit(llama.init_params, static_argnums=0)(cfg, jax.random.key(0))
    llama.check_params(cfg, params)
    layer = params["layers"]["1"]
    assert (layer["attention_norm"] == 1).all() and (params["final_norm"] == 1).all()
    assert abs(float(layer["gate"].std()) - 64**-0.5) < 0.003
    assert abs(float(layer["down"].std()) - 256**-0.5) < 0.002
    assert (layer["gate"] != params["layers"]["0"]["gate"]).any() and (layer["gate"] != layer["up"]).any()


def test_check_params_names_what_is_wrong(params):
    llama.check_params(CFG, params)
    unknown = {**params, "layers": {**params["layers"], "0": {**params["layers"]["0"], "bias": np.zeros(3)}}}
    with pytest.raises(ValueError, match="unknown weight layers/0/bias"):
        llama.check_params(CFG, unknown)
    with pytest.raises(ValueError, match="unknown weight layers/2"):
        llama.check_params(CFG, {**params, "layers": {**params["layers"], "2": params["layers"]["0"]}})
    with pytest.raises(ValueError, match="unknown weight extra"):
        llama.check_params(CFG, {**params, "extra": {}})
    missing = {**params, "layers": {"0": params["layers"]["0"]}}
    with pytest.raises(ValueError, match="missing weight layers/1/attention_norm"):
        llama.check_params(CFG, missing)
    with pytest.raises(ValueError, match="missing weight head"):
        llama.check_params(CFG, {name: value for name, value in params.items() if name != "head"})
    with pytest.raises(ValueError, match=r"unknown weight head; .* tied"):
        llama.check_params(dataclasses.replace(CFG, tied=True), params)
    with pytest.raises(ValueError, match=r"embedding has shape \(36, 89\), must be VD = \(89, 36\)"):
        llama.check_params(CFG, {**params, "embedding": params["embedding"].T})


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_stacking_is_exact_both_ways(params, convert):
    params = jax.tree.map(convert, params)
    stacked = llama.stack_layers(params)
    assert stacked["layers"]["q"].shape == (2, 36, 4, 14)
    assert isinstance(stacked["layers"]["q"], type(params["embedding"]))
    assert (stacked["layers"]["q"][1] == params["layers"]["1"]["q"]).all()
    back = llama.unstack_layers(stacked, CFG)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_stacking_orders_layers_by_number():
    cfg = dataclasses.replace(CFG, num_layers=12)  # as text, "10" comes before "2"
    params = {"layers": {str(i): {"q": np.full(2, i)} for i in sorted(range(12), key=str)}}
    assert llama.stack_layers(params)["layers"]["q"][:, 0].tolist() == list(range(12))
    assert llama.unstack_layers(llama.stack_layers(params), cfg)["layers"]["10"]["q"].tolist() == [10, 10]


def test_the_table_says_what_is_a_matrix_and_how_it_lies():
    assert {name for name, weight in weights.WEIGHTS.items() if not weight.matrix} == {
        "attention_norm", "ffn_norm", "final_norm", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm",
    }  # fmt: skip
    assert {name: weight.leading_inputs for name, weight in weights.WEIGHTS.items() if weight.matrix} == {
        "embedding": 0, "q": 1, "k": 1, "v": 1, "o": 2, "gate": 1, "up": 1, "down": 1, "head": 1,
    }  # fmt: skip


def test_no_code_asks_for_the_number_of_axes():
    """A stacked norm has as many as an unstacked matrix: what is a matrix is the table's to say."""
    asks = re.compile(r"\.ndim *[=<>!]|len\([\w.\[\]]*(shape|spec)\) *[=<>!]")
    package = pathlib.Path(weights.__file__).parents[1]
    asking = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if asks.search(line)
    ]
    assert not asking


def test_every_leaf_is_changed_by_its_name(params):
    stacked, seen = llama.stack_layers(params), []
    same = weights.map_weights(lambda name, leaf: (seen.append(name), leaf)[1], params)
    assert jax.tree.structure(same) == jax.tree.structure(params)
    assert sorted(seen) == sorted(path[-1] for path, _ in weights.leaves(CFG))
    assert weights.map_weights(lambda name, _: name, stacked)["layers"]["q"] == "q"


@pytest.mark.parametrize("name", CASES)
def test_config_to_json_and_back(name):
    cfg = CASES[name]
    assert llama.LlamaConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_bad_configs_are_refused():
    good = CFG.to_dict()
    with pytest.raises(ValueError, match="unknown key 'z_norm'"):
        llama.LlamaConfig.from_dict({**good, "z_norm": True})
    with pytest.raises(ValueError, match="unknown key 'kind'"):
        llama.LlamaConfig.from_dict({**good, "rope_scaling": {"kind": "linear"}})
    with pytest.raises(ValueError, match="missing key 'd_ff'"):
        llama.LlamaConfig.from_dict({name: value for name, value in good.items() if name != "d_ff"})
    for field, value in {"num_kv_heads": 3, "head_dim": 7, "num_layers": 0}.items():
        with pytest.raises(ValueError, match=field):
            dataclasses.replace(CFG, **{field: value})
